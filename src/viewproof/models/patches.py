"""I-JEPA's encoder of any patches and predictor of others, and the projector of two-view methods."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.models.vit import (
    PatchTransformer,
    TokenSettings,
    check_patch_indices,
    initialise,
    sincos_positions,
    transformer_blocks,
)  # fmt: skip
from viewproof.shapes import Float, Int, check_size, check_sizes
from viewproof.views import patchify


class PatchEncoder(PatchTransformer):
    """A vision transformer over the patches whose indices it is given.

    ``(x: [N, C, H, W], index: [N, v]) -> [N, v, dim]``.

    Pixels of other patches are never read; without an index all patches are encoded, in row-major order.

    >>> encoder = PatchEncoder((1, 8, 12), (4, 4), dim=16, depth=1, heads=2)
    >>> x = torch.zeros(2, 1, 8, 12)
    >>> encoder(x, torch.tensor([[0, 5], [1, 2]])).shape, encoder.encode(x).shape
    (torch.Size([2, 2, 16]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: Sequence[int],
        dim: int = 128,
        depth: int = 4,
        heads: int = 4,
        settings: TokenSettings | None = None,
    ) -> None:
        super().__init__(image_shape, patch_size, dim, depth, heads, settings)
        initialise(self)

    def embedded(
        self, x: Float[Tensor, "batch channels height width"], index: Int[Tensor, "*batch visible"] | None
    ) -> Float[Tensor, "batch tokens dim"]:
        """The embedded pixels, in the order of `viewproof.patchify`; ``index`` is one vector a sample."""
        patches = patchify(x, *self.patch_size)
        out: Tensor = self.embed(patches if index is None else patches.take_along_dim(index[:, :, None], 1))
        return out

    forward = PatchTransformer.tokens


def hide_patches(
    embedded: Float[Tensor, "batch patches dim"], places: Int[Tensor, "batch places"], token: Float[Tensor, "dim"]
) -> Float[Tensor, "batch patches dim"]:
    """Embedded patches with ``token`` in the places of each sample: a selection, what was there is not read.

    Theorem: ``hidden_patches_are_the_mask_token``.

    >>> hide_patches(torch.full((1, 3, 1), torch.nan), torch.tensor([[0, 1, 2]]), torch.ones(1)).flatten()
    tensor([1., 1., 1.])
    """
    hidden = torch.zeros(embedded.shape[:2], dtype=torch.bool, device=embedded.device).scatter(1, places, True)
    return torch.where(hidden[:, :, None], token.to(embedded.dtype), embedded)


def tokens_at(
    tokens: Float[Tensor, "batch patches dim"], places: Int[Tensor, "batch places"]
) -> Float[Tensor, "batch places dim"]:
    """Each sample's tokens at its own places.

    >>> tokens_at(torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([[1], [0]])).flatten()
    tensor([2., 3.])
    """
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


def mean_of_last_layers(
    outputs: Sequence[Float[Tensor, "batch patches dim"]], layers: int, places: Int[Tensor, "batch places"]
) -> Float[Tensor, "batch places dim"]:
    """The mean over the last ``layers`` outputs of their layer-normalised tokens, at each sample's places: data2vec's.

    Theorem: ``data2vec_target_is_the_mean_of_the_last_layers``.

    >>> outputs = [torch.tensor([[[1.0, 3.0], [5.0, 2.0]]]), torch.tensor([[[0.0, 9.0], [4.0, 0.0]]])]
    >>> mean_of_last_layers(outputs, 2, torch.tensor([[1]])).round()
    tensor([[[ 1., -1.]]])
    """
    normal = [F.layer_norm(out, out.shape[-1:]) for out in outputs[-layers:]]
    return tokens_at(torch.stack(normal).mean(0), places)


def block_targets(
    tokens: Float[Tensor, "batch patches dim"], blocks: Int[Tensor, "batch blocks places"]
) -> Float[Tensor, "batch blocks places dim"]:
    """The layer-normalised tokens, without scale and shift, of the places of every block: I-JEPA's targets.

    Theorem: ``ijepa_block_is_predicted_from_its_own_context``.
    """
    normal = F.layer_norm(tokens, tokens.shape[-1:])
    return tokens_at(normal, blocks.flatten(1)).reshape(*blocks.shape, -1)


def predict_blocks(
    predictor: Callable[[Tensor, Tensor, Tensor], Tensor],
    tokens: Float[Tensor, "batch context dim"],
    context: Int[Tensor, "batch context"],
    blocks: Int[Tensor, "batch blocks places"],
) -> Float[Tensor, "batch blocks places dim"]:
    """The predicted tokens of every block, each from the encoded context of its sample.

    ``predictor`` gets one row a block: encoded tokens, their places, the places to predict. Theorem:
    ``ijepa_block_is_predicted_from_its_own_context``.
    """
    count = blocks.shape[1]
    prediction = predictor(
        tokens.repeat_interleave(count, 0), context.repeat_interleave(count, 0), blocks.flatten(0, 1)
    )
    return prediction.reshape(*blocks.shape, -1)


class PatchPredictor(nn.Module):
    """I-JEPA's predictor: from encoded tokens and the places of others to those others' tokens.

    A narrow transformer over the context's tokens and one mask token a target place, each with its position:
    ``(tokens: [N, v, dim], index: [N, v], target_index: [N, k]) -> [N, k, dim]``. ``grid`` has the rows and columns of
    the patches; of tubelets of clips the times first.

    >>> predictor = PatchPredictor(grid=(2, 3), dim=16, width=8, depth=1, heads=2)
    >>> predictor(torch.zeros(2, 3, 16), torch.tensor([[0, 1, 2]] * 2), torch.tensor([[4, 5]] * 2)).shape
    torch.Size([2, 2, 16])
    """

    positions: Tensor

    def __init__(self, grid: Sequence[int], dim: int = 128, width: int = 64, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        if len(check_sizes("grid", grid)) not in (2, 3):
            raise InvalidArgument(f"grid={grid!r} must be 2 integers, rows and columns, or 3 with times before them")
        check_size("dim", dim)
        check_size("width", width)
        self.project = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = transformer_blocks("depth", depth, width, heads)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, dim)
        *times, rows, cols = grid
        self.register_buffer("positions", sincos_positions(rows, cols, width, *times), persistent=False)
        initialise(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        tokens: Float[Tensor, "batch visible dim"],
        index: Int[Tensor, "batch visible"],
        target_index: Int[Tensor, "batch targets"],
    ) -> Float[Tensor, "batch targets dim"]:
        """The predicted tokens of the places in ``target_index``."""
        for name, places in (("index", index), ("target_index", target_index)):
            check_patch_indices(name, places, len(tokens), len(self.positions))
        context = self.project(tokens) + self.positions[index]
        queries = self.mask_token + self.positions[target_index]
        mixed = torch.cat([context, queries], dim=1)
        for block in self.blocks:
            mixed = block(mixed)
        out: Tensor = self.head(self.norm(mixed[:, index.shape[1] :]))
        return out


class Projector(nn.Sequential):
    """The projector of two-view methods, three linear layers: ``[N, dim] -> [N, width]``.

    Between them are GELU and layer normalisation where the papers have batch normalisation: an embedding does not
    depend on its batch mates.

    >>> Projector(16, 32)(torch.zeros(2, 16)).shape
    torch.Size([2, 32])
    """

    def __init__(self, dim: int, width: int) -> None:
        layers: list[nn.Module] = []
        check_size("dim", dim)
        check_size("width", width)
        for narrow in (dim, width):
            layers += [nn.Linear(narrow, width), nn.LayerNorm(width), nn.GELU()]
        super().__init__(*layers, nn.Linear(width, width))
