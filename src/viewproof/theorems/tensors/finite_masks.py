"""`Mask` itself: everything, nothing, complement.

What the tensor holds is decided on the captured program; that ``selected`` reads that tensor at its coordinate is
enumerated, over every mask of up to six coordinates and rank up to 3.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from viewproof.masks import Mask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import iff, neg
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, not_negative
from viewproof.theorems.tensors.theorem import CAPTURED, Enumeration, theorem

SCOPE = "ranks 1 to 4, all extents from 0 (tensor); rank 0 to 3, every mask of up to 6 coordinates (reading one)"
METHOD = f"{CAPTURED}; reading one coordinate enumerated"


def _small_masks() -> Iterator[dict[str, Any]]:
    """Every coordinate of every small mask."""
    for rank in range(4):
        for shape in itertools.product(range(4), repeat=rank):
            if math.prod(shape) <= 6:
                for bits in itertools.product((False, True), repeat=math.prod(shape)):
                    hidden = torch.tensor(bits, dtype=torch.bool).reshape(shape).tolist()
                    for coordinate in itertools.product(*map(range, shape)):
                        yield {"hidden": hidden, "coordinate": coordinate}


_enumerated = partial(Enumeration, "selected() reads something else", _small_masks)


def _reads(make: str, selected: bool) -> Enumeration:
    """The mask that the method makes of each shape reads ``selected`` at every coordinate."""

    def right(program: Any, at: Mapping[str, Any]) -> bool:
        mask = getattr(program, make)(torch.tensor(at["hidden"]).shape)
        return mask.selected(at["coordinate"]) is selected

    return _enumerated(right)


def _reads_complement(program: Any, at: Mapping[str, Any]) -> bool:
    mask = program(torch.tensor(at["hidden"]))
    selected = mask.selected(at["coordinate"])
    return selected is bool(mask.hidden[at["coordinate"]]) and (~mask).selected(at["coordinate"]) is not selected


mask_theorem = partial(theorem, Mask, layer="algebra", given=("extents are non-negative",), scope=SCOPE, method=METHOD)


def _made(make: str) -> list[Subject]:
    """The masks that the method of this name makes of shapes of ranks 1 to 4."""

    def observe(program: Any, *extents: int) -> Sequence[Tensor]:
        return [getattr(program, make)(extents).hidden]

    extents = [{f"extent_{axis}": INT for axis in range(rank)} for rank in range(1, 5)]
    return [Subject(f"{make} of rank {rank}", names, observe, not_negative) for rank, names in enumerate(extents, 1)]


COMPLEMENT = [
    Subject(
        f"complement of rank {rank}",
        {"hidden": TensorInput(rank, torch.bool)},
        lambda program, hidden: [(~program(hidden)).hidden],
        lambda inputs: [],
    )
    for rank in range(1, 5)
]


def every_coordinate(selected: bool, inputs: Inputs, hidden: Any, facts: Facts) -> Claims:
    """Every coordinate of a mask over the extents is selected, or none is."""
    extents = tuple(inputs.values())
    yield "the mask has the shape asked for", spec.same_shape(hidden.shape, extents)
    for place in facts.each(extents):
        yield f"every coordinate is {'' if selected else 'not '}selected", iff(hidden.at(place), selected)


class NothingForAll(Mask):
    """Zeros for ones."""

    all = Mask.empty


@mask_theorem(on=_made("all"), mutants=[NothingForAll], enumerated=_reads("all", True))
def all_mask_selected(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Mask.all(shape) selects every coordinate."""
    return every_coordinate(True, inputs, observed[0], facts)


class AllForNothing(Mask):
    """Ones for zeros."""

    empty = Mask.all


@mask_theorem(on=_made("empty"), mutants=[AllForNothing], enumerated=_reads("empty", False))
def empty_mask_not_selected(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Mask.empty(shape) selects no coordinate."""
    return every_coordinate(False, inputs, observed[0], facts)


class NotInverted(Mask):
    """The complement is the mask itself."""

    def __invert__(self) -> Mask:
        return self


class ReadsBackwards(Mask):
    """The coordinate is read from the far end."""

    def selected(self, coordinate: int | Sequence[int]) -> bool:
        """As if every axis ran the other way."""
        place = [coordinate] if isinstance(coordinate, int) else coordinate
        return super().selected([extent - 1 - at for extent, at in zip(self.hidden.shape, place, strict=True)])


@mask_theorem(on=COMPLEMENT, mutants=[NotInverted, ReadsBackwards], enumerated=_enumerated(_reads_complement))
def complement_selected_iff(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """~mask selects a coordinate iff mask does not."""
    before, after = inputs["hidden"], observed[0]
    yield "the shape is kept", spec.same_shape(before.shape, after.shape)
    for place in facts.each(before.shape):
        yield "selected iff it was not", iff(after.at(place), neg(before.at(place)))
