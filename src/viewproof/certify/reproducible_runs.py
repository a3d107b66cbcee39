"""Draws under many circumstances, each compared with the first: again, reseeded, alone, in workers, resumed (C8)."""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from viewproof.certify.report import Contract, Finding, Witness
from viewproof.certify.search import drawn
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.verdict import Verdict

Draw = Callable[..., Any]
AXES = ("sample", "epoch", "seed")
C8 = Contract.C8
_CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time")


class _Draws(Dataset[Tensor]):
    """One draw at a time, for the workers of a loader."""

    def __init__(self, rows: Callable[[Sequence[int], int, int], Tensor], places: Sequence[tuple[int, int, int]]):
        self.rows, self.places = rows, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Tensor:
        epoch, seed, sample = self.places[index]
        return self.rows([sample], epoch, seed)


class Runs:
    """The draws of every epoch and seed, and the same under other circumstances."""

    def __init__(self, draw: Draw, ids: list[int], epochs: Sequence[int], seeds: Sequence[int]) -> None:
        self.draw, self.ids, self.epochs, self.seeds = draw, ids, list(epochs), list(seeds)
        self.scope = f"{len(ids)} ids, {len(self.epochs)} epochs, {len(self.seeds)} seeds"
        self._first: dict[tuple[int, int], Tensor] | None = None
        self._moved: set[str] = set()

    def rows(self, ids: Sequence[int], epoch: int, seed: int, draw: Draw | None = None) -> Tensor:
        """One row for each id."""
        returned = (draw or self.draw)(torch.tensor(list(ids)), epoch=epoch, seed=seed)
        if isinstance(returned, Mask):
            hidden = returned.hidden
            returned = hidden if returned.per_sample else hidden.expand(len(ids), *hidden.shape)
        if not isinstance(returned, Tensor) or returned.dim() == 0 or len(returned) != len(ids):
            found = tuple(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
            raise InvalidArgument(f"draw returned {found} for {len(ids)} ids; return a Mask or one row for each id")
        return returned.detach().cpu().clone()

    def all(self) -> dict[tuple[int, int], Tensor]:
        """The rows of every epoch and seed, drawn afresh."""
        return {(e, s): self.rows(self.ids, e, s) for e in self.epochs for s in self.seeds}

    @property
    def first(self) -> dict[tuple[int, int], Tensor]:
        """The draws that all others are compared with."""
        if self._first is None:
            before = _states()
            self._first = self.all()
            # What is kept after the first time moves a generator then or never; imports move that of Python.
            self._moved = {k for k, state in _states().items() if state != before[k] and k != "Python"}
        return self._first

    def compare(self, claim: str, others: Iterable[tuple[str, dict[tuple[int, int], Tensor]]]) -> list[Finding]:
        """REFUTED at the first row that is another than it was the first time."""
        tried = []
        for what, again in others:
            tried.append(what)
            for (epoch, seed), rows in again.items():
                before = self.first[epoch, seed]
                changed = [n for n in range(len(self.ids)) if not _same(before[n], rows[n])]
                if not changed:
                    continue
                n = changed[0]
                said = f"{what}: epoch {epoch}, seed {seed}, sample {self.ids[n]} differs"
                inputs = {"ids": self.ids, "epoch": epoch, "seed": seed, "circumstance": what}
                witness = Witness(said, inputs, {"id": (self.ids[n],)}, {"before": before[n], "after": rows[n]})
                return [Finding(C8, claim, Verdict.REFUTED, self.scope, "run again", "", witness)]
        if not tried:
            return []
        return [Finding(C8, claim, Verdict.PROVED, f"{self.scope}; {'; '.join(tried)}", "run again")]

    def twice(self) -> list[Finding]:
        """The same arguments, the same bits."""
        again = {place: self.rows(self.ids, *place) for place in self.first}
        return self.compare("the same call gives the same mask", [("the same call twice", again)])

    def generators(self) -> list[Finding]:
        """Global generators are not read (reseeded, the same masks) and not moved (their states stay)."""

        def others() -> Iterator[tuple[str, dict[tuple[int, int], Tensor]]]:
            for seed in (1, 2**31):
                with drawn(seed):
                    yield f"torch, NumPy and Python reseeded with {seed}", self.all()

        found = self.compare("the masks do not follow the global generators", others())
        claim, scope = "the global generators stay where they were", f"{self.scope}; torch (CPU), NumPy, Python"
        before = _states()
        self.draw(torch.tensor(self.ids), epoch=self.epochs[0], seed=self.seeds[0])
        moved = self._moved | {k for k, state in _states().items() if state != before[k]}
        if moved:
            what = f"a draw moves the global generator of {', '.join(sorted(moved))}"
            witness = Witness(what, {"ids": self.ids, "epoch": self.epochs[0], "seed": self.seeds[0]})
            return [*found, Finding(C8, claim, Verdict.REFUTED, scope, "states compared", "", witness)]
        return [*found, Finding(C8, claim, Verdict.PROVED, scope, "states compared")]

    def mates(self) -> list[Finding]:
        """A sample alone, in the batch, and in other orders of the batch."""
        order = torch.randperm(len(self.ids), generator=torch.Generator().manual_seed(4)).tolist()

        def reordered(order: Sequence[int]) -> dict[tuple[int, int], Tensor]:
            back = torch.tensor(order).argsort()
            return {(e, s): self.rows([self.ids[i] for i in order], e, s)[back] for e, s in self.first}

        def alone() -> dict[tuple[int, int], Tensor]:
            return {(e, s): torch.cat([self.rows([i], e, s) for i in self.ids]) for e, s in self.first}

        others = [
            ("each sample alone", alone()),
            ("the batch reversed", reordered(range(len(self.ids))[::-1])),
            (f"in the order {order}", reordered(order)),
        ]
        return self.compare("a sample alone has the mask that it has in a batch, however ordered", others)

    def surroundings(self) -> list[Finding]:
        """Another rank in the environment, another time on the clock."""

        def others() -> Iterator[tuple[str, dict[tuple[int, int], Tensor]]]:
            ranks = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "NODE_RANK": "1", "SLURM_PROCID": "3"}
            with patch.dict(os.environ, ranks):
                yield "as rank 3 of 4", self.all()
            with ExitStack() as stack:
                for clock in _CLOCKS:
                    real = getattr(time, clock)
                    step = 10**15 if clock.endswith("_ns") else 1e6
                    stack.enter_context(patch.object(time, clock, lambda real=real, step=step: real() + step))
                yield "eleven days later on the clocks of time", self.all()

        return self.compare("rank and clock do not change a mask", others())

    def loader(self, workers: int) -> list[Finding]:
        """Drawn one by one in the processes of a loader."""

        def others() -> Iterator[tuple[str, dict[tuple[int, int], Tensor]]]:
            places = list(itertools.product(self.epochs, self.seeds, self.ids))[::-1]
            loader = DataLoader(_Draws(self.rows, places), batch_size=3, num_workers=workers, collate_fn=torch.cat)
            rows = torch.cat(list(loader)).flip(0).chunk(len(self.epochs) * len(self.seeds))
            keys = itertools.product(self.epochs, self.seeds)
            yield f"in a loader with {workers} workers, backwards", dict(zip(keys, rows, strict=True))

        return self.compare("loader workers do not change a mask", others()) if workers else []

    def distinct(self, varies: Sequence[str]) -> list[Finding]:
        """Masks differ between samples, epochs and seeds, and none of the three is another in disguise."""
        found = []
        for axis in AXES:
            claim = f"masks differ by {axis}"
            if axis not in varies:
                continue
            pair = self._alike(axis, varies)
            if pair is None:
                found.append(Finding(C8, claim, Verdict.PROVED, self.scope, "every two compared"))
            else:
                inputs = {"ids": self.ids, "epochs": self.epochs, "seeds": self.seeds}
                witness = Witness(pair, inputs)
                found.append(Finding(C8, claim, Verdict.REFUTED, self.scope, "every two compared", "", witness))
        return found

    def _alike(self, axis: str, varies: Sequence[str]) -> str | None:
        # One tensor [sample, epoch, seed, *mask], to be compared along any of the three.
        per_epoch = [torch.stack([self.first[e, s] for s in self.seeds], 1) for e in self.epochs]
        whole, numbers = torch.stack(per_epoch, 1), (self.ids, self.epochs, self.seeds)
        own = AXES.index(axis)
        for i, j in itertools.combinations(range(whole.shape[own]), 2):
            if _same(whole.select(own, i), whole.select(own, j)):
                return f"{axis} {numbers[own][i]} and {axis} {numbers[own][j]} always have the same masks"
        for other in (o for o in range(own + 1, 3) if AXES[o] in varies):
            alike, apart = _collisions(whole.movedim((own, other), (0, 1)))
            # Masks of few kinds coincide anywhere; here it is mostly where both change.
            if 2 * len(alike) >= whole.shape[own] * whole.shape[other] and len(alike) > 10 * apart:
                (a, b), (c, d) = alike[0]
                first, second = numbers[own], numbers[other]
                return (
                    f"{axis} {first[a]} in {AXES[other]} {second[b]} always has the masks of {axis} {first[c]} in "
                    f"{AXES[other]} {second[d]}, and so have {len(alike) - 1} other pairs: the two are mixed up"
                )
        return None

    def resumed(self, make: Callable[[int], Draw] | None) -> list[Finding]:
        """The epochs of a run in order, and those of runs resumed at each of them."""
        claim = "a resumed run draws what a straight one draws"
        order = self.compare(claim, [("epochs in descending order", self._epochs(self.epochs[::-1]))])
        if make is None or order[0].verdict is Verdict.REFUTED:
            return order
        others = []
        for k in self.epochs:
            draw = make(k)
            again = {(e, s): self.rows(self.ids, e, s, draw) for e in self.epochs if e >= k for s in self.seeds}
            others.append((f"resumed at epoch {k}", again))
        return self.compare(claim, others)

    def _epochs(self, epochs: Sequence[int]) -> dict[tuple[int, int], Tensor]:
        return {(e, s): self.rows(self.ids, e, s) for e in epochs for s in self.seeds}

    def count(self, count: int | None) -> list[Finding]:
        """Every row selects exactly so many coordinates."""
        if count is None:
            return []
        claim = f"every mask selects {count}"
        for (epoch, seed), rows in self.first.items():
            counts = rows.flatten(1).bool().sum(1).tolist()
            wrong = [n for n, c in enumerate(counts) if c != count]
            if wrong:
                n = wrong[0]
                what = f"epoch {epoch}, seed {seed}, sample {self.ids[n]} selects {counts[n]}, not {count}"
                inputs = {"ids": self.ids, "epoch": epoch, "seed": seed, "count": count}
                witness = Witness(what, inputs, {"id": (self.ids[n],)}, {"mask": rows[n]})
                return [Finding(Contract.C4, claim, Verdict.REFUTED, self.scope, "counted", "", witness)]
        return [Finding(Contract.C4, claim, Verdict.PROVED, self.scope, "counted")]


def _collisions(whole: Tensor) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], int]:
    """The pairs of places on the first two axes, both different, with the same masks; how many such differ in one."""
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for place in itertools.product(range(whole.shape[0]), range(whole.shape[1])):
        groups.setdefault(whole[place].contiguous().view(torch.uint8).numpy().tobytes(), []).append(place)
    pairs = [pair for group in groups.values() for pair in itertools.combinations(group, 2)]
    both = [(p, q) for p, q in pairs if p[0] != q[0] and p[1] != q[1]]
    return both, len(pairs) - len(both)


def _states() -> dict[str, Any]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": str(np.random.get_state()),
        "Python": random.getstate(),
    }


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) if a.dim() else bool(a == b)
