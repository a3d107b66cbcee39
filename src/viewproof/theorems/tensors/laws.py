"""The algebra of masks: any Boolean tensor as a mask, and samples alone or in a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from viewproof.masks import Mask, PatchMask, Rule, VectorMask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, iff, ite, neg, same
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import mutants, spec
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.masks import ALL_SIZES, theorem
from viewproof.theorems.tensors.samples import same_tensors
from viewproof.theorems.tensors.subjects import INT, PATCHES, PERIODIC, not_negative


def _matching(inputs: Inputs) -> list[Term]:
    hidden, x = inputs["hidden"].shape, inputs["x"].shape
    return [same(a, b) for a, b in zip(hidden, x[len(x) - len(hidden) :], strict=True)]


def _any_mask(name: str, rank: int, per_sample: bool, observe: Callable[[Any, Mask, Tensor], Sequence[Tensor]]) -> Case:
    signature = {"hidden": TensorInput(rank + per_sample, torch.bool), "x": TensorInput(rank + 1)}
    title = f"{name}, {'one mask a sample' if per_sample else 'one mask'} of rank {rank}"
    subject = Subject(title, signature, lambda p, hidden, x: observe(p, Mask(hidden, per_sample), x), _matching)
    return Case(subject, _ANY_MASK[name])


def _idempotent(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    return same_tensors("masked twice and once", observed[1], observed[0])


def _partition(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    x, (mask, other, kept, rest) = inputs["x"], observed

    def one(*place: Term) -> Term:
        return neg(iff(mask.at(place), other.at(place)))

    def value(*place: Term) -> Term:
        empty, full = (
            conj(spec.is_zero(facts, a, place), agree(b.at(place), x.at(place), x.dtype))
            for a, b in ((kept, rest), (rest, kept))
        )
        return ite(mask.at(place[x.rank - mask.rank :]), empty, full)

    return [
        Claim("a coordinate is in exactly one of mask and complement", mask.shape, one),
        Claim("each view is +0.0 where its mask selects, else the value", x.shape, value),
    ]


_ANY_MASK: dict[str, Any] = {"mask twice": _idempotent, "mask and complement": _partition}


def _twice(program: Any, mask: Mask, x: Tensor) -> Sequence[Tensor]:
    once = program(mask, x)
    return [once, program(mask, once)]


def _both(program: Any, mask: Mask, x: Tensor) -> Sequence[Tensor]:
    other = program(mask)
    return [mask.hidden, other.hidden, mask.apply(x), other.apply(x)]


ARBITRARY = [(rank, per_sample) for rank in range(1, 5) for per_sample in (False, True)]
IDEMPOTENT = [_any_mask("mask twice", *form, _twice) for form in ARBITRARY]
PARTITION = [_any_mask("mask and complement", *form, _both) for form in ARBITRARY]


def _alone(rule: Callable[..., Rule]) -> Callable[..., Sequence[Tensor]]:
    def observe(program: Any, x: Tensor, n: int, *rest: int) -> Sequence[Tensor]:
        together, alone = (program(rule(*rest), rows) for rows in (x, x[n : n + 1]))
        return [together.x[n], alone.x[0], together.y[n], alone.y[0]]

    return observe


def _one_row(inputs: Inputs) -> list[Term]:
    return [*not_negative(inputs), inputs["n"] < inputs["x"].shape[0]]


def _commutes(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    return [*same_tensors("input", *observed[:2]), *same_tensors("target", *observed[2:])]


ALONE = [
    Case(Subject(f"{name} alone", {"x": TensorInput(rank), "n": INT, **sizes}, _alone(rule), _one_row), _commutes)
    for name, rank, rule, sizes in (("vectors", 2, VectorMask, PERIODIC), ("images", 4, PatchMask, PATCHES))
]

_ANY_SCOPE = f"any Boolean tensor as mask, shared or one a sample, data ranks 1 to 4; {ALL_SIZES}"
THEOREMS = (
    theorem(
        "mask_idempotent",
        "masks",
        "Masking twice is masking once, bit for bit.",
        Mask.apply,
        lambda: IDEMPOTENT,
        mutants.FILL_FROM_NEIGHBOUR,
        hypotheses=("the mask fits x",),
        scope=_ANY_SCOPE,
    ),
    theorem(
        "mask_then_complement_partition",
        "masks",
        "Every coordinate is in exactly one of a mask and its complement; each view is +0.0 "
        "where its mask selects and the value elsewhere.",
        Mask.__invert__,
        lambda: PARTITION,
        mutants.COMPLEMENT_IS_ITSELF,
        mutants.COMPLEMENT_IS_ALL,
        hypotheses=("the mask fits x",),
        scope=_ANY_SCOPE,
    ),
    theorem(
        "masking_commutes_with_batch_selection",
        "samples",
        "The sample of one row alone is that row of the batch's sample, bit for bit.",
        Rule.sample,
        lambda: ALONE,
        mutants.OFFSET_BY_BATCH_SIZE,
        mutants.FILL_FROM_BATCH,
        hypotheses=("0 <= n < batch",),
        scope=f"VectorMask on vectors, PatchMask on images; {ALL_SIZES}",
    ),
)
