"""certify_reproducible: functions of seed, epoch and sample pass; each way of not being one is refuted."""

import datetime
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.draws import certify_reproducible, circumstances
from viewproof.certify.fresh_process import Surroundings, moved_clocks, pickled, run_all
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
    """The verdicts, but for two claims: in a test run the checks of annotations inside viewproof's rules draw from
    Python's generator, and cannot be sent to another process; see `test_a_rule_in_a_process_without_those_checks`.
    """
    aside = ("stay where they were", "another process, host and day")
    return {f.verdict for f in report.findings if not any(words in f.claim for words in aside)}


def test_a_rule_in_a_process_without_those_checks() -> None:
    code = (
        "import viewproof as vp\n"
        "if __name__ == '__main__':\n"
        "    report = vp.certify_reproducible(vp.SharedRandomPatchMask(2, 2, 5), data_shape=(3, 8, 8), workers=0)\n"
        "    print({str(f.verdict) for f in report.findings})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "{'PROVED'}", done.stdout + done.stderr


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
    # Fresh processes take most of the time, and speak of no claim here; what differs there has tests of its own.
    report = certify_reproducible(wrong, workers=2 if wrong is in_worker else 0)
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
    workers, elsewhere = "loader workers do not change a mask", "another process, host and day do not change a mask"
    by_own_generator = certify_reproducible(kept_after_the_first(lambda: torch.from_numpy(own.random(SIZE) < 0.4)))
    assert [f.claim for f in by_own_generator.refuted] == [workers], str(by_own_generator)
    by_system = certify_reproducible(kept_after_the_first(lambda: torch.tensor(list(os.urandom(SIZE))) < 90))
    assert [f.claim for f in by_system.refuted] == [workers, elsewhere], str(by_system)


def keyed(ids: Tensor, epoch: int, seed: int, key: Callable[[], int]) -> Tensor:
    return rows(ids, seed, epoch, key() % 2**31)


KEYS: dict[str, Callable[[], int]] = {
    "another PYTHONHASHSEED": lambda: hash("image.png"),
    "another host name": lambda: socket.gethostname().encode()[0],
    "428 days later": lambda: datetime.datetime.now().year,
    "another time zone": lambda: time.localtime(0).tm_hour * 60 + time.localtime(0).tm_min,
    "another working folder": lambda: len(str(Path.cwd())),
    "three threads": torch.get_num_threads,
    "another user and more variables": lambda: sum(os.environ.get("USER", "nobody").encode()),
}


def every_key() -> dict[str, int]:
    return {name: key() for name, key in KEYS.items()}


def test_what_differs_between_processes_hosts_and_days(tmp_path: Path) -> None:
    assert KEYS.keys() == circumstances._ELSEWHERE.keys()
    plain = Surroundings({"PYTHONHASHSEED": "1"})
    others = [
        replace(other, variables={**plain.variables, **other.variables}) for other in circumstances._ELSEWHERE.values()
    ]
    known, *answers = run_all([pickled(every_key)] * (1 + len(others)), [plain, *others], str(tmp_path))
    for name, found in zip(circumstances._ELSEWHERE, answers, strict=True):
        assert {key for key in KEYS if found[key] != known[key]} == {name}


@pytest.mark.parametrize(
    ("name", "words"),
    [("another PYTHONHASHSEED", "no more changed than PYTHONHASHSEED"), ("another host name", "another host name")],
)
def test_what_differs_is_named(name: str, words: str) -> None:
    report = certify_reproducible(partial(keyed, key=KEYS[name]), range(2), epochs=(0, 1), seeds=(0, 1), workers=1)
    found = [f for f in report.refuted if "another process" in f.claim]
    assert found and found[0].witness is not None and words in found[0].witness.what, str(report)
    assert "428 days later" not in found[0].witness.what


@pytest.mark.parametrize("fresh", [by_python, lambda ids, epoch, seed: torch.rand(len(ids), SIZE) < 0.4])
def test_the_same_call_is_made_from_where_the_generators_are(fresh: Any) -> None:
    for workers in (0, 1):
        report = certify_reproducible(fresh, range(2), epochs=(0, 1), seeds=(0, 1), workers=workers)
        assert "the same call gives the same mask" in {f.claim for f in report.refuted}, str(report)


def test_a_file_that_is_read_by_a_relative_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("keys.npy", np.arange(3))
    draw = partial(keyed, key=lambda: int(np.load("keys.npy").sum()))
    report = certify_reproducible(draw, range(2), epochs=(0, 1), seeds=(0, 1), workers=1)
    assert report.verdict() is Verdict.PROVED and "the same working folder, without which it fails" in str(report)


def test_a_draw_that_cannot_be_sent_is_unknown_elsewhere() -> None:
    lock = threading.Lock()
    report = certify_reproducible(lambda ids, epoch, seed: rows(ids, seed, epoch, int(lock.locked())), workers=1)
    unknown = [f.detail for f in report.findings if f.verdict is Verdict.UNKNOWN]
    assert len(unknown) == 1 and "is not pickled" in unknown[0]


def test_moved_clocks_are_put_back() -> None:
    before = time.time, time.localtime, datetime.datetime, datetime.date
    with moved_clocks(37_003_991.0):
        now = datetime.datetime.now()
        assert (now.date() - before[2].now().date()).days in (428, 429) and isinstance(now, datetime.datetime)
        assert isinstance(before[3](2020, 1, 1), datetime.date) and not isinstance(3, datetime.date)
        assert abs(time.time_ns() / 1e9 - before[0]() - 37_003_991) < 60
        assert time.localtime().tm_year > before[1]().tm_year and time.localtime(0) == before[1](0)
        assert time.strftime("%Y") == str(datetime.date.today().year) == time.ctime()[-4:] == time.asctime()[-4:]
    assert before == (time.time, time.localtime, datetime.datetime, datetime.date)


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
