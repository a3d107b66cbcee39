"""Random masks made of what was chosen: padding, blocks, rectangles, corrupted tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from viewproof.masks.random import blocks, blockwise, draws, rule, tokens
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, neg, same
from viewproof.theorems.registry import Mutant
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.random_choices import SIZES, random_theorem
from viewproof.theorems.tensors.random_words import SHIFT
from viewproof.theorems.tensors.subjects import INT, not_negative


def _padded(rank: int, axis: int) -> Case:
    def matching(inputs: Inputs) -> list[Term]:
        return [same(inputs["hidden"].shape[0], inputs["lengths"].shape[0])]

    def observe(program: Any, hidden: Tensor, lengths: Tensor) -> Sequence[Tensor]:
        return [program(hidden, lengths, hidden.shape[1:], axis)]

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        hidden, lengths = inputs["hidden"], inputs["lengths"]

        def holds(*place: Term) -> Term:
            return iff(observed[0].at(place), conj(hidden.at(place), place[axis + 1] < lengths.at(place[:1])))

        shape = Claim("the shape is kept", (), lambda: spec.same_shape(observed[0].shape, hidden.shape))
        return [shape, Claim("hidden iff it was and lies before the sample's length", hidden.shape, holds)]

    signature = {"hidden": TensorInput(rank + 1, torch.bool), "lengths": TensorInput(1, torch.int64)}
    return Case(Subject(f"rank {rank}, padded axis {axis}", signature, observe, matching), claims)


PADDED = [_padded(rank, axis) for rank in range(1, 4) for axis in range(rank)]


def _grid(inputs: Inputs) -> list[Term]:
    _, channels, rows, cols = inputs["cells"].shape
    positive = [inputs[name] > 0 for name in ("patch_h", "patch_w")]
    pairs = ((rows, "height", "patch_h"), (cols, "width", "patch_w"))
    return [
        *not_negative(inputs),
        *positive,
        channels == 1,
        *(g == spec.ceil_div(inputs[a], inputs[b]) for g, a, b in pairs),
    ]


def _of_block(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    cells, extents = inputs["cells"], (inputs["cells"].shape[0], inputs["height"], inputs["width"])

    def holds(n: Term, row: Term, col: Term) -> Term:
        place = (floordiv(x, inputs[size], positive=True) for x, size in ((row, "patch_h"), (col, "patch_w")))
        return iff(observed[0].at((n, 0, row, col)), cells.at((n, 0, *place)))

    return [Claim("a coordinate has the status of the block that holds it", extents, holds)]


SPREAD = Case(
    Subject(
        "cells of a grid",
        {"cells": TensorInput(4, torch.bool), **dict.fromkeys(("height", "width", "patch_h", "patch_w"), INT)},
        lambda program, cells, height, width, ph, pw: [program(cells, (1, height, width), (None, ph, pw))],
        _grid,
    ),
    _of_block,
)


def _every_place(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    words, bound, out = inputs["words"], inputs["bound"], observed[0]

    def word(n: Term) -> Term:
        return words.at((n,)) % 2**32

    def least(v: Term) -> Term:
        return floordiv(v * 2**32 + bound - 1, bound, positive=True)

    def reached(n: Term, v: Term) -> Term:
        return conj(same(word(n), least(v)))

    return [
        Claim(
            "the integer is from 0 to bound - 1", words.shape, lambda n: conj(out.at((n,)) >= 0, out.at((n,)) < bound)
        ),
        Claim("each such integer has a word", (bound,), lambda v: conj(least(v) >= 0, least(v) < 2**32)),
        Claim("that gives it", (*words.shape, bound), lambda n, v: same(out.at((n,)), v), reached),
    ]


BELOW = Case(
    Subject(
        "words and a bound",
        {"words": TensorInput(1, torch.int64), "bound": INT},
        lambda program, words, bound: [program(words % 2**32, bound)],
        lambda inputs: [inputs["bound"] > 0, inputs["bound"] < 2**31],
    ),
    _every_place,
)


def _in_rectangle(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    rows, cols = inputs["rows"], inputs["cols"]

    def holds(n: Term, row: Term, col: Term) -> Term:
        top, left = inputs["top"].at((n,)), inputs["left"].at((n,))
        ends = row < top + inputs["height"], col < left + inputs["width"]
        return iff(observed[0].at((n, row, col)), conj(row >= top, col >= left, *ends))

    extents = inputs["top"].shape[0], rows, cols
    shape = Claim("one grid a corner", (), lambda: spec.same_shape(observed[0].shape, extents))
    return [
        shape,
        Claim(
            "a cell lies inside iff it is at most height - 1 below and width - 1 right of the corner", extents, holds
        ),
    ]


RECTANGLE = Case(
    Subject(
        "corners",
        {
            **dict.fromkeys(("top", "left"), TensorInput(1, torch.int64)),
            **dict.fromkeys(("height", "width", "rows", "cols"), INT),
        },
        lambda program, top, left, height, width, rows, cols: [program(top, left, (height, width), (rows, cols))],
        lambda inputs: [*not_negative(inputs), same(inputs["top"].shape[0], inputs["left"].shape[0])],
    ),
    _in_rectangle,
)


def _corrupted(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    x, roles, out = inputs["x"], inputs["roles"], observed[0]
    return [
        Claim("a token of another role than 2 and 3 is unchanged", x.shape, lambda *p: same(out.at(p), x.at(p)),
              lambda *p: conj(neg(same(roles.at(p), 2)), neg(same(roles.at(p), 3)))),
        Claim("a token of role 3 is the mask id", x.shape, lambda *p: same(out.at(p), inputs["mask_id"]),
              lambda *p: same(roles.at(p), 3)),
    ]  # fmt: skip


def _one_shape(inputs: Inputs) -> list[Term]:
    shapes = [inputs[name].shape for name in ("x", "roles", "other")]
    return [*not_negative(inputs), *(same(a, b) for other in shapes[1:] for a, b in zip(shapes[0], other, strict=True))]


CORRUPTED = Case(
    Subject(
        "tokens",
        {**dict.fromkeys(("x", "roles", "other"), TensorInput(2, torch.int64)), "mask_id": INT},
        lambda program, *arguments: [program(*arguments)],
        _one_shape,
    ),
    _corrupted,
)


def _at_length(hidden: Tensor, lengths: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    return rule.without_padding(hidden, lengths + 1, shape, axis)


def _shifted(cells: Tensor, shape: Sequence[int], widths: Sequence[int]) -> Tensor:
    for axis in (2, 1):
        index = (torch.arange(shape[axis]) + 1) // widths[axis]
        cells = cells.index_select(axis + 1, index.clamp(max=cells.shape[axis + 1] - 1))
    return cells


THEOREMS = (
    random_theorem(
        "padding_is_never_hidden",
        "With lengths, a coordinate is hidden iff the rule hides it and it lies before the sample's length.",
        rule.without_padding, PADDED, "one length a sample",
        f"any mask of any rule, data of ranks 1 to 3, every axis; {SIZES}",
        Mutant("one too many", "the first place of the padding counts as data", _at_length),
        Mutant("order of lengths", "the lengths of the samples in another order",
               lambda hidden, lengths, shape, axis: rule.without_padding(hidden, lengths.flip(0), shape, axis)),
    ),
    random_theorem(
        "every_coordinate_has_the_status_of_its_block",
        "A pixel is hidden iff its patch is, ragged last patches included: in every channel, at every time of a tube.",
        blocks.spread, [SPREAD], "patch sizes are positive, the grid is the image's", f"any choice of cells; {SIZES}",
        Mutant("shifted", "blocks begin one pixel early", _shifted),
        Mutant("sizes swapped", "patch_w rows and patch_h columns a patch",
               lambda cells, shape, widths: blocks.spread(cells, shape, (None, widths[2], widths[1]))),
    ),
    random_theorem(
        "every_place_of_a_block_is_reached",
        "A bounded integer is from 0 to bound - 1, and each of these is drawn by some word: a block reaches the last "
        "row and column.",
        draws.below, [BELOW], "0 < bound < 2**31, words from 0 to 2**32 - 1", "all bounds and words",
        Mutant("last place left out", "one place too few, as randint(0, height - h) has",
               lambda words, bound: words * (bound - 1) >> 32),
        Mutant("one place too many", "the bound itself is drawn", lambda words, bound: words * (bound + 1) >> 32),
        more=SHIFT,
    ),
    random_theorem(
        "rectangle_holds_its_cells",
        "A block of that corner and size holds exactly the cells between its corners.",
        blockwise.rectangle, [RECTANGLE], "sizes and extents are non-negative", f"every corner; {SIZES}",
        Mutant("height for width", "height and width are swapped",
               lambda top, left, size, grid: blockwise.rectangle(top, left, size[::-1], grid)),
    ),
    random_theorem(
        "tokens_off_the_mask_are_unchanged",
        "A token that is neither masked nor replaced is the original; a masked one is the mask id.",
        tokens.corrupt, [CORRUPTED], "one shape for all", SIZES,
        Mutant("kept tokens replaced", "every selected token is replaced or masked",
               lambda x, roles, other, mask_id: tokens.corrupt(x, torch.where(roles == 1, 2, roles), other, mask_id)),
    ),
)  # fmt: skip
