"""What must change is PROVED by two runs, blindness is REFUTED, and a gate that starts at 0 is neither."""

import pytest
import torch
from torch import Tensor, nn

from viewproof import InvalidArgument, certify_dependence

X = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
FIRST = torch.tensor([True, False, False, False])
GATE = nn.Parameter(torch.zeros(3))


def verdict(f: object, must: object, **kwargs: object) -> str:
    return certify_dependence(f, X, must={"claim": must}, **kwargs).verdict().value  # type: ignore[arg-type, dict-item]


def test_each_pair_of_the_same_sample() -> None:
    inputs, outputs = (~FIRST).expand(2, 4), FIRST.expand(2, 4)
    assert verdict(lambda x: x.flip(1).cumsum(1).flip(1), (inputs, outputs)) == "PROVED"
    assert verdict(lambda x: x.cumsum(1), (inputs, outputs)) == "REFUTED"
    assert verdict(lambda x: x[:, :2].sum(1, keepdim=True).expand(2, 4, 3), (inputs, outputs)) == "REFUTED"
    assert verdict(lambda x: x.sum(1), (~FIRST, None)) == "PROVED"


def test_a_gate_that_starts_at_zero_is_not_refuted() -> None:
    assert verdict(lambda x: x * GATE, ("x", None)) == "UNKNOWN"
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    assert verdict(layer, ("x", None)) == "UNKNOWN" and not bool(layer.weight.any())


def test_order() -> None:
    assert verdict(lambda x: x.mean(1), (lambda x: x.flip(1), None)) == "REFUTED"
    assert verdict(lambda x: x.cumsum(1).mean(1), (lambda x: x.flip(1), None)) == "PROVED"
    assert verdict(lambda x: x, (lambda x: x, None)) == "UNKNOWN"


def test_random_outputs_are_not_blamed_on_the_input() -> None:
    state = [0]

    def counts(x: Tensor) -> Tensor:
        state[0] += 1
        return torch.full((2,), float(state[0]))

    assert verdict(counts, ("x", None)) == "UNKNOWN"


def test_must_not() -> None:
    for f, expected in ((lambda x: x.cumsum(1), "PROVED"), (lambda x: x - x.mean(1, keepdim=True), "REFUTED")):
        report = certify_dependence(f, X, must_not={"no look ahead": ((~FIRST).expand(2, 4), FIRST.expand(2, 4))})
        assert report.verdict().value == expected


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidArgument, match="must declare something"):
        certify_dependence(lambda x: x, X)
    with pytest.raises(InvalidArgument, match="the inputs are"):
        certify_dependence(lambda x: x, X, must={"claim": ("edges", None)})
