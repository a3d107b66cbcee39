"""Masks as programs: what is hidden is exactly ``+0.0``, what is visible is the very same bits."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import viewproof as vp
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, iff, neg
from viewproof.symbolic.values import agree
from viewproof.theorems.registry import Mutant, Theorem
from viewproof.theorems.tensors import mutants, spec, subjects
from viewproof.theorems.tensors.case import Case, Claim, Inputs
from viewproof.theorems.tensors.decide import prover, replayer

ALL_SIZES = (
    "all sizes from 0, all periods, offsets and widths from 0 (every path captured, coverage checked); every float32 "
    "bit pattern; 64-bit indices do not overflow"
)
CAPTURED = "torch.export graph, its operators' coordinate meanings, Z3"


def theorem(
    name: str,
    layer: str,
    statement: str,
    program: Any,
    cases: Callable[[], Iterable[Case]],
    *mutated: Mutant,
    hypotheses: Sequence[str] = ("period, offset and widths are non-negative",),
    scope: str = ALL_SIZES,
    method: str = CAPTURED,
) -> Theorem:
    """A theorem whose cases are decided on the captured program."""
    return Theorem(
        name, layer, statement, tuple(hypotheses), scope, method, program, prover(cases), replayer(cases), mutated
    )


Rule = Callable[[Inputs, Sequence[Term]], Term]
"""Whether the specification hides a coordinate (batch axis first)."""


def vector_rule(inputs: Inputs, place: Sequence[Term]) -> Term:
    """The vector mask of the specification."""
    return spec.vector_hidden(place[1], inputs["period"], inputs["offset"])


def image_rule(inputs: Inputs, place: Sequence[Term]) -> Term:
    """The image mask of the specification."""
    patch_h, patch_w, period, offset = (inputs[name] for name in ("patch_h", "patch_w", "period", "offset"))
    return spec.image_hidden(inputs["x"].shape[3], patch_h, patch_w, period, offset, place[2], place[3])


def block_rule(pattern: Sequence[bool]) -> Rule:
    """The block mask of the specification, for one pattern of participating axes."""

    def rule(inputs: Inputs, place: Sequence[Term]) -> Term:
        widths = [inputs[f"block_{axis}"] if part else None for axis, part in enumerate(pattern)]
        extents = inputs["x"].shape[1:]
        return spec.block_hidden(widths, extents, inputs["period"], inputs["offset"], place[1:])

    return rule


def if_selected(rule: Rule) -> Callable[..., list[Claim]]:
    """Every value is ``+0.0`` if hidden, else the input's; and the shape is the input's."""

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        x, out = inputs["x"], observed[0]

        def holds(*place: Term) -> Term:
            return agree(out.at(place), spec.selected(facts, rule(inputs, place), x, place), x.dtype)

        return [shape_kept(x, out), Claim("the value is 0 if hidden, else the input's", x.shape, holds)]

    return claims


def hidden_zero(rule: Rule) -> Callable[..., list[Claim]]:
    """Every hidden value is ``+0.0``."""

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        x, out = inputs["x"], observed[0]
        return [
            shape_kept(x, out),
            Claim(
                "a hidden value is +0.0",
                x.shape,
                lambda *place: spec.is_zero(facts, out, place),
                lambda *place: rule(inputs, place),
            ),
        ]

    return claims


def visible_input(rule: Rule) -> Callable[..., list[Claim]]:
    """Every visible value is the input's, bit for bit."""

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        x, out = inputs["x"], observed[0]
        return [
            shape_kept(x, out),
            Claim(
                "a visible value is the input's bits",
                x.shape,
                lambda *place: agree(out.at(place), x.at(place), x.dtype),
                lambda *place: neg(rule(inputs, place)),
            ),
        ]

    return claims


def shape_kept(x: SymTensor, out: SymTensor) -> Claim:
    """The output has the input's shape."""
    return Claim("the shape is kept", (), lambda: spec.same_shape(x.shape, out.shape))


