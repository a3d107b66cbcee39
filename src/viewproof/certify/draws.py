"""Certifies that a random mask, or a whole view, is a function of seed, epoch and sample (C8).

Draws are made under many circumstances, each compared with the first: again, reseeded, alone, in workers, resumed, and
in fresh processes with another hash seed, host, clock, time zone, working folder, number of threads and environment.
"""

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from viewproof.bits import GeneratorStates, same_bits, seeded
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.fresh_process import Surroundings, moved_clocks, pickled, run_all
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.surroundings import environment
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.masks.rule import _build
from viewproof.verdict import Verdict

Draw = Callable[..., Any]
AXES = ("sample", "epoch", "seed")
_RANK = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1", "SLURM_PROCID": "3"}

# The rows of every epoch and seed that are looked at: one tensor [ids, *mask] each.
Rows = Mapping[tuple[int, int], Tensor]


@puts_back
def certify_reproducible(
    draw: Draw | Rule,
    sample_ids: Sequence[int] = range(8),
    *,
    epochs: Sequence[int] = (0, 1, 2, 3),
    seeds: Sequence[int] = (0, 1, 2),
    varies: Sequence[str] | None = None,
    data_shape: Sequence[int] | None = None,
    count: int | None = None,
    resumed: Callable[[int], Draw] | None = None,
    workers: int = 2,
    name: str | None = None,
) -> Report:
    """Whether ``draw`` is a function of seed, epoch and sample id, on these ids, epochs and seeds.

    ``draw(ids, epoch=..., seed=...)`` gets int64 ids ``[N]`` and returns a `Mask` or a tensor (a mask, a whole view)
    with row ``n`` for ``ids[n]``; a mask over the data shape counts for every row. Instead of a function a rule may be
    given, with its ``data_shape``: the epoch is the step of ``rule.at``, unless it is ``per_sample``.
    ``varies`` names what the draw must depend on, of "sample", "epoch" and "seed": all unless given, for a rule what it
    knows.
    ``count`` is how many coordinates every row must select (C4). ``resumed(epoch)`` makes the draw function as a run
    resumed at that epoch has it. Random state, environment and clock are as before afterwards. With ``workers=0`` no
    other process is started: neither those of a loader, nor fresh ones on another host and day.

    >>> import numpy as np, torch
    >>> one = lambda *numbers: torch.from_numpy(np.random.default_rng(numbers).random(9) < 0.3)
    >>> draw = lambda ids, epoch, seed: torch.stack([one(seed, epoch, int(i)) for i in ids])
    >>> certify_reproducible(draw, workers=0).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> shared = lambda ids, epoch, seed: torch.rand(len(ids), 9) < 0.3
    >>> print(certify_reproducible(shared, workers=0).refuted[0].witness.what)
    the same call twice: epoch 0, seed 0, sample 0 differs
    """
    ids = [int(i) for i in sample_ids]
    if isinstance(draw, Rule):
        subject = name or repr(draw)
        draw, known = draw_of_rule(draw, data_shape)
    else:
        subject, known = subject_name(draw, name), AXES
    varies = known if varies is None else varies
    _check_arguments(ids, epochs, seeds, varies, workers)
    seeds = list(seeds if "seed" in varies else seeds[:1])
    case = DrawCase(draw, ids, list(epochs), seeds, varies, count, resumed, workers)
    if workers:
        # Before the first call: afterwards a cache would take its masks along.
        case = replace(case, sent=_sent(case))
    # Once, not for each claim: a draw from a global generator would be the same whenever that starts anew.
    with seeded(0):
        return Report(subject, claims.run(subject, case))


def _check_arguments(
    ids: Sequence[int], epochs: Sequence[int], seeds: Sequence[int], varies: Any, workers: int
) -> None:
    for key, values in (("sample_ids", ids), ("epochs", epochs), ("seeds", seeds)):
        if len(set(values)) < max(2, len(values)):
            raise InvalidArgument(f"{key}={list(values)} must be at least two different numbers")
    if isinstance(varies, str) or not set(varies) <= set(AXES):
        raise InvalidArgument(f"varies={varies!r} must be among {AXES}")
    if workers < 0:
        raise InvalidArgument(f"workers={workers} must be at least 0; pass 0 to start no process")


