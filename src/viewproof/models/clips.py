"""Vision transformers of clips ``[C, T, H, W]``: an encoder and a masked autoencoder whose patches are tubelets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.models.masked_autoencoder import MaskedAutoencoder
from viewproof.models.patches import PatchEncoder
from viewproof.models.vit import TokenSettings, patch_grid, sincos_positions
from viewproof.shapes import Float, Int, Shaped, check_sizes


def fold_clips(
    x: Shaped[Tensor, "*batch channels time height width"], frames: int
) -> Shaped[Tensor, "*batch folded rows width"]:
    """Clips as images of ``channels * frames`` channels: each ``frames`` frames are stacked, below those before.

    A patch of such an image holds a tubelet of the clip, and row-major patches are in the order of time, rows, columns.
    Theorems: ``folded_clip_get_eq_clip``, ``tubelet_index_is_row_major_in_time_row_column``.

    >>> fold_clips(torch.arange(8).reshape(1, 4, 2, 1), 2).tolist()
    [[[0], [1], [4], [5]], [[2], [3], [6], [7]]]
    """
    split = x.reshape(*x.shape[:-3], x.shape[-3] // frames, frames, *x.shape[-2:])
    return split.transpose(-4, -3).flatten(-3, -2).flatten(-4, -3)


def unfold_clips(x: Shaped[Tensor, "batch values"], clip_shape: Sequence[int], frames: int) -> Tensor:
    """Flat folded clips, ``[N, values]``, in the order of flat clips: the inverse of `fold_clips`.

    Theorem: ``unfold_clips_is_inverse_of_fold_clips``.

    >>> x = torch.arange(8).reshape(1, 1, 4, 2, 1)
    >>> bool((unfold_clips(fold_clips(x, 2).flatten(1), (1, 4, 2, 1), 2) == x.flatten(1)).all())
    True
    """
    channels, time, height, width = clip_shape
    split = x.reshape(x.shape[0], channels, frames, time // frames, height, width)
    return split.transpose(2, 3).flatten(1)


def fold_mask(mask: Mask, frames: int) -> Mask:
    """A mask over clips as one over the images that `fold_clips` makes of them."""
    return Mask(fold_clips(mask.hidden, frames), per_sample=mask.per_sample, rule=mask.rule)


def check_tubelets(
    clip_shape: Sequence[int], tubelet: Sequence[int], settings: TokenSettings | None = None
) -> tuple[int, int, int]:
    """The tubelets of a clip along time, rows and columns.

    Sizes that do not divide it, and settings that ask for the features of a grid, raise `InvalidArgument`.

    >>> check_tubelets((3, 16, 32, 48), (2, 8, 8))
    (8, 4, 6)
    """
    check_sizes("clip_shape", clip_shape, 4)
    check_sizes("tubelet", tubelet, 3)
    if settings is not None and settings.features == "grid":
        raise InvalidArgument("features='grid' is of images, not of clips; pass 'mean', 'class' or 'both'")
    channels, time, height, width = clip_shape
    if time % tubelet[0]:
        raise InvalidArgument(f"tubelet={tubelet[0]} must divide the {time} frames of a clip; pass a divisor")
    return time // tubelet[0], *patch_grid((channels, height, width), tubelet[1:])


class ClipEncoder(nn.Module):
    """A vision transformer over the tubelets of a clip whose indices it is given: V-JEPA's encoder.

    ``(x: [N, C, T, H, W], index: [N, v]) -> [N, v, dim]``. A tubelet is ``(frames, rows, columns)`` of all channels.
    Values of other tubelets are never read; without an index all are encoded, in the order of time, rows, columns. It
    is a `PatchEncoder` of the images that `fold_clips` makes, with fixed positions of time, rows and columns.

    >>> encoder = ClipEncoder((1, 4, 8, 12), (2, 4, 4), dim=16, depth=1, heads=2)
    >>> x = torch.zeros(2, 1, 4, 8, 12)
    >>> encoder(x, torch.tensor([[0, 11], [1, 2]])).shape, encoder.encode(x).shape
    (torch.Size([2, 2, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        tubelet: Sequence[int],
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        settings: TokenSettings | None = None,
    ) -> None:
        super().__init__()
        self.grid = check_tubelets(clip_shape, tubelet, settings)
        self.clip_shape, self.tubelet = tuple(clip_shape), (tubelet[0], tubelet[1], tubelet[2])
        self.image_encoder = PatchEncoder(folded_shape(clip_shape, tubelet), tubelet[1:], dim, depth, heads, settings)
        with torch.no_grad():
            self.image_encoder.positions.copy_(sincos_positions(*self.grid[1:], dim, self.grid[0]))

    @property
    def feature_dim(self) -> int:
        """The width of what `encode` returns."""
        return self.image_encoder.feature_dim

    def forward(
        self, x: Float[Tensor, "batch channels time height width"], index: Int[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The encoded tokens of the tubelets in ``index``, of all by default."""
        return self.image_encoder.tokens(self.fold(x), index)

    def encode(self, x: Float[Tensor, "batch channels time height width"]) -> Float[Tensor, "batch features"]:
        """The features of each whole clip: by default the mean of its tokens."""
        return self.image_encoder.encode(self.fold(x))

    def fold(self, x: Float[Tensor, "batch channels time height width"]) -> Float[Tensor, "batch folded rows width"]:
        """`fold_clips`, of clips of the encoder's shape."""
        if tuple(x.shape[1:]) != self.clip_shape:
            raise InvalidArgument(f"x of shape {tuple(x.shape)} must be [N, {', '.join(map(str, self.clip_shape))}]")
        return fold_clips(x, self.tubelet[0])


def folded_shape(clip_shape: Sequence[int], tubelet: Sequence[int]) -> tuple[int, int, int]:
    """The shape of the images that `fold_clips` makes.

    >>> folded_shape((3, 16, 32, 48), (2, 8, 8))
    (6, 256, 48)
    """
    channels, time, height, width = clip_shape
    return channels * tubelet[0], time // tubelet[0] * height, width


class ClipAutoencoder(nn.Module):
    """A masked autoencoder of clips ``[N, C, T, H, W]`` whose patches are tubelets: VideoMAE.

    It is a `MaskedAutoencoder` of the images that `fold_clips` makes, with fixed positions of time, rows and columns:
    hidden tubelets are never read (Tong et al. 2022, arXiv 2203.12602). ``sizes`` and ``options`` are that network's.

    >>> from viewproof.masks import TubeMask
    >>> model = ClipAutoencoder((1, 4, 8, 8), (2, 4, 4), dim=16, depth=1, heads=2, decoder_dim=8, decoder_heads=2)
    >>> sample = TubeMask(4, 4, count=3).sample(torch.rand(5, 1, 4, 8, 8), sample_ids=torch.arange(5))
    >>> model(sample.x, sample.view).shape, model.encode(sample.x).shape
    (torch.Size([5, 256]), torch.Size([5, 16]))
    """

    takes_view = True
    gives_tokens = True

    def __init__(self, clip_shape: Sequence[int], tubelet: Sequence[int], *sizes: Any, **options: Any) -> None:
        super().__init__()
        time, rows, cols = check_tubelets(clip_shape, tubelet, options.get("settings"))
        self.clip_shape, self.tubelet = tuple(clip_shape), (tubelet[0], tubelet[1], tubelet[2])
        self.image_model = model = MaskedAutoencoder(folded_shape(clip_shape, tubelet), tubelet[1:], *sizes, **options)
        with torch.no_grad():
            for positions in (model.positions, model.decoder_positions):
                positions.copy_(sincos_positions(rows, cols, positions.shape[1], time))

    def forward(
        self, x: Float[Tensor, "batch channels time height width"], view: Mask, with_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The hidden tubelets' predicted values ``[N, C * T * H * W]``, zero where visible, and the visible tokens."""
        frames = self.tubelet[0]
        out: tuple[Tensor, Tensor] = self.image_model(fold_clips(x, frames), fold_mask(view, frames), with_tokens=True)
        prediction = unfold_clips(out[0], self.clip_shape, frames)
        return (prediction, out[1]) if with_tokens else prediction

    def encode(self, x: Float[Tensor, "batch channels time height width"]) -> Float[Tensor, "batch features"]:
        """The features of each whole clip."""
        return self.image_model.encode(fold_clips(x, self.tubelet[0]))
