"""Random masks as functions of a seed and a counter: no global random state, the same bits on every device."""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.masks.rule import Rule
from viewproof.shapes import Int

_WORD = 0xFFFFFFFF


def philox(
    counter: tuple[Int[Tensor, "..."], Int[Tensor, "..."], Int[Tensor, "..."], Int[Tensor, "..."]], key: tuple[int, int]
) -> tuple[Int[Tensor, "..."], Int[Tensor, "..."], Int[Tensor, "..."], Int[Tensor, "..."]]:
    """Philox4x32-10 (Salmon et al. 2011): four 32-bit words, held in int64, from a counter and a key of such words.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [hex(int(word)) for word in philox((zero, zero, zero, zero), key=(0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        # A 32-bit product may wrap around int64, but its two halves are the right bits all the same.
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = (right >> 32 & _WORD) ^ c1 ^ k0, right & _WORD
        c2, c3 = (left >> 32 & _WORD) ^ c3 ^ k1, left & _WORD
        k0, k1 = k0 + 0x9E3779B9 & _WORD, k1 + 0xBB67AE85 & _WORD
    return c0, c1, c2, c3


@dataclass(frozen=True)
class SharedRandomPatchMask(Rule):
    """Hides ``count`` patches of ``[N, C, H, W]`` drawn without replacement; one draw a step, shared by the batch.

    A function of ``(seed, draw)``; ``at(step)`` sets the draw. Patches are ranked by their Philox words. A count above
    the number of patches is an `InvalidArgument`.

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
        for field in fields(self):
            object.__setattr__(self, field.name, check_count(field.name, getattr(self, field.name)))

    def at(self, step: int) -> Rule:
        """The rule of the draw ``step`` after this one."""
        return replace(self, draw=self.draw + step)

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """Whether each pixel's patch is among the ``count`` first in the order of their random words."""
        if len(grids) != 3:
            raise InvalidArgument(
                f"{self!r} masks images [N, C, H, W], got data of {len(grids)} axes besides the batch"
            )
        if self.patch_h == 0 or self.patch_w == 0:
            return False
        _, rows, cols = grids
        grid = (math.ceil(rows.numel() / self.patch_h), math.ceil(cols.numel() / self.patch_w))
        patches = grid[0] * grid[1]
        if self.count > patches:
            raise InvalidArgument(
                f"count={self.count} is more than the {patches} patches of the image; pass at most that"
            )
        index = torch.arange(patches, device=rows.device)
        draw, zero = index.new_tensor(self.draw), index.new_zeros(())
        words = philox((index, zero, draw & _WORD, draw >> 32), (self.seed & _WORD, self.seed >> 32))
        # 62 random bits a patch; the index breaks a tie, so that the count is exact.
        order = torch.argsort((words[0] << 30) ^ (words[1] >> 2), stable=True)
        drawn = torch.zeros(patches, dtype=torch.bool, device=rows.device).index_fill(0, order[: self.count], True)
        return drawn[rows // self.patch_h * grid[1] + cols // self.patch_w]
