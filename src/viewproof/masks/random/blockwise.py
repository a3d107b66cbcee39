"""Rectangles of patches drawn one after the other: BEiT's blockwise masking, with an exact count."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.random.blocks import check_blocks, spread
from viewproof.masks.random.draws import Draws, among_first, below
from viewproof.masks.random.rule import RandomRule
from viewproof.shapes import Bool, Int

Sizes = np.ndarray[Any, np.dtype[np.int64]]
_AT_ONCE = 32


@lru_cache(maxsize=64)
def block_sizes(areas: Sequence[int], aspects: Sequence[Fraction], rows: int, cols: int) -> Sizes:
    """The block size (height, width) for each area and aspect, rounded and cut to the grid.

    An aspect is height over width. In integers, so that every machine rounds alike.

    >>> block_sizes((6, 20), (Fraction(1), Fraction(3, 2)), rows=4, cols=14).tolist()
    [[[2, 2], [3, 2]], [[4, 4], [4, 4]]]
    """

    def root(square: Fraction, most: int) -> int:
        return min(most, max(1, (math.isqrt(math.floor(4 * square)) + 1) // 2))

    return np.array([[(root(area * r, rows), root(area / r, cols)) for r in aspects] for area in areas])


def rectangle(
    top: Int[Tensor, "*batch"],
    left: Int[Tensor, "*batch"],
    size: tuple[int | Tensor, int | Tensor],
    grid: tuple[int, int],
) -> Bool[Tensor, "*batch rows cols"]:
    """Whether each cell of the grid lies in the rectangle of that corner and size (height, width)."""
    inside = []
    for start, extent, length in zip((top, left), size, grid, strict=True):
        place, end = torch.arange(length, device=start.device), start + extent
        inside.append((place >= start[..., None]) & (place < end[..., None]))
    return inside[0][..., None] & inside[1][..., None, :]


@dataclass(frozen=True)
class RandomBlockwiseMask(RandomRule):
    """Hides exactly ``count`` patches of each image ``[N, C, H, W]`` by rectangles: BEiT's masks.

    A rectangle's area is uniform from ``min_area`` patches to ``count``, its aspect, independent of that, from
    1 to ``max_aspect`` or the reciprocal, its corner uniform over all that fit. Rectangles come until ``count``
    patches are hidden; of the last one only the first rows that are needed. arXiv 2106.08254, with ``count`` exact
    where the paper's code may stop short. Theorem: ``exactly_count_places_are_first``.

    >>> rule = RandomBlockwiseMask(patch_h=2, patch_w=2, count=9, min_area=4)
    >>> rule.mask((1, 8, 12), sample_ids=torch.arange(2)).hidden[1, 0, ::2, ::2].int()
    tensor([[0, 1, 1, 1, 1, 1],
            [0, 1, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0]], dtype=torch.int32)
    """

    patch_h: int
    patch_w: int
    count: int
    seed: int = 0
    min_area: int = 16
    max_aspect: float = 10 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.max_aspect < math.inf:
            raise InvalidArgument(f"max_aspect={self.max_aspect!r} must be at least 1; pass 1 for squares")

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The ``count`` patches that the first rectangles cover."""
        blocks = (None, self.patch_h, self.patch_w)
        grid = check_blocks(self, shape, blocks, self.count)
        cells, index = math.prod(grid), torch.arange(math.prod(grid), device=draws.sample_ids.device)
        # The first rectangle that covers a cell, then the cell's index: the order in which cells are hidden.
        cover = draws.sample_ids.new_full((len(draws.sample_ids), cells), _NEVER)
        drawn = 0
        while self.count and bool(((cover < _NEVER).sum(1) < self.count).any()):
            more = self._rectangles(draws.words(4 * (drawn + _AT_ONCE))[:, 4 * drawn :], grid[1], grid[2]).flatten(2)
            number = torch.arange(drawn, drawn + _AT_ONCE, device=index.device)[:, None]
            cover = torch.minimum(cover, torch.where(more, number, _NEVER).amin(1))
            drawn += _AT_ONCE
        return spread(among_first(cover * cells + index, self.count).reshape(len(cover), *grid), shape, blocks)

    def _rectangles(self, words: Tensor, rows: int, cols: int) -> Bool[Tensor, "batch drawn rows cols"]:
        """One rectangle from every four words: area, aspect, top, left."""
        high = min(self.count, rows * cols)
        areas = tuple(range(min(self.min_area, high), high + 1))
        wide = [1 + (Fraction(self.max_aspect) - 1) * i / 31 for i in range(32)]
        table = torch.from_numpy(block_sizes(areas, (*wide, *(1 / aspect for aspect in wide)), rows, cols))
        area, aspect, top, left = words.reshape(len(words), words.shape[1] // 4, 4).unbind(2)
        height, width = table.to(words.device)[below(area, len(areas)), below(aspect, 64)].unbind(2)
        corner = below(top, rows - height + 1), below(left, cols - width + 1)
        return rectangle(*corner, (height, width), (rows, cols))


_NEVER = 2**31