def _selected_iff(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    hidden, size = observed[0], inputs["data_dim"]
    return [
        Claim("the mask lies over data_dim features", (), lambda: spec.same_shape(hidden.shape, (size,))),
        Claim(
            "feature j is selected iff the rule hides it",
            (size,),
            lambda j: iff(hidden.at((j,)), spec.vector_hidden(j, inputs["period"], inputs["offset"])),
        ),
    ]


# Ranks 1 and 2: every choice of participating axes. Ranks 3 and 4: all axes, all but one, none.
PATTERNS = [
    pattern
    for rank in range(1, 5)
    for pattern in itertools.product((True, False), repeat=rank)
    if rank < 3 or pattern.count(False) in (0, 1, rank)
]
BLOCK_SCOPE = (
    "ranks 1 to 4; of ranks 1 and 2 every choice of participating axes, of 3 and 4 all axes, all but one, none; "
    f"{ALL_SIZES}"
)


def block_cases(form: Callable[[Rule], Callable[..., list[Claim]]]) -> list[Case]:
    """Every pattern of participating axes, ranks 1 to 4; nothing is hidden where no axis takes part."""
    kept = [p for p in PATTERNS if any(p) or form is not hidden_zero]
    return [Case(subjects.blocks(p), form(block_rule(p))) for p in kept]


THEOREMS = (
    theorem(
        "vector_mae_hidden_mask_selected_iff",
        "masks",
        "vector_mae_hidden_mask selects j iff period != 0 and j % period == offset % period.",
        vp.vector_mae_hidden_mask,
        lambda: [Case(subjects.HIDDEN_MASK, _selected_iff)],
        mutants.HIDDEN_OFFSET_NOT_REDUCED,
        mutants.HIDDEN_WRONG_POLARITY,
    ),
    *(
        theorem(name, "masks", statement, vp.vector_mae_mask, cases, *mutated)
        for name, statement, cases, mutated in (
            (
                "vector_mae_mask_get_eq_if_selected_hidden",
                "vector_mae_mask(x)[n, j] is +0.0 if j is hidden, else the bits of x[n, j].",
                lambda: [Case(subjects.VECTOR, if_selected(vector_rule))],
                (mutants.VECTOR_OFFSET_NOT_REDUCED, mutants.VECTOR_MULTIPLICATION),
            ),
            (
                "vector_mae_mask_hidden_get_eq_zero",
                "A hidden feature of vector_mae_mask(x) is exactly +0.0, whatever x holds.",
                lambda: [Case(subjects.VECTOR, hidden_zero(vector_rule))],
                (mutants.VECTOR_MULTIPLICATION, mutants.VECTOR_WRONG_POLARITY),
            ),
            (
                "vector_mae_mask_visible_get_eq_input",
                "A visible feature of vector_mae_mask(x) is the very bits of x.",
                lambda: [Case(subjects.VECTOR, visible_input(vector_rule))],
                (mutants.VECTOR_WRONG_POLARITY, mutants.VECTOR_ADDS_ZERO),
            ),
        )
    ),
    *(
        theorem(name, "masks", statement, vp.image_patch_mask, cases, *mutated)
        for name, statement, cases, mutated in (
            (
                "image_patch_mask_pixel_eq_if_hidden",
                "image_patch_mask(x)[b, c, row, col] is +0.0 if the pixel's patch is hidden, else the bits of x.",
                lambda: [Case(subjects.IMAGES, if_selected(image_rule))],
                (mutants.IMAGE_HEIGHT_FOR_WIDTH, mutants.IMAGE_FLOOR_FOR_CEILING),
            ),
            (
                "image_patch_mask_hidden_pixel_eq_zero",
                "A hidden pixel of image_patch_mask(x) is exactly +0.0, whatever x holds.",
                lambda: [Case(subjects.IMAGES, hidden_zero(image_rule))],
                (mutants.IMAGE_MULTIPLICATION, mutants.IMAGE_FLOOR_FOR_CEILING),
            ),
            (
                "image_patch_mask_visible_pixel_eq_input",
                "A visible pixel of image_patch_mask(x) is the very bits of x.",
                lambda: [Case(subjects.IMAGES, visible_input(image_rule))],
                (mutants.IMAGE_WRONG_POLARITY, mutants.IMAGE_SWAPPED_PATCH),
            ),
        )
    ),
    *(
        theorem(
            name, "masks", statement, mutants.apply_block_mask, partial(block_cases, form), *mutated, scope=BLOCK_SCOPE
        )
        for name, statement, form, mutated in (
            (
                "block_mask_apply_scalar_at",
                "BlockMask(...).sample(x).x at a coordinate is +0.0 if its block is hidden, else the bits of x.",
                if_selected,
                (mutants.BLOCK_COLUMN_MAJOR, mutants.BLOCK_MULTIPLICATION),
            ),
            (
                "block_mask_hidden_scalar_eq_zero",
                "A scalar in a hidden block is exactly +0.0 after masking, whatever x holds.",
                hidden_zero,
                (mutants.BLOCK_MULTIPLICATION,),
            ),
            (
                "block_mask_visible_scalar_eq_input",
                "A scalar in a visible block is the very bits of x after masking.",
                visible_input,
                (mutants.BLOCK_ALL_HIDDEN,),
            ),
        )
    ),
)
