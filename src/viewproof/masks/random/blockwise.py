"""Rectangles of patches: BEiT's blockwise masks, and I-JEPA's targets and context."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, check_shape
from viewproof.masks.random.blocks import check_blocks, spread
from viewproof.masks.random.draws import WORD, Draws, among_first, below, philox, ranked
from viewproof.masks.random.rule import RandomRule
from viewproof.masks.rule import Batch
from viewproof.shapes import Bool, Int

Sizes = np.ndarray[Any, np.dtype[np.int64]]
_AT_ONCE = 32
_NEVER = 2**31
_ASPECTS = 64


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
        # A tuple: torch 2.9 compiles no isinstance of a union.
        if not isinstance(self.max_aspect, (int, float)) or not 1 <= self.max_aspect < math.inf:
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


@dataclass(frozen=True)
class MultiBlockMask(RandomRule):
    """I-JEPA's masks: target blocks and a context of exactly ``context`` patches of each image or clip.

    Assran et al. 2023. Areas are counts of patches, from and to, both ends drawn. The blocks' sizes are functions of
    (seed, epoch): area and aspect (height over width) of a target come from two words, the context block has the
    image's aspect. Their places are functions of (seed, epoch, sample id). So every sample has equal counts whatever
    its batch mates, where the paper's code cuts the batch to its smallest sample. A target is placed only where it
    leaves ``context`` patches of the context block uncovered; of those, ``context`` at random are seen. arXiv
    2301.08243.

    `mask` hides all that is not context; `targets` are the blocks; `sample` shows the context and scores the union of
    the targets. Of clips ``[C, T, H, W]`` blocks and context are the same at all times: V-JEPA's tubes (Bardes et al.
    2024, arXiv 2404.08471). Sizes that could leave too few patches for the context raise `InvalidArgument`. Theorems:
    ``every_coordinate_has_the_status_of_its_block``, ``only_eligible_places_are_first``,
    ``rectangle_holds_its_cells``, ``every_place_of_a_block_is_reached``.

    >>> rule = MultiBlockMask(2, 2, context=8, target_area=(4, 6), context_area=(20, 25), targets=2)
    >>> context, targets = rule.blocks((1, 10, 10), sample_ids=torch.arange(3))
    >>> int((~context.hidden)[0, 0, ::2, ::2].sum()), bool((~context.hidden & targets[0].hidden).any())
    (8, False)
    """

    patch_h: int
    patch_w: int
    context: int
    target_area: tuple[int, int]
    context_area: tuple[int, int]
    targets: int = 4
    target_aspect: tuple[float, float] = (0.75, 1.5)
    seed: int = 0
    scores_all_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_area", "context_area", "target_aspect"):
            pair = getattr(self, name)
            numbers = isinstance(pair, Sequence) and all(isinstance(end, (int, float)) for end in pair)
            if not numbers or len(pair) != 2 or not 0 < pair[0] <= pair[1] < float("inf"):
                raise InvalidArgument(f"{name}={pair!r} must be two positive numbers, the smaller first")
            if name != "target_aspect":
                for end, area in zip(("from", "to"), pair, strict=True):
                    check_count(f"{name} {end}", area)
            object.__setattr__(self, name, tuple(pair))

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """Everything that is not context."""
        return self._place(shape, draws)[0]

    def blocks(
        self,
        data_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
    ) -> tuple[Mask, list[Mask]]:
        """The mask of all that the context encoder may not see, and one mask a target."""
        shape = check_shape("data_shape", data_shape)
        hidden = self._place(shape, self._draws(sample_ids, epoch, device))
        context, *targets = (Mask(part.expand(-1, *shape), per_sample=True, rule=self) for part in hidden)
        return context, targets

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        ids, epoch, _ = batch
        context, targets = self.blocks(shape, device=device, sample_ids=ids, epoch=epoch)
        union = Mask(torch.stack([target.hidden for target in targets]).any(0), per_sample=True, rule=self)
        return context, union if length is None else union.prefix(length)

    def _place(self, shape: tuple[int, ...], draws: Draws) -> list[Tensor]:
        # The channels of an image, or the channels and times of a clip, take no part.
        blocks = (*(None,) * (2 if len(shape) == 4 else 1), self.patch_h, self.patch_w)
        grid = check_blocks(self, shape, blocks, self.context, "context")
        rows, cols = grid[-2:]
        (high, wide), (height, width) = self.sizes(rows, cols, draws.epoch)
        down, across = rows - height + 1, cols - width + 1
        words = draws.words(2 + rows * cols + self.targets * down * across)
        corner, order, places = torch.split(words, [2, rows * cols, self.targets * down * across], 1)
        top, left = below(corner[:, 0], rows - high + 1), below(corner[:, 1], cols - wide + 1)
        free = rectangle(top, left, (high, wide), (rows, cols))
        targets = []
        for place_words in places.chunk(self.targets, 1):
            covered = free.unfold(1, height, 1).unfold(2, width, 1).sum((3, 4))
            fits = free.sum((1, 2))[:, None] - covered.flatten(1) >= self.context
            place = ranked(place_words, fits).argmin(1)
            target = rectangle(place // across, place % across, (height, width), (rows, cols))
            free = free & ~target
            targets.append(target)
        seen = among_first(ranked(order, free.flatten(1)), self.context).reshape(len(words), rows, cols)
        return [spread(cells.reshape(len(words), *grid), shape, blocks) for cells in (~seen, *targets)]

    def sizes(self, rows: int, cols: int, epoch: int = 0) -> tuple[tuple[int, int], tuple[int, int]]:
        """Height and width, in patches, of the context block and of the targets in an epoch."""
        contexts, targets = _tables(self, rows, cols)
        words = philox((15 << 28, epoch, 0, 0), (self.seed & WORD, self.seed >> 32))
        context = contexts[words[2] * len(contexts) >> 32, 0].tolist()
        target = targets[words[0] * len(targets) >> 32, words[1] * _ASPECTS >> 32].tolist()
        return (context[0], context[1]), (target[0], target[1])


@lru_cache(maxsize=64)
def _tables(rule: MultiBlockMask, rows: int, cols: int) -> tuple[Sizes, Sizes]:
    """All block sizes, of context and targets, that may be drawn; all must leave enough room."""
    for name in ("target_area", "context_area"):
        if (most := getattr(rule, name)[1]) > rows * cols:
            raise InvalidArgument(
                f"{name}={getattr(rule, name)}: a block of {most} patches does not fit a {rows} x {cols} grid; pass"
                f" areas up to {rows * cols}"
            )
    low, high = map(Fraction, rule.target_aspect)
    aspects = tuple(low + (high - low) * i / (_ASPECTS - 1) for i in range(_ASPECTS))
    areas = [tuple(range(pair[0], pair[1] + 1)) for pair in (rule.context_area, rule.target_area)]
    contexts = block_sizes(areas[0], (Fraction(rows, cols),), rows, cols)
    targets = block_sizes(areas[1], aspects, rows, cols)
    least, most = int(contexts.prod(2).min()), int(targets.prod(2).max())
    if least - most < rule.context:
        raise InvalidArgument(
            f"context={rule.context}: of a {rows} x {cols} grid a context block may have {least} patches and a target "
            f"{most}; pass context={max(least - most, 0)} or less, smaller targets or a larger context_area"
        )
    return contexts, targets
