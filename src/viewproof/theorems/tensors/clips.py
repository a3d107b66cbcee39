"""Clips as images whose patches are tubelets, and patches that a student does not read."""

from collections.abc import Sequence
from typing import Any

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.models.clips import fold_clips, unfold_clips
from viewproof.models.patches import hide_patches
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, ite, mod, one_if, product, same
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import lemmas, spec
from viewproof.theorems.tensors.case import Claims, Inputs, Observed, Subject
from viewproof.theorems.tensors.theorem import theorem

SIZES = "all sizes from 0; every float32 bit pattern; 64-bit indices do not overflow"
WHOLE = ("the tubelets' frames divide the clip's, and the clip is not empty",)


def _positive(inputs: Inputs) -> list[Term]:
    (parts,) = inputs.values()
    return [extent > 0 for extent in parts.shape[1:]]


def _folded(program: Any, parts: Tensor) -> Sequence[Tensor]:
    n, channels, times, frames, height, width = parts.shape
    return [program(parts.reshape(n, channels, times * frames, height, width), frames)]


# The extents of a clip are products, which torch divides exactly where it is told the factors.
CLIPS = Subject("clips", {"parts": TensorInput(6)}, _folded, _positive)


def frames_beside_each_other(x: Tensor, frames: int) -> Tensor:
    """Frame t of the clip is not in tubelet t // frames but in t % times."""
    n, c, t, h, w = x.shape
    return x.reshape(n, c, frames, t // frames, h, w).reshape(n, c * frames, t // frames * h, w)


def frames_before_channels(x: Tensor, frames: int) -> Tensor:
    """A tubelet's frames are the outer index of the folded channels."""
    n, c, t, h, w = x.shape
    split = x.reshape(n, c, t // frames, frames, h, w)
    return split.permute(0, 3, 1, 2, 4, 5).reshape(n, frames * c, t // frames * h, w)


@theorem(
    fold_clips,
    layer="methods",
    on=CLIPS,
    mutants=[frames_beside_each_other, frames_before_channels],
    given=WHOLE,
    scope=SIZES,
)
def folded_clip_get_eq_clip(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """fold_clips(x, f)[n, k, r, w] is x[n, k // f, (r // height) * f + k % f, r % height, w], bit for bit."""
    parts, folded = inputs["parts"], observed[0]
    samples, channels, times, frames, height, width = parts.shape
    shape = samples, channels * frames, times * height, width
    yield "f channels for one, and the frames of a time below those before", spec.same_shape(folded.shape, shape)
    for n, c, t, f, h, w in facts.each(parts.shape):
        place = n, facts.join(c, frames, f), facts.join(t, height, h), w
        yield "each value at its place", agree(folded.at(place), parts.at((n, c, t, f, h, w)), parts.dtype)


def _unfolded(program: Any, folded: Tensor) -> Sequence[Tensor]:
    _, channels, frames, times, height, width = folded.shape
    return [program(folded.flatten(1), (channels, times * frames, height, width), frames)]


FOLDED_CLIPS = Subject("folded clips", {"folded": TensorInput(6)}, _unfolded, _positive)


def order_kept(x: Tensor, clip_shape: Sequence[int], frames: int) -> Tensor:
    """The folded order is taken for the clip's."""
    return x


def frames_taken_for_times(x: Tensor, clip_shape: Sequence[int], frames: int) -> Tensor:
    """The folded values are read as those of ``frames`` times."""
    return unfold_clips(x, clip_shape, clip_shape[1] // frames)


@theorem(
    unfold_clips,
    layer="methods",
    on=FOLDED_CLIPS,
    mutants=[order_kept, frames_taken_for_times],
    given=WHOLE,
    scope=SIZES,
)
def unfold_clips_is_inverse_of_fold_clips(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """unfold_clips moves the value of channel c, frame f of a tubelet, time t, row h, column w from the place (c, f, t,
    h, w), where fold_clips puts it, back to (c, t, f, h, w), its place in the clip; bit for bit.
    """
    folded, unfolded = inputs["folded"], observed[0]
    samples, channels, frames, times, height, width = folded.shape
    extents = channels, times, frames, height, width
    yield "the same number of values", spec.same_shape(unfolded.shape, (samples, product(extents)))
    for n, c, t, f, h, w in facts.each((samples, *extents)):
        place = n, spec.flat_index(facts, (c, t, f, h, w), extents)
        yield "each value at its place", agree(unfolded.at(place), folded.at((n, c, f, t, h, w)), folded.dtype)


def _tubelets(program: Any, parts: Tensor) -> Sequence[Tensor]:
    n, channels, times, frames, rows, patch_h, cols, patch_w = parts.shape
    clips = parts.reshape(n, channels, times * frames, rows * patch_h, cols * patch_w)
    return [vp.patchify(program(clips, frames), patch_h, patch_w)]


TUBELETS = Subject("tubelets", {"parts": TensorInput(8)}, _tubelets, _positive)


def frames_next_to_each_other(x: Tensor, frames: int) -> Tensor:
    """The times are laid out along the rows of patches instead of below each other."""
    n, c, t, h, w = x.shape
    split = x.reshape(n, c, t // frames, frames, h, w).permute(0, 1, 3, 4, 2, 5)
    return split.reshape(n, c * frames, h * (t // frames), w)


@theorem(
    fold_clips,
    layer="methods",
    on=TUBELETS,
    mutants=[frames_beside_each_other, frames_next_to_each_other],
    given=("the tubelets divide the clip, which is not empty",),
    scope=SIZES,
)
def tubelet_index_is_row_major_in_time_row_column(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Patch (t * rows + r) * cols + c of a folded clip holds the values of the tubelet at time t, row r, column c, and
    none else.
    """
    parts, patches = inputs["parts"], observed[0]
    samples, channels, times, frames, rows, patch_h, cols, patch_w = parts.shape
    shape = samples, times * rows * cols, patch_h * patch_w * (channels * frames)
    yield "a patch for each tubelet, a value for each of its pixels", spec.same_shape(patches.shape, shape)
    for n, channel, t, f, r, i, c, j in facts.each(parts.shape):
        index = facts.join(facts.join(t, rows, r), cols, c)
        value = facts.join(facts.join(i, patch_w, j), channels * frames, facts.join(channel, frames, f))
        goal = agree(patches.at((n, index, value)), parts.at((n, channel, t, f, r, i, c, j)), parts.dtype)
        premises: list[Term] = []
        if not facts.replayed:
            # A row of the folded clip lies in frame t, row r * patch_h + i; each step with those before as premises.
            height, row, folded_row = rows * patch_h, r * patch_h + i, (t * rows + r) * patch_h + i
            steps = {
                "a row of a tubelet is one of its frame": conj(row >= 0, row < height),
                "a row of the folded clip lies in its frame": same(folded_row / height, t),
                "at its row": same(folded_row % height, row),
                "which lies in its tubelet": same(row / patch_h, r),
                "at its row of it": same(row % patch_h, i),
            }
            lemma = {"a row of the folded clip lies in its frame": lemmas.quotient(folded_row, height, t)}
            for step, holds in steps.items():
                with facts.given(*premises, lemma.get(step, True)):
                    yield step, holds
                premises.append(holds)
        with facts.given(*premises):
            yield "each value of a tubelet is one of its patch", goal


def _hidden(program: Any, embedded: Tensor, words: Tensor, token: Tensor) -> Sequence[Tensor]:
    return [program(embedded, words % embedded.shape[1], token)]


def _one_token(inputs: Inputs) -> list[Term]:
    (samples, patches, dim), words = inputs["embedded"].shape, inputs["words"].shape
    return [patches > 0, same(words[0], samples), same(inputs["token"].shape[0], dim)]


EMBEDDED = Subject(
    "embedded patches",
    {"embedded": TensorInput(3), "words": TensorInput(2, torch.int64), "token": TensorInput(1)},
    _hidden,
    _one_token,
)


def token_added(embedded: Tensor, places: Tensor, token: Tensor) -> Tensor:
    """The token is added to what is there."""
    return torch.where(hide_patches(torch.ones_like(embedded), places, 0 * token) == 0, embedded + token, embedded)


def visible_hidden(embedded: Tensor, places: Tensor, token: Tensor) -> Tensor:
    """The other patches are replaced."""
    hidden = torch.zeros(embedded.shape[:2], dtype=torch.bool).scatter(1, places, True)
    return torch.where(hidden[:, :, None], embedded, token)


@theorem(
    hide_patches,
    layer="methods",
    on=EMBEDDED,
    mutants=[token_added, visible_hidden],
    given=("places are indices of patches", "there is a patch"),
    scope=SIZES,
)
def hidden_patches_are_the_mask_token(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Of each sample's embedded patches those in its hidden places are exactly the mask token, whatever stood there,
    and the others their very bits.
    """
    embedded, words, token = inputs["embedded"], inputs["words"], inputs["token"]
    patches = embedded.shape[1]
    yield "the shape of what was embedded", spec.same_shape(observed[0].shape, embedded.shape)
    for n, i, d in facts.each(embedded.shape):

        def is_place(p: Term, n: Term = n, i: Term = i) -> Any:
            return one_if(same(mod(words.at((n, p)), patches, positive=True), i))

        hidden = facts.sum(words.shape[1], is_place, z3.IntVal(0)) > 0
        value = ite(hidden, token.at((d,)), embedded.at((n, i, d)))
        yield (
            "the token where a place is hidden, else what was there",
            agree(observed[0].at((n, i, d)), value, embedded.dtype),
        )
