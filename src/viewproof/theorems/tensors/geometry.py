"""The geometry of patches: which coordinates are hidden, and kernels that are one."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import viewproof as vp
from viewproof.masks import BlockMask, PatchMask
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, inside, product, same
from viewproof.theorems.tensors import lemmas, spec
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
from viewproof.theorems.tensors.masks import (
    ChannelInTheIndex,
    FloorForCeiling,
    HeightForWidth,
    block_view,
    floor_for_ceiling,
    offset_not_reduced,
)
from viewproof.theorems.tensors.theorem import theorem


def _status(program: Any, channels: int, height: int, width: int, *sizes: int) -> Sequence[Tensor]:
    return [program(*sizes).mask((channels, height, width)).hidden]


def _whole_period(inputs: Inputs) -> list[Term]:
    """Periods as long as there are patches: then the offsets below the count tell patches apart."""
    positive = [inputs[name] > 0 for name in ("patch_h", "patch_w")]
    return [*not_negative(inputs), *positive, inputs["period"] >= product(_grid(inputs))]


_IMAGE: Signature = {"channels": INT, "height": INT, "width": INT, **PATCHES}
PATCH_GRID = Subject("patch grid", _IMAGE, _status, _whole_period)
PATCH_STATUS = Subject("patch status", _IMAGE, _status, not_negative)
WHOLE_PERIOD = ("patch sizes are positive", "period is at least the number of patches, so that offsets tell them apart")


def _extents(inputs: Inputs) -> tuple[Term, Term, Term]:
    return inputs["channels"], inputs["height"], inputs["width"]


def _grid(inputs: Inputs) -> tuple[Term, Term]:
    """How many rows and columns of patches there are."""
    return spec.ceil_div(inputs["height"], inputs["patch_h"]), spec.ceil_div(inputs["width"], inputs["patch_w"])


def _patch(inputs: Inputs, row: Term, col: Term) -> tuple[Term, Term]:
    """The row and the column, in the grid, of the patch that holds a pixel."""
    return floordiv(row, inputs["patch_h"], positive=True), floordiv(col, inputs["patch_w"], positive=True)


def _same_patch(inputs: Inputs, row: Term, col: Term, row2: Term, col2: Term) -> Term:
    pairs = zip(_patch(inputs, row, col), _patch(inputs, row2, col2), strict=True)
    return conj(*(same(a, b) for a, b in pairs))


def _steps(inputs: Inputs, hidden: Any, pixel: tuple[Term, ...]) -> tuple[Term, Term, Term]:
    """Patch in the grid; index in range; and the offset hides the pixel iff it is that index."""
    index = spec.patch_index(inputs["width"], inputs["patch_h"], inputs["patch_w"], *pixel[1:])
    in_grid = inside(_patch(inputs, *pixel[1:]), _grid(inputs))
    in_range = conj(index >= 0, index < product(_grid(inputs)))
    return in_grid, in_range, iff(hidden.at(pixel), same(inputs["offset"], index))


def _range_steps(inputs: Inputs, hidden: Any, facts: Facts) -> Claims:
    """Each claim is proved with the one before as its premise."""
    for pixel in facts.each(_extents(inputs)):
        in_grid, in_range, hidden_by_its_index = _steps(inputs, hidden, pixel)
        yield "the patch of a pixel is in the grid of ceil(extent / patch) patches", in_grid
        with facts.given(in_grid):
            yield "0 <= patch_index < the number of patches", in_range
        with facts.given(conj(in_range, inputs["offset"] < product(_grid(inputs)))):
            yield "of the offsets below the number of patches, exactly patch_index hides it", hidden_by_its_index


@theorem(PatchMask, on=PATCH_GRID, mutants=[HeightForWidth, FloorForCeiling], given=WHOLE_PERIOD)
def patch_index_in_range(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """0 <= patch_index < ceil(height / patch_h) * ceil(width / patch_w), and of the offsets below that bound exactly
    patch_index hides the pixel.
    """
    return _range_steps(inputs, observed[0], facts)


@theorem(PatchMask, on=PATCH_GRID, mutants=[HeightForWidth, FloorForCeiling], given=WHOLE_PERIOD)
def patch_index_injective_on_patches(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Pixels with one patch_index lie in one patch: row // patch_h and col // patch_w agree."""
    hidden, offset, grid = observed[0], inputs["offset"], _grid(inputs)
    yield from _range_steps(inputs, hidden, facts)
    for channel, *places in facts.each((*_extents(inputs), inputs["height"], inputs["width"])):
        pixels = (channel, *places[:2]), (channel, *places[2:])
        # Both are hidden, so both have the offset for their index; its quotient by the columns is each one's row.
        in_grid, _, by_index = zip(*(_steps(inputs, hidden, pixel) for pixel in pixels), strict=True)
        division = lemmas.quotient(offset, grid[1], *(_patch(inputs, *pixel[1:])[0] for pixel in pixels))
        both_hidden = (hidden.at(pixel) for pixel in pixels)
        with facts.given(conj(offset < product(grid), *in_grid, *by_index, division, *both_hidden)):
            one_patch = _same_patch(inputs, *places)
            yield "pixels that one offset below the number of patches hides lie in one patch", one_patch


class SwappedPatchSizes(PatchMask):
    """patch_w for patch_h."""

    def _blocks(self) -> tuple[int | None, ...]:
        return (None, self.patch_w, self.patch_h)


@theorem(PatchMask, on=PATCH_STATUS, mutants=[SwappedPatchSizes, ChannelInTheIndex])
def pixels_of_one_patch_share_status(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Pixels of one patch are hidden together, in every channel, for every period and offset."""
    hidden = observed[0]
    for place in facts.each(_extents(inputs) * 2):
        pixel, other = place[:3], place[3:]
        one_patch = _same_patch(inputs, *pixel[1:], *other[1:])
        with facts.given(conj(inputs["patch_h"] != 0, inputs["patch_w"] != 0, one_patch)):
            same_status = iff(hidden.at(pixel), hidden.at(other))
            yield "pixels of one patch, in whatever channels, are hidden together", same_status


VECTORS_AND_BLOCKS = Subject(
    "vectors beside blocks",
    {"x": TensorInput(2), **PERIODIC},
    lambda program, x, period, offset: [program(x, period, offset), block_view(x, BlockMask((1,), period, offset))],
    not_negative,
)
IMAGES_AND_BLOCKS = Subject(
    "images beside blocks",
    {"x": TensorInput(4), **PATCHES},
    lambda program, x, patch_h, patch_w, *sizes: [
        program(x, patch_h, patch_w, *sizes),
        block_view(x, BlockMask((None, patch_h, patch_w), *sizes)),
    ],
    not_negative,
)


@theorem(vp.vector_mae_mask, on=VECTORS_AND_BLOCKS, mutants=[offset_not_reduced])
def vector_mask_eq_block_mask(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """vector_mae_mask has the bits of BlockMask((1,), period, offset) applied to x."""
    return same_tensors("both masks", observed[0], observed[1], facts)


@theorem(vp.image_patch_mask, on=IMAGES_AND_BLOCKS, mutants=[floor_for_ceiling])
def image_mask_eq_block_mask(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """image_patch_mask(x, ...) has the bits of BlockMask((None, patch_h, patch_w), ...) applied to x."""
    return same_tensors("both masks", observed[0], observed[1], facts)