def draw_of_rule(rule: Rule, data_shape: Sequence[int] | None) -> tuple[Draw, Sequence[str]]:
    """A rule as a draw function, and what it declares to depend on."""
    if data_shape is None:
        raise InvalidArgument(f"data_shape is needed with {rule!r}; pass one sample's shape, such as (3, 32, 32)")
    shape = tuple(data_shape)
    own = {f.name for f in fields(rule)} if hasattr(rule, "__dataclass_fields__") else set()  # type: ignore[arg-type]
    by_sample = rule.per_sample

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Mask:
        with_seed: Any = replace(rule, seed=seed) if "seed" in own else rule  # type: ignore[type-var]
        if by_sample:
            mask: Mask = with_seed.mask(shape, sample_ids=ids, epoch=epoch)
            return mask
        # Built anew, not taken from the masks that rules keep: a rule that is no function of its fields must show.
        return _build(with_seed.at(epoch), shape, None, None)[0]

    moves = by_sample or type(rule).at is not Rule.at
    return draw, [a for a, does in zip(AXES, (by_sample, moves, "seed" in own), strict=True) if does]


@dataclass(frozen=True, eq=False)
class DrawCase:
    """A draw function, and the ids, epochs and seeds for which it is called."""

    draw: Draw
    ids: list[int]
    epochs: list[int]
    seeds: list[int]
    varies: Sequence[str]
    count: int | None
    resumed: Callable[[int], Draw] | None
    workers: int
    sent: bytes | str = ""

    @property
    def scope(self) -> str:
        """What was called."""
        return f"{len(self.ids)} ids, {len(self.epochs)} epochs, {len(self.seeds)} seeds"

    def rows(self, ids: Sequence[int], epoch: int, seed: int, draw: Draw | None = None) -> Tensor:
        """One row for each id."""
        returned = (draw or self.draw)(torch.tensor(list(ids)), epoch=epoch, seed=seed)
        if isinstance(returned, Mask):
            hidden = returned.hidden
            returned = hidden if returned.per_sample else hidden.expand(len(ids), *hidden.shape)
        if not isinstance(returned, Tensor) or returned.dim() == 0 or len(returned) != len(ids):
            kind = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
            raise InvalidArgument(f"draw returned {kind} for {len(ids)} ids; return a Mask or one row for each id")
        return returned.detach().cpu().clone()

    def all_rows(self) -> Rows:
        """The rows of every epoch and seed, drawn afresh."""
        return {(e, s): self.rows(self.ids, e, s) for e in self.epochs for s in self.seeds}

    @cached_property
    def first(self) -> tuple[Rows, set[str]]:
        """The rows that all others are compared with, and the global generators that drawing them moved."""
        before = GeneratorStates.now()
        rows = self.all_rows()
        # What is kept after the first time moves a generator then or never; imports move that of Python.
        return rows, _moved_since(before) - {"Python"}

    def compare(self, check: Check, others: Iterable[tuple[str, Rows]]) -> Finding:
        """REFUTED at the first row that differs from the first time, naming what was changed."""
        tried = []
        for circumstance, again in others:
            # Not before: what the other circumstance must not find in a cache is drawn after it.
            first, _ = self.first
            tried.append(circumstance)
            for (epoch, seed), rows in again.items():
                for n, (before, after) in enumerate(zip(first[epoch, seed], rows, strict=True)):
                    if not same_bits(before, after):
                        what = f"{circumstance}: epoch {epoch}, seed {seed}, sample {self.ids[n]} differs"
                        inputs = {"ids": self.ids, "epoch": epoch, "seed": seed, "circumstance": circumstance}
                        maps = {"before": before, "after": after}
                        return check.refuted(what, inputs, {"id": (self.ids[n],)}, maps)
        return check.proved(scope="; ".join([self.scope, *tried]))


def _moved_since(before: GeneratorStates) -> set[str]:
    """The libraries whose global generator is in another state."""
    now = GeneratorStates.now()
    moved = {
        "torch": now.torch != before.torch,
        "NumPy": now.numpy != before.numpy,
        "Python": now.python != before.python,
    }
    return {library for library, has_moved in moved.items() if has_moved}


claims = Claims[DrawCase](scope="{case.scope}", method="run again")


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
    moved = moved_first | _moved_since(before)
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


