"""`Mask` itself: everything, nothing, complement.

What the tensor holds is decided on the captured program; that ``selected`` reads that tensor at its coordinate is
enumerated, over every mask of up to six coordinates and rank up to 3.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from viewproof.masks import Mask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, iff, neg
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject, TensorClaim, same_extents
from viewproof.theorems.tensors.signatures import INT, not_negative
from viewproof.theorems.tensors.theorem import CAPTURED, Enumeration, theorem

SCOPE = "ranks 1 to 4, all extents from 0 (tensor); rank 0 to 3, every mask of up to 6 coordinates (reading one)"
METHOD = f"{CAPTURED}; reading one coordinate enumerated"
NOT_NEGATIVE_EXTENTS = ("extents are non-negative",)


def _small_masks() -> Iterator[dict[str, Any]]:
    """Every coordinate of every small mask."""
    for rank in range(4):
        for shape in itertools.product(range(4), repeat=rank):
            if math.prod(shape) <= 6:
                for bits in itertools.product((False, True), repeat=math.prod(shape)):
                    hidden = torch.tensor(bits, dtype=torch.bool).reshape(shape).tolist()
                    for coordinate in itertools.product(*map(range, shape)):
                        yield {"hidden": hidden, "coordinate": coordinate}


def _reads_all(program: Any, at: Mapping[str, Any]) -> bool:
    shape = torch.tensor(at["hidden"]).shape
    return program.all(shape).selected(at["coordinate"]) is True


def _reads_empty(program: Any, at: Mapping[str, Any]) -> bool:
    shape = torch.tensor(at["hidden"]).shape
    return program.empty(shape).selected(at["coordinate"]) is False


def _reads_complement(program: Any, at: Mapping[str, Any]) -> bool:
    mask = program(torch.tensor(at["hidden"]))
    selected = mask.selected(at["coordinate"])
    return selected is bool(mask.hidden[at["coordinate"]]) and (~mask).selected(at["coordinate"]) is not selected


def _all(program: Any, *extents: int) -> Sequence[Tensor]:
    return [program.all(extents).hidden]


def _empty(program: Any, *extents: int) -> Sequence[Tensor]:
    return [program.empty(extents).hidden]


def _complement(program: Any, hidden: Tensor) -> Sequence[Tensor]:
    return [(~program(hidden)).hidden]


def _no_hypothesis(inputs: Inputs) -> list[Term]:
    return []


EXTENTS = {rank: {f"extent_{axis}": INT for axis in range(rank)} for rank in range(1, 5)}
ALL = [Subject(f"all of rank {rank}", extents, _all, not_negative) for rank, extents in EXTENTS.items()]
EMPTY = [Subject(f"empty of rank {rank}", extents, _empty, not_negative) for rank, extents in EXTENTS.items()]
COMPLEMENT = [
    Subject(f"complement of rank {rank}", {"hidden": TensorInput(rank, torch.bool)}, _complement, _no_hypothesis)
    for rank in EXTENTS
]


def every_coordinate(selected: bool, inputs: Inputs, hidden: Any) -> Claims:
    """Every coordinate of a mask over the extents is selected, or none is."""
    extents = tuple(inputs.values())
    what = f"every coordinate is {'' if selected else 'not '}selected"
    return [
        same_extents("the mask has the shape asked for", hidden.shape, extents),
        TensorClaim(what, extents, lambda *place: iff(hidden.at(place), selected)),
    ]


class NothingForAll(Mask):
    """Zeros for ones."""

    all = Mask.empty


@theorem(
    Mask,
    layer="algebra",
    on=ALL,
    mutants=[NothingForAll],
    given=NOT_NEGATIVE_EXTENTS,
    scope=SCOPE,
    method=METHOD,
    enumerated=Enumeration("selected() reads something else", _small_masks, _reads_all),
)
def all_mask_selected(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Mask.all(shape) selects every coordinate."""
    return every_coordinate(True, inputs, observed[0])


class AllForNothing(Mask):
    """Ones for zeros."""

    empty = Mask.all


@theorem(
    Mask,
    layer="algebra",
    on=EMPTY,
    mutants=[AllForNothing],
    given=NOT_NEGATIVE_EXTENTS,
    scope=SCOPE,
    method=METHOD,
    enumerated=Enumeration("selected() reads something else", _small_masks, _reads_empty),
)
def empty_mask_not_selected(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Mask.empty(shape) selects no coordinate."""
    return every_coordinate(False, inputs, observed[0])


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


@theorem(
    Mask,
    layer="algebra",
    on=COMPLEMENT,
    mutants=[NotInverted, ReadsBackwards],
    given=NOT_NEGATIVE_EXTENTS,
    scope=SCOPE,
    method=METHOD,
    enumerated=Enumeration("selected() reads something else", _small_masks, _reads_complement),
)
def complement_selected_iff(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """~mask selects a coordinate iff mask does not."""
    before, after = inputs["hidden"], observed[0]
    return [
        same_extents("the shape is kept", before.shape, after.shape),
        TensorClaim(
            "selected iff it was not", before.shape, lambda *place: iff(after.at(place), neg(before.at(place)))
        ),
    ]
