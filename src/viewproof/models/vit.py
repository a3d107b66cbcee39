"""The vision transformer (Dosovitskiy et al. 2021): parts, encoder, compact reconstructor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count, may_keep_tensors
from viewproof.models.attention import attend
from viewproof.shapes import Float, Int, check_kind, check_size, check_sizes

AREAS = 4
"""Stretches of rows, and of columns, of which features of kind ``"grid"`` are the means."""


def patch_grid(image_shape: Sequence[int], patch_size: Sequence[int]) -> tuple[int, int]:
    """The rows and columns of the patch grid; a patch must divide the image.

    >>> patch_grid((3, 32, 48), (8, 16))
    (4, 3)
    """
    if len(image_shape) != 3 or len(patch_size) != 2:
        raise InvalidArgument(f"image_shape={image_shape!r} must be (C, H, W) and patch_size={patch_size!r} (h, w)")
    for extent, size in zip(image_shape[1:], patch_size, strict=True):
        if size < 1 or extent % size:
            raise InvalidArgument(
                f"patch_size={tuple(patch_size)} must divide the image {tuple(image_shape)}; pass a divisor or pad"
            )
    return image_shape[1] // patch_size[0], image_shape[2] // patch_size[1]


def sincos_positions(rows: int, cols: int, dim: int, times: int | None = None) -> Float[Tensor, "patches dim"]:
    """The fixed sine-cosine position embedding of row-major patches: half for rows, half for columns.

    With ``times`` the patches are repeated so often, and about a quarter of the width is for the time.

    >>> sincos_positions(2, 3, 8).shape, sincos_positions(2, 3, 16, times=4).shape
    (torch.Size([6, 8]), torch.Size([24, 16]))
    """
    if times is not None:
        if dim < 8 or dim % 4:
            raise InvalidArgument(f"dim={dim} must be a multiple of 4 and at least 8 for positions in time and space")
        width = max(4, dim // 16 * 4)
        # The first half of a grid's code is that of its rows, which are the times here.
        clock, space = sincos_positions(times, 1, 2 * width)[:, :width], sincos_positions(rows, cols, dim - width)
        return torch.cat([clock.repeat_interleave(rows * cols, 0), space.repeat(times, 1)], 1)
    if dim < 4 or dim % 4:
        raise InvalidArgument(f"dim={dim} must be a multiple of 4 for sine-cosine positions")
    frequency = 1.0 / 10000 ** (torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    place = torch.cartesian_prod(torch.arange(rows, dtype=torch.float64), torch.arange(cols, dtype=torch.float64))
    angle = place[:, :, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=2).flatten(1).float()


def resize_positions(
    positions: Float[Tensor, "patches dim"], grid: tuple[int, int], new_grid: tuple[int, int]
) -> Float[Tensor, "new_patches dim"]:
    """Position embeddings of row-major patches, interpolated bicubically to another grid; the same changes nothing.

    >>> resize_positions(torch.ones(6, 8), (2, 3), (4, 3)).shape
    torch.Size([12, 8])
    """
    if grid == new_grid:
        return positions
    planes = positions.T.reshape(1, -1, *grid)
    resized = F.interpolate(planes.float(), new_grid, mode="bicubic", align_corners=False, antialias=True)
    return resized[0].flatten(1).T.to(positions.dtype)


def coarse_grid(features: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch features"]:
    """The means over at most four stretches of rows by four of columns, side by side; of smaller grids all places.

    The areas are those of adaptive average pooling, which overlap where the extents are no multiples of four.

    >>> coarse_grid(torch.ones(2, 3, 8, 5)).shape, coarse_grid(torch.ones(2, 3, 6, 1)).shape
    (torch.Size([2, 48]), torch.Size([2, 12]))
    """
    rows, columns = (min(AREAS, extent) for extent in features.shape[2:])
    return F.adaptive_avg_pool2d(features, (rows, columns)).flatten(1)


@dataclass(frozen=True)
class TokenSettings:
    """What a vision transformer has beside its patch tokens, and which tokens are its features.

    ``class_token`` and ``registers`` (a count) are learned tokens before the patches', without positions. Positions of
    patches are ``"fixed"`` sines and cosines, or ``"learned"``, starting from these. ``features`` is what ``encode``
    returns: the ``"mean"`` patch token, the ``"class"`` token, ``"both"``, the class token first, or ``"grid"``, the
    means of `coarse_grid`, which tell where, and in recordings when, something is.

    >>> TokenSettings(features="class")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: features='class' needs a class token; pass class_token=True, or features='mean'
    """

    class_token: bool = False
    registers: int = 0
    positions: Literal["fixed", "learned"] = "fixed"
    features: Literal["mean", "class", "both", "grid"] = "mean"
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        check_kind("class_token", self.class_token, bool)
        check_count("registers", self.registers)
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, float | int) or not 0 < self.norm_eps < 1:
            raise InvalidArgument(f"norm_eps={self.norm_eps!r} must be a number between 0 and 1; pass 1e-6")
        for name, choices in (("positions", ("fixed", "learned")), ("features", ("mean", "class", "both", "grid"))):
            if getattr(self, name) not in choices:
                raise InvalidArgument(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        if self.features in ("class", "both") and not self.class_token:
            raise InvalidArgument(
                f"features={self.features!r} needs a class token; pass class_token=True, or features='mean'"
            )

    @property
    def count(self) -> int:
        """The number of tokens before the patches'."""
        return self.class_token + self.registers


