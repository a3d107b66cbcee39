"""Transforms of images by given numbers in (0, 1), eight a sample: crops, flips, colours, blur, small moves.

Torch alone. Libraries such as kornia draw their parameters from the global generator, a batch at a time, so that a
sample's view depends on its batch mates and on what was drawn before; here the numbers come from outside, and all
arithmetic is done row by row, so that a sample alone has the bits that it has in a batch.
"""

import math
from dataclasses import dataclass, fields
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.shapes import Float, check_tensor

WORDS = 8
"""Random words that each transform has for itself."""
Share = Annotated[float, (0.0, 1.0)]


@dataclass(frozen=True)
class Transform:
    """Base of transforms of images ``[N, C, H, W]`` by numbers ``u: [N, 8]`` in (0, 1), row by row.

    ``chance`` is the share of samples that are transformed, decided by the last of the eight numbers; the others keep
    every bit. Subclasses are frozen dataclasses with `apply`; a field ``Annotated[float, (least, most)]`` outside its
    range raises `InvalidArgument`.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            for least, most in (r for r in getattr(field.type, "__metadata__", ()) if isinstance(r, tuple)):
                value, of = getattr(self, field.name), type(self).__name__
                if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                    raise InvalidArgument(f"{field.name}={value!r} of {of} must lie from {least:g} to {most:g}")

    def __call__(
        self, x: Float[Tensor, "batch channels height width"], u: Float[Tensor, "batch words"]
    ) -> Float[Tensor, "batch channels height width"]:
        """The transformed images."""
        check_images(x)
        check_tensor("u", u)
        if u.shape != (len(x), WORDS) or u.device != x.device or not u.is_floating_point() or u.dtype.itemsize < 2:
            raise InvalidArgument(
                f"u of {u.dtype} and shape {tuple(u.shape)} on {u.device} must be {len(x)} rows of {WORDS} floats on"
                f" {x.device}; draw them in (0, 1)"
            )
        chance = getattr(self, "chance", 1.0)
        if chance == 0:
            return x
        changed = self.apply(x, u)
        return changed if chance == 1 else torch.where(_each(u[:, 7] < chance), changed, x)

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images transformed."""
        raise NotImplementedError(f"{type(self).__name__} must define apply(x, u)")


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """A random region, resampled bilinearly to the image's size.

    It has between ``min_area`` and all of the image's area and an aspect between 3/4 and 4/3 of the image's, cut where
    it would be larger than the image, at a uniform place (Szegedy et al. 2015; MAE's 0.2).

    >>> x = torch.rand(2, 3, 8, 8)
    >>> torch.allclose(RandomResizedCrop(1.0)(x, torch.full((2, 8), 0.5)), x, atol=1e-5)
    True
    """

    min_area: Annotated[float, (0.001, 1.0)] = 0.2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """Each image's region."""
        height, width, down, across = (share.to(x.dtype)[:, None, None] for share in region(u, self.min_area))
        y, z = middles(x)
        return resampled(x, height * y + down, width * z + across)


@dataclass(frozen=True)
class Flip(Transform):
    """A share of the images mirrored, left to right; every value keeps its bits."""

    chance: Share = 0.5

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images mirrored."""
        return x.flip(3)


@dataclass(frozen=True)
class ColourJitter(Transform):
    """Contrast, brightness and saturation, of values in any units.

    Values are scaled about the image's mean by 1 - ``strength`` to 1 + ``strength`` and shifted by up to ``strength``
    standard deviations of the image; of three channels the distance to their mean (saturation) is scaled so too.
    """

    strength: Annotated[float, (0.0, 0.999)] = 0.4
    chance: Share = 1.0

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images with other colours."""
        return jittered(x, self.strength, u)


@dataclass(frozen=True)
class Grey(Transform):
    """The mean of three channels in each of them."""

    chance: Share = 0.2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images grey."""
        return ((x[:, :1] + x[:, 1:2] + x[:, 2:]) / 3).expand_as(x) if x.shape[1] == 3 else x


@dataclass(frozen=True)
class Blur(Transform):
    """A Gaussian blur, whose deviation lies between a tenth of ``sigma`` and ``sigma`` pixels; edges are repeated."""

    sigma: Annotated[float, (0.1, 50.0)] = 2.0
    chance: Share = 0.5

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images blurred."""
        sigma = self.sigma * (0.1 + 0.9 * u[:, :1])
        reach = min(math.ceil(2 * self.sigma), *x.shape[2:])
        weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device) / sigma).square())
        weights = (weights / weights.sum(1, keepdim=True)).to(x.dtype)
        for axis, pads in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
            padded, extent = F.pad(x, pads, mode="replicate"), x.shape[axis]
            x = padded.narrow(axis, 0, extent) * _each(weights[:, 0])
            for k in range(1, 2 * reach + 1):
                x = x.addcmul_(padded.narrow(axis, k, extent), _each(weights[:, k]))
        return x


