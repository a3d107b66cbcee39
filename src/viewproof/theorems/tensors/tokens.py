"""Decoders that predict patch tokens: the same objective, listed by patches."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.objectives import rows
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, iff, inside, mod, product, same
from viewproof.theorems.registry import Outcome, Theorem
from viewproof.theorems.tensors import lemmas, mutants, spec
from viewproof.theorems.tensors.bridges import Listed, distance
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.decide import decide, replayer
from viewproof.theorems.tensors.masks import ALL_SIZES, CAPTURED
from viewproof.theorems.tensors.subjects import INT, PATCHES, not_negative
from viewproof.verdict import Verdict


def _pixels(target: Tensor, prediction: Tensor) -> Tensor:
    """A patch's distance: that of its pixels, summed."""
    return distance(target, prediction).sum()


def _observe(
    program: Any, x: Tensor, tokens: Tensor, row: int, k: int, grid_h: int, grid_w: int, *rest: int
) -> Sequence[Tensor]:
    with patch.object(rows, "hidden_patch_idxs", lambda mask, *_: Listed(mask.hidden)):
        contract = program(x, tokens, row, *rest, _pixels)
        idxs: Any = contract.target_idxs
    picture = vp.unpatchify(tokens, *x.shape[1:], *rest[:2])
    return [vp.predictive_view_objective(idxs.replaced(contract, [k])), picture, idxs.flat]


def _replay(program: Any, x: Tensor, tokens: Tensor, row: int, k: int, *rest: int) -> Sequence[Tensor]:
    """The same beside the distance of the patch's pixels, cut out of the two pictures."""
    observed = _observe(program, x, tokens, row, k, *rest)
    _, columns, h, w = rest[:4]
    corner = (k // columns) * h, (k % columns) * w
    cut = (row, slice(None), slice(corner[0], corner[0] + h), slice(corner[1], corner[1] + w))
    return [*observed, distance(x[cut], observed[1][cut]).sum()]


def _fitting(inputs: Inputs) -> list[Term]:
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


def _split(facts: Facts, a: Term, b: Term) -> tuple[Term, Term]:
    return facts.floordiv(a, b), facts.mod(a, b)


def _divided(a: Term, b: Term) -> tuple[Term, Term]:
    return floordiv(a, b, positive=True), mod(a, b, positive=True)


def _claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    objective, picture, hidden = observed[:3]
    x, row, k = inputs["x"], inputs["row"], inputs["k"]
    values, patches = inputs["yhat"].shape[2], inputs["yhat"].shape[1]
    function = z3.Function("distance", *[z3.RealSort()] * 3)

    def summand(v: Term) -> Any:
        place = (row, *_pixel(inputs, facts, k, v))
        return function(x.at(place), picture.at(place))

    def by_pixel() -> Term:
        total = observed[3].at(()) if facts.rounding else facts.sum(values, summand, z3.RealVal(0))
        return facts.equal(objective.at(()), total)

    def in_grid(patch_index: Term, v: Term) -> Term:
        h, w, channels = inputs["patch_h"], inputs["patch_w"], x.shape[1]
        inner = floordiv(v, channels, positive=True)
        grid = lemmas.below(patch_index, inputs["grid_h"], inputs["grid_w"])
        return conj(grid, lemmas.below(v, h * w, channels), lemmas.below(inner, h, w))

    def back(patch_index: Term, v: Term) -> Term:
        channel, r, c = _pixel(inputs, facts, patch_index, v)
        return conj(*(same(a, b) for a, b in zip(_value(inputs, facts, channel, r, c), (patch_index, v), strict=True)))

    def found(*pixel: Term) -> Term:
        return conj(
            *(same(a, b) for a, b in zip(_pixel(inputs, facts, *_value(inputs, facts, *pixel)), pixel, strict=True))
        )

    def status(channel: Term, r: Term, c: Term) -> Term:
        index = spec.patch_index(x.shape[3], inputs["patch_h"], inputs["patch_w"], r, c)
        return iff(hidden.at((channel, r, c)), spec.in_class(index, inputs["period"], inputs["offset"]))

    def onto(patch_index: Term, v: Term) -> Term:
        return inside(_pixel(inputs, facts, patch_index, v), x.shape[1:])

    return [
        Claim("the objective of a patch is the sum over its pixels", (), by_pixel),
        Claim("a pixel is hidden iff its patch is in the class", x.shape[1:], status),
        Claim("a value of a patch is a pixel", (patches, values), onto, in_grid),
        Claim("which lies in that patch, at that place", (patches, values), back, in_grid),
        Claim("and every pixel is a value of its patch", x.shape[1:], found),
    ]


TOKENS = Subject(
    "patch tokens",
    {"x": TensorInput(4), "yhat": TensorInput(3), "row": INT, "k": INT, "grid_h": INT, "grid_w": INT, **PATCHES},
    _observe,
    _fitting,
    "real",
    replay=_replay,
)


def _cases() -> list[Case]:
    return [Case(TOKENS, _claims)]


_RANGE = "grids up to 3 x 3, patches up to 2 x 2, periods 0 to 3, offsets 0, 1, 4"


def _lists() -> Iterator[dict[str, Any]]:
    sizes = itertools.product((2,), (1, 2, 3), (1, 2, 3), (1, 2), (1, 2), range(4), (0, 1, 4))
    names = ("channels", "grid_h", "grid_w", "patch_h", "patch_w", "period", "offset")
    return (dict(zip(names, values, strict=True)) for values in sizes)


def _lists_right(program: Any, at: Mapping[str, Any]) -> bool:
    """Whether the contract lists, ascending, exactly the patches in the class."""
    h, w, count = at["patch_h"], at["patch_w"], at["grid_h"] * at["grid_w"]
    x = torch.zeros(1, at["channels"], at["grid_h"] * h, at["grid_w"] * w)
    tokens = torch.zeros(1, count, h * w * at["channels"])
    contract = program(x, tokens, 0, h, w, at["period"], at["offset"], _pixels)
    return list(contract.target_idxs) == [k for k in range(count) if spec.in_class(k, at["period"], at["offset"])]


def _prove(program: Any) -> Outcome:
    wrong = next((at for at in _lists() if not _lists_right(program, at)), None)
    if wrong is not None:
        return Outcome(Verdict.REFUTED, "the listed patches are not the hidden ones", {"case": "list", **wrong})
    return decide(_cases(), program)


def _holds(program: Any, witness: Mapping[str, Any]) -> bool:
    return _lists_right(program, witness) if witness["case"] == "list" else replayer(_cases)(program, witness)


THEOREMS = (
    Theorem(
        "patch_token_objective_eq_hidden_pixel_objective",
        "bridges",
        "A per-pixel distance summed over the hidden patches' pixels equals its sum over the hidden pixel coordinates.",
        ("the patches divide the image, which is not empty", "tokens are [N, patches, patch_h * patch_w * C]"),
        f"any distance, real numbers; {ALL_SIZES}; the list that hidden_patch_idxs returns: exhausted over {_RANGE}",
        f"{CAPTURED}; (patch, value) -> pixel is a bijection onto the hidden pixels, so both sums list the same terms",
        rows.image_patch_token_row_predictive_contract,
        _prove,
        _holds,
        (mutants.TOKENS_VISIBLE, mutants.TOKENS_CHANNELS_FIRST),
    ),
)
