"""Masks as programs: what is hidden is exactly ``+0.0``, what is visible is the very same bits."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import viewproof as vp
from viewproof.masks import BlockMask, Mask, PatchMask, Rule, VectorMask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, iff, neg
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
    result,
)
from viewproof.theorems.tensors.theorem import ALL_SIZES, theorem

HIDDEN_MASK = Subject(
    "vector mask",
    {"data_dim": INT, **PERIODIC},
    lambda program, data_dim, period, offset: [program(data_dim, period, offset).hidden],
    not_negative,
)
VECTORS = Subject("vectors", {"x": TensorInput(2), **PERIODIC}, result, not_negative)
IMAGES = Subject("images", {"x": TensorInput(4), **PATCHES}, result, not_negative)


def block_subject(pattern: Sequence[bool]) -> Subject:
    """A block mask over data of this rank: the axes marked True take part, with symbolic widths."""

    def observe(program: Any, x: Tensor, *sizes: int) -> Sequence[Tensor]:
        *widths, period, offset = sizes
        remaining = iter(widths)
        blocks = tuple(next(remaining) if takes_part else None for takes_part in pattern)
        return [program(x, BlockMask(blocks, period, offset))]

    widths = {f"block_{axis}": INT for axis, takes_part in enumerate(pattern) if takes_part}
    name = f"blocks {tuple('k' if takes_part else None for takes_part in pattern)}"
    return Subject(name, {"x": TensorInput(len(pattern) + 1), **widths, **PERIODIC}, observe, not_negative)


BLOCKS = {
    pattern: block_subject(pattern)
    for rank in range(1, 5)
    for pattern in itertools.product((True, False), repeat=rank)
    if rank < 3 or pattern.count(False) in (0, 1, rank)
}
HIDING_BLOCKS = [subject for pattern, subject in BLOCKS.items() if any(pattern)]
"""Without those of no participating axis, where nothing is hidden."""
BLOCK_SCOPE = (
    "ranks 1 to 4; of ranks 1 and 2 every choice of participating axes, of 3 and 4 all axes, all but one, none; "
    f"{ALL_SIZES}"
)

Hides = Callable[[Inputs, Sequence[Term]], Term]
"""Whether the specification hides a coordinate (batch axis first)."""


def vector_hides(inputs: Inputs, place: Sequence[Term]) -> Term:
    """Whether the vector mask of the specification hides it."""
    return spec.in_class(place[1], inputs["period"], inputs["offset"])


def image_hides(inputs: Inputs, place: Sequence[Term]) -> Term:
    """Whether the image mask of the specification hides it."""
    patch_h, patch_w, period, offset = (inputs[name] for name in ("patch_h", "patch_w", "period", "offset"))
    return spec.image_hidden(inputs["x"].shape[3], patch_h, patch_w, period, offset, place[2], place[3])


def block_hides(inputs: Inputs, place: Sequence[Term]) -> Term:
    """Whether the block mask of the specification hides it; an axis without a width takes no part."""
    extents = inputs["x"].shape[1:]
    widths = [inputs.get(f"block_{axis}") for axis in range(len(extents))]
    return spec.block_hidden(widths, extents, inputs["period"], inputs["offset"], place[1:])


def zero_or_input(hides: Hides, inputs: Inputs, out: Any, facts: Facts) -> Claims:
    """Every value is ``+0.0`` if hidden, else the input's."""
    x = inputs["x"]
    yield "the shape is kept", spec.same_shape(x.shape, out.shape)
    for place in facts.each(x.shape):
        expected = spec.selected(facts, hides(inputs, place), x, place)
        yield "the value is 0 if hidden, else the input's", agree(out.at(place), expected, x.dtype)


def hidden_is_zero(hides: Hides, inputs: Inputs, out: Any, facts: Facts) -> Claims:
    """Every hidden value is ``+0.0``."""
    x = inputs["x"]
    yield "the shape is kept", spec.same_shape(x.shape, out.shape)
    for place in facts.each(x.shape):
        with facts.given(hides(inputs, place)):
            yield "a hidden value is +0.0", spec.is_zero(facts, out, place)


