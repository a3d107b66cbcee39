"""Decoders that predict patch tokens: the same objective, listed by patches."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks import Mask, hidden_patch_idxs
from viewproof.objectives import image_patch_token_row_predictive_contract
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, inside, mod, product, same
from viewproof.theorems.tensors import lemmas, spec
from viewproof.theorems.tensors.bridges import EmptyListing, distance
from viewproof.theorems.tensors.case import INT, PATCHES, Claims, Inputs, Observed, Subject, not_negative
from viewproof.theorems.tensors.theorem import ALL_SIZES, CAPTURED, Enumeration, theorem


def _pixel_distance(target: Tensor, prediction: Tensor) -> Tensor:
    """A patch's distance: that of its pixels, summed."""
    return distance(target, prediction).sum()


def _observe(
    program: Any, x: Tensor, tokens: Tensor, row: int, k: int, grid_h: int, grid_w: int, *sizes: int
) -> Sequence[Tensor]:
    """The objective of patch ``k``, the tokens as a picture, and the mask whose patches are listed."""
    listing = EmptyListing()
    contract = program(x, tokens, row, *sizes, _pixel_distance, listing=listing)
    picture = vp.unpatchify(tokens, *x.shape[1:], *sizes[:2])
    return [vp.predictive_view_objective(replace(contract, target_idxs=[k])), picture, listing.mask.hidden]


