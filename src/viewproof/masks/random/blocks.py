"""Rules that draw blocks without replacement: features, image patches, tubes through time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, may_keep_tensors
from viewproof.masks.periodic import check_widths
from viewproof.masks.random.draws import Draws, among_first, ranked
from viewproof.masks.random.rule import RandomRule, check_counts
from viewproof.masks.rule import Batch, Rule
from viewproof.shapes import Bool, Int

Blocks = tuple[int | None, ...]


def check_blocks(rule: Rule, shape: Sequence[int], blocks: Blocks, count: int, name: str = "count") -> tuple[int, ...]:
    """The number of blocks along each axis; `InvalidArgument` if ``count`` is more than all.

    An axis has ``ceil(extent / width)`` blocks, or 1 where the width is None.
    """
    if len(shape) != len(blocks):
        raise InvalidArgument(f"{rule!r} masks data of {len(blocks)} axes besides the batch, got {len(shape)}")
    grid = tuple(1 if k is None else -(-extent // k) for extent, k in zip(shape, blocks, strict=True))
    if count > math.prod(grid):
        raise InvalidArgument(
            f"{name}={count} is more than the {math.prod(grid)} patches of data {tuple(shape)} under {rule!r}; "
            f"pass at most {math.prod(grid)}"
        )
    return grid


def spread(cells: Bool[Tensor, "batch *grid"], shape: Sequence[int], blocks: Blocks) -> Bool[Tensor, "batch *shape"]:
    """Each block's value at all its coordinates; extents of 1 on the axes that take no part.

    Theorem: ``every_coordinate_has_the_status_of_its_block``.
    """
    # From the last axis on: the short rows of the grid are copied before the many, long ones of the data.
    for axis in reversed(range(len(blocks))):
        k = blocks[axis]
        if k is not None and k != 1:
            cells = cells.index_select(axis + 1, torch.arange(shape[axis], device=cells.device) // k)
    return cells


class _RandomBlocks(RandomRule):
    """What the rules that draw blocks share."""

    count: int

    def _blocks(self) -> Blocks:
        raise NotImplementedError

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The ``count`` blocks whose words are smallest."""
        grid = check_blocks(self, shape, self._blocks(), self.count)
        cells = among_first(ranked(draws.words(math.prod(grid))), self.count)
        return spread(cells.reshape(cells.shape[0], *grid), shape, self._blocks())


@dataclass(frozen=True)
class RandomPatchMask(_RandomBlocks):
    """Hides exactly ``count`` patches of each image ``[N, C, H, W]``: MAE's masks.

    He et al. 2021; all channels alike. Every set of ``count`` patches is equally likely, up to 2**-32 for each patch; a
    ragged last patch is a patch. The field is a count, not a ratio: `ratio_to_count`. A count above the number of
    patches is an `InvalidArgument`. Theorems: ``exactly_count_places_are_first``,
    ``every_coordinate_has_the_status_of_its_block``.

    >>> ids = torch.tensor([4, 9])
    >>> mask = RandomPatchMask(patch_h=2, patch_w=2, count=3, seed=1).mask((1, 4, 6), sample_ids=ids, epoch=5)
    >>> [mask.row(n).count for n in range(2)]
    [12, 12]
    """

    patch_h: int
    patch_w: int
    count: int
    seed: int = 0

    def _blocks(self) -> Blocks:
        return (None, self.patch_h, self.patch_w)


@dataclass(frozen=True)
class TubeMask(_RandomBlocks):
    """Hides exactly ``count`` patches of each clip ``[N, C, T, H, W]``, the same at all times.

    VideoMAE's tubes: Tong et al. 2022 (arXiv 2203.12602). Theorem: ``every_coordinate_has_the_status_of_its_block``.

    >>> mask = TubeMask(patch_h=2, patch_w=2, count=3).mask((1, 5, 4, 6), sample_ids=torch.arange(2))
    >>> mask.row(0).count, bool((mask.hidden == mask.hidden[:, :, :1]).all())
    (60, True)
    """

    patch_h: int
    patch_w: int
    count: int
    seed: int = 0

    def _blocks(self) -> Blocks:
        return (None, None, self.patch_h, self.patch_w)


@dataclass(frozen=True)
class RandomBlockMask(_RandomBlocks):
    """Hides exactly ``count`` blocks of data of any rank; for ``blocks`` see `BlockMask`.

    >>> RandomBlockMask(blocks=(1,), count=3).mask((10,), sample_ids=torch.arange(2)).hidden.sum(1)
    tensor([3, 3])
    """

    blocks: Sequence[int | None]
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        checked = check_widths(self.blocks)
        if 0 in checked or all(k is None for k in checked):
            raise InvalidArgument(f"blocks={self.blocks!r} must have a positive width on some axis, and no zero")
        object.__setattr__(self, "blocks", checked)

    def _blocks(self) -> Blocks:
        return tuple(self.blocks)


@dataclass(frozen=True)
class SharedRandomPatchMask(Rule):
    """Hides ``count`` random patches of ``[N, C, H, W]``, the same in all images of a batch.

    A function of ``(seed, draw)``: the mask that `RandomPatchMask` of that seed gives sample id ``draw`` in epoch 0.
    ``at(step)`` sets the draw. A count above the number of patches is an `InvalidArgument`.

    >>> rule = SharedRandomPatchMask(patch_h=2, patch_w=2, count=3, seed=1)
    >>> rule.mask((1, 4, 6)).count, rule.at(7).mask((1, 4, 6)).count
    (12, 12)
    """

    patch_h: int
    patch_w: int
    count: int
    seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        check_counts(self, ("count", "seed", "draw"))

    def at(self, step: int) -> Rule:
        """The rule of the draw ``step`` after this one."""
        draw = check_count("draw", self.draw + check_count("step", step, "stay at this draw"), "start from it")
        # A copy, made once a step: the other fields have been checked.
        moved = object.__new__(type(self))
        vars(moved).update(vars(self), draw=draw)
        return moved

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """Whether each pixel's patch is among the ``count`` first in the order of their random words."""
        shape = tuple(grid.shape[axis] for axis, grid in enumerate(grids))
        return self._many(shape, self.draw, 1, grids[0].device)[0]

    def _many(self, shape: tuple[int, ...], draw: int, number: int, device: Any) -> Tensor:
        rule = RandomPatchMask(self.patch_h, self.patch_w, self.count, self.seed)
        return rule.draw(shape, Draws(rule.seed, 0, torch.arange(draw, draw + number, device=device)))

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        if not may_keep_tensors():
            return super()._masks(shape, length, device, batch)
        drawn, place = divmod(self.draw, _AT_ONCE)
        fields = (self.patch_h, self.patch_w, self.count, self.seed)
        view = Mask(_many_once(fields, shape, drawn * _AT_ONCE, device or torch.empty(0).device)[place], rule=self)
        return view, view if length is None else view.prefix(length)


# The masks of a few steps are drawn together: one alone would cost as much as all.
_AT_ONCE = 64


@lru_cache(maxsize=8)
def _many_once(fields: tuple[int, int, int, int], shape: tuple[int, ...], draw: int, device: Any) -> tuple[Tensor, ...]:
    # A tensor made in inference mode could not be saved for a later step's backward pass.
    with torch.inference_mode(False):
        return SharedRandomPatchMask(*fields)._many(shape, draw, _AT_ONCE, device).expand(-1, *shape).unbind(0)