class Attention(nn.Module):
    """Multi-head attention of queries to a context, by default to the queries themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or dim % heads:
            raise InvalidArgument(f"heads={heads!r} must divide dim={dim}; pass a positive integer that does")
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], context: Float[Tensor, "batch keys dim"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The attended values, one per query."""
        dim = x.shape[2]
        if context is None:
            query, key, value = self.query_key_value(x).chunk(3, dim=2)
        else:
            weight, bias = self.query_key_value.weight, self.query_key_value.bias
            query = F.linear(x, weight[:dim], bias[:dim])
            key, value = F.linear(context, weight[dim:], bias[dim:]).chunk(2, dim=2)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        mixed = attend(query, key, value)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """A pre-norm transformer block; with a context its attention is cross-attention only."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, mlp_ratio * dim), nn.GELU(), nn.Linear(mlp_ratio * dim, dim))

    def forward(
        self, x: Float[Tensor, "batch tokens dim"], context: Float[Tensor, "batch keys dim"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens after attention and MLP, both with a residual connection."""
        x = x + self.attention(self.norm1(x), context)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def transformer_blocks(name: str, depth: int, dim: int, heads: int) -> nn.ModuleList:
    """``depth`` blocks; ``name`` is what errors call the depth."""
    if check_count(name, depth, "have no block") > 1000:
        raise InvalidArgument(f"{name}={depth} must be at most 1000; pass the number of blocks")
    return nn.ModuleList(Block(dim, heads) for _ in range(depth))


def check_patch_indices(name: str, index: Tensor, rows: int, patches: int) -> None:
    """Patch indices are one vector for the batch or one a sample, each from 0 to ``patches - 1``.

    The values are read on the CPU alone: on a GPU that would wait for the device at every step.
    """
    if index.dim() not in (1, 2) or (index.dim() == 2 and len(index) != rows):
        raise InvalidArgument(
            f"{name} of shape {tuple(index.shape)} must be one vector, or [N, v] with a row for each of {rows} samples"
        )
    if index.is_cpu and index.numel() and may_keep_tensors():
        least, most = int(index.min()), int(index.max())
        if least < 0 or most >= patches:
            raise InvalidArgument(f"{name} from {least} to {most} must lie in 0 to {patches - 1}, the image's patches")


