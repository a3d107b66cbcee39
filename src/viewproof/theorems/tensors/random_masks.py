"""Random masks made of what was chosen: padding, blocks, rectangles, corrupted tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from viewproof.masks.random import blocks, blockwise, draws, rule, tokens
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, neg, same
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, TensorCase, not_negative, result
from viewproof.theorems.tensors.random_choices import SIZES
from viewproof.theorems.tensors.random_words import SHIFT
from viewproof.theorems.tensors.theorem import theorem

INTS = TensorInput(1, torch.int64)


def one_too_many(hidden: Tensor, lengths: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """The first place of the padding counts as data."""
    return rule.without_padding(hidden, lengths + 1, shape, axis)


def order_of_lengths(hidden: Tensor, lengths: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """The lengths of the samples in another order."""
    return rule.without_padding(hidden, lengths.flip(0), shape, axis)


def padded_case(rank: int, axis: int) -> TensorCase:
    """Data of this rank with this axis padded: a mask that was drawn, and what is left of it."""

    def observe(program: Any, hidden: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        return [program(hidden, lengths, hidden.shape[1:], axis)]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        hidden, lengths, out = inputs["hidden"], inputs["lengths"], observed[0]
        yield "the shape is kept", spec.same_shape(out.shape, hidden.shape)
        for place in facts.each(hidden.shape):
            expected = conj(hidden.at(place), place[axis + 1] < lengths.at(place[:1]))
            yield "hidden iff it was and lies before the sample's length", iff(out.at(place), expected)

    signature = {"hidden": TensorInput(rank + 1, torch.bool), "lengths": INTS}
    name = f"rank {rank}, padded axis {axis}"
    subject = Subject(name, signature, observe, lambda i: [same(i["hidden"].shape[0], i["lengths"].shape[0])])
    return TensorCase(subject, claims)


@theorem(
    rule.without_padding,
    mutants=[one_too_many, order_of_lengths],
    given=("one length a sample",),
    scope=f"any mask of any rule, data of ranks 1 to 3, every axis; {SIZES}",
)
def padding_is_never_hidden() -> list[TensorCase]:
    """With lengths, a coordinate is hidden iff the rule hides it and it is not padding."""
    return [padded_case(rank, axis) for rank in range(1, 4) for axis in range(rank)]


def _grid_of_the_image(inputs: Inputs) -> list[Term]:
    _, channels, rows, cols = inputs["cells"].shape
    return [
        *not_negative(inputs),
        inputs["patch_h"] > 0,
        inputs["patch_w"] > 0,
        channels == 1,
        rows == spec.ceil_div(inputs["height"], inputs["patch_h"]),
        cols == spec.ceil_div(inputs["width"], inputs["patch_w"]),
    ]


CELLS = Subject(
    "cells of a grid",
    {"cells": TensorInput(4, torch.bool), "height": INT, "width": INT, "patch_h": INT, "patch_w": INT},
    lambda program, cells, height, width, patch_h, patch_w: [
        program(cells, (1, height, width), (None, patch_h, patch_w))
    ],
    _grid_of_the_image,
)


def shifted(cells: Tensor, shape: Sequence[int], widths: Sequence[int]) -> Tensor:
    """Blocks begin one pixel early."""
    for axis in (2, 1):
        index = (torch.arange(shape[axis]) + 1) // widths[axis]
        cells = cells.index_select(axis + 1, index.clamp(max=cells.shape[axis + 1] - 1))
    return cells


def sizes_swapped(cells: Tensor, shape: Sequence[int], widths: Sequence[int]) -> Tensor:
    """patch_w rows and patch_h columns a patch."""
    return blocks.spread(cells, shape, (None, widths[2], widths[1]))


@theorem(
    blocks.spread,
    on=CELLS,
    mutants=[shifted, sizes_swapped],
    given=("patch sizes are positive, the grid is the image's",),
    scope=f"any choice of cells; {SIZES}",
)
def every_coordinate_has_the_status_of_its_block(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A pixel is hidden iff its patch is, in every channel and frame, ragged patches included."""
    cells = inputs["cells"]
    for n, row, col in facts.each((cells.shape[0], inputs["height"], inputs["width"])):
        patch_row = floordiv(row, inputs["patch_h"], positive=True)
        patch_col = floordiv(col, inputs["patch_w"], positive=True)
        status = iff(observed[0].at((n, 0, row, col)), cells.at((n, 0, patch_row, patch_col)))
        yield "a coordinate has the status of the block that holds it", status


