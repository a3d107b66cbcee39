"""Two random views of an image, each a function of (seed, epoch, sample id).

Torch alone, in one batched resampling. Libraries such as kornia draw their parameters from the global generator, a
batch at a time, so that a sample's view depends on its batch mates and on what was drawn before; here it does not. Any
other pair function, one that calls kornia among them, serves `viewproof.methods.two_view.TwoView` as well.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws
from viewproof.shapes import Float, Int


@dataclass(frozen=True)
class RandomViews:
    """Two random views of images ``[N, C, H, W]``: resized crops, flips and colour jitter.

    A crop has between ``min_area`` and all of the image's area and an aspect between 3/4 and 4/3 of the image's, cut
    where it would be larger than the image, at a uniform place, resampled bilinearly to the image's size. With ``flip``
    every second view is mirrored, on average. Values, standardised or not, are then scaled about the image's mean by
    1 - ``jitter`` to 1 + ``jitter`` and shifted by up to ``jitter`` standard deviations of the image; of three channels
    the distance to their mean (saturation) is scaled so too. No global random state is read or changed.

    >>> views = RandomViews(min_area=0.5)
    >>> x = torch.rand(3, 1, 8, 8)
    >>> a, b = views(x, torch.tensor([4, 0, 9]), epoch=1)
    >>> a.shape, torch.allclose(a[2:], views(x[2:], torch.tensor([9]), epoch=1)[0]), torch.equal(a, b)
    (torch.Size([3, 1, 8, 8]), True, False)
    """

    min_area: float = 0.3
    flip: bool = True
    jitter: float = 0.4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.min_area <= 1:
            raise InvalidArgument(f"min_area={self.min_area!r} must lie above 0 and at most at 1, the whole image")
        if not 0 <= self.jitter < 1:
            raise InvalidArgument(f"jitter={self.jitter!r} must lie in [0, 1); pass 0 to leave the values as they are")
        check_count("seed", self.seed)

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], sample_ids: Int[Tensor, " batch"], epoch: int = 0
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch channels height width"]]:
        """Two views of each image."""
        draws = Draws(self.seed, epoch, sample_ids.to(x.device))
        words = (draws.words(8, stream) for stream in (12, 13))
        a, b = (self._view(x, ((word.double() + 0.5) / 2**32).to(x.dtype)) for word in words)
        return a, b

    def _view(self, x: Tensor, u: Tensor) -> Tensor:
        area, aspect = self.min_area + (1 - self.min_area) * u[:, 0], ((2 * u[:, 1] - 1) * math.log(4 / 3)).exp()
        height, width = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
        down, across = (1 - height) * (2 * u[:, 2] - 1), (1 - width) * (2 * u[:, 3] - 1)
        sign = torch.where(u[:, 4] < 0.5, -1, 1) if self.flip else 1
        zero = torch.zeros_like(down)
        rows = [torch.stack(row, 1) for row in ((sign * width, zero, across), (zero, height, down))]
        grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
        view = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
        if self.jitter == 0:
            return view
        contrast, shift, saturation = (self.jitter * (2 * u[:, k] - 1)[:, None, None, None] for k in (5, 6, 7))
        if view.shape[1] == 3:
            grey = view.mean(1, keepdim=True)
            view = grey + (1 + saturation) * (view - grey)
        mean = view.mean((1, 2, 3), keepdim=True)
        deviation = (view - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
        return mean + (1 + contrast) * (view - mean) + shift * deviation
