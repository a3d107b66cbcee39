"""Samples as programs: what the model sees is the mask's view, what it must predict is the untouched source."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import viewproof as vp
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, iff, neg
from viewproof.symbolic.values import agree
from viewproof.theorems.registry import Theorem
from viewproof.theorems.tensors import mutants, spec, subjects
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.masks import ALL_SIZES, Rule, image_rule, theorem, vector_rule

Claims = Callable[[Inputs, Sequence[Any], Facts], list[Claim]]
PREFIX = "recon_dim is at most the flattened size (a larger one raises InvalidArgument)"
NON_NEGATIVE = "period, offset and widths are non-negative"


def equal_tensors(what: str, first: int, second: int) -> Claims:
    """Two of the observed tensors have one shape and the same bits."""

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        return same_tensors(what, observed[first], observed[second])

    return claims


def same_tensors(what: str, a: SymTensor, b: SymTensor) -> list[Claim]:
    """One shape and the same bits at every coordinate."""
    return [
        Claim(f"{what}: the same shape", (), lambda: spec.same_shape(a.shape, b.shape)),
        Claim(f"{what}: the same bits", b.shape, lambda *place: agree(a.at(place), b.at(place), b.dtype)),
    ]


def _cases(subject: Subject, claims: Claims) -> list[Case]:
    return [Case(subject, claims)]


def _source(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    return same_tensors("the target is the source", observed[1], inputs["x"])


def _source_row(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    x, y = inputs["x"], observed[1]
    return [
        Claim("one row a sample", (), lambda: spec.same_shape(y.shape, x.shape)),
        Claim("row n of the target is row n of x", x.shape, lambda n, j: agree(y.at((n, j)), x.at((n, j)), x.dtype)),
    ]


def _input_hidden_zero(rule: Rule) -> Claims:
    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        return [
            Claim(
                "what the model sees is +0.0 where hidden",
                inputs["x"].shape,
                lambda *place: spec.is_zero(facts, observed[0], place),
                lambda *place: rule(inputs, place),
            )
        ]

    return claims


def _input_visible_source(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    x, seen = inputs["x"], observed[0]
    return [
        Claim(
            "what the model sees is the source's bits where visible",
            x.shape,
            lambda *place: agree(seen.at(place), x.at(place), x.dtype),
            lambda *place: neg(image_rule(inputs, place)),
        )
    ]


def _flattened_row(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    """The target and its mask at the row-major position of a pixel are that pixel and its status."""
    x, (_, y, hidden, *_) = inputs["x"], observed
    length = inputs["recon_dim"]

    def position(place: Sequence[Term]) -> Term:
        return spec.flat_index(facts, place[1:], x.shape[1:])

    def within(*place: Term) -> Term:
        return position(place) < length

    return [
        Claim("recon_dim entries a row", (), lambda: spec.same_shape(y.shape, (x.shape[0], length))),
        Claim(
            "y[n, (c * height + row) * width + col] is x[n, c, row, col]",
            x.shape,
            lambda *place: agree(y.at((place[0], position(place))), x.at(place), x.dtype),
            within,
        ),
        Claim(
            "the mask there is the pixel's",
            x.shape,
            lambda *place: iff(hidden.at((position(place),)), image_rule(inputs, place)),
            within,
        ),
    ]


def prefix_claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    """Input, target and mask of the prefix sample are those of the vector sample of the prefix, which is spelt out."""
    x, length = inputs["x"], inputs["data_dim"]
    pairs = zip(("input", "target", "mask"), observed[:3], observed[3:], strict=True)
    claims = [claim for what, a, b in pairs for claim in same_tensors(what, a, b)]

    def entry(*place: Term) -> Term:
        flat = spec.flat_index(facts, place[1:], x.shape[1:])
        return agree(observed[1].at((place[0], flat)), x.at(place), x.dtype)

    def within(*place: Term) -> Term:
        return spec.flat_index(facts, place[1:], x.shape[1:]) < length

    return [*claims, Claim("the target is the row-major prefix of x", x.shape, entry, within)]


_IMAGE = (NON_NEGATIVE, PREFIX)
THEOREMS: tuple[Theorem, ...] = (
    *(
        theorem(name, "samples", statement, vp.vector_mae_sample, partial(_cases, subjects.VECTOR_SAMPLE, claims), *m)
        for name, statement, claims, m in (
            (
                "vector_mae_sample_input_eq_mask",
                "vector_mae_sample(x).x has the bits of vector_mae_mask(x).",
                equal_tensors("input and mask", 0, 4),
                (mutants.SAMPLE_MULTIPLICATION,),
            ),
            (
                "vector_mae_sample_target_eq_source",
                "vector_mae_sample(x).y is x, bit for bit.",
                _source,
                (mutants.SAMPLE_TARGET_FROM_MASKED,),
            ),
            (
                "vector_mae_sample_target_row_eq_source_row",
                "Row n of vector_mae_sample(x).y is row n of x.",
                _source_row,
                (mutants.SAMPLE_ROWS_ROLLED, mutants.SAMPLE_TARGET_FROM_MASKED),
            ),
            (
                "vector_mae_sample_input_hidden_get_eq_zero",
                "A hidden feature of vector_mae_sample(x).x is exactly +0.0.",
                _input_hidden_zero(vector_rule),
                (mutants.SAMPLE_MULTIPLICATION, mutants.SAMPLE_INPUT_UNMASKED),
            ),
        )
    ),
    *(
        theorem(
            name,
            "samples",
            statement,
            vp.image_patch_mae_sample,
            partial(_cases, subjects.IMAGE_SAMPLE, claims),
            *m,
            hypotheses=_IMAGE,
        )
        for name, statement, claims, m in (
            (
                "image_patch_mae_sample_input_eq_image_patch_mask",
                "image_patch_mae_sample(x).x has the bits of image_patch_mask(x).",
                equal_tensors("input and mask", 0, 4),
                (mutants.IMAGE_SAMPLE_MULTIPLICATION,),
            ),
            (
                "image_patch_mae_sample_input_hidden_pixel_eq_zero",
                "A hidden pixel of image_patch_mae_sample(x).x is exactly +0.0.",
                _input_hidden_zero(image_rule),
                (mutants.IMAGE_SAMPLE_FLOOR,),
            ),
            (
                "image_patch_mae_sample_input_visible_pixel_eq_source",
                "A visible pixel of image_patch_mae_sample(x).x is the very bits of x.",
                _input_visible_source,
                (mutants.IMAGE_SAMPLE_HEIGHT,),
            ),
            (
                "image_patch_mae_sample_target_eq_flatten_batch_prefix",
                "image_patch_mae_sample(x).y has the bits of flatten_batch_prefix(x, recon_dim).",
                equal_tensors("target and prefix", 1, 5),
                (mutants.IMAGE_SAMPLE_TARGET_FROM_MASKED,),
            ),
            (
                "image_patch_mae_sample_target_row_eq_flattened_source_row",
                "Entry (c * H + row) * W + col of a target row is the original pixel (c, row, col), and the mask's "
                "entry there is that pixel's status.",
                _flattened_row,
                (mutants.IMAGE_SAMPLE_CHANNELS_LAST, mutants.IMAGE_SAMPLE_SUFFIX),
            ),
        )
    ),
    theorem(
        "tensor_prefix_mae_sample_eq_vector_sample_of_prefix",
        "samples",
        "tensor_prefix_mae_sample(x, d) equals vector_mae_sample of the first d entries of each flattened row: input, "
        "target and mask.",
        vp.tensor_prefix_mae_sample,
        lambda: [Case(subjects.prefix_sample(rank), prefix_claims) for rank in (2, 3, 4, 5)],
        mutants.PREFIX_CUT_AFTER_MASKING,
        mutants.PREFIX_ALONG_LAST_AXIS,
        hypotheses=(NON_NEGATIVE, PREFIX.replace("recon_dim", "data_dim")),
        scope=f"sources of 1 to 4 axes besides the batch; {ALL_SIZES}",
    ),
)
