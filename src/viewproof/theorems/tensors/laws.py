"""The algebra of masks: any Boolean tensor as a mask, and samples alone or in a batch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.masks import Mask, PatchMask, Rule, Sample, VectorMask
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, iff, ite, neg, same
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import (
    INT,
    PATCHES,
    PERIODIC,
    Claims,
    Inputs,
    Observed,
    Subject,
    not_negative,
    same_tensors,
)
from viewproof.theorems.tensors.theorem import ALL_SIZES, theorem


def _matching(inputs: Inputs) -> list[Term]:
    hidden, x = inputs["hidden"].shape, inputs["x"].shape
    return [same(a, b) for a, b in zip(hidden, x[len(x) - len(hidden) :], strict=True)]


def any_mask(name: str, observe: Callable[[Any, Mask, Tensor], Sequence[Tensor]]) -> list[Subject]:
    """What ``observe`` sees of the program for any mask, shared or one a sample, of ranks 1 to 4."""

    def subject(rank: int, per_sample: bool) -> Subject:
        def observe_tensors(program: Any, hidden: Tensor, x: Tensor) -> Sequence[Tensor]:
            return observe(program, Mask(hidden, per_sample), x)

        signature = {"hidden": TensorInput(rank + per_sample, torch.bool), "x": TensorInput(rank + 1)}
        title = f"{name}, {'one mask a sample' if per_sample else 'one mask'} of rank {rank}"
        return Subject(title, signature, observe_tensors, _matching)

    return [subject(rank, per_sample) for rank in range(1, 5) for per_sample in (False, True)]


def _twice(program: Any, mask: Mask, x: Tensor) -> Sequence[Tensor]:
    once = program(mask, x)
    return [once, program(mask, once)]


def _complementary(program: Any, mask: Mask, x: Tensor) -> Sequence[Tensor]:
    other = program(mask)
    return [mask.hidden, other.hidden, mask.apply(x), other.apply(x)]


ANY_SCOPE = f"any Boolean tensor as mask, shared or one a sample, data ranks 1 to 4; {ALL_SIZES}"


def filled_from_a_neighbour(mask: Mask, x: Tensor) -> Tensor:
    """Hidden values come from the previous sample."""
    hidden = mask.hidden if mask.per_sample else mask.hidden.expand(x.shape)
    return torch.where(hidden, x.roll(1, 0), x)


@theorem(
    Mask.apply,
    on=any_mask("mask twice", _twice),
    mutants=[filled_from_a_neighbour],
    given=("the mask fits x",),
    scope=ANY_SCOPE,
)
def mask_idempotent(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Masking twice is masking once, bit for bit."""
    once, twice = observed
    return same_tensors("masked twice and once", twice, once, facts)


def not_negated(mask: Mask) -> Mask:
    """The complement is the mask."""
    return mask


def everything(mask: Mask) -> Mask:
    """The complement selects all."""
    return Mask(torch.ones_like(mask.hidden), mask.per_sample)


@theorem(
    Mask.__invert__,
    on=any_mask("mask and complement", _complementary),
    mutants=[not_negated, everything],
    given=("the mask fits x",),
    scope=ANY_SCOPE,
)
def mask_then_complement_partition(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Every coordinate is in exactly one of a mask and its complement; each view is +0.0 where its mask selects and the
    value elsewhere.
    """
    x, (mask, complement, view, other_view) = inputs["x"], observed
    for place in facts.each(mask.shape):
        in_one = neg(iff(mask.at(place), complement.at(place)))
        yield "a coordinate is in exactly one of mask and complement", in_one
    for place in facts.each(x.shape):
        only_in_view, only_in_other = (
            conj(spec.is_zero(facts, other, place), agree(shown.at(place), x.at(place), x.dtype))
            for shown, other in ((view, other_view), (other_view, view))
        )
        value = ite(mask.at(place[x.rank - mask.rank :]), only_in_other, only_in_view)
        yield "each view is +0.0 where its mask selects, else the value", value


def row_subject(name: str, rank: int, rule: Callable[..., Rule], sizes: Signature) -> Subject:
    """A row of the sample of a batch, and the sample of that row alone."""

    def observe(program: Any, x: Tensor, n: int, *numbers: int) -> Sequence[Tensor]:
        together, alone = program(rule(*numbers), x), program(rule(*numbers), x[n : n + 1])
        return [together.x[n], alone.x[0], together.y[n], alone.y[0]]

    return Subject(
        f"{name} alone",
        {"x": TensorInput(rank), "n": INT, **sizes},
        observe,
        lambda inputs: [*not_negative(inputs), inputs["n"] < inputs["x"].shape[0]],
    )


def offset_by_batch_size(rule: VectorMask | PatchMask, x: Tensor) -> Sample:
    """The mask depends on how many samples there are."""
    return replace(rule, offset=rule.offset + x.shape[0]).sample(x)


def filled_from_the_batch(rule: Rule, x: Tensor) -> Sample:
    """Hidden values come from the last sample."""
    hidden = rule.mask(tuple(x.shape[1:])).hidden
    return replace(rule.sample(x), x=torch.where(hidden, x[-1:], x))


@theorem(
    Rule.sample,
    layer="samples",
    on=[row_subject("vectors", 2, VectorMask, PERIODIC), row_subject("images", 4, PatchMask, PATCHES)],
    mutants=[offset_by_batch_size, filled_from_the_batch],
    given=("0 <= n < batch",),
    scope=f"VectorMask on vectors, PatchMask on images; {ALL_SIZES}",
)
def masking_commutes_with_batch_selection(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The sample of one row alone is that row of the batch's sample, bit for bit."""
    yield from same_tensors("input", observed[0], observed[1], facts)
    yield from same_tensors("target", observed[2], observed[3], facts)
