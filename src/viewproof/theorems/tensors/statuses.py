"""Three statuses: what a sample's loss asks for is hidden by its view, under every rule that ships."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from viewproof.expressions import parse_rule
from viewproof.masks import Mask, RandomRule, Rule, Sample
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, product, same
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, TensorCase, not_negative
from viewproof.theorems.tensors.theorem import CAPTURED, Enumeration, theorem

RULES = {
    "VectorMask(3, 1)": (7,),
    "PatchMask(2, 2, period=3, offset=1)": (2, 5, 6),
    "BlockMask((2, None, 3), 2, 1)": (3, 4, 5),
    "~PatchMask(2, 2, period=3, offset=1)": (2, 5, 6),
    "Rotating(VectorMask(3, 0))": (7,),
    "RandomPatchMask(2, 2, count=3)": (2, 5, 6),
    "RandomBlockMask((1, 2), count=3)": (3, 5),
    "SharedRandomPatchMask(2, 2, count=3)": (2, 5, 6),
    "ScoredPatches(RandomPatchMask(2, 2, count=3), 2, 2, count=2)": (2, 4, 6),
    "TubeMask(2, 2, count=3)": (1, 3, 5, 6),
    "RandomBlockwiseMask(2, 2, count=5, min_area=2)": (1, 8, 8),
    "MultiBlockMask(2, 2, context=5, target_area=(2, 4), context_area=(14, 16))": (1, 8, 8),
    "MultiBlockMask(1, 1, context=8, target_area=(4, 6), context_area=(20, 25), targets=2)": (1, 5, 6),
    "MultiBlockMask(2, 2, context=3, target_area=(2, 3), context_area=(7, 9), targets=2)": (1, 3, 6, 6),
    "MultiRangeMask(MultiBlockMask(2, 2, 2, (2, 2), (9, 9), 3), MultiBlockMask(2, 2, 2, (4, 6), (9, 9), 2))": (
        1,
        3,
        6,
        6,
    ),
    "MaskOfSample(RandomPatchMask(2, 2, count=3), sample_id=7)": (2, 5, 6),
    "PaddedMask(VectorMask(2, 0))": (7,),
    "SpanMask(spans=2, width=3)": (12,),
    "SpectrogramMask(frequencies=1, height=2, times=1, width=2)": (6, 9),
    "~RandomPatchMask(2, 2, count=3)": (2, 5, 6),
}
"""Every rule that ships, with the shape of data that it is tried on; `TokenMask` scores kept tokens by design."""


def sample_of(rule: Rule, x: Tensor, length: int, ids: Tensor, epoch: int, lengths: Tensor | None) -> Sample:
    """The sample that a rule makes of a batch."""
    return rule.sample(x, length, sample_ids=ids, epoch=epoch, lengths=lengths)


def cut_from_the_end(rule: Rule, x: Tensor, length: int, ids: Tensor, epoch: int, lengths: Tensor | None) -> Sample:
    """The mask is that of the last coordinates, the target that of the first."""
    sample = sample_of(rule, x, length, ids, epoch, lengths)
    assert sample.view is not None
    axis = int(sample.view.per_sample)
    hidden = sample.view.hidden.flatten(axis) if sample.view.hidden.dim() > axis else sample.view.hidden
    return replace(sample, mask=Mask(hidden[..., hidden.shape[-1] - length :], sample.view.per_sample))


def targets_drawn_again(rule: Rule, x: Tensor, length: int, ids: Tensor, epoch: int, lengths: Tensor | None) -> Sample:
    """The mask is that of the next epoch."""
    mask = sample_of(rule, x, length, ids, epoch + 1, lengths).mask
    return replace(sample_of(rule, x, length, ids, epoch, lengths), mask=mask)


def visible_scored(rule: Rule, x: Tensor, length: int, ids: Tensor, epoch: int, lengths: Tensor | None) -> Sample:
    """The loss asks for what is visible."""
    sample = sample_of(rule, x, length, ids, epoch, lengths)
    return replace(sample, mask=~sample.mask)


@dataclass(frozen=True, eq=False)
class _Fixed(Rule):
    """A fixed rule that hides this, whatever it is."""

    chosen: Tensor

    def hidden(self, *grids: Tensor) -> Tensor:
        return self.chosen


@dataclass(frozen=True, eq=False)
class _Drawn(RandomRule):
    """A random rule that drew this, whatever it is."""

    chosen: Tensor
    seed: int = 0

    def draw(self, shape: tuple[int, ...], draws: Any, lengths: Tensor | None = None) -> Tensor:
        return self.chosen


def _subject(rank: int, kind: Callable[[Tensor], Rule]) -> Subject:
    batched = kind is _Drawn

    def observe(program: Any, x: Tensor, hidden: Tensor, length: int) -> Sequence[Tensor]:
        sample = program(kind(hidden), x, length, torch.arange(x.shape[0]), 0, None)
        return [sample.mask.hidden, sample.view.hidden]

    def hypotheses(inputs: Inputs) -> list[Term]:
        x, hidden = inputs["x"].shape, inputs["hidden"].shape
        pairs = zip(hidden, x if batched else x[1:], strict=True)
        return [*not_negative(inputs), *(same(a, b) for a, b in pairs), inputs["length"] <= product(x[1:])]

    signature: Signature = {
        "x": TensorInput(rank + 1),
        "hidden": TensorInput(rank + batched, torch.bool),
        "length": INT,
    }
    name = f"{'one mask a sample' if batched else 'one mask for all samples'}, rank {rank}"
    return Subject(name, signature, observe, hypotheses)


def _claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    scored, view = observed
    shape, batched = inputs["x"].shape, inputs["hidden"].rank == inputs["x"].rank
    for place in facts.each(shape):
        position = spec.flat_index(facts, place[1:], shape[1:])
        row = place[:1] if batched else ()
        with facts.given(conj(position < inputs["length"], scored.at((*row, position)))):
            yield "a target coordinate that the mask selects is hidden by the view", view.at((*row, *place[1:]))


def _samples() -> Iterator[dict[str, Any]]:
    for rule, shape in RULES.items():
        size = math.prod(shape)
        for length in (size, size // 2):
            yield from ({"rule": rule, "shape": list(shape), "length": length, "epoch": epoch} for epoch in range(3))


def _lies_within(program: Any, at: Mapping[str, Any]) -> bool:
    rule, ids, x = parse_rule(at["rule"]), torch.arange(5, 9), torch.ones(4, *at["shape"])
    axis = rule.padded_axis
    lengths = None if axis is None else at["shape"][axis] - torch.arange(4)
    sample = program(rule, x, at["length"], ids, at["epoch"], lengths)
    hidden = sample.view.hidden.expand(x.shape).flatten(1)[:, : at["length"]]
    return not bool((sample.mask.hidden.expand(hidden.shape) & ~hidden).any())


@theorem(
    sample_of,
    layer="samples",
    mutants=[cut_from_the_end, targets_drawn_again, visible_scored],
    given=("the prefix is at most the flattened size",),
    scope="whatever a rule hides or draws, data of ranks 1 to 3, all extents from 0; every rule that ships but "
    "TokenMask, whose kept tokens are scored by design; MultiBlockMask and MultiRangeMask, whose blocks are drawn "
    "apart from their context, on the enumerated draws and by only_eligible_places_are_first",
    method=f"{CAPTURED}; the rules that ship enumerated, three epochs each",
    enumerated=Enumeration("a scored coordinate is visible", _samples, _lies_within),
)
def scored_is_hidden() -> list[TensorCase]:
    """A target coordinate that a sample's mask selects is hidden by the sample's view."""
    return [TensorCase(_subject(rank, kind), _claims) for rank in (1, 2, 3) for kind in (_Fixed, _Drawn)]
