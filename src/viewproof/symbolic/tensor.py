"""A tensor as a function of its coordinate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, disj, ite, known, product, same

Index = tuple[Term, ...]


@dataclass(frozen=True)
class SymTensor:
    """Its shape (integers or terms), its dtype, and the value that it holds ``at`` a coordinate."""

    shape: tuple[Term, ...]
    dtype: torch.dtype
    at: Callable[[Index], Any]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def numel(self) -> Term:
        """The number of coordinates."""
        return product(self.shape)


def put(index: Sequence[Term], axis: int, *entries: Term) -> Index:
    """A coordinate or shape with these entries in place of the one of an axis."""
    return (*index[:axis], *entries, *index[axis + 1 :])


def broadcast_shape(facts: Facts, *shapes: Sequence[Term]) -> tuple[tuple[Term, ...], Term]:
    """The common shape of operands, and the condition under which they have one."""
    rank = max(map(len, shapes), default=0)
    result: list[Term] = []
    fits: list[Term] = []
    for axis in range(-rank, 0):
        extent: Term = 1
        for other in [shape[axis] for shape in shapes if len(shape) >= -axis]:
            if known(extent) and extent == 1:
                extent = other
            elif not (known(other) and other == 1) and not facts.same_size(extent, other):
                fits.append(disj(same(extent, other), same(extent, 1), same(other, 1)))
                extent = ite(same(extent, 1), other, extent)
        result.append(extent)
    return tuple(result), conj(*fits)


def spread(facts: Facts, x: SymTensor, shape: Sequence[Term]) -> Callable[[Index], Any]:
    """``x`` read at coordinates of the larger shape that it broadcasts to."""
    tail = tuple(shape)[len(shape) - x.rank :]
    # Where both extents are equal the coordinate is the same, also if they are 1: it is 0 then.
    unchanged = [facts.same_size(own, full) for own, full in zip(x.shape, tail, strict=True)]

    def at(index: Index) -> Any:
        own = zip(index[len(index) - x.rank :], x.shape, unchanged, strict=True)
        return x.at(tuple(i if same_extent else ite(same(extent, 1), 0, i) for i, extent, same_extent in own))

    return at
