"""Positives of a contrastive loss that are made of another sample than their rows, and what is not asked about."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trained_step import trained

from viewproof.watch import watch


@pytest.mark.parametrize(
    ("kind", "asked"), [("own", False), ("rolled", True), ("keys", True), ("queue", False), ("pairs", False)]
)
def test_positives_of_other_samples_are_asked_about(kind: str, asked: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8))
    queue = F.normalize(torch.randn(8, 9), dim=0)

    def loss(x: Tensor) -> Tensor:
        n = len(x)
        a = F.normalize(model(x + 0.1 * torch.randn_like(x)), dim=1)
        if kind == "pairs":  # Views that were stacked before the step.
            return F.cross_entropy((a @ a.T / 0.2).fill_diagonal_(float("-inf")), torch.arange(n).roll(n // 2))
        if kind in ("keys", "queue"):
            with torch.no_grad():
                b = F.normalize(model(x), dim=1).roll(1, 0)
            right, labels = torch.einsum("nc,nc->n", a, b)[:, None], torch.zeros(n, dtype=torch.int64)
            scores = torch.cat([right, torch.einsum("nc,ck->nk", a, queue)], 1)
            return F.cross_entropy(scores / 0.2, labels + 3 * (kind == "queue"))
        z = torch.cat([a, F.normalize(model(x), dim=1)])
        labels = torch.arange(2 * n).roll(1 if kind == "rolled" else n)
        return F.cross_entropy((z @ z.T / 0.2).fill_diagonal_(float("-inf")), labels)

    report = watch(*trained(model, loss, torch.randn(8, 6)))
    found = [f for f in report.findings if f.claim == "a row's positive is of its own sample"]
    assert [f.verdict.name for f in found] == ["UNKNOWN"] * asked, report
    assert not report.refuted, report