BOUND = Subject(
    "words and a bound",
    {"words": INTS, "bound": INT},
    lambda program, words, bound: [program(words % 2**32, bound)],
    lambda inputs: [inputs["bound"] > 0, inputs["bound"] < 2**31],
    meanings=SHIFT,
)


def last_place_left_out(words: Tensor, bound: int) -> Tensor:
    """One place too few, as randint(0, height - h) has."""
    return words * (bound - 1) >> 32


def one_place_too_many(words: Tensor, bound: int) -> Tensor:
    """The bound itself is drawn."""
    return words * (bound + 1) >> 32


@theorem(
    draws.below,
    on=BOUND,
    mutants=[last_place_left_out, one_place_too_many],
    given=("0 < bound < 2**31, words from 0 to 2**32 - 1",),
    scope="all bounds and words",
)
def every_place_of_a_block_is_reached(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A bounded integer is from 0 to bound - 1, and each of these is drawn by some word: a block reaches the last row
    and column.
    """
    words, bound, out = inputs["words"], inputs["bound"], observed[0]

    def least_word(v: Term) -> Term:
        return floordiv(v * 2**32 + bound - 1, bound, positive=True)

    for place in facts.each(words.shape):
        yield "the integer is from 0 to bound - 1", conj(out.at(place) >= 0, out.at(place) < bound)
    for (v,) in facts.each([bound]):
        yield "each such integer has a word", conj(least_word(v) >= 0, least_word(v) < 2**32)
    for n, v in facts.each((*words.shape, bound)):
        with facts.given(same(words.at((n,)) % 2**32, least_word(v))):
            yield "that gives it", same(out.at((n,)), v)


CORNERS = Subject(
    "corners",
    {"top": INTS, "left": INTS, "height": INT, "width": INT, "rows": INT, "cols": INT},
    lambda program, top, left, height, width, rows, cols: [program(top, left, (height, width), (rows, cols))],
    lambda inputs: [*not_negative(inputs), same(inputs["top"].shape[0], inputs["left"].shape[0])],
)


def height_for_width(top: Tensor, left: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Height and width are swapped."""
    return blockwise.rectangle(top, left, size[::-1], grid)


@theorem(
    blockwise.rectangle,
    on=CORNERS,
    mutants=[height_for_width],
    given=("sizes and extents are non-negative",),
    scope=f"every corner; {SIZES}",
)
def rectangle_holds_its_cells(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A block of that corner and size holds exactly the cells between its corners."""
    extents = inputs["top"].shape[0], inputs["rows"], inputs["cols"]
    yield "one grid a corner", spec.same_shape(observed[0].shape, extents)
    for n, row, col in facts.each(extents):
        top, left = inputs["top"].at((n,)), inputs["left"].at((n,))
        ends = row < top + inputs["height"], col < left + inputs["width"]
        inside = iff(observed[0].at((n, row, col)), conj(row >= top, col >= left, *ends))
        yield "a cell lies inside iff it is at most height - 1 below and width - 1 right of the corner", inside


def _one_shape(inputs: Inputs) -> list[Term]:
    shapes = [inputs[name].shape for name in ("x", "roles", "other")]
    return [*not_negative(inputs), *(same(a, b) for other in shapes[1:] for a, b in zip(shapes[0], other, strict=True))]


_TOKENS = TensorInput(2, torch.int64)
TOKENS = Subject("tokens", {"x": _TOKENS, "roles": _TOKENS, "other": _TOKENS, "mask_id": INT}, result, _one_shape)


def kept_tokens_replaced(x: Tensor, roles: Tensor, other: Tensor, mask_id: int) -> Tensor:
    """Every selected token is replaced or masked."""
    return tokens.corrupt(x, torch.where(roles == 1, 2, roles), other, mask_id)


@theorem(tokens.corrupt, on=TOKENS, mutants=[kept_tokens_replaced], given=("one shape for all",), scope=SIZES)
def tokens_off_the_mask_are_unchanged(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A token that is neither masked nor replaced is the original; a masked one is the mask id."""
    x, out = inputs["x"], observed[0]
    for place in facts.each(x.shape):
        replaced, masked = (same(inputs["roles"].at(place), role) for role in (2, 3))
        with facts.given(conj(neg(replaced), neg(masked))):
            yield "a token of another role than 2 and 3 is unchanged", same(out.at(place), x.at(place))
        with facts.given(masked):
            yield "a token of role 3 is the mask id", same(out.at(place), inputs["mask_id"])