def _sent(case: DrawCase) -> bytes | str:
    """The call for a fresh process, or why there is none."""
    try:
        return pickled(partial(_fresh_rows, case.draw, case.ids, case.epochs, case.seeds))
    except InvalidArgument as error:
        return str(error)


def _fresh_rows(draw: Draw, ids: list[int], epochs: list[int], seeds: list[int]) -> Rows:
    return DrawCase(draw, ids, epochs, seeds, AXES, None, None, 0).all_rows()


@claims(Contract.C8, "masks differ by sample", method="every two compared")
def differ_by_sample(case: DrawCase, check: Check) -> Finding | None:
    """No two samples share their masks in every epoch and seed, and no axis is taken for another."""
    return _differ(case, check, "sample")


@claims(Contract.C8, "masks differ by epoch", method="every two compared")
def differ_by_epoch(case: DrawCase, check: Check) -> Finding | None:
    """The same of epochs."""
    return _differ(case, check, "epoch")


@claims(Contract.C8, "masks differ by seed", method="every two compared")
def differ_by_seed(case: DrawCase, check: Check) -> Finding | None:
    """The same of seeds."""
    return _differ(case, check, "seed")


def _differ(case: DrawCase, check: Check, axis: str) -> Finding | None:
    if axis not in case.varies:
        return None
    what = _confused(case, axis)
    if what is None:
        return check.proved()
    return check.refuted(what, {"ids": case.ids, "epochs": case.epochs, "seeds": case.seeds})


def _confused(case: DrawCase, axis: str) -> str | None:
    """Two numbers along the axis with the same masks throughout, or an axis it is mixed up with."""
    rows, _ = case.first
    # One tensor [sample, epoch, seed, *mask], to be compared along any of the three.
    whole = torch.stack([torch.stack([rows[e, s] for s in case.seeds], 1) for e in case.epochs], 1)
    numbers, own = (case.ids, case.epochs, case.seeds), AXES.index(axis)
    for i, j in itertools.combinations(range(whole.shape[own]), 2):
        if same_bits(whole.select(own, i), whole.select(own, j)):
            return f"{axis} {numbers[own][i]} and {axis} {numbers[own][j]} always have the same masks"
    for other in (o for o in range(own + 1, 3) if AXES[o] in case.varies):
        both_differ, one_differs = _equal_pairs(whole.movedim((own, other), (0, 1)))
        # Masks of few kinds coincide anywhere; here it is mostly where both change.
        if 2 * len(both_differ) >= whole.shape[own] * whole.shape[other] and len(both_differ) > 10 * one_differs:
            (a, b), (c, d) = both_differ[0]
            first, second = numbers[own], numbers[other]
            return (
                f"{axis} {first[a]} in {AXES[other]} {second[b]} always has the masks of {axis} {first[c]} in "
                f"{AXES[other]} {second[d]}, and so have {len(both_differ) - 1} other pairs: the two are mixed up"
            )
    return None


def _equal_pairs(whole: Tensor) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], int]:
    """Pairs of places that differ on both first axes with equal masks; how many differ in one."""
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for place in itertools.product(range(whole.shape[0]), range(whole.shape[1])):
        groups.setdefault(whole[place].contiguous().view(torch.uint8).numpy().tobytes(), []).append(place)
    pairs = [pair for group in groups.values() for pair in itertools.combinations(group, 2)]
    both = [(p, q) for p, q in pairs if p[0] != q[0] and p[1] != q[1]]
    return both, len(pairs) - len(both)


@claims(Contract.C8, "a resumed run draws what a straight one draws")
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


@claims(Contract.C4, "every mask selects {case.count}", method="counted")
def counts(case: DrawCase, check: Check) -> Finding | None:
    """Every row selects exactly so many coordinates."""
    if case.count is None:
        return None
    rows, _ = case.first
    for (epoch, seed), masks in rows.items():
        for n, selected in enumerate(masks.flatten(1).bool().sum(1).tolist()):
            if selected != case.count:
                what = f"epoch {epoch}, seed {seed}, sample {case.ids[n]} selects {selected}, not {case.count}"
                inputs = {"ids": case.ids, "epoch": epoch, "seed": seed, "count": case.count}
                return check.refuted(what, inputs, {"id": (case.ids[n],)}, {"mask": masks[n]})
    return check.proved()
