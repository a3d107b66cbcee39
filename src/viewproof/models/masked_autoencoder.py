"""The asymmetric masked autoencoder: encode only visible patches, decode the hidden ones."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.masks.patches import split_patches, split_patches_by_sample
from viewproof.models.vit import (
    Block,
    PatchTransformer,
    TokenSettings,
    initialise,
    sincos_positions,
    transformer_blocks,
)  # fmt: skip
from viewproof.shapes import Float, Int, check_size

Decoder = Literal["self-attention", "cross-attention"]


class MaskedAutoencoder(PatchTransformer):
    """Masked autoencoder of He et al. 2021 (arXiv 2111.06377), for any image that the patch divides.

    ``forward(x, view)`` embeds and encodes only the patches that ``view`` leaves visible: hidden pixels are never
    read. A view may differ by sample if all leave equally many patches visible. ``decoder="self-attention"`` is the
    paper's: mask tokens join the encoded ones. ``"cross-attention"`` is CrossMAE's (Fu et al. 2024, arXiv 2401.14391):
    queries of hidden positions attend to the encoded tokens, not to each other. The result is
    ``[N, C * H * W]``; its visible coordinates are 0, for they are not predicted.

    With ``scored``, a mask over the flat target, only its patches are predicted, and the rest is 0 as well. What is
    predicted of them is what `forward` without it predicts, up to rounding: cross-attention computes their queries
    alone; in self-attention all hidden positions take part, and the last block and the head compute the scored ones.

    >>> from viewproof.views import image_patch_mae_sample
    >>> model = MaskedAutoencoder((3, 8, 12), (4, 4), dim=16, depth=1, heads=2, decoder_dim=8, decoder_heads=2)
    >>> sample = image_patch_mae_sample(torch.rand(2, 3, 8, 12), 4, 4, period=2, offset=0)
    >>> model(sample.x, sample.view).shape
    torch.Size([2, 288])
    """

    takes_view = True
    gives_tokens = True
    takes_scored = True
    decoder_positions: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: Sequence[int],
        dim: int = 192,
        depth: int = 12,
        heads: int = 3,
        decoder_dim: int = 128,
        decoder_depth: int = 4,
        decoder_heads: int = 4,
        decoder: Decoder = "self-attention",
        settings: TokenSettings | None = None,
    ) -> None:
        if decoder not in ("self-attention", "cross-attention"):
            raise InvalidArgument(f"decoder={decoder!r} must be 'self-attention' or 'cross-attention'")
        check_size("decoder_dim", decoder_dim)
        if decoder_depth == 0:
            raise InvalidArgument("decoder_depth=0 must be at least 1; hidden patches get their values from a block")
        super().__init__(image_shape, patch_size, dim, depth, heads, settings)
        self.crosses = decoder == "cross-attention"
        self.project = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(decoder_dim))
        self.decoder_blocks = transformer_blocks("decoder_depth", decoder_depth, decoder_dim, decoder_heads)
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=1e-6)
        self.head = nn.Linear(decoder_dim, image_shape[0] * math.prod(patch_size))
        self.register_buffer("decoder_positions", sincos_positions(*self.grid, decoder_dim), persistent=False)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        view: Mask,
        with_tokens: bool = False,
        scored: Mask | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The hidden patches' predicted pixels ``[N, pixels]``, flat, zero where ``view`` is visible.

        ``with_tokens``: beside the visible patches' encoded tokens ``[N, visible, dim]``, of the same pass. ``scored``:
        of these patches alone, equally many in each sample; pass ``sample.mask``.
        """
        tokens = self.encode_visible(x, view)
        prediction = self.decode(tokens, view, scored)
        return (prediction, tokens) if with_tokens else prediction

    def encode_visible(
        self, x: Float[Tensor, "batch channels height width"], view: Mask
    ) -> Float[Tensor, "batch visible dim"]:
        """The encoded tokens of the patches that ``view`` leaves visible."""
        return self.tokens(x, self._split(view, len(x))[0])

    def decode(
        self, tokens: Float[Tensor, "batch visible dim"], view: Mask, scored: Mask | None = None
    ) -> Float[Tensor, "batch pixels"]:
        """The hidden or the scored patches' predicted pixels, from the visible patches' tokens; see `forward`."""
        visible, hidden = self._split(view, len(tokens))
        if scored is None:
            return self._place(self._decode(tokens, visible, hidden), hidden)
        if tuple(scored.data_shape) != (math.prod(self.image_shape),):
            raise InvalidArgument(
                f"scored over {tuple(scored.data_shape)} must lie over the flat image ({math.prod(self.image_shape)},);"
                " pass sample.mask"
            )
        image = scored.hidden.reshape(*scored.hidden.shape[:-1], *self.image_shape)
        chosen = self._split(Mask(image, scored.per_sample, scored.rule), len(tokens))[1]
        return self._place(self._decode(tokens, visible, hidden, chosen), chosen)

    def _split(self, view: Mask, rows: int) -> tuple[Tensor, Tensor]:
        """The indices of visible and hidden patches; neither may be empty."""
        if view.per_sample and len(view.hidden) != rows:
            raise InvalidArgument(f"view of {len(view.hidden)} samples must have one row for each of {rows} samples")
        if tuple(view.data_shape) != self.image_shape:
            raise InvalidArgument(
                f"view over {tuple(view.data_shape)} must lie over the image {self.image_shape}; pass sample.view"
            )
        split = split_patches_by_sample if view.per_sample else split_patches
        visible, hidden = split(view, *self.patch_size)
        if 0 in (visible.shape[-1], hidden.shape[-1]):
            raise InvalidArgument(
                f"view made by {view.rule!r} leaves {visible.shape[-1]} patches visible and {hidden.shape[-1]} hidden; "
                "both must be at least 1 (encode(x) sees everything)"
            )
        return visible, hidden

    def embedded(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The embedded pixels, in the order of `gather`."""
        if index is None:
            index = torch.arange(math.prod(self.grid), device=x.device)
        out: Tensor = self.embed(self.gather(x, index))
        return out

    def gather(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"]
    ) -> Float[Tensor, "batch visible values"]:
        """The pixels of the patches in ``index``, in the order of a patch convolution's weights."""
        split = x.reshape(x.shape[0], x.shape[1], self.grid[0], self.patch_size[0], self.grid[1], self.patch_size[1])
        rows, cols = index // self.grid[1], index % self.grid[1]
        if index.dim() == 2:
            samples = torch.arange(len(x), device=x.device)[:, None]
            return split[samples, :, rows, :, cols].flatten(2)
        return split[:, :, rows, :, cols].transpose(0, 1).flatten(2)

    def _decode(self, encoded: Tensor, visible: Tensor, hidden: Tensor, scored: Tensor | None = None) -> Tensor:
        """The predicted pixels of the patches in ``scored``, by default of all hidden ones."""
        context = self.project(encoded) + self.decoder_positions[visible]
        asked = hidden if scored is None or not self.crosses else scored
        queries = (self.mask_token + self.decoder_positions[asked]).expand(len(encoded), -1, -1)
        if self.crosses:
            for block in self.decoder_blocks:
                queries = block(queries, context)
        else:
            tokens = torch.cat([context, queries], dim=1)
            *early, last = self.decoder_blocks
            assert isinstance(last, Block)
            for block in early:
                tokens = block(tokens)
            # The last block's visible outputs would be thrown away: only hidden positions ask, all positions answer.
            queries = tokens[:, visible.shape[-1] :]
            if scored is not None:
                # Both lists ascend and every scored patch is hidden, so its place among the hidden ones is a search.
                places = torch.searchsorted(hidden.expand(len(encoded), -1).contiguous(), scored.contiguous())
                queries = queries.take_along_dim(places[:, :, None], 1)
            queries = last(queries, last.norm1(tokens))
        out: Tensor = self.head(self.decoder_norm(queries))
        return out

    def _place(self, predicted: Tensor, hidden: Tensor) -> Tensor:
        """Write predicted patches, in `gather`'s order, into an image of zeros, flat."""
        channels, (rows, cols), (patch_h, patch_w) = self.image_shape[0], self.grid, self.patch_size
        image = predicted.new_zeros(len(predicted), channels, rows, patch_h, cols, patch_w)
        values = predicted.reshape(*predicted.shape[:2], channels, patch_h, patch_w)
        if hidden.dim() == 2:
            samples = torch.arange(len(predicted), device=hidden.device)[:, None]
            image[samples, :, hidden // cols, :, hidden % cols] = values
        else:
            image[:, :, hidden // cols, :, hidden % cols] = values.transpose(0, 1)
        return image.flatten(1)
