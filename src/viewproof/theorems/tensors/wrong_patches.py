"""Patch masks that count the patches wrongly: mutants of theorems in several files."""

from torch import Tensor

from viewproof.masks import PatchMask


class _Counted(PatchMask):
    """Patches are numbered as if a row had another number of them."""

    def per_row(self, height: int, width: int) -> int:
        raise NotImplementedError

    def hidden(self, *grids: Tensor) -> Tensor | bool:
        if self.period == 0 or self.patch_h == 0 or self.patch_w == 0:
            return False
        _, row, col = grids
        per_row = self.per_row(row.shape[1], col.shape[2])
        index = (row // self.patch_h) * per_row + col // self.patch_w
        return index % self.period == self.offset % self.period


class HeightForWidth(_Counted):
    """Patches per row from the height."""

    def per_row(self, height: int, width: int) -> int:
        """As many as a column has."""
        return (height + self.patch_w - 1) // self.patch_w


class FloorForCeiling(_Counted):
    """A ragged last patch is not counted."""

    def per_row(self, height: int, width: int) -> int:
        """Whole patches only."""
        return width // self.patch_w
