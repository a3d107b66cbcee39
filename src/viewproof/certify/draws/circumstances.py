"""Whether draws are the same under other circumstances (C8).

Each is compared with the first: in workers, again, reseeded, alone, on another rank and day, resumed, and in fresh
processes with another hash seed, host, clock, time zone, working folder, number of threads and environment.
"""

import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from viewproof.bits import GeneratorStates, seeded
from viewproof.certify.check import Check, Claims
from viewproof.certify.draws.case import AXES, Draw, DrawCase, Rows, moved_since
from viewproof.certify.fresh_process import Surroundings, moved_clocks, pickled, run_all
from viewproof.certify.report import Contract, Finding
from viewproof.certify.surroundings import environment
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

_RANK = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1", "SLURM_PROCID": "3"}

claims = Claims[DrawCase](scope="{case.scope}", method="run again")
resumed = Claims[DrawCase](scope="{case.scope}", method="run again")


# First of all: what has not been drawn yet is in no cache that a worker would find filled.
@claims(Contract.C8, "loader workers do not change a mask")
def same_in_workers(case: DrawCase, check: Check) -> Finding | None:
    """Drawn one by one in the processes of a loader."""
    if not case.workers:
        return None

    def in_loader() -> Iterator[tuple[str, Rows]]:
        places = list(itertools.product(case.epochs, case.seeds, case.ids))[::-1]
        loader = DataLoader(_RowsOneByOne(case, places), batch_size=3, num_workers=case.workers, collate_fn=torch.cat)
        rows = torch.cat(list(loader)).flip(0).chunk(len(case.epochs) * len(case.seeds))
        keys = itertools.product(case.epochs, case.seeds)
        yield f"in a loader with {case.workers} workers, backwards", dict(zip(keys, rows, strict=True))

    return case.compare(check, in_loader())


class _RowsOneByOne(Dataset[Tensor]):
    """One row at a time, for the workers of a loader."""

    def __init__(self, case: DrawCase, places: Sequence[tuple[int, int, int]]):
        self.case, self.places = case, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        epoch, seed, sample = self.places[index]
        return self.case.rows([sample], epoch, seed)


@claims(Contract.C8, "the same call gives the same mask")
def same_twice(case: DrawCase, check: Check) -> Finding:
    """The same arguments, the same bits."""
    first, _ = case.first
    return case.compare(check, [("the same call twice", {place: case.rows(case.ids, *place) for place in first})])


@claims(Contract.C8, "the masks do not follow the global generators")
def same_when_reseeded(case: DrawCase, check: Check) -> Finding:
    """Global generators are not read: reseeded, the same masks."""

    def reseeded() -> Iterator[tuple[str, Rows]]:
        for seed in (1, 2**31):
            with seeded(seed):
                yield f"torch, NumPy and Python reseeded with {seed}", case.all_rows()

    return case.compare(check, reseeded())


@claims(
    Contract.C8,
    "the global generators stay where they were",
    scope="{case.scope}; torch (CPU), NumPy, Python",
    method="states compared",
)
def generators_stay(case: DrawCase, check: Check) -> Finding:
    """Global generators are not moved."""
    _, moved_first = case.first
    before, epoch, seed = GeneratorStates.now(), case.epochs[0], case.seeds[0]
    case.draw(torch.tensor(case.ids), epoch=epoch, seed=seed)
    moved = moved_first | moved_since(before)
    if not moved:
        return check.proved()
    what = f"a draw moves the global generator of {', '.join(sorted(moved))}"
    return check.refuted(what, {"ids": case.ids, "epoch": epoch, "seed": seed})


@claims(Contract.C8, "a sample alone has the mask that it has in a batch, however ordered")
def same_in_any_batch(case: DrawCase, check: Check) -> Finding:
    """A sample alone, in the batch, and in other orders of the batch."""
    first, _ = case.first
    order = torch.randperm(len(case.ids), generator=torch.Generator().manual_seed(4)).tolist()

    def reordered(order: Sequence[int]) -> Rows:
        back = torch.tensor(order).argsort()
        return {(e, s): case.rows([case.ids[i] for i in order], e, s)[back] for e, s in first}

    alone = {(e, s): torch.cat([case.rows([i], e, s) for i in case.ids]) for e, s in first}
    backwards = reordered(range(len(case.ids))[::-1])
    others = [
        ("each sample alone", alone),
        ("the batch reversed", backwards),
        ("the batch sixteen times over", {(e, s): case.rows(case.ids * 16, e, s)[-len(case.ids) :] for e, s in first}),
        (f"in the order {order}", reordered(order)),
    ]
    return case.compare(check, others)


