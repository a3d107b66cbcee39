"""I-JEPA's blocks: several targets, and a context that shares no patch with them."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, check_shape
from viewproof.masks.random.blocks import check_blocks, spread
from viewproof.masks.random.blockwise import Sizes, block_sizes, rectangle
from viewproof.masks.random.draws import WORD, Draws, among_first, below, philox, ranked
from viewproof.masks.random.rule import RandomRule
from viewproof.shapes import Bool, Int

Size = tuple[int, int]
_ASPECTS = 64


@dataclass(frozen=True)
class MultiBlockMask(RandomRule):
    """I-JEPA's masks: target blocks and a context of exactly ``context`` patches of each image.

    Assran et al. 2023. Areas are counts of patches, from and to, both ends drawn. The blocks' sizes are functions of
    (seed, epoch): area and aspect (height over width) of a target come from two words, the context block has the
    image's aspect. Their places are functions of (seed, epoch, sample id). So every sample has equal counts whatever
    its batch mates, where the paper's code cuts the batch to its smallest sample. A target is placed only where it
    leaves ``context`` patches of the context block uncovered; of those, ``context`` at random are seen. arXiv
    2301.08243.

    `mask` hides all that is not context; `targets` are the blocks; `sample` shows the context and scores the union of
    the targets. Sizes that could leave too few patches for the context raise `InvalidArgument`. Theorems:
    ``only_eligible_places_are_first``, ``rectangle_holds_its_cells``, ``every_place_of_a_block_is_reached``.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("target_area", "context_area", "target_aspect"):
            pair = getattr(self, name)
            if not isinstance(pair, Sequence) or len(pair) != 2 or not 0 < pair[0] <= pair[1] < float("inf"):
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

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Any = ()) -> tuple[Mask, Mask]:
        ids, epoch, _ = batch
        context, targets = self.blocks(shape, device=device, sample_ids=ids, epoch=epoch)
        union = Mask(torch.stack([target.hidden for target in targets]).any(0), per_sample=True, rule=self)
        return context, union if length is None else union.prefix(length)

    def _place(self, shape: tuple[int, ...], draws: Draws) -> list[Tensor]:
        blocks = (None, self.patch_h, self.patch_w)
        _, rows, cols = check_blocks(self, shape, blocks, self.context, "context")
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
        return [spread(cells[:, None], shape, blocks) for cells in (~seen, *targets)]

    def sizes(self, rows: int, cols: int, epoch: int = 0) -> tuple[Size, Size]:
        """Height and width, in patches, of the context block and of the targets in an epoch."""
        contexts, targets = _tables(self, rows, cols)
        words = philox((15 << 28, epoch, 0, 0), (self.seed & WORD, self.seed >> 32))
        context = contexts[words[2] * len(contexts) >> 32, 0].tolist()
        target = targets[words[0] * len(targets) >> 32, words[1] * _ASPECTS >> 32].tolist()
        return (context[0], context[1]), (target[0], target[1])


@lru_cache(maxsize=64)
def _tables(rule: MultiBlockMask, rows: int, cols: int) -> tuple[Sizes, Sizes]:
    """All block sizes that may be drawn, of the context and of the targets, if they leave enough room."""
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
