"""Periodic masks over vectors, image patches and blocks of any rank: one kernel, `block_hidden`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, check_shape
from viewproof.masks.rule import Rule
from viewproof.shapes import Int, Shaped, check_tensor


def block_hidden(
    coordinates: Sequence[Any], extents: Sequence[Any], blocks: Sequence[int | None], period: int, offset: int
) -> Any:
    """Whether coordinates lie in the hidden class of blocks.

    Coordinates are integers, or integer tensors that broadcast. Axis ``a`` is grouped into ``ceil(extent / blocks[a])``
    blocks, or takes no part if ``blocks[a]`` is None. Block coordinates are flattened row-major; the class ``offset``
    modulo ``period`` is hidden. A zero period, a zero width or no participating axis hides nothing. Theorems:
    ``patch_index_in_range``, ``patch_index_injective_on_patches``, ``pixels_of_one_patch_share_status``,
    ``hidden_count_eq_closed_form``.

    >>> [block_hidden([j], [5], [1], period=2, offset=3) for j in range(5)]
    [False, True, False, True, False]
    """
    taking_part = [(c, e, k) for c, e, k in zip(coordinates, extents, blocks, strict=True) if k is not None]
    # One question whether any of them is 0, so that a compiler that keeps them symbolic meets one branch.
    if not taking_part or math.prod([period, *(width for _, _, width in taking_part)]) == 0:
        return False
    index: Any = 0
    for coordinate, extent, width in taking_part:
        index = index * ((extent + width - 1) // width) + coordinate // width
    return index % period == offset % period


def check_widths(blocks: Any) -> tuple[int | None, ...]:
    """Return ``blocks`` as a tuple of a width or None per axis, else raise `InvalidArgument`."""
    if isinstance(blocks, str) or not isinstance(blocks, Sequence):
        raise InvalidArgument(f"blocks={blocks!r} must be a tuple with a width or None per axis")
    return tuple(k if k is None else check_count(f"blocks[{i}]", k) for i, k in enumerate(blocks))


class _Periodic(Rule):
    """What the periodic rules share: checked integer fields, and the kernel over their blocks."""

    period: int
    offset: int

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            if field.name != "blocks":
                object.__setattr__(self, field.name, check_count(field.name, getattr(self, field.name)))

    def _blocks(self) -> tuple[int | None, ...]:
        raise NotImplementedError

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """The kernel at every coordinate; the number of axes must be that of the rule."""
        blocks = self._blocks()
        if len(grids) != len(blocks):
            raise InvalidArgument(
                f"{self!r} masks data of {len(blocks)} axes besides the batch, got {len(grids)}; use "
                "VectorMask for [N, D], PatchMask for [N, C, H, W], BlockMask with one entry per axis for the rest"
            )
        extents = [grid.shape[axis] for axis, grid in enumerate(grids)]
        hidden: Tensor | bool = block_hidden(grids, extents, blocks, self.period, self.offset)
        return hidden


@dataclass(frozen=True)
class VectorMask(_Periodic):
    """Hides feature ``j`` of ``[N, D]`` iff ``period != 0`` and ``j % period == offset % period``.

    >>> VectorMask(period=3, offset=1).mask((7,)).selected_idxs
    [1, 4]
    """

    period: int
    offset: int

    def _blocks(self) -> tuple[int | None, ...]:
        return (1,)


@dataclass(frozen=True)
class PatchMask(_Periodic):
    """Hides every ``period``-th patch of images ``[N, C, H, W]``, in all channels.

    Patches are counted row-major; those of index ``offset`` modulo ``period`` are hidden. A ragged last patch is a
    patch. Theorem: ``image_mask_eq_block_mask``.

    >>> PatchMask(patch_h=1, patch_w=2, period=2, offset=1).mask((1, 2, 5)).hidden.int()
    tensor([[[0, 0, 1, 1, 0],
             [1, 1, 0, 0, 1]]], dtype=torch.int32)
    """

    patch_h: int
    patch_w: int
    period: int
    offset: int

    def _blocks(self) -> tuple[int | None, ...]:
        return (None, self.patch_h, self.patch_w)


@dataclass(frozen=True)
class BlockMask(_Periodic):
    """Hides one class modulo ``period`` of the blocks of data of any rank; see `block_hidden`.

    ``blocks`` has one entry per data axis: a width, or None if the axis takes no part.

    >>> BlockMask(blocks=(2, None), period=2, offset=0).mask((5, 1)).hidden[:, 0].int().tolist()
    [1, 1, 0, 0, 1]
    """

    blocks: Sequence[int | None]
    period: int
    offset: int

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "blocks", check_widths(self.blocks))

    def _blocks(self) -> tuple[int | None, ...]:
        return tuple(self.blocks)


@dataclass(frozen=True)
class Rotating(Rule):
    """A periodic rule whose offset moves by one every training step.

    >>> rule = Rotating(VectorMask(period=3, offset=0))
    >>> [rule.at(step).mask((6,)).selected_idxs for step in range(4)]
    [[0, 3], [1, 4], [2, 5], [0, 3]]
    """

    rule: VectorMask | PatchMask | BlockMask

    def __post_init__(self) -> None:
        if not isinstance(self.rule, _Periodic):
            raise InvalidArgument(
                f"rule={self.rule!r} has no period to rotate; pass a VectorMask, PatchMask or BlockMask"
            )

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """The rule of step 0."""
        return self.rule.hidden(*grids)

    def at(self, step: int) -> Rule:
        """The rule with its offset moved on by ``step``, modulo its period."""
        step = check_count("step", step, "take the first offset")
        return replace(self.rule, offset=(self.rule.offset + step) % max(self.rule.period, 1))


def vector_mae_hidden_mask(data_dim: int, period: int, offset: int) -> Mask:
    """The mask of `VectorMask` over ``data_dim`` features.

    Feature ``j`` is hidden iff ``period != 0`` and ``j % period == offset % period``.

    Theorems: ``vector_mae_hidden_mask_selected_iff``, ``vector_mask_eq_block_mask``.

    >>> vector_mae_hidden_mask(5, period=2, offset=0).hidden.tolist()
    [True, False, True, False, True]
    """
    return VectorMask(period, offset).mask((check_count("data_dim", data_dim, "mask no feature"),))


def vector_mae_selected_idxs(data_dim: int, period: int, offset: int) -> list[int]:
    """The hidden feature indices, ascending.

    >>> vector_mae_selected_idxs(7, period=3, offset=4)
    [1, 4]
    """
    return vector_mae_hidden_mask(data_dim, period, offset).selected_idxs


def vector_mae_mask(x: Shaped[Tensor, "batch features"], period: int, offset: int) -> Shaped[Tensor, "batch features"]:
    """``x: [N, D]`` with hidden features ``+0.0`` and visible ones bit for bit.

    Theorems: ``vector_mae_mask_get_eq_if_selected_hidden``, ``vector_mae_mask_hidden_get_eq_zero``,
    ``vector_mae_mask_visible_get_eq_input``.

    >>> import torch
    >>> vector_mae_mask(torch.tensor([[1.0, float("nan"), -3.0]]), period=2, offset=1)
    tensor([[ 1.,  0., -3.]])
    """
    check_tensor("x", x)
    return VectorMask(period, offset).mask(tuple(x.shape[1:]), device=x.device).apply(x)


def image_patch_hidden(
    height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int, row: int, col: int
) -> bool:
    """Whether the pixel at ``row``, ``col`` of a ``height x width`` image is in a hidden patch.

    With ``patches_per_row = (width + patch_w - 1) // patch_w`` and ``patch_index = (row // patch_h) *
    patches_per_row + col // patch_w``: hidden iff ``period``, ``patch_h``, ``patch_w`` are non-zero and
    ``patch_index % period == offset % period``.

    >>> [image_patch_hidden(2, 5, 1, 2, period=2, offset=1, row=1, col=col) for col in range(5)]
    [True, True, False, False, True]
    """
    rule = PatchMask(patch_h, patch_w, period, offset)
    height, width, row, col = check_shape("(height, width, row, col)", (height, width, row, col))
    if row >= height or col >= width:
        raise InvalidArgument(f"pixel ({row}, {col}) is outside a {height} x {width} image")
    return bool(block_hidden((0, row, col), (1, height, width), rule._blocks(), rule.period, rule.offset))


def image_pixel(
    x: Shaped[Tensor, "batch channels height width"], b: int, ch: int, row: int, col: int
) -> Shaped[Tensor, ""]:
    """The scalar of an ``NCHW`` tensor, as a 0-d tensor.

    >>> import torch
    >>> image_pixel(torch.arange(24.0).reshape(1, 2, 3, 4), 0, 1, 2, 3)
    tensor(23.)
    """
    place = check_shape("(b, ch, row, col)", (b, ch, row, col))
    check_tensor("x", x)
    if x.dim() != 4 or any(index >= extent for index, extent in zip(place, x.shape, strict=True)):
        raise InvalidArgument(f"pixel {place} is outside an image batch of shape {tuple(x.shape)}")
    return x[place]


def image_patch_mask(
    x: Shaped[Tensor, "batch channels height width"], patch_h: int, patch_w: int, period: int, offset: int
) -> Shaped[Tensor, "batch channels height width"]:
    """``x: [N, C, H, W]`` with every hidden patch ``+0.0``, in every sample and channel.

    Theorems: ``image_patch_mask_pixel_eq_if_hidden``, ``image_patch_mask_hidden_pixel_eq_zero``,
    ``image_patch_mask_visible_pixel_eq_input``.

    >>> import torch
    >>> image_patch_mask(torch.ones(1, 1, 2, 4), patch_h=2, patch_w=2, period=2, offset=0)[0, 0]
    tensor([[0., 0., 1., 1.],
            [0., 0., 1., 1.]])
    """
    check_tensor("x", x)
    return PatchMask(patch_h, patch_w, period, offset).mask(tuple(x.shape[1:]), device=x.device).apply(x)
