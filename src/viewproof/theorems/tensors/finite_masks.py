"""`Mask` itself: everything, nothing, complement.

What the tensor holds is decided on the captured program; that ``selected`` reads that tensor at its coordinate is
enumerated, over every mask of up to six coordinates and rank up to 3.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import torch

from viewproof.masks import Mask
from viewproof.symbolic.capture import IntInput, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import iff, neg
from viewproof.theorems.registry import Mutant, Outcome, Theorem
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.decide import prover, replayer
from viewproof.verdict import Verdict

_SCOPE = "ranks 1 to 4, all extents from 0 (tensor); rank 0 to 3, every mask of up to 6 coordinates (reading one)"
Reads = Callable[[Any, torch.Tensor, tuple[int, ...]], bool]


def _constant(rank: int, method: str, value: bool) -> Case:
    names = [f"extent_{axis}" for axis in range(rank)]
    subject = Subject(
        f"{method} of rank {rank}",
        dict.fromkeys(names, IntInput()),
        lambda program, *extents: [getattr(program, method)(extents).hidden],
        lambda inputs: [extent >= 0 for extent in inputs.values()],
    )

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        extents, hidden = tuple(inputs.values()), observed[0]
        return [
            Claim("the mask has the shape asked for", (), lambda: spec.same_shape(hidden.shape, extents)),
            Claim(
                f"every coordinate is {'' if value else 'not '}selected", extents, lambda *at: iff(hidden.at(at), value)
            ),
        ]

    return Case(subject, claims)


def _complement(rank: int) -> Case:
    subject = Subject(
        f"complement of rank {rank}",
        {"hidden": TensorInput(rank, torch.bool)},
        lambda program, hidden: [(~program(hidden)).hidden],
        lambda inputs: [],
    )

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        before, after = inputs["hidden"], observed[0]
        return [
            Claim("the shape is kept", (), lambda: spec.same_shape(before.shape, after.shape)),
            Claim("selected iff it was not", before.shape, lambda *place: iff(after.at(place), neg(before.at(place)))),
        ]

    return Case(subject, claims)


def _small_masks() -> Iterator[torch.Tensor]:
    for rank in range(4):
        for shape in product(range(4), repeat=rank):
            if prod(shape) <= 6:
                for bits in product((False, True), repeat=prod(shape)):
                    yield torch.tensor(bits, dtype=torch.bool).reshape(shape)


def _misread(program: Any, reads: Reads) -> dict[str, Any] | None:
    for hidden in _small_masks():
        for place in product(*map(range, hidden.shape)):
            if not reads(program, hidden, place):
                return {"hidden": hidden.tolist(), "coordinate": list(place)}
    return None


def _theorem(name: str, statement: str, cases: Callable[[], list[Case]], reads: Reads, *mutants: Mutant) -> Theorem:
    captured, replayed = prover(cases), replayer(cases)

    def prove(program: Any) -> Outcome:
        outcome = captured(program)
        if outcome.verdict is not Verdict.PROVED:
            return outcome
        witness = _misread(program, reads)
        return outcome if witness is None else Outcome(Verdict.REFUTED, "selected() reads something else", witness)

    def holds(program: Any, witness: Mapping[str, Any]) -> bool:
        if "case" in witness:
            return replayed(program, witness)
        return reads(program, torch.tensor(witness["hidden"], dtype=torch.bool), tuple(witness["coordinate"]))

    method = "torch.export graph, its operators' coordinate meanings, Z3; reading one coordinate enumerated"
    return Theorem(
        name, "algebra", statement, ("extents are non-negative",), _SCOPE, method, Mask, prove, holds, mutants
    )


class _NothingForAll(Mask):
    all = Mask.empty


class _AllForNothing(Mask):
    empty = Mask.all


class _NotInverted(Mask):
    def __invert__(self) -> Mask:
        return self


class _ReadsBackwards(Mask):
    def selected(self, coordinate: int | Sequence[int]) -> bool:
        place = [coordinate] if isinstance(coordinate, int) else coordinate
        return super().selected([extent - 1 - at for extent, at in zip(self.hidden.shape, place, strict=True)])


def _reads_all(program: Any, hidden: torch.Tensor, place: tuple[int, ...]) -> bool:
    return program.all(hidden.shape).selected(place) is True


def _reads_empty(program: Any, hidden: torch.Tensor, place: tuple[int, ...]) -> bool:
    return program.empty(hidden.shape).selected(place) is False


def _reads_complement(program: Any, hidden: torch.Tensor, place: tuple[int, ...]) -> bool:
    kept = program(hidden).selected(place)
    return kept is bool(hidden[place]) and (~program(hidden)).selected(place) is not kept


_RANKS = range(1, 5)
THEOREMS: tuple[Theorem, ...] = (
    _theorem(
        "all_mask_selected",
        "Mask.all(shape) selects every coordinate.",
        lambda: [_constant(rank, "all", True) for rank in _RANKS],
        _reads_all,
        Mutant("nothing_for_all", "zeros for ones", _NothingForAll),
    ),
    _theorem(
        "empty_mask_not_selected",
        "Mask.empty(shape) selects no coordinate.",
        lambda: [_constant(rank, "empty", False) for rank in _RANKS],
        _reads_empty,
        Mutant("all_for_nothing", "ones for zeros", _AllForNothing),
    ),
    _theorem(
        "complement_selected_iff",
        "~mask selects a coordinate iff mask does not.",
        lambda: [_complement(rank) for rank in _RANKS],
        _reads_complement,
        Mutant("not_inverted", "the complement is the mask itself", _NotInverted),
        Mutant("reads_backwards", "the coordinate is read from the far end", _ReadsBackwards),
    ),
)
