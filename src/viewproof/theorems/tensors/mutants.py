"""Programs with one plausible bug each: every theorem names those that it must refute."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import viewproof as vp
from viewproof.masks import BlockMask, Mask, PatchMask, Rule, Sample
from viewproof.objectives.rows import row_predictive_contract
from viewproof.theorems.registry import Mutant


def apply_block_mask(x: Tensor, rule: BlockMask) -> Tensor:
    """What the block theorems are about: the view that the rule's sample shows the model."""
    return rule.mask(tuple(x.shape[1:]), device=x.device).apply(x)


def _vector_hidden(x: Tensor, period: int, offset: int) -> Tensor:
    return vp.VectorMask(period, offset).mask(tuple(x.shape[1:]), device=x.device).hidden


def _image_hidden(x: Tensor, patch_h: int, patch_w: int, period: int, offset: int) -> Tensor:
    return PatchMask(patch_h, patch_w, period, offset).mask(tuple(x.shape[1:]), device=x.device).hidden


def _select(hidden: Tensor, x: Tensor) -> Tensor:
    return torch.where(hidden, x.new_zeros(()), x)


def _offset_not_reduced(data_dim: int, period: int, offset: int) -> Mask:
    if period == 0:
        return Mask.empty((data_dim,))
    return Mask(torch.arange(data_dim) % period == offset)


def _not_reduced(x: Tensor, period: int, offset: int) -> Tensor:
    return _select(_offset_not_reduced(x.shape[1], period, offset).hidden, x)


@dataclass(frozen=True)
class _Swapped(PatchMask):
    def _blocks(self) -> tuple[int | None, ...]:
        return (None, self.patch_w, self.patch_h)


@dataclass(frozen=True)
class _Indexed(PatchMask):
    """Patches counted with another number of patches in a row."""

    def per_row(self, height: int, width: int) -> int:
        raise NotImplementedError

    def hidden(self, *grids: Tensor) -> Tensor | bool:
        if self.period == 0 or self.patch_h == 0 or self.patch_w == 0:
            return False
        _, row, col = grids
        per_row = self.per_row(row.shape[1], col.shape[2])
        index = (row // self.patch_h) * per_row + col // self.patch_w
        return index % self.period == self.offset % self.period


@dataclass(frozen=True)
class _HeightForWidth(_Indexed):
    def per_row(self, height: int, width: int) -> int:
        return (height + self.patch_w - 1) // self.patch_w


@dataclass(frozen=True)
class _FloorForCeiling(_Indexed):
    def per_row(self, height: int, width: int) -> int:
        return width // self.patch_w


@dataclass(frozen=True)
class _ChannelOffset(PatchMask):
    def hidden(self, *grids: Tensor) -> Tensor | bool:
        if self.period == 0 or self.patch_h == 0 or self.patch_w == 0:
            return False
        channel, row, col = grids
        per_row = (col.shape[2] + self.patch_w - 1) // self.patch_w
        index = (row // self.patch_h) * per_row + col // self.patch_w + channel
        return index % self.period == self.offset % self.period


def _apply(rule: Callable[..., Rule]) -> Callable[..., Tensor]:
    return lambda x, *sizes: rule(*sizes).mask(tuple(x.shape[1:])).apply(x)


def _sample(rule: Callable[..., Rule]) -> Callable[..., Sample]:
    return lambda x, *sizes: rule(*sizes[:4]).sample(x, sizes[4])


def _column_major(x: Tensor, rule: BlockMask) -> Tensor:
    backwards = BlockMask(rule.blocks[::-1], rule.period, rule.offset)
    hidden = backwards.mask(tuple(x.shape[:0:-1])).hidden
    return _select(hidden.permute(*reversed(range(hidden.dim()))), x)


HIDDEN_OFFSET_NOT_REDUCED = Mutant(
    "offset not reduced", "j % period is compared with offset itself", _offset_not_reduced
)
HIDDEN_WRONG_POLARITY = Mutant(
    "wrong polarity",
    "True = visible",
    lambda data_dim, period, offset: ~vp.vector_mae_hidden_mask(data_dim, period, offset),
)
VECTOR_OFFSET_NOT_REDUCED = Mutant("offset not reduced", "j % period is compared with offset itself", _not_reduced)
VECTOR_WRONG_POLARITY = Mutant(
    "wrong polarity", "visible features are zeroed", lambda x, p, o: _select(~_vector_hidden(x, p, o), x)
)
VECTOR_MULTIPLICATION = Mutant(
    "multiplication for selection",
    "x * keep: NaN survives, -1 becomes -0.0",
    lambda x, p, o: x * ~_vector_hidden(x, p, o),
)
VECTOR_ADDS_ZERO = Mutant(
    "adds zero", "selected + 0.0 turns a visible -0.0 into +0.0", lambda x, p, o: vp.vector_mae_mask(x, p, o) + 0.0
)
IMAGE_WRONG_POLARITY = Mutant(
    "wrong polarity", "visible pixels are zeroed", lambda x, *rest: _select(~_image_hidden(x, *rest), x)
)
IMAGE_MULTIPLICATION = Mutant("multiplication for selection", "x * keep", lambda x, *rest: x * ~_image_hidden(x, *rest))
IMAGE_HEIGHT_FOR_WIDTH = Mutant("height for width", "patches per row from the height", _apply(_HeightForWidth))
IMAGE_FLOOR_FOR_CEILING = Mutant("floor for ceiling", "a ragged last patch is not counted", _apply(_FloorForCeiling))
IMAGE_SWAPPED_PATCH = Mutant(
    "swapped patch sizes", "patch_w for patch_h", lambda x, h, w, p, o: vp.image_patch_mask(x, w, h, p, o)
)
BLOCK_COLUMN_MAJOR = Mutant("column-major blocks", "block coordinates flattened last axis first", _column_major)
BLOCK_MULTIPLICATION = Mutant(
    "multiplication for selection", "x * keep", lambda x, rule: x * ~rule.mask(tuple(x.shape[1:])).hidden
)
BLOCK_ALL_HIDDEN = Mutant("everything hidden", "no coordinate stays visible", lambda x, rule: torch.zeros_like(x))


def _with(sample: Sample, **changed: Any) -> Sample:
    return replace(sample, **changed)


def _vector(x: Tensor, period: int, offset: int) -> Sample:
    return vp.vector_mae_sample(x, period, offset)


def _image(x: Tensor, *rest: int) -> Sample:
    return vp.image_patch_mae_sample(x, *rest)


def _flat(x: Tensor, length: int) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3])[:, :length]