def initialise(model: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every linear layer, as in He et al. 2021."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PatchTransformer(nn.Module):
    """The encoder that all vision transformers here share: embedding, blocks, norm.

    Subclasses define `embedded`, add their heads and call `initialise` at the end of ``__init__``. Any image that the
    patch divides. `TokenSettings` say what there is beside the patch tokens; by default nothing, with fixed positions,
    and features for probing are the mean of the patch tokens.
    """

    positions: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: Sequence[int],
        dim: int,
        depth: int,
        heads: int,
        settings: TokenSettings | None = None,
    ) -> None:
        super().__init__()
        check_sizes("image_shape", image_shape, 3)
        check_sizes("patch_size", patch_size, 2)
        check_size("dim", dim)
        self.settings = TokenSettings() if settings is None else settings
        check_kind("settings", self.settings, TokenSettings)
        self.image_shape, self.patch_size, self.dim = tuple(image_shape), tuple(patch_size), dim
        self.grid = patch_grid(image_shape, patch_size)
        self.embed = self._patch_embedding()
        self.blocks = transformer_blocks("depth", depth, dim, heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.settings.norm_eps
        positions = sincos_positions(*self.grid, dim)
        if self.settings.positions == "learned":
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions, persistent=False)
        if self.settings.count:
            self.prefix = nn.Parameter(nn.init.normal_(torch.empty(self.settings.count, dim), std=0.02))

    @property
    def feature_dim(self) -> int:
        """The width of what `encode` returns."""
        areas = math.prod(min(AREAS, extent) for extent in self.grid)
        return self.dim * {"both": 2, "grid": areas}.get(self.settings.features, 1)

    def _patch_embedding(self) -> nn.Module:
        return nn.Linear(self.image_shape[0] * math.prod(self.patch_size), self.dim)

    def embedded(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The embedded pixels of the patches in ``index``, of all patches if it is None."""
        raise NotImplementedError(f"{type(self).__name__} must define embedded(x, index)")

    def tokens(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The encoded tokens of the patches in ``index``, all patches in row-major order by default.

        ``index`` is one vector for the batch (`ViTReconstructor`, `MaskedAutoencoder`) or one a sample.
        """
        tokens = self.all_tokens(x, index)
        return tokens[:, self.settings.count :] if self.settings.count else tokens

    def all_tokens(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """As `tokens`, with the class token and the registers before the patches' tokens."""
        if tuple(x.shape[1:]) != self.image_shape:
            raise InvalidArgument(f"x of shape {tuple(x.shape)} must be [N, {', '.join(map(str, self.image_shape))}]")
        if index is not None:
            check_patch_indices("index", index, len(x), math.prod(self.grid))
        return self.transformed(self.embedded(x, index) + (self.positions if index is None else self.positions[index]))

    def transformed(self, tokens: Float[Tensor, "batch patches dim"]) -> Float[Tensor, "batch tokens dim"]:
        """Embedded patches with their positions after all blocks and the norm; class token and registers come first."""
        if self.settings.count:
            tokens = torch.cat([self.prefix.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The features of each whole image: by default the mean of its patch tokens."""
        return self.pooled(self.all_tokens(x))

    def pooled(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch features"]:
        """The features of encoded tokens, those before the patches' included."""
        first, patches = tokens[:, 0], tokens[:, self.settings.count :] if self.settings.count else tokens
        if self.settings.features == "grid":
            return coarse_grid(patches.mT.reshape(tokens.shape[0], self.dim, *self.grid))
        if self.settings.features == "class":
            return first
        return patches.mean(1) if self.settings.features == "mean" else torch.cat([first, patches.mean(1)], 1)


class ViTReconstructor(PatchTransformer):
    """A compact reconstructor: every patch is a token, masked ones too; the decoder is linear.

    Patch embedding by strided convolution, transformer blocks, then one linear map from all tokens to
    ``recon_dim`` values: ``[N, C, H, W] -> [N, recon_dim]``.

    >>> model = ViTReconstructor((1, 8, 12), patch_size=(4, 4), dim=16, depth=1, heads=2, recon_dim=50)
    >>> model(torch.zeros(2, 1, 8, 12)).shape, model.encode(torch.zeros(2, 1, 8, 12)).shape
    (torch.Size([2, 50]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: Sequence[int],
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        recon_dim: int | None = None,
        settings: TokenSettings | None = None,
    ) -> None:
        super().__init__(image_shape, patch_size, dim, depth, heads, settings)
        recon_dim = math.prod(image_shape) if recon_dim is None else check_size("recon_dim", recon_dim)
        self.head = nn.Linear(math.prod(self.grid) * dim, recon_dim)
        initialise(self)

    def _patch_embedding(self) -> nn.Module:
        patch = (self.patch_size[0], self.patch_size[1])
        return nn.Conv2d(self.image_shape[0], self.dim, patch, stride=patch)

    def embedded(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The convolution's values at the patches in ``index``, of all patches if it is None."""
        embedded: Tensor = self.embed(x).flatten(2).transpose(1, 2)
        if index is None:
            return embedded
        return embedded[:, index] if index.dim() == 1 else embedded.take_along_dim(index[:, :, None], 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch recon"]:
        """A flat reconstruction of ``recon_dim`` values."""
        reconstruction: Tensor = self.head(self.tokens(x).flatten(1))
        return reconstruction
