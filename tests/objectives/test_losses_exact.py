"""The running losses against the exact objective of the rows, within the bound that their docstring derives."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from viewproof import (
    Mask,
    Sample,
    masked_l1,
    masked_mse,
    masked_smooth_l1,
    predictive_view_objective,
    rounding_bound,
    row_predictive_contract,
)
from viewproof.objectives.contracts import PredictiveViewContract

Distance = Callable[[Tensor, Tensor], Fraction]


def difference(t: Tensor, p: Tensor) -> Fraction:
    return abs(Fraction(p.item()) - Fraction(t.item()))


def square(t: Tensor, p: Tensor) -> Fraction:
    return difference(t, p) ** 2


def smooth(beta: float) -> Distance:
    exact_beta = Fraction(beta)

    def distance(t: Tensor, p: Tensor) -> Fraction:
        d = difference(t, p)
        return d * d / (2 * exact_beta) if d < exact_beta else d - exact_beta / 2

    return distance


def smooth_loss(beta: float) -> Callable[..., Tensor]:
    return lambda *arguments, **options: masked_smooth_l1(*arguments, **options, beta=beta)


BETAS = [1.0, 0.1, 0.7, 123.456, 1e-3, 1e-25]
LOSSES: dict[str, tuple[Callable[..., Tensor], Distance, int, float]] = {
    "mse": (masked_mse, square, 3, 1.0),
    "l1": (masked_l1, difference, 1, 1.0),
    **{f"smooth_l1({beta})": (smooth_loss(beta), smooth(beta), 5, beta) for beta in BETAS},
}


def row_contracts(prediction: Tensor, sample: Sample, distance: Any, over: str) -> list[PredictiveViewContract]:
    return [row_predictive_contract(sample, prediction, n, distance, over) for n in range(len(prediction))]


def within(computed: float, exact: Fraction, bound: float) -> bool:
    return bound == math.inf or abs(Fraction(computed) - exact) <= Fraction(bound)


def assert_tied(name: str, prediction: Tensor, sample: Sample, over: str = "hidden") -> None:
    """sum, rows and mean against the sum over rows of `predictive_view_objective`, in exact arithmetic."""
    loss, distance, roundings, beta = LOSSES[name]
    contracts = row_contracts(prediction, sample, distance, over)
    rows = [Fraction(predictive_view_objective(contract)) for contract in contracts]
    counts = [len(contract.target_idxs) for contract in contracts]
    wide = torch.promote_types(torch.promote_types(prediction.dtype, sample.y.dtype), torch.float32)

    def bound(count: int, exact: Fraction) -> float:
        return rounding_bound(roundings, count, float(exact), wide, beta)

    computed = loss(prediction, sample, reduction="rows", over=over)
    assert computed.dtype == wide
    assert computed.shape == (len(rows),)
    for value, exact, count in zip(computed.tolist(), rows, counts, strict=True):
        assert within(value, exact, bound(count, exact)), (name, value, float(exact))
    total, count = sum(rows, Fraction(0)), sum(counts)
    assert within(loss(prediction, sample, reduction="sum", over=over).item(), total, bound(count, total))
    if count:
        mean = loss(prediction, sample, over=over).item()
        assert within(mean, total / count, bound(count, total / count)), (name, mean, float(total / count))


def sample_of(y: Tensor, seed: int, per_sample: bool = False) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    shape = y.shape if per_sample else y.shape[1:]
    return Sample(y, y, Mask(torch.rand(shape, generator=generator) < 0.5, per_sample=per_sample, rule="random"))


def scaled(shape: tuple[int, ...], dtype: torch.dtype, seed: int, low: int, high: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(low, high, shape, generator=generator)
    return torch.ldexp(torch.randn(shape, generator=generator, dtype=torch.float64), exponents).to(dtype)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("over", ["hidden", "all"])
def test_training_loss_eq_row_objectives(name: str, dtype: torch.dtype, over: str) -> None:
    for seed in range(2):
        y, prediction = scaled((3, 13), dtype, seed, -8, 4), scaled((3, 13), dtype, seed + 100, -8, 4)
        assert_tied(name, prediction, sample_of(y, seed, per_sample=seed % 2 == 1), over)


finite = st.floats(-(2.0**60), 2.0**60, width=32)


@pytest.mark.parametrize("name", ["mse", "l1", "smooth_l1(0.1)", "smooth_l1(1.0)"])
@given(
    values=arrays(np.float32, st.tuples(st.just(2), st.integers(1, 3), st.integers(0, 6)), elements=finite),
    seed=st.integers(0, 9),
)
def test_any_float32_values(name: str, values: np.ndarray, seed: int) -> None:
    assert_tied(name, torch.from_numpy(values[0]), sample_of(torch.from_numpy(values[1]), seed))


@pytest.mark.parametrize("name", [name for name in LOSSES if name.startswith("smooth")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_values_around_the_branch_point(name: str, dtype: torch.dtype) -> None:
    beta = LOSSES[name][3]
    centre = torch.tensor([[beta]], dtype=dtype)
    distances = [centre]
    for direction in (math.inf, 0.0):
        step = centre
        for _ in range(4):
            step = torch.nextafter(step, torch.tensor(direction, dtype=dtype))
            distances.append(step)
    for offset in (0.0, 1.0, -3.7):
        # With an offset the subtraction rounds too, across the branch point either way.
        for d in distances:
            y = torch.full((1, 1), offset, dtype=dtype)
            assert_tied(name, y + d, Sample(y, y, Mask.all((1,))))
            assert_tied(name, y - d, Sample(y, y, Mask.all((1,))))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("dtype", "exponent"), [(torch.float32, -75), (torch.float32, -149), (torch.float64, -537)])
def test_products_and_differences_that_underflow(name: str, dtype: torch.dtype, exponent: int) -> None:
    for seed in range(4):
        y = scaled((3, 9), dtype, seed, exponent - 4, exponent + 8)
        prediction = scaled((3, 9), dtype, seed + 50, exponent - 4, exponent + 8)
        assert_tied(name, prediction, sample_of(y, seed))


@pytest.mark.parametrize("name", ["mse", "l1", "smooth_l1(0.1)"])
def test_a_long_sum(name: str) -> None:
    y, prediction = scaled((2, 5000), torch.float32, 0, -8, 4), scaled((2, 5000), torch.float32, 1, -8, 4)
    assert_tied(name, prediction, sample_of(y, 0))


def test_a_million_equal_terms() -> None:
    # (0.1f)^2 is known exactly, and so is a million times that; a running float32 sum would be off by 1 %.
    n = 2**20
    prediction = torch.full((1, n), 0.1)
    exact = Fraction(prediction[0, 0].item()) ** 2
    sample = Sample(torch.zeros(1, n), torch.zeros(1, n), Mask.all((n,)))
    for reduction, value in (("mean", exact), ("sum", exact * n)):
        computed = masked_mse(prediction, sample, reduction=reduction).item()
        assert within(computed, value, rounding_bound(3, n, float(value)))


def test_a_bound_that_counts_the_roundings_of_integers_targets() -> None:
    y = torch.randint(0, 255, (3, 7), dtype=torch.uint8)
    prediction = torch.rand(3, 7) * 255
    for name in ("mse", "l1", "smooth_l1(0.7)"):
        assert_tied(name, prediction, sample_of(y, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_tied_comparison_can_fail(dtype: torch.dtype) -> None:
    y, prediction = scaled((2, 8), dtype, 0, 0, 1), scaled((2, 8), dtype, 1, 0, 1)
    sample = Sample(y, y, Mask.all((8,)))
    exact = sum(square(t, p) for t, p in zip(y.flatten(), prediction.flatten(), strict=True))
    computed = masked_mse(prediction, sample, reduction="sum").item()
    bound = rounding_bound(3, 16, float(exact), dtype)
    assert within(computed, exact, bound)
    # 2 * (n + k + 1) roundings off, and one coordinate left out.
    assert not within(computed * (1 + 20 * torch.finfo(dtype).eps), exact, bound)
    assert not within(masked_mse(prediction, sample, reduction="rows")[0].item(), exact, bound)


def test_the_share_of_beta_in_the_bound_is_needed() -> None:
    beta, z = 1e-25, 2.0**-84
    y, prediction = torch.zeros(1, 1), torch.full((1, 1), z)
    computed = masked_smooth_l1(prediction, Sample(y, y, Mask.all((1,))), beta=beta).item()
    exact = Fraction(z) ** 2 / (2 * Fraction(beta))
    assert not within(computed, exact, rounding_bound(5, 1, float(exact)))
    assert within(computed, exact, rounding_bound(5, 1, float(exact), beta=beta))


def test_rounding_bound_of_more_terms_than_the_type_can_count() -> None:
    assert rounding_bound(3, 2**25, 1.0) == math.inf
    # At 2**24 roundings the bound has no value; one fewer has one.
    assert rounding_bound(3, 2**24 - 4, 1.0) == math.inf > rounding_bound(3, 2**24 - 5, 1.0)
    # With mu = 1/2, the bound is mu / (1 - mu) = 1 of the value, and what underflows.
    assert rounding_bound(3, 2**23 - 4, 1.0) == pytest.approx(1.0)
    assert rounding_bound(3, 2**25, 1.0, torch.float64) < 1e-8
    assert rounding_bound(1, 0, 0.0) == 0.0
    assert rounding_bound(3, 100, 1.0) < rounding_bound(5, 100, 1.0) < rounding_bound(5, 200, 1.0)
