"""Patch masks that number the patches wrongly: mutants of theorems in several files."""

from torch import Tensor

from viewproof.masks import PatchMask


class _Numbered(PatchMask):
    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        raise NotImplementedError

    def hidden(self, *grids: Tensor) -> Tensor | bool:
        if self.period == 0 or self.patch_h == 0 or self.patch_w == 0:
            return False
        return self._index(*grids) % self.period == self.offset % self.period


class HeightForWidth(_Numbered):
    """Patches per row from the height."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (-(-row.shape[1] // self.patch_w)) + col // self.patch_w


class FloorForCeiling(_Numbered):
    """A ragged last patch is not counted."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (col.shape[2] // self.patch_w) + col // self.patch_w


class ChannelInTheIndex(_Numbered):
    """Every channel hides other patches."""

    def _index(self, channel: Tensor, row: Tensor, col: Tensor) -> Tensor:
        return row // self.patch_h * (-(-col.shape[2] // self.patch_w)) + col // self.patch_w + channel
