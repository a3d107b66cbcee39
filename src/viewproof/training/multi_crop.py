"""Multi-crop views of images: large ones and small ones (Caron et al. 2020, arXiv 2006.09882)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws
from viewproof.shapes import Float, Int, check_sizes
from viewproof.training.augment import check_batch_of_images, is_number, random_view
from viewproof.training.transforms import WORDS


@dataclass(frozen=True)
class MultiCrop:
    """Global and local random views of images ``[N, C, H, W]``, as two lists; see `RandomViews` for how one is made.

    ``global_views`` have the image's size and between ``min_area`` and all of its area; ``local_views`` have
    ``local_size`` and between ``local_area`` and ``min_area``. All are a function of (seed, epoch, sample id, view).

    >>> import torch
    >>> crops = MultiCrop(local_size=(4, 4), local_views=3)
    >>> large, small = crops(torch.rand(2, 1, 8, 8), torch.arange(2), epoch=1)
    >>> [tuple(view.shape) for view in large], [tuple(view.shape) for view in small]
    ([(2, 1, 8, 8), (2, 1, 8, 8)], [(2, 1, 4, 4), (2, 1, 4, 4), (2, 1, 4, 4)])
    """

    local_size: tuple[int, int]
    local_views: int = 4
    global_views: int = 2
    min_area: float = 0.4
    local_area: float = 0.05
    flip: bool = True
    jitter: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes("local_size", self.local_size, 2)
        for name in ("local_views", "global_views", "seed"):
            check_count(name, getattr(self, name))
        if self.global_views < 1:
            raise InvalidArgument("global_views=0 must be at least 1; pass 2")
        numbers = all(map(is_number, (self.local_area, self.min_area, self.jitter)))
        if not numbers or not 0 < self.local_area <= self.min_area <= 1:
            raise InvalidArgument(
                f"local_area={self.local_area!r} and min_area={self.min_area!r} must lie above 0 and at most at 1, the "
                "whole image, the first not above the second; pass 0.05 and 0.4"
            )
        if not 0 <= self.jitter < 1:
            raise InvalidArgument(f"jitter={self.jitter!r} must lie in [0, 1); pass 0 to leave the values as they are")

    def __call__(
        self, x: Float[Tensor, "..."], sample_ids: Int[Tensor, "..."], epoch: int = 0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The global views and the local views of each image."""
        check_batch_of_images(x, sample_ids)
        count = self.global_views + self.local_views
        words = Draws(self.seed, epoch, sample_ids.to(x.device)).uniforms(WORDS * count, 12).to(x.dtype)
        views = []
        for k, u in enumerate(words.reshape(len(words), count, WORDS).unbind(1)):
            large = k < self.global_views
            area, size = ((self.min_area, 1.0), x.shape[2:]) if large else (
                (self.local_area, self.min_area), self.local_size
            )  # fmt: skip
            views.append(random_view(x, u, area, self.flip, self.jitter, size))
        return views[: self.global_views], views[self.global_views :]


def local_size(grid: tuple[int, int], patch: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a local view: half of the grid's patches a side, rounded up.

    >>> local_size((14, 7), (16, 4))
    (112, 16)
    """
    return math.ceil(grid[0] / 2) * patch[0], math.ceil(grid[1] / 2) * patch[1]