def _cut_after_masking(x: Tensor, data_dim: int, period: int, offset: int) -> Sample:
    hidden = (vp.vector_mae_hidden_mask(x.shape[-1], period, offset).hidden).expand(x.shape[1:])
    flat = _select(hidden, x).reshape(x.shape[0], math.prod(x.shape[1:]))
    whole = _vector(vp.flatten_batch_prefix(x, data_dim), period, offset)
    return _with(whole, x=flat[:, :data_dim])


def _suffix(x: Tensor, *rest: int) -> Sample:
    whole = x.shape[1] * x.shape[2] * x.shape[3]
    return _with(_image(x, *rest), y=_flat(x, whole)[:, whole - rest[4] :])


def _last_axis(x: Tensor, data_dim: int, period: int, offset: int) -> Sample:
    return vp.tensor_prefix_mae_sample(x.transpose(1, -1), data_dim, period, offset)


SAMPLE_MULTIPLICATION = Mutant(
    "multiplication for selection",
    "the view is x * keep",
    lambda x, p, o: _with(_vector(x, p, o), x=x * ~_vector_hidden(x, p, o)),
)
SAMPLE_INPUT_UNMASKED = Mutant("input not masked", "the view is x", lambda x, p, o: _with(_vector(x, p, o), x=x))
SAMPLE_TARGET_FROM_MASKED = Mutant(
    "target from the masked tensor", "y is the view", lambda x, p, o: _with(_vector(x, p, o), y=_vector(x, p, o).x)
)
SAMPLE_ROWS_ROLLED = Mutant(
    "rows rolled", "row n predicts row n - 1", lambda x, p, o: _with(_vector(x, p, o), y=x.roll(1, 0))
)
IMAGE_SAMPLE_MULTIPLICATION = Mutant(
    "multiplication for selection",
    "the view is x * keep",
    lambda x, *rest: _with(_image(x, *rest), x=x * ~_image_hidden(x, *rest[:4])),
)
IMAGE_SAMPLE_FLOOR = Mutant("floor for ceiling", "a ragged last patch is not counted", _sample(_FloorForCeiling))
IMAGE_SAMPLE_HEIGHT = Mutant("height for width", "patches per row from the height", _sample(_HeightForWidth))
IMAGE_SAMPLE_TARGET_FROM_MASKED = Mutant(
    "target from the masked tensor",
    "y is a prefix of the view",
    lambda x, *rest: _with(_image(x, *rest), y=_flat(_image(x, *rest).x, rest[4])),
)
IMAGE_SAMPLE_CHANNELS_LAST = Mutant(
    "channels last",
    "y is flattened with channels innermost",
    lambda x, *rest: _with(_image(x, *rest), y=_flat(x.permute(0, 2, 3, 1), rest[4])),
)
IMAGE_SAMPLE_SUFFIX = Mutant("suffix for prefix", "y is the last entries of each row", _suffix)
PREFIX_CUT_AFTER_MASKING = Mutant(
    "prefix cut after masking",
    "the last axis is masked first, the flattened rows are cut afterwards",
    _cut_after_masking,
)
PREFIX_ALONG_LAST_AXIS = Mutant("axes swapped", "rows are flattened column-major", _last_axis)