def visible_is_input(hides: Hides, inputs: Inputs, out: Any, facts: Facts) -> Claims:
    """Every visible value is the input's, bit for bit."""
    x = inputs["x"]
    yield "the shape is kept", spec.same_shape(x.shape, out.shape)
    for place in facts.each(x.shape):
        with facts.given(neg(hides(inputs, place))):
            yield "a visible value is the input's bits", agree(out.at(place), x.at(place), x.dtype)


def unreduced_offset(data_dim: int, period: int, offset: int) -> Mask:
    """j % period is compared with offset itself."""
    if period == 0:
        return Mask.empty((data_dim,))
    return Mask(torch.arange(data_dim) % period == offset)


def true_means_visible(data_dim: int, period: int, offset: int) -> Mask:
    """The mask is the complement: True = visible."""
    return ~vp.vector_mae_hidden_mask(data_dim, period, offset)


@theorem(vp.vector_mae_hidden_mask, on=HIDDEN_MASK, mutants=[unreduced_offset, true_means_visible])
def vector_mae_hidden_mask_selected_iff(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """vector_mae_hidden_mask selects j iff period != 0 and j % period == offset % period."""
    hidden, size = observed[0], inputs["data_dim"]
    yield "the mask lies over data_dim features", spec.same_shape(hidden.shape, (size,))
    for (j,) in facts.each([size]):
        expected = spec.in_class(j, inputs["period"], inputs["offset"])
        yield "feature j is selected iff the rule hides it", iff(hidden.at((j,)), expected)


def hidden_by(x: Tensor, *sizes: Any) -> Tensor:
    """What a rule hides of x: ``sizes`` are a vector mask's two, a patch mask's four, or the rule."""
    rule: Rule = sizes[0] if len(sizes) == 1 else (VectorMask if len(sizes) == 2 else PatchMask)(*sizes)
    return rule.mask(tuple(x.shape[1:]), device=x.device).hidden


def select(hidden: Tensor, x: Tensor) -> Tensor:
    """``+0.0`` where hidden, else x."""
    return torch.where(hidden, x.new_zeros(()), x)


def offset_not_reduced(x: Tensor, period: int, offset: int) -> Tensor:
    """j % period is compared with offset itself."""
    return select(unreduced_offset(x.shape[1], period, offset).hidden, x)


def wrong_polarity(x: Tensor, *sizes: Any) -> Tensor:
    """Visible values are zeroed."""
    return select(~hidden_by(x, *sizes), x)


def multiplication_for_selection(x: Tensor, *sizes: Any) -> Tensor:
    """x * keep: NaN survives, -1 becomes -0.0."""
    return x * ~hidden_by(x, *sizes)


def adds_zero(x: Tensor, period: int, offset: int) -> Tensor:
    """selected + 0.0 turns a visible -0.0 into +0.0."""
    return vp.vector_mae_mask(x, period, offset) + 0.0


@theorem(vp.vector_mae_mask, on=VECTORS, mutants=[offset_not_reduced, multiplication_for_selection])
def vector_mae_mask_get_eq_if_selected_hidden(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """vector_mae_mask(x)[n, j] is +0.0 if j is hidden, else the bits of x[n, j]."""
    return zero_or_input(vector_hides, inputs, observed[0], facts)


@theorem(vp.vector_mae_mask, on=VECTORS, mutants=[multiplication_for_selection, wrong_polarity])
def vector_mae_mask_hidden_get_eq_zero(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A hidden feature of vector_mae_mask(x) is exactly +0.0, whatever x holds."""
    return hidden_is_zero(vector_hides, inputs, observed[0], facts)


@theorem(vp.vector_mae_mask, on=VECTORS, mutants=[wrong_polarity, adds_zero])
def vector_mae_mask_visible_get_eq_input(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A visible feature of vector_mae_mask(x) is the very bits of x."""
    return visible_is_input(vector_hides, inputs, observed[0], facts)


class _Numbered(PatchMask):
    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        raise NotImplementedError

    def hidden(self, *grids: Tensor) -> Tensor | bool:
        if self.period == 0 or self.patch_h == 0 or self.patch_w == 0:
            return False
        return self._index(*grids) % self.period == self.offset % self.period


class HeightForWidth(_Numbered):
    """Patches per row from the height."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (-(-row.shape[1] // self.patch_w)) + col // self.patch_w


class FloorForCeiling(_Numbered):
    """A ragged last patch is not counted."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (col.shape[2] // self.patch_w) + col // self.patch_w


class ChannelInTheIndex(_Numbered):
    """Every channel hides other patches."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (-(-col.shape[2] // self.patch_w)) + col // self.patch_w + channel


def height_for_width(x: Tensor, *sizes: int) -> Tensor:
    """Patches per row from the height."""
    return select(hidden_by(x, HeightForWidth(*sizes)), x)


def floor_for_ceiling(x: Tensor, *sizes: int) -> Tensor:
    """A ragged last patch is not counted."""
    return select(hidden_by(x, FloorForCeiling(*sizes)), x)


def swapped_patch_sizes(x: Tensor, patch_h: int, patch_w: int, period: int, offset: int) -> Tensor:
    """patch_w for patch_h."""
    return vp.image_patch_mask(x, patch_w, patch_h, period, offset)


@theorem(vp.image_patch_mask, on=IMAGES, mutants=[height_for_width, floor_for_ceiling])
def image_patch_mask_pixel_eq_if_hidden(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """image_patch_mask(x)[b, c, row, col] is +0.0 if the pixel's patch is hidden, else the bits of x."""
    return zero_or_input(image_hides, inputs, observed[0], facts)


@theorem(vp.image_patch_mask, on=IMAGES, mutants=[multiplication_for_selection, floor_for_ceiling])
def image_patch_mask_hidden_pixel_eq_zero(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A hidden pixel of image_patch_mask(x) is exactly +0.0, whatever x holds."""
    return hidden_is_zero(image_hides, inputs, observed[0], facts)


@theorem(vp.image_patch_mask, on=IMAGES, mutants=[wrong_polarity, swapped_patch_sizes])
def image_patch_mask_visible_pixel_eq_input(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A visible pixel of image_patch_mask(x) is the very bits of x."""
    return visible_is_input(image_hides, inputs, observed[0], facts)


def block_view(x: Tensor, rule: BlockMask) -> Tensor:
    """The view that the rule's sample shows the model."""
    return rule.sample(x).x


def column_major_blocks(x: Tensor, rule: BlockMask) -> Tensor:
    """Block coordinates flattened last axis first."""
    backwards = BlockMask(rule.blocks[::-1], rule.period, rule.offset)
    hidden = backwards.mask(tuple(x.shape[:0:-1])).hidden
    return select(hidden.permute(*reversed(range(hidden.dim()))), x)


def everything_hidden(x: Tensor, rule: BlockMask) -> Tensor:
    """No coordinate stays visible."""
    return torch.zeros_like(x)


@theorem(
    block_view, on=list(BLOCKS.values()), mutants=[column_major_blocks, multiplication_for_selection], scope=BLOCK_SCOPE
)
def block_mask_apply_scalar_at(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """BlockMask(...).sample(x).x at a coordinate is +0.0 if its block is hidden, else the bits of x."""
    return zero_or_input(block_hides, inputs, observed[0], facts)


@theorem(block_view, on=HIDING_BLOCKS, mutants=[multiplication_for_selection], scope=BLOCK_SCOPE)
def block_mask_hidden_scalar_eq_zero(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A scalar in a hidden block is exactly +0.0 after masking, whatever x holds."""
    return hidden_is_zero(block_hides, inputs, observed[0], facts)


@theorem(block_view, on=list(BLOCKS.values()), mutants=[everything_hidden], scope=BLOCK_SCOPE)
def block_mask_visible_scalar_eq_input(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A scalar in a visible block is the very bits of x after masking."""
    return visible_is_input(block_hides, inputs, observed[0], facts)