@dataclass(frozen=True)
class Solarise(Transform):
    """Values above a place between the image's least and largest value mirrored about it."""

    chance: Share = 0.2

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images solarised."""
        least, most = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        level = least + (most - least) * _each(0.5 + 0.5 * u[:, 0]).to(x.dtype)
        return torch.where(x > level, 2 * level - x, x)


@dataclass(frozen=True)
class Affine(Transform):
    """A small rotation, shift and scaling about the centre, resampled bilinearly; edges are repeated.

    By up to ``degrees``, ``shift`` as a share of each side, and a factor between 1 - ``scale`` and 1 + ``scale``.
    """

    degrees: Annotated[float, (0.0, 180.0)] = 10.0
    shift: Share = 0.1
    scale: Annotated[float, (0.0, 0.999)] = 0.1

    def apply(self, x: Tensor, u: Tensor) -> Tensor:
        """All images moved."""
        v = (2 * u[:, :4] - 1).to(x.dtype)
        angle, factor = v[:, 0] * math.radians(self.degrees), 1 / (1 + self.scale * v[:, 1])
        down, across = (2 * self.shift * v[:, k] for k in (2, 3))
        y, z = middles(x)
        cos, sin = ((f(angle) * factor)[:, None, None] for f in (torch.cos, torch.sin))
        ratio = x.shape[2] / x.shape[3]
        across, down = across[:, None, None], down[:, None, None]
        return resampled(x, sin / ratio * z + cos * y + down, cos * z - sin * ratio * y + across)


def check_images(x: Tensor) -> None:
    """Refuse what is not images ``[N, C, H, W]`` of floats on which torch computes."""
    check_tensor("x", x)
    if x.dim() != 4 or 0 in x.shape[1:] or not x.is_floating_point() or x.dtype.itemsize < 2:
        raise InvalidArgument(
            f"x of {x.dtype} and shape {tuple(x.shape)} must be images [N, C, H, W] of 16-bit floats or larger ones;"
            " convert it by x.float()"
        )


def region(u: Tensor, min_area: float, max_area: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Height and width of a random region as shares of the image, and its centre's place down and across, from -1 to 1.

    It is the region of `viewproof.data.images.crop_box`, which does so for one image of another aspect.
    """
    area, aspect = min_area + (max_area - min_area) * u[:, 0], ((2 * u[:, 1] - 1) * math.log(4 / 3)).exp()
    height, width = (area / aspect).sqrt().clamp(max=1), (area * aspect).sqrt().clamp(max=1)
    return height, width, (1 - height) * (2 * u[:, 2] - 1), (1 - width) * (2 * u[:, 3] - 1)


def middles(x: Tensor) -> tuple[Tensor, Tensor]:
    """The places of an image's pixels down and across, from -1 to 1, as a column and a row."""
    y, z = ((2 * torch.arange(n, device=x.device, dtype=torch.float64) + 1) / n - 1 for n in x.shape[2:])
    return y.to(x.dtype)[None, :, None], z.to(x.dtype)[None, None, :]


def resampled(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The values at places ``[N, H, W]``, between pixels bilinearly; beyond the edges those of the edges."""
    shape = torch.Size(map(max, across.shape, down.shape))
    grid = torch.stack([across.expand(shape), down.expand(shape)], 3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jittered(view: Tensor, jitter: float, u: Tensor) -> Tensor:
    """Images with other contrast, brightness and saturation; see `ColourJitter`."""
    contrast, shift, saturation = (_each(jitter * (2 * u[:, k] - 1)).to(view.dtype) for k in (0, 1, 2))
    if view.shape[1] == 3:
        grey = view.mean(1, keepdim=True)
        view = grey + (1 + saturation) * (view - grey)
    mean = view.mean((1, 2, 3), keepdim=True)
    deviation = (view - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return mean + (1 + contrast) * (view - mean) + shift * deviation


def _each(values: Tensor) -> Tensor:
    return values[:, None, None, None]