@claims(Contract.C8, "rank and clock do not change a mask")
def same_on_any_rank_and_day(case: DrawCase, check: Check) -> Finding:
    """Another rank in the environment, another time on the clock."""

    def elsewhere() -> Iterator[tuple[str, Rows]]:
        with environment(_RANK):
            yield "as rank 3 of 4", case.all_rows()
        with moved_clocks(1e6):
            yield "eleven days later on the clocks of time and datetime", case.all_rows()

    return case.compare(check, elsewhere())


# What differs between processes, hosts and days. The clock goes to another year, month, weekday, hour and minute.
_ELSEWHERE = {
    "another PYTHONHASHSEED": Surroundings({"PYTHONHASHSEED": "4321"}),
    "another host name": Surroundings({"HOSTNAME": "elsewhere", "HOST": "elsewhere"}, host="elsewhere"),
    "428 days later": Surroundings(clock=37_003_991.0),
    "another time zone": Surroundings({"TZ": "XYZ-11:30"}),
    "another working folder": Surroundings(folder=tempfile.gettempdir()),
    "three threads": Surroundings({"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}, threads=3),
    "another user and more variables": Surroundings(
        {**_RANK, "USER": "else", "LOGNAME": "else", "CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_ID": "77", "ELSEWHERE": "1"}
    ),
}


@claims(Contract.C8, "another process, host and day do not change a mask", method="run again in fresh processes")
def same_elsewhere(case: DrawCase, check: Check) -> Finding | None:
    """All of it other at once; if masks differ, one thing after the other, to say which it is."""
    if not case.workers:
        return None
    draw = case.sent
    if isinstance(draw, str):
        return check.unknown(draw)

    def rows(other: Surroundings) -> Rows:
        with tempfile.TemporaryDirectory() as folder:
            other = replace(other, threads=other.threads or torch.get_num_threads())
            answer: Rows = run_all([draw], [other], folder)[0]
        return answer

    everything = Surroundings(
        {k: v for s in _ELSEWHERE.values() for k, v in s.variables.items()},
        tempfile.gettempdir(), _ELSEWHERE["428 days later"].clock, "elsewhere", 3,
    )  # fmt: skip
    together = ", ".join(_ELSEWHERE)
    try:
        finding = case.compare(check, [(f"in a fresh process with {together}", rows(everything))])
    except RuntimeError as error:
        # Files beside the program are read by relative names: that fails loudly elsewhere.
        try:
            again = rows(replace(everything, folder=None))
        except RuntimeError:
            return check.unknown(f"elsewhere the draw fails: {error}")
        kept = together.replace("another working folder", "the same working folder, without which it fails")
        finding = case.compare(check, [(f"in a fresh process with {kept}", again)])
    if finding.verdict is not Verdict.REFUTED:
        return finding
    for circumstance, other in {"no more changed than PYTHONHASHSEED": Surroundings(), **_ELSEWHERE}.items():
        try:
            one = case.compare(check, [(f"in a fresh process, {circumstance}", rows(other))])
        except RuntimeError:
            continue
        if one.verdict is Verdict.REFUTED:
            return one
    return finding


def sent(case: DrawCase) -> bytes | str:
    """The call for a fresh process, or why there is none."""
    try:
        return pickled(partial(_fresh_rows, case.draw, case.ids, case.epochs, case.seeds))
    except InvalidArgument as error:
        return str(error)


def _fresh_rows(draw: Draw, ids: list[int], epochs: list[int], seeds: list[int]) -> Rows:
    return DrawCase(draw, ids, epochs, seeds, AXES, None, None, 0).all_rows()


@resumed(Contract.C8, "a resumed run draws what a straight one draws")
def same_when_resumed(case: DrawCase, check: Check) -> Finding:
    """The epochs in descending order, and the runs resumed at each of them."""

    def others() -> Iterator[tuple[str, Rows]]:
        backwards = {(e, s): case.rows(case.ids, e, s) for e in case.epochs[::-1] for s in case.seeds}
        yield "epochs in descending order", backwards
        for k in case.epochs if case.resumed is not None else ():
            assert case.resumed is not None
            draw = case.resumed(k)
            later = [e for e in case.epochs if e >= k]
            yield f"resumed at epoch {k}", {(e, s): case.rows(case.ids, e, s, draw) for e in later for s in case.seeds}

    return case.compare(check, others())
