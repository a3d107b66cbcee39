"""Collapse, numerics, bad input, slices, and ranks."""

import math
import re
from collections.abc import Callable
from typing import Any

import plain
import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.ranks import certify_ranks
from viewproof.losses import BarlowTwinsLoss, InfoNCELoss, JEPALoss, SIGRegLoss, VICRegLoss
from viewproof.losses.sigreg import random_slices
from viewproof.verdict import Verdict

PAIRS = [VICRegLoss(), BarlowTwinsLoss(), SIGRegLoss(slices=16), InfoNCELoss(0.1)]


def healthy(n: int = 64, d: int = 8) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("loss", PAIRS, ids=repr)
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0], ids=["zero", "tiny", "one point"])
def test_collapse_costs_more_than_health_and_has_a_finite_gradient(loss: VICRegLoss, scale: float) -> None:
    z = healthy()
    point = (scale * torch.ones_like(z)).requires_grad_()
    assert loss(point, point) > 2 * loss(z, z)
    loss(point, point + 0.0).backward()  # type: ignore[no-untyped-call]
    assert point.grad is not None and point.grad.isfinite().all()


@pytest.mark.parametrize("loss", PAIRS, ids=repr)
def test_low_precision_is_accumulated_in_float32_under_autocast_too(loss: VICRegLoss) -> None:
    a, b = healthy().bfloat16(), healthy().flip(0).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(a, b)
    assert value.dtype == torch.float32 and torch.equal(value, loss(a.float(), b.float()))


def test_jepa_accumulates_in_float32() -> None:
    a = healthy().bfloat16()
    assert torch.equal(JEPALoss()(a, 0 * a), JEPALoss()(a.float(), torch.zeros(64, 8)))


def test_slices_are_a_function_of_seed_and_step_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first = random_slices(6, 5, seed=1, step=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, random_slices(6, 5, seed=1, step=2))
    assert torch.equal(first[:, :3], random_slices(6, 3, seed=1, step=2))
    for other in (random_slices(6, 5, seed=2, step=2), random_slices(6, 5, seed=1, step=3)):
        assert not torch.isclose(first, other).any()
    torch.testing.assert_close(first.square().sum(0), torch.ones(5, dtype=torch.float64))


def test_slices_look_in_every_direction() -> None:
    """Sixteen dimensions, 20,000 slices: each mean is within 5 standard errors of 0, each covariance of I / 16."""
    slices = random_slices(16, 20_000)
    assert slices.mean(1).abs().max() < 5 * math.sqrt(1 / 16 / 20_000)
    covariance = slices @ slices.T / 20_000 - torch.eye(16, dtype=torch.float64) / 16
    assert covariance.abs().max() < 5 * math.sqrt(2) / 16 / math.sqrt(20_000)


def test_masks_of_the_same_seed_share_no_word_with_the_slices() -> None:
    from viewproof.losses.sigreg import _STREAM
    from viewproof.masks.random.draws import Draws

    draws = Draws(0, 0, torch.arange(50))
    slices = set(draws.words(64, _STREAM).flatten().tolist())
    assert all(slices.isdisjoint(draws.words(64, stream).flatten().tolist()) for stream in (0, 1, 2, 3))


# As users have them: the annotations that the test run checks would speak first.
P: Any = plain
BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: VICRegLoss()(torch.zeros(4, 3), torch.zeros(4, 2)), "shapes (4, 3) and (4, 2) must both be [N, D]"),
    (lambda: BarlowTwinsLoss()(torch.zeros(4, 3), torch.zeros(5, 3)), "shapes (4, 3) and (5, 3)"),
    (lambda: SIGRegLoss()(torch.zeros(4), torch.zeros(4)), "shapes (4,) and (4,)"),
    (lambda: VICRegLoss()(torch.zeros(1, 3), torch.zeros(1, 3)), "a batch of 1 has no statistics"),
    (lambda: JEPALoss()(torch.zeros(2, 3), torch.zeros(3, 2)), "prediction of shape (2, 3) and target of shape (3, 2)"),
    (lambda: JEPALoss()(torch.zeros(0, 3), torch.zeros(0, 3)), "must have one shape that holds something"),
    *(
        (lambda loss=loss, z=z: loss(z, z), f"embeddings of {z.dtype} {tuple(z.shape)} must be real and [N, D]")
        for loss in (P.VICRegLoss(), P.BarlowTwinsLoss(), P.SIGRegLoss(), P.VICRegLoss().guard, P.SIGRegLoss().guard)
        for z in (torch.zeros(4, 0), torch.zeros(4, 3, dtype=torch.complex64))
    ),
    (lambda: JEPALoss(0.0), "beta=0.0 must be a finite number"),
    (lambda: VICRegLoss(mu=-1.0), "mu=-1.0 must be a finite number of at least 0"),
    (lambda: VICRegLoss(epsilon=0.0), "epsilon=0.0 must be a finite number of at least 1e-12"),
    (lambda: BarlowTwinsLoss(math.nan), "lambda_=nan must be a finite number"),
    (lambda: SIGRegLoss(lambda_=1.5), "lambda_=1.5 must be a number from 0 to 1"),
    (lambda: InfoNCELoss(0.0), "temperature=0.0 must be a finite number of at least 1e-06"),
    (lambda: SIGRegLoss(slices=0), "slices=0 looks in no direction"),
    (lambda: SIGRegLoss(points=4), "points=4 must be odd"),
    (lambda: SIGRegLoss()(torch.zeros(4, 3), torch.zeros(4, 3), -1), "epoch=-1"),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((vp.InvalidArgument, P.InvalidArgument), match=re.escape(message)):
        build()


def every_loss(rows: Tensor) -> Tensor:
    """All losses with statistics over samples, their terms of comparable size."""
    a, b = rows.chunk(2, 1)
    sigreg = SIGRegLoss(lambda_=0.5, slices=16)(a, b, 3)
    return 0.1 * VICRegLoss()(a, b) + BarlowTwinsLoss()(a, b) + sigreg + InfoNCELoss()(a, b) + JEPALoss()(a, b)


def only_own_rows(rows: Tensor) -> Tensor:
    """The same without the rows of other ranks."""
    centred = rows - rows.mean(0)
    return (centred.T @ centred).square().mean()


def test_two_unequal_ranks_have_the_value_and_gradient_of_one() -> None:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    report = certify_ranks(every_loss, rows, (3, 5))
    assert report.verdict() is Verdict.PROVED and len(report.findings) == 3


def test_statistics_of_a_ranks_own_rows_would_be_seen() -> None:
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    assert certify_ranks(only_own_rows, rows, (3, 5)).verdict() is Verdict.REFUTED