def selection(x: Tensor, period: int, offset: int) -> Tensor:
    """The vector mask itself."""
    return vp.vector_mae_mask(x, period, offset)


def _neighbour(mask: Mask, x: Tensor) -> Tensor:
    hidden = mask.hidden if mask.per_sample else mask.hidden.expand(x.shape)
    return torch.where(hidden, x.roll(1, 0), x)


def _by_batch_size(rule: Any, x: Tensor) -> Sample:
    return replace(rule, offset=rule.offset + x.shape[0]).sample(x)  # type: ignore[no-any-return]


def _from_batch(rule: Any, x: Tensor) -> Sample:
    sample: Sample = rule.sample(x)
    hidden = rule.mask(tuple(x.shape[1:])).hidden
    return _with(sample, x=torch.where(hidden, x[-1:], x))


def _floor_count(rule: Rule, shape: tuple[int, ...]) -> Mask:
    if isinstance(rule, PatchMask):
        return _FloorForCeiling(rule.patch_h, rule.patch_w, rule.period, rule.offset).mask(shape)
    return rule.mask(shape)


PATCH_HEIGHT_FOR_WIDTH = Mutant("height for width", "patches per row from the height", _HeightForWidth)
PATCH_FLOOR_FOR_CEILING = Mutant("floor for ceiling", "a ragged last patch is not counted", _FloorForCeiling)
PATCH_SWAPPED = Mutant("swapped patch sizes", "patch_w for patch_h", _Swapped)
PATCH_CHANNEL_OFFSET = Mutant("channel in the index", "every channel hides other patches", _ChannelOffset)
FILL_FROM_NEIGHBOUR = Mutant("filled from a neighbour", "hidden values come from the previous sample", _neighbour)
COMPLEMENT_IS_ITSELF = Mutant("not negated", "the complement is the mask", lambda mask: mask)
COMPLEMENT_IS_ALL = Mutant(
    "everything", "the complement selects all", lambda mask: Mask(torch.ones_like(mask.hidden), mask.per_sample)
)
OFFSET_BY_BATCH_SIZE = Mutant("offset by batch size", "the mask depends on how many samples there are", _by_batch_size)
FILL_FROM_BATCH = Mutant("filled from the batch", "hidden values come from the last sample", _from_batch)
COUNT_COMPLEMENT = Mutant("complement counted", "visible features are counted", lambda rule, shape: ~rule.mask(shape))
COUNT_FLOOR = Mutant("floor for ceiling", "a ragged last patch is not counted", _floor_count)


def _complement_loss(prediction: Tensor, sample: Sample, reduction: Any = "mean", over: Any = "hidden") -> Tensor:
    visible = sample if over == "all" else replace(sample, mask=~sample.mask)
    count = sample.selection(over).hidden.sum() * (1 if sample.mask.per_sample else prediction.shape[0])
    total = vp.masked_mse(prediction, visible, reduction="sum", over=over)
    return total / count if reduction == "mean" else total


