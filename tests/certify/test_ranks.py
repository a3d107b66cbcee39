"""certify_ranks on small losses, each with its mistake; certify_objective."""

import threading
from fractions import Fraction
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as F

from viewproof import InvalidArgument
from viewproof.certify.objective import certify_objective
from viewproof.certify.ranks import certify_ranks
from viewproof.certify.report import Report
from viewproof.verdict import Verdict

ROWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def gathered(z: Tensor, gradient: bool, guarded: bool) -> Tensor:
    """The mean product with all rows; without gradient the gather is as wrong in a group of one."""
    if guarded and not dist.is_initialized():
        return (z @ z.T).square().mean()
    if gradient:
        every = torch.cat(list(all_gather(z)))  # type: ignore[no-untyped-call]
    else:
        parts = [torch.zeros_like(z) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, z)
        every = torch.cat(parts)
    return (z @ every.T).square().mean()


def verdicts(report: Report) -> list[Verdict]:
    return [f.verdict for f in report.findings]


def test_a_gather_without_gradient_is_refuted_by_a_run_without_a_group() -> None:
    report = certify_ranks(partial(gathered, gradient=False, guarded=True), ROWS, (4, 4))
    assert verdicts(report) == [Verdict.PROVED, Verdict.REFUTED, Verdict.REFUTED], str(report)
    assert not any("local_negatives" in f.detail for f in report.findings)


def test_a_gather_without_gradient_that_needs_a_group_is_not_proved() -> None:
    report = certify_ranks(partial(gathered, gradient=False, guarded=False), ROWS, (4, 4))
    assert verdicts(report) == [Verdict.PROVED, Verdict.UNKNOWN, Verdict.VACUOUS], str(report)
    assert "its gradient is not the derivative of its value" in report.findings[1].detail


def test_a_gather_with_gradient_needs_equal_ranks() -> None:
    report = certify_ranks(partial(gathered, gradient=True, guarded=False), ROWS)
    assert report.verdict() is Verdict.PROVED and report.verdict(strict=True) is Verdict.UNKNOWN, str(report)
    assert report.findings[-1].detail == "the loss needs equal splits: it fails with (3, 5)"


def test_means_of_means_are_not_robust_and_wrong_where_unequal_ranks_are_declared() -> None:
    def mean_in_float32(z: Tensor) -> Tensor:
        return (z @ torch.ones(4)).square().mean()

    report = certify_ranks(mean_in_float32, ROWS)
    assert report.verdict() is Verdict.PROVED and report.verdict(strict=True) is Verdict.REFUTED, str(report)
    assert "in float32 (the loss raises in float64)" in report.findings[0].scope
    assert certify_ranks(lambda z: z.square().mean(), ROWS, (3, 5)).verdict() is Verdict.REFUTED


def negatives_of_this_rank(pairs: Tensor) -> Tensor:
    """SimCLR's loss without a gather."""
    z = torch.cat(F.normalize(pairs, dim=-1).unbind(1))
    n = len(pairs)
    logits = (z @ z.T / 0.5)[~torch.eye(2 * n, dtype=torch.bool)].view(2 * n, -1)
    return F.cross_entropy(logits, torch.cat([torch.arange(n) + n - 1, torch.arange(n)]))


def test_negatives_of_one_rank_are_right_only_by_declaration() -> None:
    pairs = torch.randn(8, 2, 4, generator=torch.Generator().manual_seed(0))
    undeclared = certify_ranks(negatives_of_this_rank, pairs, (4, 4))
    assert [f.verdict for f in undeclared.findings[:2]] == [Verdict.REFUTED] * 2
    assert all("declare local_negatives=True" in f.detail for f in undeclared.findings[:2]), str(undeclared)
    assert certify_ranks(negatives_of_this_rank, pairs, (4, 4), local_negatives=True).verdict() is Verdict.PROVED
    all_of_them = partial(gathered, gradient=True, guarded=True)
    assert certify_ranks(all_of_them, ROWS, (4, 4), local_negatives=True).verdict() is Verdict.REFUTED


def test_random_losses_start_from_one_seed() -> None:
    def directions(z: Tensor) -> Tensor:
        return (z @ torch.randn(4, 3, dtype=z.dtype)).square().mean()

    assert certify_ranks(directions, ROWS, (4, 4)).verdict() is Verdict.PROVED
    by_row = certify_ranks(lambda z: (z + torch.randn_like(z)).square().mean(), ROWS, (4, 4))
    assert by_row.verdict() is Verdict.UNKNOWN and "for each row" in by_row.findings[0].detail


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embeddings": torch.rand(7, 2)}, "embeddings with 7 rows must be an even number"),
        ({"dtype": torch.int64}, "dtype=torch.int64 must be a floating dtype"),
        ({"loss": partial(torch.sum, out=threading.Lock())}, "is not pickled .*define it at the top of an importable"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        certify_ranks(**{"loss": torch.sum, "embeddings": ROWS, **changes})


def test_without_cloudpickle_a_function_of_main_has_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(z: Tensor) -> Tensor:
        return z.sum()

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidArgument, match="or pip install cloudpickle"):
        certify_ranks(loss, ROWS)
    loss.__module__ = "__main__"
    with pytest.raises(
        InvalidArgument, match="cannot import __main__; define it at the top of an importable module, or"
    ):
        certify_ranks(loss, ROWS)


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