def _replay(
    program: Any, x: Tensor, tokens: Tensor, row: int, k: int, grid_h: int, grid_w: int, *sizes: int
) -> Sequence[Tensor]:
    """The same beside the distance of the patch's pixels, cut out of the two pictures."""
    observed = _observe(program, x, tokens, row, k, grid_h, grid_w, *sizes)
    patch_h, patch_w = sizes[:2]
    top, left = (k // grid_w) * patch_h, (k % grid_w) * patch_w
    patch = (row, slice(None), slice(top, top + patch_h), slice(left, left + patch_w))
    return [*observed, distance(x[patch], observed[1][patch]).sum()]


def _whole_patches(inputs: Inputs) -> list[Term]:
    """A grid of whole patches; the quotients are stated beside it (lemma row_major_division)."""
    (rows, channels, height, width), (h, w) = inputs["x"].shape, (inputs["patch_h"], inputs["patch_w"])
    grid = inputs["grid_h"], inputs["grid_w"]
    tokens = rows, product(grid), product((h, w, channels))
    whole: list[Term] = []
    for extent, count, size in ((height, grid[0], h), (width, grid[1], w)):
        parts = [same(floordiv(extent, size, positive=True), count), same(floordiv(extent, count, positive=True), size)]
        left = [same(mod(extent, part, positive=True), 0) for part in (size, count)]
        whole += [count > 0, size > 0, same(extent, count * size), *parts, *left]
    fits = [same(a, b) for a, b in zip(inputs["yhat"].shape, tokens, strict=True)]
    return [*not_negative(inputs), channels > 0, *whole, *fits, inputs["row"] < rows, inputs["k"] < tokens[1]]


TOKENS = Subject(
    "patch tokens",
    {"x": TensorInput(4), "yhat": TensorInput(3), "row": INT, "k": INT, "grid_h": INT, "grid_w": INT, **PATCHES},
    _observe,
    _whole_patches,
    arithmetic="real",
    replay=_replay,
)


def _small_grids() -> Iterator[dict[str, int]]:
    names = ("channels", "grid_h", "grid_w", "patch_h", "patch_w", "period", "offset")
    for sizes in itertools.product((2,), (1, 2, 3), (1, 2, 3), (1, 2), (1, 2), range(4), (0, 1, 4)):
        yield dict(zip(names, sizes, strict=True))


def _lists_hidden_patches(program: Any, at: Mapping[str, Any]) -> bool:
    """Whether the contract lists, ascending, exactly the patches in the class."""
    h, w, count = at["patch_h"], at["patch_w"], at["grid_h"] * at["grid_w"]
    x = torch.zeros(1, at["channels"], at["grid_h"] * h, at["grid_w"] * w)
    tokens = torch.zeros(1, count, h * w * at["channels"])
    contract = program(x, tokens, 0, h, w, at["period"], at["offset"], _pixel_distance)
    return list(contract.target_idxs) == [k for k in range(count) if spec.in_class(k, at["period"], at["offset"])]


def _split(facts: Facts, a: Term, b: Term) -> tuple[Term, Term]:
    return facts.floordiv(a, b), facts.mod(a, b)


def _pixel(inputs: Inputs, facts: Facts, k: Term, v: Term) -> tuple[Term, Term, Term]:
    """The pixel that value ``v`` of patch ``k`` is: patches row-major, values in (row, col, channel)."""
    channels, columns = inputs["x"].shape[1], inputs["grid_w"]
    h, w = inputs["patch_h"], inputs["patch_w"]
    inner, channel = _split(facts, v, channels)
    (patch_row, patch_col), (row, col) = _split(facts, k, columns), _split(facts, inner, w)
    return channel, facts.join(patch_row, h, row), facts.join(patch_col, w, col)


def _value(inputs: Inputs, facts: Facts, channel: Term, row: Term, col: Term) -> tuple[Term, Term]:
    """The patch that holds a pixel, and which of its values the pixel is."""
    (patch_row, r), (patch_col, c) = _split(facts, row, inputs["patch_h"]), _split(facts, col, inputs["patch_w"])
    inner = facts.join(r, inputs["patch_w"], c)
    return facts.join(patch_row, inputs["grid_w"], patch_col), facts.join(inner, inputs["x"].shape[1], channel)


def loss_over_the_complement(*arguments: Any, listing: Any = hidden_patch_idxs) -> vp.PredictiveViewContract:
    """The visible patches are listed."""

    def visible(mask: Mask, patch_h: int, patch_w: int) -> Sequence[int]:
        idxs: Sequence[int] = listing(~mask, patch_h, patch_w)
        return idxs

    return image_patch_token_row_predictive_contract(*arguments, listing=visible)


def channels_reversed(x: Tensor, *arguments: Any, listing: Any = hidden_patch_idxs) -> vp.PredictiveViewContract:
    """Targets hold the channels in another order."""
    return image_patch_token_row_predictive_contract(x.flip(1), *arguments, listing=listing)


@theorem(
    image_patch_token_row_predictive_contract,
    layer="bridges",
    on=TOKENS,
    mutants=[loss_over_the_complement, channels_reversed],
    given=("the patches divide the image, which is not empty", "tokens are [N, patches, patch_h * patch_w * C]"),
    scope=f"any distance, real numbers; {ALL_SIZES}; the list that hidden_patch_idxs returns: exhausted over grids up "
    "to 3 x 3, patches up to 2 x 2, periods 0 to 3, offsets 0, 1, 4",
    method=f"{CAPTURED}; (patch, value) -> pixel is a bijection onto the hidden pixels, so both sums list the same "
    "terms",
    enumerated=Enumeration("the listed patches are not the hidden ones", _small_grids, _lists_hidden_patches),
)
def patch_token_objective_eq_hidden_pixel_objective(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Per-pixel distances summed over hidden patches' pixels equal the sum over hidden pixels."""
    objective, picture, hidden = observed[:3]
    x, row, k = inputs["x"], inputs["row"], inputs["k"]
    h, w, channels = inputs["patch_h"], inputs["patch_w"], x.shape[1]
    values, patches = inputs["yhat"].shape[2], inputs["yhat"].shape[1]
    function = z3.Function("distance", *[z3.RealSort()] * 3)

    def summand(v: Term) -> Any:
        place = (row, *_pixel(inputs, facts, k, v))
        return function(x.at(place), picture.at(place))

    # A witness is replayed with the sum itself, in rounded arithmetic.
    total = observed[3].at(()) if facts.replayed else facts.sum(values, summand, z3.RealVal(0))
    yield "the objective of a patch is the sum over its pixels", facts.equal(objective.at(()), total)
    for pixel in facts.each(x.shape[1:]):
        index = spec.patch_index(x.shape[3], h, w, *pixel[1:])
        hidden_iff_in_class = iff(hidden.at(pixel), spec.in_class(index, inputs["period"], inputs["offset"]))
        yield "a pixel is hidden iff its patch is in the class", hidden_iff_in_class
    for place in facts.each((patches, values)):
        patch_index, v = place
        in_grid = lemmas.below(patch_index, inputs["grid_h"], inputs["grid_w"])
        in_patch = lemmas.below(v, h * w, channels), lemmas.below(floordiv(v, channels, positive=True), h, w)
        with facts.given(conj(in_grid, *in_patch)):
            pixel = _pixel(inputs, facts, patch_index, v)
            yield "a value of a patch is a pixel", inside(pixel, x.shape[1:])
            yield "which lies in that patch, at that place", spec.same_shape(_value(inputs, facts, *pixel), place)
    for pixel in facts.each(x.shape[1:]):
        back = _pixel(inputs, facts, *_value(inputs, facts, *pixel))
        yield "and every pixel is a value of its patch", spec.same_shape(back, pixel)
