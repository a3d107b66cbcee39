"""Plain reconstructors: autoencoders of vectors and of images, and a small residual network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.shapes import Float, check_size, check_sizes


class VectorAutoencoder(nn.Module):
    """Two-layer encoder and decoder, ``[N, D] -> [N, D]``; other shapes are flattened first.

    >>> VectorAutoencoder(data_dim=12, hidden_dim=32, latent_dim=8)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 12])
    """

    def __init__(self, data_dim: int, hidden_dim: int = 256, latent_dim: int = 64) -> None:
        super().__init__()
        for name, size in (("data_dim", data_dim), ("hidden_dim", hidden_dim), ("latent_dim", latent_dim)):
            check_size(name, size)
        self.data_dim = data_dim
        self.encoder = nn.Sequential(nn.Linear(data_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, latent_dim))
        self.decoder = nn.Sequential(nn.GELU(), nn.Linear(latent_dim, hidden_dim), nn.GELU())
        self.head = nn.Linear(hidden_dim, data_dim)

    def encode(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch latent"]:
        """The latent vector of each sample."""
        flat = x.flatten(1)
        if flat.shape[1] != self.data_dim:
            raise InvalidArgument(f"x of shape {tuple(x.shape)} must have {self.data_dim} values a sample")
        latent: Tensor = self.encoder(flat)
        return latent

    def forward(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch data"]:
        """A flat reconstruction."""
        reconstruction: Tensor = self.head(self.decoder(self.encode(x)))
        return reconstruction


class ConvAutoencoder(nn.Module):
    """Strided convolutions down, upsampling convolutions back, ``[N, C, H, W] -> [N, C * H * W]``.

    Any height and width. Its receptive fields cross patch borders: a convolution sees the zeros of hidden
    patches beside visible ones, but never what was hidden there.

    >>> ConvAutoencoder(channels=3)(torch.zeros(2, 3, 13, 10)).shape
    torch.Size([2, 390])
    """

    def __init__(self, channels: int, widths: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        sizes = [check_size("channels", channels), *check_sizes("widths", widths)]
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(sizes))
        back = [widths[0], *widths]
        self.up = nn.ModuleList(nn.Conv2d(b, a, 3, padding=1) for a, b in pairwise(back))
        self.head = nn.Conv2d(widths[0], channels, 3, padding=1)

    def _features(self, x: Tensor) -> tuple[Tensor, list[torch.Size]]:
        shapes = []
        for layer in self.down:
            shapes.append(x.shape[2:])
            x = F.gelu(layer(x))
        return x, shapes

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The mean feature vector of each image."""
        return self._features(x)[0].mean((2, 3))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch pixels"]:
        """A flat reconstruction of the whole image."""
        features, shapes = self._features(x)
        for layer, shape in zip(reversed(self.up), reversed(shapes), strict=True):
            features = F.gelu(layer(F.interpolate(features, size=shape)))
        reconstruction: Tensor = self.head(features)
        return reconstruction.flatten(1)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group normalisation and a shortcut (He et al. 2016)."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, width)
        plain = stride == 1 and width_in == width
        self.shortcut = nn.Identity() if plain else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Float[Tensor, "batch width_in height width"]) -> Float[Tensor, "batch width_out h2 w2"]:
        """The block's output, halved in size if its stride is 2."""
        out: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A small residual network with a linear head, ``[N, C, H, W] -> [N, recon_dim]``.

    Group normalisation instead of batch normalisation: a sample's output does not depend on its batch mates.
    ``widths`` must be multiples of 8; each stage after the first halves the image.

    >>> model = ResNet(channels=1, recon_dim=64)
    >>> model(torch.zeros(2, 1, 8, 8)).shape, model.encode(torch.zeros(2, 1, 8, 8)).shape
    (torch.Size([2, 64]), torch.Size([2, 128]))
    """

    def __init__(
        self, channels: int, recon_dim: int, widths: Sequence[int] = (32, 64, 128), blocks_per_stage: int = 2
    ) -> None:
        super().__init__()
        for name, size in (("channels", channels), ("recon_dim", recon_dim), ("blocks_per_stage", blocks_per_stage)):
            check_size(name, size)
        if any(width % 8 for width in check_sizes("widths", widths)):
            raise InvalidArgument(f"widths={widths!r} must be multiples of 8, the groups of the normalisation")
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 3, padding=1, bias=False), nn.GroupNorm(8, widths[0])]
        width_in = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks_per_stage):
                layers.append(ResidualBlock(width_in, width, stride=2 if stage and not block else 1))
                width_in = width
        self.encoder = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], recon_dim)

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The mean feature vector of each image."""
        features: Tensor = self.encoder(x)
        return features.mean((2, 3))

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch recon"]:
        """A flat reconstruction of ``recon_dim`` values."""
        reconstruction: Tensor = self.head(self.encode(x))
        return reconstruction
