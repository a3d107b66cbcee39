"""Maps of the loss that nothing reads, and losses over all places of predictions that are constants at visible ones."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import trained

from viewproof.watch import watch


class Filled(nn.Module):
    """Predicts what is hidden, and gives zeros where it is visible; or predicts every place."""

    def __init__(self, everywhere: bool) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.place, self.everywhere = nn.Parameter(torch.randn(8, 16)), everywhere

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        seen = torch.where(hidden[..., None], 0, self.embed(x) + self.place)
        y = seen.tanh().mean(1, keepdim=True) + self.place + (seen if self.everywhere else 0)
        y = self.head(self.mix(y).tanh())
        return y if self.everywhere else y * hidden[..., None]


@pytest.mark.parametrize("kind", ["mean of all", "multiplied", "written in", "own content", "root"])
def test_a_loss_over_all_places(kind: str) -> None:
    """What a constant answers is no leak; what is visible and answered is, and a root makes its content a weight."""
    torch.manual_seed(0)
    model = Filled(kind == "own content")

    def loss(x: Tensor) -> Tensor:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 4
        y = model(x, hidden)
        if kind == "written in":
            full = torch.zeros_like(x)
            full[hidden] = y[hidden]
            y = full
        error = (y - x).square()
        if kind == "multiplied":
            error = error * torch.ones_like(x)
        return error.mean().sqrt() if kind == "root" else error.mean()

    report = watch(*trained(model, loss, torch.randn(5, 8, 4)))
    found = next(f for f in report.findings if f.contract.name == "C1")
    verdict = {"own content": "REFUTED", "root": "UNKNOWN"}.get(kind, "PROVED")
    assert found.verdict.name == verdict, found
    if verdict == "PROVED":
        assert "not in its gradient" in found.detail
        (source,) = report.sources
        assert not source.leak.any() and source.scored.sum() == 20


@pytest.mark.parametrize("kind", ["forgotten", "summed", "logged", "detached"])
def test_a_map_of_the_loss_that_nothing_reads_is_asked_about(kind: str) -> None:
    torch.manual_seed(0)
    model = Filled(False)
    model.register_parameter("weight", nn.Parameter(torch.ones(())))
    rows = []

    def loss(x: Tensor) -> Tensor:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 4
        y = model(x, hidden)
        smooth = F.smooth_l1_loss(y[hidden], x[hidden])
        error = (y - x).square().mean(-1) * hidden
        if kind == "logged":
            rows.append(error.detach().mean())
        if kind == "detached":
            error = error.detach()
        return smooth + model.weight.square() + (error.sum() if kind == "summed" else 0)

    found = [f for f in watch(*trained(model, loss, torch.randn(5, 8, 4))).findings if "every term" in f.claim]
    unread = kind in ("forgotten", "logged", "detached")
    assert [f.verdict.name for f in found] == ["UNKNOWN"] * unread, found
    assert not unread or "test_watch_maps.py" in found[0].detail