def _mean_over_all(prediction: Tensor, sample: Sample, reduction: Any = "mean", over: Any = "hidden") -> Tensor:
    if reduction != "mean":
        return vp.masked_mse(prediction, sample, reduction, over)
    return vp.masked_mse(prediction, sample, "sum", over) / (prediction.shape[0] * prediction.shape[1])


def _sum_of_differences(prediction: Tensor, sample: Sample, reduction: Any = "mean", over: Any = "hidden") -> Tensor:
    gap = vp.masked_l1(prediction, sample, reduction, over)
    return gap * gap if reduction == "mean" else gap


def _weighted(prediction: Tensor, sample: Sample, reduction: Any = "mean", over: Any = "hidden") -> Tensor:
    terms = (prediction - sample.y).square() * sample.mask.hidden
    return terms.sum()


_OTHERS = (vp.masked_l1, vp.masked_smooth_l1)
LOSS_OVER_COMPLEMENT = Mutant(
    "loss over the complement", "visible coordinates are summed", (_complement_loss, *_OTHERS)
)
LOSS_MEAN_OVER_ALL = Mutant("mean over all", "divided by all coordinates", (_mean_over_all, *_OTHERS))
LOSS_SUM_OF_DIFFERENCES = Mutant("absolute for squared", "another distance", (_sum_of_differences, *_OTHERS))
LOSS_WEIGHTED = Mutant("multiplication for selection", "error**2 * mask: a NaN off the mask", (_weighted, *_OTHERS))


def _row_target_masked(x: Tensor, yhat: Tensor, row: int, period: int, offset: int, patch_loss: Any) -> Any:
    sample = _vector(x, period, offset)
    return row_predictive_contract(_with(sample, y=sample.x), yhat, row, patch_loss)


def _row_visible(x: Tensor, yhat: Tensor, row: int, period: int, offset: int, patch_loss: Any) -> Any:
    sample = _vector(x, period, offset)
    return row_predictive_contract(_with(sample, mask=~sample.mask), yhat, row, patch_loss)


def _image_row_first(x: Tensor, yhat: Tensor, row: int, h: int, w: int, p: int, o: int, loss: Any, *rest: Any) -> Any:
    return vp.image_patch_mae_row_predictive_contract(x, yhat, 0, h, w, p, o, loss, *rest)


def _block_row_guard(x: Tensor, yhat: Tensor, row: int, blocks: Any, p: int, o: int, loss: Any, length: int) -> Any:
    contract = vp.block_mae_row_predictive_contract(x, yhat, row, blocks, p, o, loss, length)
    return vp.with_geometry_guard(contract, 1)


ROW_TARGET_MASKED = Mutant("target from the masked tensor", "the row predicts zeros", _row_target_masked)
ROW_VISIBLE = Mutant("loss over the complement", "the visible indices are listed", _row_visible)
IMAGE_ROW_FIRST = Mutant("first row", "every contract is about row 0", _image_row_first)
BLOCK_ROW_GUARD = Mutant("guard not zero", "the contract carries a guard", _block_row_guard)


def _tokens_visible(x: Tensor, tokens: Tensor, row: int, h: int, w: int, p: int, o: int, loss: Any) -> Any:
    contract = vp.objectives.image_patch_token_row_predictive_contract(x, tokens, row, h, w, p, o, loss)
    if isinstance(contract.target_idxs, list):
        visible = vp.masks.visible_patch_idxs(PatchMask(h, w, p, o).mask(tuple(x.shape[1:])), h, w)
        return replace(contract, target_idxs=visible)
    return contract


def _tokens_channels_first(x: Tensor, tokens: Tensor, row: int, h: int, w: int, p: int, o: int, loss: Any) -> Any:
    return vp.objectives.image_patch_token_row_predictive_contract(x.flip(1), tokens, row, h, w, p, o, loss)


TOKENS_VISIBLE = Mutant("loss over the complement", "the visible patches are listed", _tokens_visible)
TOKENS_CHANNELS_FIRST = Mutant(
    "channels reversed", "targets hold the channels in another order", _tokens_channels_first
)
