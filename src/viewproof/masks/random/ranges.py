"""Two multi-block rules by turns: V-JEPA's short-range and long-range masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count
from viewproof.masks.random.blockwise import MultiBlockMask
from viewproof.masks.random.draws import Draws
from viewproof.masks.random.rule import RandomRule
from viewproof.masks.rule import Batch
from viewproof.shapes import Bool, Int


@dataclass(frozen=True)
class MultiRangeMask(RandomRule):
    """Draws by ``short`` in even epochs and by ``long`` in odd ones: V-JEPA's two masks of each clip.

    Bardes et al. 2024 (arXiv 2404.08471) hide in every frame the union of eight blocks of 15 % of the patches
    (short-range) and, in a second pass, that of two blocks of 70 % (long-range). `viewproof.methods.ijepa.IJEPA` draws
    epochs 2e and 2e + 1 in its epoch e and averages both losses. Each mask is a function of (its rule's seed, epoch,
    sample id). Rules of different patch sizes raise `InvalidArgument`. Theorems: those of `MultiBlockMask`.

    >>> short = MultiBlockMask(1, 1, context=4, target_area=(6, 6), context_area=(36, 36), targets=8)
    >>> long = MultiBlockMask(1, 1, context=4, target_area=(25, 25), context_area=(36, 36), targets=2)
    >>> rule, ids = MultiRangeMask(short, long), torch.arange(3)
    >>> _, blocks = rule.blocks((1, 4, 6, 6), sample_ids=ids, epoch=1)
    >>> union = blocks[0].hidden | blocks[1].hidden
    >>> len(blocks), bool((union == union[:, :, :1]).all()), union[:, 0, 0].sum((1, 2))
    (2, True, tensor([30, 30, 30]))
    """

    short: MultiBlockMask
    long: MultiBlockMask
    scores_all_hidden: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("short", "long"):
            if not isinstance(getattr(self, name), MultiBlockMask):
                raise InvalidArgument(f"{name}={getattr(self, name)!r} must be a MultiBlockMask")
        sizes = [(rule.patch_h, rule.patch_w) for rule in (self.short, self.long)]
        if sizes[0] != sizes[1]:
            raise InvalidArgument(f"short has patches of {sizes[0]} and long of {sizes[1]}; pass one size to both")

    @property
    def seed(self) -> int:  # type: ignore[override]
        """That of ``short``."""
        return self.short.seed

    @property
    def patch_h(self) -> int:
        """The rows of a patch."""
        return self.short.patch_h

    @property
    def patch_w(self) -> int:
        """The columns of a patch."""
        return self.short.patch_w

    def of(self, epoch: int) -> MultiBlockMask:
        """The rule that draws in an epoch."""
        return self.long if check_count("epoch", epoch, "draw the first epoch's masks") % 2 else self.short

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """Everything that is not context."""
        rule = self.of(draws.epoch)
        return rule.draw(shape, Draws(rule.seed, draws.epoch, draws.sample_ids), lengths)

    def blocks(
        self,
        data_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
    ) -> tuple[Mask, list[Mask]]:
        """The mask of all that the context encoder may not see, and one mask a target; see `MultiBlockMask`."""
        return self.of(epoch).blocks(data_shape, device=device, sample_ids=sample_ids, epoch=epoch)

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        return self.of(batch[1])._masks(shape, length, device, batch)
