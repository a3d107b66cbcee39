"""Gradients that are all 0: of what starts at 0, which is meant, and of factors and functions that let nothing pass."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trained_step import trained

from viewproof.watch import watch


class Silent(torch.autograd.Function):
    """The identity, with a gradient of zeros."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return torch.zeros_like(gradients[0])


class Gated(nn.Module):
    """Two layers, the second behind a gate; what is asked for is not seen."""

    def __init__(self, gate: Callable[[Tensor], Tensor], heads: int = 0) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.scale, self.gate = nn.Parameter(torch.zeros(8)), gate
        self.auxiliary = nn.Linear(8, 2) if heads else None

    def features(self, x: Tensor) -> Tensor:
        y = self.first(x[:, :4])
        return y + self.gate(self.second(y.tanh()))

    def loss(self, x: Tensor) -> Tensor:
        return (self.head(self.features(x)) - x[:, 4:]).square().mean()


def scaled() -> Any:
    """LayerScale, at its start or moved."""
    model = Gated(lambda y: y * model.scale)
    return model, model.loss


def zero_head() -> Any:
    """The last layer starts at 0, as in adaLN-Zero: nothing before it gets a gradient in the first step."""
    model = Gated(lambda y: y)
    nn.init.zeros_(model.head.weight)
    model.scale.requires_grad_(False)
    return model, model.loss


def dropped_path() -> Any:
    """Stochastic depth that drops the path of all samples in this step."""
    model = Gated(lambda y: y * (torch.rand(()) < 0.2) if model.training else y)
    model.scale.requires_grad_(False)
    return model, model.loss


def dead_units() -> Any:
    """A bias so low that no unit passes; other weights wake them."""
    model = Gated(lambda y: (y - 0.5).relu())
    model.scale.requires_grad_(False)
    with torch.no_grad():
        model.second.weight.mul_(0.1)
        model.second.bias.fill_(0)
    return model, model.loss


def queries() -> Any:
    """The weight of queries meets inputs of 0 alone, of hidden places; the bias beside it is trained."""
    model = Gated(lambda y: y)
    model.scale.requires_grad_(False)
    model.query = nn.Linear(3, 8)
    return model, lambda x: (model.head(model.features(x) + model.query(0 * x[:, :3])) - x[:, 4:]).square().mean()


def silent() -> Any:
    """A function of its own whose gradient is 0."""
    model = Gated(Silent.apply)
    model.scale.requires_grad_(False)
    return model, model.loss


def factor() -> Any:
    """A weight of 0.0 in front of a layer."""
    model = Gated(lambda y: 0.0 * y)
    model.scale.requires_grad_(False)
    return model, model.loss


def head_times_zero() -> Any:
    """A second head whose term has the weight 0."""
    model = Gated(lambda y: y, heads=1)
    model.scale.requires_grad_(False)
    assert model.auxiliary is not None
    return model, lambda x: model.loss(x) + 0.0 * model.auxiliary(model.features(x)).square().mean()


def everything_silent() -> Any:
    """No parameter gets another gradient than 0."""
    model = Gated(lambda y: y)
    model.scale.requires_grad_(False)
    return model, lambda x: (Silent.apply(model.head(model.features(x))) - x[:, 4:]).square().mean()


@pytest.mark.parametrize("build", [scaled, zero_head, dropped_path, dead_units, queries])
def test_what_starts_at_zero_is_trained(build: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, loss = build()
    found = [f for f in watch(*trained(model, loss, torch.randn(6, 8))).findings if "takes gradients" in f.claim]
    assert found[0].verdict.name == "PROVED", found


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (silent, "model.second"),
        (factor, "model.second"),
        (head_times_zero, "model.auxiliary"),
        (everything_silent, "every gradient"),
    ],
)
def test_zeros_that_stay_are_asked_about(build: Callable[[], Any], name: str) -> None:
    torch.manual_seed(0)
    model, loss = build()
    report = watch(*trained(model, loss, torch.randn(6, 8)))
    found = [f for f in report.findings if "takes gradients" in f.claim]
    assert found[0].verdict.name == "UNKNOWN" and name in found[0].detail, found
    assert 'allow={"C6"' in found[0].detail and not report.refuted


@pytest.mark.parametrize(
    ("weight", "verdict"), [(0.0, "UNKNOWN"), (0.1, None), (torch.tensor(0.0), "UNKNOWN"), (torch.tensor(0.5), None)]
)
def test_a_term_times_zero_is_asked_about(weight: Any, verdict: str | None) -> None:
    torch.manual_seed(0)
    model = Gated(lambda y: y)
    model.scale.requires_grad_(False)

    def loss(x: Tensor) -> Any:
        spread = model.features(x).var(0).mean()
        # Parameters that take part without an effect are no term.
        return model.loss(x) + weight * spread + 0.0 * sum(p.sum() for p in model.parameters())

    found = [f for f in watch(*trained(model, loss, torch.randn(6, 8))).findings if "every term" in f.claim]
    assert [f.verdict.name for f in found] == [verdict] * bool(verdict), found
    assert not verdict or "multiplied by 0" in found[0].detail
