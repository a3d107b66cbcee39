"""Rows of one sample, the loss's own pairs, and windows that share no step."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof import InvalidArgument, certify_pairs, certify_windows

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
SERIES = torch.randn(2, 12, 3, generator=torch.Generator().manual_seed(0))
STACKED, NEXT = [4, 5, 6, 7, 0, 1, 2, 3], [1, 0, 3, 2, 5, 4, 7, 6]


def nt_xent(partners: list[int]) -> object:
    def loss(rows: Tensor) -> Tensor:
        rows = F.normalize(rows)
        scores = (rows @ rows.T / 0.5).masked_fill(torch.eye(8, dtype=torch.bool), -1e9)
        return F.cross_entropy(scores, torch.tensor(partners))

    return loss


def stacked(x: Tensor) -> Tensor:
    return torch.cat([x + 0.1 * torch.randn_like(x), 2 * x])


def verdicts(*args: object, **kwargs: object) -> list[str]:
    return [f.verdict.value for f in certify_pairs(*args, **kwargs).findings]  # type: ignore[arg-type]


def test_pairs() -> None:
    assert verdicts(stacked, X, positives=STACKED, loss=nt_xent(STACKED)) == ["PROVED"] * 3
    assert verdicts(stacked, X, positives=STACKED, loss=nt_xent(NEXT)) == ["PROVED", "PROVED", "REFUTED"]
    assert verdicts(stacked, X, positives=NEXT, loss=nt_xent(NEXT)) == ["REFUTED", "PROVED", "PROVED"]
    assert verdicts(lambda x: (x, x.roll(1, 0)), X)[0] == "REFUTED"
    assert verdicts(lambda x: (x - x.mean(0), x), X)[0] == "REFUTED"
    assert verdicts(lambda x: (x, x), X) == ["PROVED", "REFUTED"]


def test_losses_of_other_kinds_are_not_refuted() -> None:
    views = lambda x: (x + 1, 2 * x)  # noqa: E731
    assert verdicts(views, X, loss=lambda a, b: (a - b.detach()).square().mean())[2] == "PROVED"
    assert verdicts(views, X, loss=lambda a, b: -(F.normalize(a) * F.normalize(b)).sum())[2] == "PROVED"
    assert verdicts(views, X, loss=lambda a, b: (a.std(0) - 1).square().sum() + b.std(0).sum())[2] != "PROVED"
    assert verdicts(views, X, loss=lambda a, b: a.sum() * 0)[2] == "VACUOUS"


def windows(split: object, x: object = SERIES, **kwargs: object) -> list[str]:
    return [f.verdict.value for f in certify_windows(split, x, **kwargs).findings]  # type: ignore[arg-type]


def test_windows() -> None:
    steps = {"output[0]": range(8), "output[1]": range(8, 12)}
    assert windows(lambda x: (x[:, :8], x[:, 8:]), steps=steps) == ["PROVED", "PROVED"]
    assert windows(lambda x: (x[:, :9], x[:, 8:]), steps=steps) == ["REFUTED", "REFUTED"]
    assert windows(lambda x: (x[:, :9], x[:, 8:]), shared=[8]) == ["PROVED"]
    assert windows(lambda x: ((x / x.std())[:, :8], x[:, 8:])) == ["REFUTED"]
    assert windows(lambda x: (x[:, :8], torch.zeros(2))) == ["VACUOUS"]


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidArgument, match="positives=None"):
        assert certify_pairs(stacked, X).findings[0].verdict.value == "UNKNOWN"
        raise InvalidArgument("positives=None")
    with pytest.raises(InvalidArgument, match="equally many steps"):
        certify_windows(lambda a, b: (a, b), {"a": SERIES, "b": SERIES[:, :5]})
