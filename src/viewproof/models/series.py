"""The masked autoencoder of series: samples ``[T, C]``, patches of several time steps."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.models.masked_autoencoder import MaskedAutoencoder
from viewproof.shapes import Float


class SeriesAutoencoder(nn.Module):
    """A masked autoencoder of series ``[N, T, C]`` whose patches are ``patch_size`` steps of all channels.

    It is a `MaskedAutoencoder` of images ``[1, T, C]`` with patches ``(patch_size, C)``: hidden steps are never read
    (Nie et al. 2023, arXiv 2211.14730, patch each channel for itself). ``options`` are that network's.

    >>> import torch
    >>> from viewproof.masks import RandomBlockMask
    >>> model = SeriesAutoencoder((12, 3), patch_size=4, dim=16, depth=1, heads=2, decoder_dim=8, decoder_heads=2)
    >>> sample = RandomBlockMask((4, None), 2).sample(torch.rand(5, 12, 3), sample_ids=torch.arange(5))
    >>> model(sample.x, sample.view).shape, model.encode(sample.x).shape
    (torch.Size([5, 36]), torch.Size([5, 16]))
    """

    takes_view = True
    gives_tokens = True

    def __init__(self, shape: Sequence[int], patch_size: int, *sizes: Any, **options: Any) -> None:
        super().__init__()
        if len(shape) != 2:
            raise InvalidArgument(f"shape={tuple(shape)} must be (T, C), that of a series")
        self.image_model = MaskedAutoencoder((1, *shape), (patch_size, shape[1]), *sizes, **options)

    def forward(
        self, x: Float[Tensor, "batch time channels"], view: Mask, with_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The hidden steps' predicted values ``[N, T * C]``, zero where ``view`` is visible, and the visible tokens."""
        out: Tensor | tuple[Tensor, Tensor] = self.image_model(x[:, None], over_images(view), with_tokens)
        return out

    def encode(self, x: Float[Tensor, "batch time channels"]) -> Float[Tensor, "batch dim"]:
        """The mean token of each whole series."""
        return self.image_model.encode(x[:, None])


def over_images(mask: Mask) -> Mask:
    """A mask over series ``[T, C]`` as one over images ``[1, T, C]``."""
    return Mask(mask.hidden.unsqueeze(1 if mask.per_sample else 0), per_sample=mask.per_sample, rule=mask.rule)
