"""The geometry of patches, and kernels that are one: statements about which coordinates are hidden."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

import viewproof as vp
from viewproof.masks import BlockMask
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, inside, product, same
from viewproof.theorems.tensors import lemmas, mutants, spec
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.masks import theorem
from viewproof.theorems.tensors.samples import same_tensors
from viewproof.theorems.tensors.subjects import IMAGES, INT, PATCHES, VECTOR, not_negative

_IMAGE_SIZES = {"channels": INT, "height": INT, "width": INT}


def _patches(inputs: Inputs) -> Term:
    return product(_grid(inputs))


def _whole_period(inputs: Inputs) -> list[Term]:
    """Periods as long as there are patches: the offsets below the count then tell every two patches apart."""
    positive = [inputs[name] > 0 for name in ("patch_h", "patch_w")]
    return [*not_negative(inputs), *positive, inputs["period"] >= _patches(inputs)]


def _status(program: Any, *sizes: int) -> Sequence[Tensor]:
    return [program(*sizes[3:]).mask(sizes[:3]).hidden]


def _patch_subject(name: str, hypotheses: Callable[[Inputs], Sequence[Term]]) -> Subject:
    return Subject(name, {**_IMAGE_SIZES, **PATCHES}, _status, hypotheses)


_WHOLE_PERIOD = (
    "patch sizes are positive",
    "period is at least the number of patches, so that offsets tell them apart",
)
PATCH_GRID = _patch_subject("patch grid", _whole_period)
PATCH_STATUS = _patch_subject("patch status", not_negative)


def _index(inputs: Inputs, row: Term, col: Term) -> Term:
    return spec.patch_index(inputs["width"], inputs["patch_h"], inputs["patch_w"], row, col)


def _extents(inputs: Inputs) -> tuple[Term, Term, Term]:
    return inputs["channels"], inputs["height"], inputs["width"]


def _blocks(inputs: Inputs, row: Term, col: Term) -> tuple[Term, Term]:
    pairs = ((row, inputs["patch_h"]), (col, inputs["patch_w"]))
    rows, columns = (floordiv(place, width, positive=True) for place, width in pairs)
    return rows, columns


def _grid(inputs: Inputs) -> tuple[Term, Term]:
    rows, columns = (spec.ceil_div(inputs[a], inputs[b]) for a, b in (("height", "patch_h"), ("width", "patch_w")))
    return rows, columns


def _range_steps(inputs: Inputs, hidden: Any) -> list[Claim]:
    """Each claim is proved with the one before as its premise."""

    def block(_: Term, row: Term, col: Term) -> Term:
        return inside(_blocks(inputs, row, col), _grid(inputs))

    def within(_: Term, row: Term, col: Term) -> Term:
        return conj(_index(inputs, row, col) >= 0, _index(inputs, row, col) < _patches(inputs))

    def found(*pixel: Term) -> Term:
        return iff(hidden.at(pixel), same(inputs["offset"], _index(inputs, *pixel[1:])))

    def below(*pixel: Term) -> Term:
        return conj(within(*pixel), inputs["offset"] < _patches(inputs))

    return [
        Claim("the patch of a pixel is in the grid of ceil(extent / patch) patches", _extents(inputs), block),
        Claim("0 <= patch_index < the number of patches", _extents(inputs), within, block),
        Claim(
            "of the offsets below the number of patches, exactly patch_index hides it", _extents(inputs), found, below
        ),
    ]


def _in_range(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    return _range_steps(inputs, observed[0])


def _same_patch(inputs: Inputs, row: Term, col: Term, row2: Term, col2: Term) -> Term:
    pairs = zip(_blocks(inputs, row, col), _blocks(inputs, row2, col2), strict=True)
    return conj(*(same(a, b) for a, b in pairs))


def _injective(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    hidden = observed[0]
    steps = _range_steps(inputs, hidden)

    def both(c: Term, *places: Term) -> Term:
        """Both are hidden, so both have the offset as index; its quotient by the columns is each one's row."""
        pixels = (c, *places[:2]), (c, *places[2:])
        known_of_each = [claim.holds(*pixel) for claim in (steps[0], steps[2]) for pixel in pixels]
        rows = (_blocks(inputs, *pixel[1:])[0] for pixel in pixels)
        division = lemmas.quotient(inputs["offset"], _grid(inputs)[1], *rows)
        status = (hidden.at(pixel) for pixel in pixels)
        return conj(inputs["offset"] < _patches(inputs), *known_of_each, division, *status)

    return [
        *steps,
        Claim(
            "pixels that one offset below the number of patches hides lie in one patch",
            (*_extents(inputs), inputs["height"], inputs["width"]),
            lambda c, *places: _same_patch(inputs, *places),
            both,
        ),
    ]


