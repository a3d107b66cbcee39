"""Micro-batches that count right are PROVED; means of means, missing divisions and batch norm are REFUTED."""

import pytest
import torch
from torch import nn

from viewproof import InvalidArgument, certify_accumulation

BATCH = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9.0)


def trainer(kind: str, optimizer_class: type = torch.optim.SGD) -> tuple[nn.Module, object]:
    torch.manual_seed(0)
    middle = {"norm": nn.BatchNorm1d(4), "dropout": nn.Dropout()}.get(kind, nn.Tanh())
    model = nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, 1))
    optimizer, calls = optimizer_class(model.parameters(), lr=0.1), [0]

    def step(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        optimizer.zero_grad()
        calls[0] += 1
        for x, y in parts:
            loss = (model(x)[:, 0] - y).square().sum()
            weight = {"means": len(x) * len(parts), "undivided": len(x)}.get(kind, sum(len(x) for x, _ in parts))
            (loss / weight).backward()
            if kind == "each":
                optimizer.step()
        if kind != "each":
            optimizer.step()

    step.calls = calls  # type: ignore[attr-defined]
    return model, step


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("right", "PROVED"), ("means", "REFUTED"), ("undivided", "REFUTED"), ("norm", "REFUTED"), ("each", "REFUTED"),
     ("dropout", "UNKNOWN")],
)  # fmt: skip
def test_verdicts(kind: str, expected: str) -> None:
    model, step = trainer(kind)
    before = [p.detach().clone() for p in model.parameters()]
    report = certify_accumulation(step, BATCH)  # type: ignore[arg-type]
    assert report.verdict().value == expected
    assert all(map(torch.equal, before, model.parameters())) and model[0].weight.dtype == torch.float32
    assert step.calls == [0] and all(p.grad is None for p in model.parameters())  # type: ignore[attr-defined]


def test_adam_shows_the_gradient() -> None:
    assert certify_accumulation(trainer("right", torch.optim.AdamW)[1], BATCH).verdict().value == "PROVED"  # type: ignore[arg-type]
    assert certify_accumulation(trainer("undivided", torch.optim.AdamW)[1], BATCH).findings[0].witness  # type: ignore[arg-type]


def test_too_few_samples() -> None:
    with pytest.raises(InvalidArgument, match="parts=9"):
        certify_accumulation(trainer("right")[1], BATCH, parts=9)  # type: ignore[arg-type]
