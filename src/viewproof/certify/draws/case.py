"""A random mask or view as a function of seed, epoch and sample: how it is called and compared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import GeneratorStates, same_bits
from viewproof.certify.check import Check
from viewproof.certify.report import Finding
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.masks.rule import _build

Draw = Callable[..., Any]
AXES = ("sample", "epoch", "seed")

# The rows of every epoch and seed that are looked at: one tensor [ids, *mask] each.
Rows = Mapping[tuple[int, int], Tensor]


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
        return rows, moved_since(before) - {"Python"}

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


def moved_since(before: GeneratorStates) -> set[str]:
    """The libraries whose global generator is in another state."""
    now = GeneratorStates.now()
    moved = {
        "torch": now.torch != before.torch,
        "NumPy": now.numpy != before.numpy,
        "Python": now.python != before.python,
    }
    return {library for library, has_moved in moved.items() if has_moved}


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
