"""The definitions as plain loops over integers: slow, and written to be read beside the words."""

import itertools
import math
from collections.abc import Sequence


def ceil_div(a: int, b: int) -> int:
    return -((-a) // b)


def vector_is_hidden(j: int, period: int, offset: int) -> bool:
    if period == 0:
        return False
    return j % period == offset % period


def image_is_hidden(
    height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int, row: int, col: int
) -> bool:
    if period == 0 or patch_h == 0 or patch_w == 0:
        return False
    patches_per_row = (width + patch_w - 1) // patch_w
    patch_index = (row // patch_h) * patches_per_row + col // patch_w
    return patch_index % period == offset % period


def block_is_hidden(
    shape: Sequence[int], blocks: Sequence[int | None], period: int, offset: int, coordinate: Sequence[int]
) -> bool:
    axes = [axis for axis, width in enumerate(blocks) if width is not None]
    if period == 0 or not axes or any(blocks[axis] == 0 for axis in axes):
        return False
    grid = [ceil_div(shape[axis], blocks[axis]) for axis in axes]
    block = [coordinate[axis] // blocks[axis] for axis in axes]
    # The row-major number of a block is its place in the list of all blocks in lexicographic order.
    index = 0
    for place in range(len(axes)):
        index += block[place] * math.prod(grid[place + 1 :])
    return index % period == offset % period


def coordinates(shape: Sequence[int]) -> list[tuple[int, ...]]:
    return list(itertools.product(*[range(extent) for extent in shape]))


def vector_mask(data_dim: int, period: int, offset: int) -> list[bool]:
    return [vector_is_hidden(j, period, offset) for j in range(data_dim)]


def image_mask(
    channels: int, height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int
) -> list[bool]:
    return [
        image_is_hidden(height, width, patch_h, patch_w, period, offset, row, col)
        for _, row, col in coordinates((channels, height, width))
    ]


def block_mask(shape: Sequence[int], blocks: Sequence[int | None], period: int, offset: int) -> list[bool]:
    return [block_is_hidden(shape, blocks, period, offset, place) for place in coordinates(shape)]


def apply(values: list[float], hidden: list[bool]) -> list[float]:
    return [0.0 if h else v for v, h in zip(values, hidden, strict=True)]
