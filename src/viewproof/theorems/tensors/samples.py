"""Samples as programs: the model sees the mask's view and predicts the untouched source."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

import viewproof as vp
from viewproof.masks import Sample
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, iff, product
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import masks, spec
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
from viewproof.theorems.tensors.theorem import ALL_SIZES, NOT_NEGATIVE, theorem


def _parts(sample: Sample) -> Sequence[Tensor]:
    assert sample.view is not None
    return sample.x, sample.y, sample.mask.hidden, sample.view.hidden


def _vector_sample(program: Any, x: Tensor, period: int, offset: int) -> Sequence[Tensor]:
    return [*_parts(program(x, period, offset)), vp.vector_mae_mask(x, period, offset)]


def _image_sample(program: Any, x: Tensor, *sizes: int) -> Sequence[Tensor]:
    recon_dim = sizes[4]
    mask, prefix = vp.image_patch_mask(x, *sizes[:4]), vp.flatten_batch_prefix(x, recon_dim)
    return [*_parts(program(x, *sizes)), mask, prefix]


def prefix_fits(inputs: Inputs) -> list[Term]:
    """The hypothesis that the prefix is no longer than the flattened source."""
    length = inputs["recon_dim"] if "recon_dim" in inputs else inputs["data_dim"]
    return [*not_negative(inputs), length <= product(inputs["x"].shape[1:])]


VECTOR_SAMPLE = Subject("vector sample", {"x": TensorInput(2), **PERIODIC}, _vector_sample, not_negative)
IMAGE_SAMPLE = Subject("image sample", {"x": TensorInput(4), **PATCHES, "recon_dim": INT}, _image_sample, prefix_fits)
PREFIX = "recon_dim is at most the flattened size (a larger one raises InvalidArgument)"

vector_theorem = partial(theorem, vp.vector_mae_sample, layer="samples", on=VECTOR_SAMPLE)
image_theorem = partial(
    theorem, vp.image_patch_mae_sample, layer="samples", on=IMAGE_SAMPLE, given=(NOT_NEGATIVE, PREFIX)
)


def _sample(x: Tensor, *sizes: int) -> Sample:
    """The real sample, of a vector if there are two sizes."""
    return vp.vector_mae_sample(x, *sizes) if len(sizes) == 2 else vp.image_patch_mae_sample(x, *sizes)


def multiplication_for_selection(x: Tensor, *sizes: int) -> Sample:
    """The view is x * keep."""
    return replace(_sample(x, *sizes), x=x * ~masks.hidden_by(x, *sizes[:4]))


def target_from_the_masked_tensor(x: Tensor, *sizes: int) -> Sample:
    """y is the view, or a prefix of it."""
    sample = _sample(x, *sizes)
    return replace(sample, y=vp.flatten_batch_prefix(sample.x, sample.y.shape[1]))


def rows_rolled(x: Tensor, period: int, offset: int) -> Sample:
    """Row n predicts row n - 1."""
    return replace(_sample(x, period, offset), y=x.roll(1, 0))


def input_not_masked(x: Tensor, period: int, offset: int) -> Sample:
    """The view is x."""
    return replace(_sample(x, period, offset), x=x)


@vector_theorem(mutants=[multiplication_for_selection])
def vector_mae_sample_input_eq_mask(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """vector_mae_sample(x).x has the bits of vector_mae_mask(x)."""
    return same_tensors("input and mask", observed[0], observed[4], facts)


@vector_theorem(mutants=[target_from_the_masked_tensor])
def vector_mae_sample_target_eq_source(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """vector_mae_sample(x).y is x, bit for bit."""
    return same_tensors("the target is the source", observed[1], inputs["x"], facts)


@vector_theorem(mutants=[rows_rolled, target_from_the_masked_tensor])
def vector_mae_sample_target_row_eq_source_row(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Row n of vector_mae_sample(x).y is row n of x."""
    return same_tensors("row n of the target is row n of x", observed[1], inputs["x"], facts)


