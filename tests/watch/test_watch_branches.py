"""Teachers whose outputs reach the loss by ways that leave no trace, or not at all; rows of a table read twice."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.watch import watch


class Pair(nn.Module):
    """A student with its teacher inside; ``kind`` says how the loss reads the teacher."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.student, self.head = kind, nn.Linear(6, 8), nn.Linear(8, 8)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        p, t = self.head(self.student(a)), self.teacher(b)
        if "transposed" in self.kind:
            return F.cross_entropy(p @ t.T, torch.arange(len(p)))
        if "unread" in self.kind:
            t = self.student(b).detach()
        elif "numpy" in self.kind:
            t = torch.from_numpy(t.numpy())
        elif "written" in self.kind:
            t, made = torch.zeros_like(t), t
            t[:] = made
        return (p - t).square().mean()


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("transposed", "PROVED"),
        ("numpy", "PROVED"),
        ("written", "PROVED"),
        ("unread", "UNKNOWN"),
        ("unread, alone", "REFUTED"),
    ],
)
def test_a_teacher_that_the_loss_does_not_read(kind: str, verdict: str) -> None:
    torch.manual_seed(0)
    pair: Any = Pair(kind)
    optimizer = torch.optim.SGD([*pair.student.parameters(), *pair.head.parameters()], lr=0.1)

    def step(x: Tensor) -> None:
        a, b = x + 0.1 * torch.randn_like(x), x + 0.1 * torch.randn_like(x)
        loss = Pair.forward(pair, a, b) if "alone" in kind else pair(a, b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(pair.teacher.parameters(), pair.student.parameters(), strict=True):
                p.mul_(0.9).add_(q, alpha=0.1)

    x = torch.randn(5, 6)
    step(x)
    (found,) = [f for f in watch(step, x).findings if f.claim.startswith("what is trained")]
    assert found.verdict.name == verdict, found


@pytest.mark.parametrize(
    ("noise", "inside", "verdict"), [(0.0, 0.0, "REFUTED"), (0.1, 0.0, "PROVED"), (0.0, 0.5, "UNKNOWN")]
)
def test_two_views_of_a_table_differ(noise: float, inside: float, verdict: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(inside), nn.Linear(6, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(x: Tensor) -> None:
        a, b = model(x), model(x + noise * torch.randn_like(x))
        loss = F.cross_entropy(a @ b.T, torch.arange(len(x)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    (found,) = [f for f in watch(step, torch.randn(5, 6)).findings if f.claim == "two views of a sample differ"]
    assert found.verdict.name == verdict, found
