"""certify_reproducible: functions of seed, epoch and sample pass; each way of not being one is refuted."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.draws import certify_reproducible
from viewproof.certify.report import Contract, Report
from viewproof.verdict import Verdict

SIZE = 20


def rows(ids: Tensor, *keys: int) -> Tensor:
    drawn = [np.random.default_rng((*keys, int(i))).random(SIZE) < 0.4 for i in ids]
    return torch.from_numpy(np.stack(drawn))


def right(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed, epoch)


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        self.calls += 1
        return rows(ids, seed, epoch, self.calls)


def forked(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    with torch.random.fork_rng():
        return torch.rand(len(ids), SIZE) < 0.4


def seeding(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    torch.manual_seed(seed * 1000 + epoch)
    return torch.stack([torch.rand(SIZE) < 0.4 + 0 * int(i) for i in ids])


def by_python(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed, epoch, random.randrange(2**30))


def batched(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((seed, epoch)).random((len(ids), SIZE)) < 0.4)


def ranked(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed, epoch, int(os.environ.get("RANK", 0)))


def clocked(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed, epoch, int(time.time()) // 86400)


def in_worker(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    info = torch.utils.data.get_worker_info()
    return rows(ids, seed, epoch, 0 if info is None else info.id + 1)


def same_epochs(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed)


def same_samples(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids * 0, seed, epoch)


def same_seeds(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, epoch)


def summed(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids, seed + epoch)


def modulo(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    return rows(ids % 4, seed, epoch)


def settled(report: Report) -> set[Verdict]:
    """The verdicts; in a test run the checks of annotations inside viewproof's rules draw from Python's generator."""
    return {f.verdict for f in report.findings if "stay where they were" not in f.claim}


def test_a_function_of_all_three() -> None:
    before = torch.get_rng_state(), str(np.random.get_state()), os.environ.copy(), time.time
    report = certify_reproducible(right)
    assert report.verdict() is Verdict.PROVED, str(report)
    after = torch.get_rng_state(), str(np.random.get_state()), os.environ.copy(), time.time
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Counter(), "same call"),
        (forked, "global generators"),
        (seeding, "stay where they were"),
        (by_python, "same call"),
        (batched, "alone"),
        (ranked, "rank and clock"),
        (clocked, "rank and clock"),
        (in_worker, "loader workers"),
        (same_epochs, "differ by epoch"),
        (same_samples, "differ by sample"),
        (same_seeds, "differ by seed"),
        (summed, "differ by epoch"),
        (modulo, "differ by sample"),
    ],
)
def test_mutants(wrong: Any, words: str) -> None:
    report = certify_reproducible(wrong)
    assert any(words in f.claim for f in report.refuted), str(report)


def test_a_whole_view_and_its_count() -> None:
    x = torch.randn(8, SIZE)

    def view(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        return torch.where(right(ids, epoch=epoch, seed=seed), 0.0, x[ids])

    assert certify_reproducible(view, workers=0).verdict() is Verdict.PROVED
    assert certify_reproducible(view, workers=0, count=SIZE).verdict(Contract.C4) is Verdict.REFUTED


def test_rules() -> None:
    shared = certify_reproducible(vp.SharedRandomPatchMask(2, 2, 5), data_shape=(3, 8, 8), count=60)
    assert settled(shared) == {Verdict.PROVED} and not any("by sample" in f.claim for f in shared.findings)
    each = certify_reproducible(vp.RandomPatchMask(2, 2, 5), data_shape=(3, 8, 8), count=60, workers=0)
    assert settled(each) == {Verdict.PROVED} and any("by sample" in f.claim for f in each.findings)
    fixed = certify_reproducible(vp.PatchMask(2, 2, 4, 1), data_shape=(1, 8, 8), workers=0)
    assert settled(fixed) == {Verdict.PROVED}


@dataclass(frozen=True)
class Noisy(vp.Rule):
    """No function of its fields, which the masks that rules keep would hide."""

    def hidden(self, *grids: Tensor) -> Tensor:
        return torch.rand(8) < 0.4


def test_a_rule_that_draws() -> None:
    report = certify_reproducible(Noisy(), data_shape=(8,), workers=0)
    assert "same call" in report.refuted[0].claim


def test_a_resumed_run() -> None:
    report = certify_reproducible(right, workers=0, resumed=lambda epoch: right)
    assert report.verdict() is Verdict.PROVED

    def anew(start: int) -> Any:
        return lambda ids, epoch, seed: right(ids, epoch=epoch - start, seed=seed)

    assert "resumed" in certify_reproducible(right, workers=0, resumed=anew).refuted[0].claim


def test_bad_arguments() -> None:
    with pytest.raises(vp.InvalidArgument, match=r"sample_ids=\[1\] must be at least two different"):
        certify_reproducible(right, [1])
    with pytest.raises(vp.InvalidArgument, match="varies='epoch' must be among"):
        certify_reproducible(right, varies="epoch")
    with pytest.raises(vp.InvalidArgument, match="data_shape is needed with VectorMask"):
        certify_reproducible(vp.VectorMask(2, 0))
    with pytest.raises(vp.InvalidArgument, match="workers=-1"):
        certify_reproducible(right, workers=-1)
    report = certify_reproducible(lambda ids, epoch, seed: torch.ones(3), workers=0)
    assert "return a Mask or one row for each id" in report.findings[0].detail


def kept_after_the_first(fresh: Callable[[], Tensor]) -> Any:
    masks: dict[tuple[int, int, int], Tensor] = {}

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        places = [(int(i), epoch, seed) for i in ids]
        for place in places:
            if place not in masks:
                masks[place] = fresh()
        return torch.stack([masks[place] for place in places])

    return draw


def test_a_cache_of_random_masks_is_filled_otherwise_in_each_worker() -> None:
    own = np.random.default_rng(0)
    for fresh in (lambda: torch.from_numpy(own.random(SIZE) < 0.4), lambda: torch.tensor(list(os.urandom(SIZE))) < 90):
        report = certify_reproducible(kept_after_the_first(fresh))
        assert [f.claim for f in report.refuted] == ["loader workers do not change a mask"], str(report)


def test_a_cache_of_global_draws_moves_the_generator_once() -> None:
    report = certify_reproducible(kept_after_the_first(lambda: torch.rand(SIZE) < 0.4), workers=0)
    assert ["stay where they were" in f.claim for f in report.refuted] == [True], str(report)
    assert not any("worker" in f.claim for f in report.findings)


def test_numbers_that_are_mixed_up() -> None:
    def mixed(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        drawn = [np.random.default_rng(int(i) ^ epoch ^ seed).random(SIZE) < 0.4 for i in ids]
        return torch.from_numpy(np.stack(drawn))

    witness = certify_reproducible(mixed, workers=0).refuted[0].witness
    assert witness is not None and witness.what.startswith("sample 0 in epoch 0 always has the masks of sample 1 in")


@pytest.mark.parametrize("kinds", [2, 3, 5, 16])
def test_masks_of_few_kinds_are_not_mixed_up(kinds: int) -> None:
    def few(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        kind = [int(np.random.default_rng((seed, epoch, int(i))).integers(kinds)) for i in ids]
        return torch.arange(SIZE) % kinds == torch.tensor(kind)[:, None]

    report = certify_reproducible(few, workers=0)
    assert not any(f.witness and "mixed up" in f.witness.what for f in report.refuted), str(report)