def _one_status(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    hidden = observed[0]
    return [
        Claim(
            "pixels of one patch, in whatever channels, are hidden together",
            (*_extents(inputs), *_extents(inputs)),
            lambda c, row, col, c2, row2, col2: iff(hidden.at((c, row, col)), hidden.at((c2, row2, col2))),
            lambda c, row, col, c2, row2, col2: conj(
                inputs["patch_h"] != 0, inputs["patch_w"] != 0, _same_patch(inputs, row, col, row2, col2)
            ),
        )
    ]


def _beside(subject: Subject, blocks: Callable[..., tuple[int | None, ...]]) -> Subject:
    """The subject's program observed beside the block mask that it should equal."""

    def observe(program: Any, x: Tensor, *rest: int) -> Sequence[Tensor]:
        *widths, period, offset = rest
        mask = BlockMask(blocks(*widths), period, offset).mask(tuple(x.shape[1:]), device=x.device)
        return [program(x, *rest), mask.apply(x)]

    return replace(subject, name=f"{subject.name} beside blocks", observe=observe)


VECTOR_BLOCKS = _beside(VECTOR, lambda: (1,))
IMAGE_BLOCKS = _beside(IMAGES, lambda patch_h, patch_w: (None, patch_h, patch_w))


def _equal_kernels(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    return same_tensors("both masks", observed[0], observed[1])


THEOREMS = (
    theorem(
        "patch_index_in_range",
        "masks",
        "0 <= patch_index < ceil(height / patch_h) * ceil(width / patch_w), and of the offsets below that bound "
        "exactly patch_index hides the pixel.",
        vp.PatchMask,
        lambda: [Case(PATCH_GRID, _in_range)],
        mutants.PATCH_HEIGHT_FOR_WIDTH,
        mutants.PATCH_FLOOR_FOR_CEILING,
        hypotheses=_WHOLE_PERIOD,
    ),
    theorem(
        "patch_index_injective_on_patches",
        "masks",
        "Pixels with one patch_index lie in one patch: row // patch_h and col // patch_w agree.",
        vp.PatchMask,
        lambda: [Case(PATCH_GRID, _injective)],
        mutants.PATCH_HEIGHT_FOR_WIDTH,
        mutants.PATCH_FLOOR_FOR_CEILING,
        hypotheses=_WHOLE_PERIOD,
    ),
    theorem(
        "pixels_of_one_patch_share_status",
        "masks",
        "Pixels of one patch are hidden together, in every channel, for every period and offset.",
        vp.PatchMask,
        lambda: [Case(PATCH_STATUS, _one_status)],
        mutants.PATCH_SWAPPED,
        mutants.PATCH_CHANNEL_OFFSET,
    ),
    theorem(
        "vector_mask_eq_block_mask",
        "masks",
        "vector_mae_mask(x, period, offset) has the bits of BlockMask((1,), period, offset) applied to x.",
        vp.vector_mae_mask,
        lambda: [Case(VECTOR_BLOCKS, _equal_kernels)],
        mutants.VECTOR_OFFSET_NOT_REDUCED,
    ),
    theorem(
        "image_mask_eq_block_mask",
        "masks",
        "image_patch_mask(x, ...) has the bits of BlockMask((None, patch_h, patch_w), ...) applied to x.",
        vp.image_patch_mask,
        lambda: [Case(IMAGE_BLOCKS, _equal_kernels)],
        mutants.IMAGE_FLOOR_FOR_CEILING,
    ),
)