@vector_theorem(mutants=[multiplication_for_selection, input_not_masked])
def vector_mae_sample_input_hidden_get_eq_zero(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A hidden feature of vector_mae_sample(x).x is exactly +0.0."""
    return masks.hidden_is_zero(masks.vector_hides, inputs, observed[0], facts)


def floor_for_ceiling(x: Tensor, *sizes: int) -> Sample:
    """A ragged last patch is not counted."""
    return masks.FloorForCeiling(*sizes[:4]).sample(x, sizes[4])


def height_for_width(x: Tensor, *sizes: int) -> Sample:
    """Patches per row from the height."""
    return masks.HeightForWidth(*sizes[:4]).sample(x, sizes[4])


def channels_last(x: Tensor, *sizes: int) -> Sample:
    """y is flattened with channels innermost."""
    return replace(_sample(x, *sizes), y=vp.flatten_batch_prefix(x.permute(0, 2, 3, 1), sizes[4]))


def suffix_for_prefix(x: Tensor, *sizes: int) -> Sample:
    """y is the last entries of each row."""
    flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
    return replace(_sample(x, *sizes), y=flat[:, flat.shape[1] - sizes[4] :])


@image_theorem(mutants=[multiplication_for_selection])
def image_patch_mae_sample_input_eq_image_patch_mask(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """image_patch_mae_sample(x).x has the bits of image_patch_mask(x)."""
    return same_tensors("input and mask", observed[0], observed[4], facts)


@image_theorem(mutants=[floor_for_ceiling])
def image_patch_mae_sample_input_hidden_pixel_eq_zero(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A hidden pixel of image_patch_mae_sample(x).x is exactly +0.0."""
    return masks.hidden_is_zero(masks.image_hides, inputs, observed[0], facts)


@image_theorem(mutants=[height_for_width])
def image_patch_mae_sample_input_visible_pixel_eq_source(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """A visible pixel of image_patch_mae_sample(x).x is the very bits of x."""
    return masks.visible_is_input(masks.image_hides, inputs, observed[0], facts)


@image_theorem(mutants=[target_from_the_masked_tensor])
def image_patch_mae_sample_target_eq_flatten_batch_prefix(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """image_patch_mae_sample(x).y has the bits of flatten_batch_prefix(x, recon_dim)."""
    return same_tensors("target and prefix", observed[1], observed[5], facts)


@image_theorem(mutants=[channels_last, suffix_for_prefix])
def image_patch_mae_sample_target_row_eq_flattened_source_row(
    inputs: Inputs, observed: Observed, facts: Facts
) -> Claims:
    """Entry (c * H + row) * W + col of a target row is the original pixel (c, row, col), and the mask's entry there is
    that pixel's status.
    """
    x, (_, y, hidden, *_), length = inputs["x"], observed, inputs["recon_dim"]
    yield "recon_dim entries a row", spec.same_shape(y.shape, (x.shape[0], length))
    for place in facts.each(x.shape):
        position = spec.flat_index(facts, place[1:], x.shape[1:])
        with facts.given(position < length):
            value = agree(y.at((place[0], position)), x.at(place), x.dtype)
            yield "y[n, (c * height + row) * width + col] is x[n, c, row, col]", value
            yield "the mask there is the pixel's", iff(hidden.at((position,)), masks.image_hides(inputs, place))


def _beside_the_vector_sample(program: Any, x: Tensor, data_dim: int, period: int, offset: int) -> Sequence[Tensor]:
    prefix = vp.flatten_batch_prefix(x, data_dim)
    of_prefix = vp.vector_mae_sample(prefix, period, offset)
    return [*_parts(program(x, data_dim, period, offset))[:3], *_parts(of_prefix)[:3]]


PREFIX_SAMPLES = [
    Subject(
        f"prefix sample of rank {rank}",
        {"x": TensorInput(rank), "data_dim": INT, **PERIODIC},
        _beside_the_vector_sample,
        prefix_fits,
    )
    for rank in (2, 3, 4, 5)
]


def prefix_cut_after_masking(x: Tensor, data_dim: int, period: int, offset: int) -> Sample:
    """The last axis is masked first, the flattened rows are cut afterwards."""
    hidden = vp.vector_mae_hidden_mask(x.shape[-1], period, offset).hidden.expand(x.shape[1:])
    flat = masks.select(hidden, x).reshape(x.shape[0], math.prod(x.shape[1:]))
    whole = vp.vector_mae_sample(vp.flatten_batch_prefix(x, data_dim), period, offset)
    return replace(whole, x=flat[:, :data_dim])


def axes_swapped(x: Tensor, data_dim: int, period: int, offset: int) -> Sample:
    """Rows are flattened column-major."""
    return vp.tensor_prefix_mae_sample(x.transpose(1, -1), data_dim, period, offset)


@theorem(
    vp.tensor_prefix_mae_sample,
    layer="samples",
    on=PREFIX_SAMPLES,
    mutants=[prefix_cut_after_masking, axes_swapped],
    given=(NOT_NEGATIVE, PREFIX.replace("recon_dim", "data_dim")),
    scope=f"sources of 1 to 4 axes besides the batch; {ALL_SIZES}",
)
def tensor_prefix_mae_sample_eq_vector_sample_of_prefix(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """tensor_prefix_mae_sample(x, d) equals vector_mae_sample of the first d entries of each flattened row: input,
    target and mask.
    """
    x, target = inputs["x"], observed[1]
    for what, of_x, of_prefix in zip(("input", "target", "mask"), observed[:3], observed[3:], strict=True):
        yield from same_tensors(what, of_x, of_prefix, facts)
    # Both samples flatten with the same function: what the prefix is must be said too.
    for place in facts.each(x.shape):
        position = spec.flat_index(facts, place[1:], x.shape[1:])
        with facts.given(position < inputs["data_dim"]):
            value = agree(target.at((place[0], position)), x.at(place), x.dtype)
            yield "the target is the row-major prefix of x", value
