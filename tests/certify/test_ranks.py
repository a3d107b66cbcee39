"""certify_ranks and certify_objective: the arguments, and answers that need no other process."""

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from viewproof import InvalidArgument
from viewproof.certify.objective import certify_objective
from viewproof.certify.ranks import certify_ranks
from viewproof.verdict import Verdict


def test_a_closure_cannot_be_sent() -> None:
    report = certify_ranks(lambda rows: rows.sum(), torch.rand(8, 2))
    assert report.verdict() is Verdict.UNKNOWN and "importable module" in report.findings[0].detail


def test_splits_must_add_up() -> None:
    with pytest.raises(InvalidArgument, match=r"splits=\(3, 4\) must be at least two positive numbers that add up to"):
        certify_ranks(torch.sum, torch.rand(8, 2), splits=(3, 4))


def exact(rows: list[list[Fraction]]) -> Any:
    return sum(abs(a) for row in rows for a in row)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, Verdict.UNKNOWN), (1 + 1e-6, Verdict.REFUTED), (float("nan"), Verdict.REFUTED)]
)
def test_objectives(factor: float, verdict: Verdict) -> None:
    def loss(x: Tensor) -> Tensor:
        return x.abs().sum() * factor

    assert certify_objective(loss, exact, torch.rand(2, 3)).verdict() is verdict


def test_objectives_need_examples() -> None:
    with pytest.raises(InvalidArgument, match="one for each argument"):
        certify_objective(lambda: torch.zeros(()), exact)


def test_float32_inside_is_no_other_objective() -> None:
    assert certify_objective(lambda x: x.float().abs().sum(), exact, torch.rand(2, 3)).verdict() is Verdict.UNKNOWN
    off = certify_objective(lambda x: x.float().abs().sum() * 1.001, exact, torch.rand(2, 3))
    assert off.verdict() is Verdict.REFUTED
