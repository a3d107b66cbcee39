"""A vision transformer's weights in one layout, between every format that is read and every one that is written.

The names are timm's, which the official MAE checkpoints share. What other formats do differently is folded in, so that
the function stays the same: a class token's position is added to the token, a layer scale multiplies the weights before
it, a distillation token is a register, three projections become one matrix.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.models import PatchEncoder, TokenSettings
from viewproof.models.vit import Block, PatchTransformer, resize_positions, sincos_positions
from viewproof.shapes import Float

BOUND = 1e-4
"""The largest difference of two models' tokens that counts as rounding, as a share of the largest token value.

Float32 rounding gives about 1e-6 at depth 12; another epsilon, order of patches or number of heads gives far more.
"""


@dataclass(frozen=True)
class Row:
    """What became of one tensor: its name in the source, its name here ("" if unused), and what was done."""

    source: str
    target: str
    what: str


@dataclass(frozen=True, eq=False)
class VitWeights:
    """The tensors of a pre-norm vision transformer with GELU, and what tensors do not say.

    ``tensors`` are ``patch_embed.proj.{weight, bias}``, ``prefix [tokens, dim]`` if any (class token first),
    ``pos_embed [patches, dim]``, ``blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1, mlp.fc2}.{weight, bias}`` and
    ``norm.{weight, bias}``. ``rows`` account for every tensor of the source.
    """

    tensors: dict[str, Tensor]
    heads: int
    norm_eps: float
    grid: tuple[int, int]
    class_token: bool
    rows: tuple[Row, ...] = ()

    @property
    def kernel(self) -> Tensor:
        """The patch convolution's weights, ``[dim, channels, patch_h, patch_w]``."""
        return self.tensors["patch_embed.proj.weight"]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Rows and columns of a patch."""
        return (self.kernel.shape[2], self.kernel.shape[3])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the images that the positions are for."""
        return (self.kernel.shape[1], *(g * p for g, p in zip(self.grid, self.patch_size, strict=True)))  # type: ignore[return-value]

    @property
    def depth(self) -> int:
        """The number of blocks."""
        return 1 + max(int(name.split(".")[1]) for name in self.tensors if name.startswith("blocks."))

    @property
    def prefix_count(self) -> int:
        """The number of tokens before the patches'."""
        return len(self.tensors["prefix"]) if "prefix" in self.tensors else 0

    def on_grid(self, grid: tuple[int, int], positions: Tensor | None = None) -> "VitWeights":
        """The same weights on another grid, with given positions or with their own, interpolated."""
        if grid == self.grid:
            return self
        how = "resized bicubically" if positions is None else "fixed, those of the grid:"
        if positions is None:
            positions = resize_positions(self.tensors["pos_embed"], self.grid, grid)
        tensors = {**self.tensors, "pos_embed": positions}
        resized = f"{how} {self.grid[0]} x {self.grid[1]} -> {grid[0]} x {grid[1]}"
        rows = tuple(replace(row, what=resized) if row.target == "pos_embed" else row for row in self.rows)
        return replace(self, tensors=tensors, grid=grid, rows=rows)


# Each pattern with its name here; a name that fits none, and is not unused for a known reason, is unexplained.
NAMES = [
    (r"patch_embed\.proj\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"(cls_token|dist_token|reg_token|pos_embed)", r"\1"),
    (r"blocks\.(\d+)\.(norm1|attn\.qkv|attn\.proj|norm2|mlp\.fc1|mlp\.fc2)\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"blocks\.(\d+)\.(ls1|ls2)\.gamma", r"blocks.\1.\2"),
    (r"norm\.(weight|bias)", r"norm.\1"),
    (r"embeddings\.patch_embeddings\.projection\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"embeddings\.cls_token", r"cls_token"),
    (r"embeddings\.distillation_token", r"dist_token"),
    (r"embeddings\.register_tokens", r"reg_token"),
    (r"embeddings\.position_embeddings", r"pos_embed"),
    (r"LAYER\.attention\.(?:attention\.)?(q|k|v)(?:_proj|uery|ey|alue)\.(weight|bias)", r"blocks.\1.attn.\2.\3"),
    (r"LAYER\.attention\.(?:o_proj|output\.dense)\.(weight|bias)", r"blocks.\1.attn.proj.\2"),
    (r"LAYER\.(?:layernorm_before|norm1)\.(weight|bias)", r"blocks.\1.norm1.\2"),
    (r"LAYER\.(?:layernorm_after|norm2)\.(weight|bias)", r"blocks.\1.norm2.\2"),
    (r"LAYER\.(?:mlp\.fc1|intermediate\.dense)\.(weight|bias)", r"blocks.\1.mlp.fc1.\2"),
    (r"LAYER\.(?:mlp\.fc2|output\.dense)\.(weight|bias)", r"blocks.\1.mlp.fc2.\2"),
    (r"LAYER\.layer_scale(1|2)\.lambda1", r"blocks.\1.ls\2"),
    (r"layernorm\.(weight|bias)", r"norm.\1"),
]
LAYER = r"(?:encoder\.layer|encoder\.layers|layers|layer)\.(\d+)"
PATTERNS = [(re.compile(pattern.replace("LAYER", LAYER)), target) for pattern, target in NAMES]
KERNEL = re.compile(r"(.*\.)?(?:patch_embed\.proj|embeddings\.patch_embeddings\.projection)\.weight")
"""The patch convolution's weights; what stands before their name stands before all of the encoder's."""
UNUSED = {
    r"decoder.*": "unused: of the decoder",
    r"(head|head_dist|fc|classifier|cls_classifier|distillation_classifier)\..*": "unused: of a classifier",
    r"pooler\..*": "unused: of the pooler",
    r"(embeddings\.)?mask_token": "unused: of the masked patches, which are not encoded here",
}


def only_prefix(prefixes: Sequence[str], name: str) -> str:
    """What stands before the names of a source's one encoder; several encoders raise `InvalidArgument`."""
    if len(prefixes) > 1:
        found = ", ".join(repr(prefix) for prefix in prefixes)
        raise InvalidArgument(f"init={name!r} holds several encoders, at {found}; save the state dict of one")
    return prefixes[0] if prefixes else ""


def from_state(
    state: Mapping[str, Tensor],
    name: str,
    *,
    heads: int | None = None,
    norm_eps: float = 1e-6,
    grid: tuple[int, int] | None = None,
) -> VitWeights:
    """The weights in a state dict with the names of timm, the official MAE or transformers.

    ``name`` is what errors call the source. ``heads`` is by default dim / 64, as in every published ViT; ``grid`` by
    default square. All names may have a prefix, such as ``module.``. A tensor of the encoder that nothing explains, a
    missing one, one of another shape, and a second encoder raise `InvalidArgument`.
    """
    prefixes = [match[1] or "" for key in state if (match := KERNEL.fullmatch(key))]
    prefix = only_prefix(prefixes, name)
    tensors: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    rows, unexplained = [], []
    for key, value in state.items():
        bare = key.removeprefix(prefix)
        target = next((match.expand(new) for pattern, new in PATTERNS if (match := pattern.fullmatch(bare))), None)
        reason = next((why for pattern, why in UNUSED.items() if re.fullmatch(pattern, bare)), None)
        if not key.startswith(prefix):
            rows.append(Row(key, "", reason or f"unused: not of the encoder {prefix.removesuffix('.')}"))
        elif target is not None and target not in tensors:
            tensors[target], sources[target] = value.detach().float(), key
        elif target is None and reason is not None:
            rows.append(Row(key, "", reason))
        else:
            unexplained.append(key)
    if "patch_embed.proj.weight" not in tensors or tensors["patch_embed.proj.weight"].dim() != 4:
        raise InvalidArgument(
            f"init={name!r} holds no vision transformer with a patch convolution; pass a ViT, DeiT, DINOv2, I-JEPA or "
            "MAE checkpoint"
        )
    if unexplained:
        raise InvalidArgument(
            f"init={name!r} has {len(unexplained)} tensors that nothing explains, such as {unexplained[0]!r}: its "
            "function is not a plain ViT's; pass a plain ViT's checkpoint"
        )
    dim = tensors["patch_embed.proj.weight"].shape[0]
    blocks = {int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")}
    depth = 1 + max(blocks, default=-1)
    zeros = {"patch_embed.proj.bias": dim}
    for n in range(depth):
        block = f"blocks.{n}."
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{block}attn.{part}.{kind}", None) for part in "qkv"]
            if all(part is not None for part in parts):
                tensors[f"{block}attn.qkv.{kind}"] = torch.cat(parts)  # type: ignore[arg-type]
                joined = [sources.pop(f"{block}attn.{part}.{kind}") for part in "qkv"]
                rows += [Row(key, f"{block}attn.qkv.{kind}", "loaded: joined") for key in joined]
        zeros[f"{block}attn.qkv.bias"] = 3 * dim
        for scale, linear in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
            if (gamma := tensors.pop(block + scale, None)) is not None:
                weight = f"{block}{linear}.weight"
                tensors[weight] = gamma[:, None] * tensors[weight]
                tensors[f"{block}{linear}.bias"] = gamma * tensors[f"{block}{linear}.bias"]
                rows.append(Row(sources.pop(block + scale), weight, "folded: multiplies these weights"))
    for target, size in zeros.items():
        if target not in tensors:
            tensors[target] = torch.zeros(size)
            rows.append(Row("", target, "missing in the source, which has no bias: zeros"))
    class_token = "cls_token" in tensors
    names = [part for part in ("cls_token", "dist_token", "reg_token") if part in tensors]
    extra = [tensors.pop(part).reshape(-1, dim) for part in names]
    tokens = torch.cat(extra) if extra else None
    positions = tensors["pos_embed"].reshape(-1, dim) if "pos_embed" in tensors else torch.zeros(0, dim)
    for count in sorted({0 if tokens is None else len(tokens), min(1, len(extra)), 0}, reverse=True):
        patches = len(positions) - count
        side = math.isqrt(max(patches, 0))
        if patches > 0 and (patches == math.prod(grid) if grid is not None else side * side == patches):
            grid = grid or (side, side)
            break
    else:
        raise InvalidArgument(
            f"init={name!r} has {len(positions)} positions, which are no square grid of patches; pass another"
        )
    tensors["pos_embed"] = positions[count:]
    if tokens is not None:
        tensors["prefix"] = torch.cat([tokens[:count] + positions[:count], tokens[count:]])
        rows += [
            Row(sources.pop(part), "prefix", "loaded" + (": with its position" if count else "")) for part in names
        ]
    mlp = tensors.get("blocks.0.mlp.fc1.weight", torch.zeros(4 * dim, dim)).shape[0]
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (dim,), "norm.bias": (dim,)}
    for n in range(depth):
        sizes: list[tuple[str, tuple[int, ...]]] = [
            ("norm1", (dim,)), ("norm2", (dim,)), ("attn.qkv", (3 * dim, dim)), ("attn.proj", (dim, dim)),
            ("mlp.fc1", (4 * dim, dim)), ("mlp.fc2", (dim, 4 * dim)),
        ]  # fmt: skip
        for part, extents in sizes:
            shapes[f"blocks.{n}.{part}.weight"], shapes[f"blocks.{n}.{part}.bias"] = extents, extents[:1]
    missing = sorted(shapes.keys() - tensors.keys())
    if missing or not depth:
        raise InvalidArgument(
            f"init={name!r} lacks {missing[0] if missing else 'blocks'!r}; pass a whole ViT's checkpoint"
        )
    wrong = [key for key, shape in shapes.items() if tuple(tensors[key].shape) != shape]
    if wrong:
        shape = tuple(tensors[wrong[0]].shape)
        raise InvalidArgument(
            f"init={name!r}: {wrong[0]} of shape {shape} must be {shapes[wrong[0]]}"
            + (
                f"; an MLP of {mlp / dim:g} times the width cannot be loaded, pass one of 4 times"
                if mlp != 4 * dim
                else ""
            )
        )
    rows += [Row(source, target, "loaded") for target, source in sources.items()]
    if heads is None:
        heads = max(1, dim // 64)
    return VitWeights(tensors, heads, norm_eps, grid, class_token, tuple(sorted(rows, key=lambda row: row.source)))


OURS = {"attention.query_key_value": "attn.qkv", "attention.out": "attn.proj", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
"""Parts of our `Block` beside their names here; the norms are called alike."""


def from_encoder(encoder: PatchTransformer) -> VitWeights:
    """The weights of one of our encoders, as copies."""
    weight = encoder.embed.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach()
    if isinstance(encoder, PatchEncoder):
        weight = weight.reshape(len(weight), *encoder.patch_size, -1).permute(0, 3, 1, 2)
    kernel = weight.reshape(len(weight), encoder.image_shape[0], *encoder.patch_size)
    tensors = {"patch_embed.proj.weight": kernel, "patch_embed.proj.bias": encoder.embed.bias}
    for name, tensor in _parameters(encoder).items():
        tensors[name] = tensor
    tensors["pos_embed"] = encoder.positions
    if encoder.settings.count:
        tensors["prefix"] = encoder.prefix
    rows = tuple(Row(name, name, "loaded") for name in sorted(tensors))
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # type: ignore[operator]
    settings, block = encoder.settings, encoder.blocks[0]
    assert isinstance(block, Block)
    return VitWeights(copies, block.attention.heads, settings.norm_eps, encoder.grid, settings.class_token, rows)


def _parameters(encoder: PatchTransformer) -> dict[str, Tensor]:
    """The parameters of the blocks and the last norm, by their names here."""
    found: dict[str, Tensor] = {f"norm.{kind}": tensor for kind, tensor in encoder.norm.named_parameters()}
    for key, tensor in encoder.blocks.named_parameters():
        number, _, rest = key.partition(".")
        part, _, kind = rest.rpartition(".")
        found[f"blocks.{number}.{OURS.get(part, part)}.{kind}"] = tensor
    return found


def to_encoder(vit: VitWeights, encoder: PatchTransformer, name: str) -> VitWeights:
    """Copy weights into one of our encoders, positions interpolated to its grid; return what was copied.

    Where both have fixed positions, the encoder keeps those of its own grid. Another width, depth, number of heads,
    patch, number of channels or of tokens before the patches' raises `InvalidArgument`, before anything is copied.
    """
    block, settings = encoder.blocks[0], encoder.settings
    assert isinstance(block, Block)
    registers = vit.prefix_count - vit.class_token
    pairs = {
        "dim": (vit.kernel.shape[0], encoder.dim), "depth": (vit.depth, len(encoder.blocks)),
        "heads": (vit.heads, block.attention.heads), "patch_size": (vit.patch_size, tuple(encoder.patch_size)),
        "channels": (vit.kernel.shape[1], encoder.image_shape[0]),
        "class_token": (vit.class_token, settings.class_token),
        "registers": (registers, settings.registers), "norm_eps": (vit.norm_eps, settings.norm_eps),
    }  # fmt: skip
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            if what == "patch_size" and vit.patch_size[0] == vit.patch_size[1]:
                theirs = vit.patch_size[0]
            remedy = (
                "take images of as many channels" if what == "channels" else f"pass {what}={theirs!r} or leave it out"
            )
            raise InvalidArgument(f"init={name!r} has {what}={theirs!r}, and this encoder {what}={ours!r}; {remedy}")
    fixed = settings.positions == "fixed"
    if fixed and torch.equal(vit.tensors["pos_embed"], sincos_positions(*vit.grid, encoder.dim)):
        vit = vit.on_grid(encoder.grid, encoder.positions.detach().cpu().clone())
    vit = vit.on_grid(encoder.grid)
    if fixed and not torch.equal(vit.tensors["pos_embed"], encoder.positions.detach().cpu()):
        raise InvalidArgument(f"init={name!r} has positions of its own; pass positions='learned'")
    kernel = vit.kernel
    if isinstance(encoder, PatchEncoder):
        kernel = kernel.permute(0, 2, 3, 1)
    weight = encoder.embed.weight
    assert isinstance(weight, Tensor)
    targets = {**_parameters(encoder), "patch_embed.proj.bias": encoder.embed.bias}
    if not fixed:
        targets["pos_embed"] = encoder.positions
    if settings.count:
        targets["prefix"] = encoder.prefix
    with torch.no_grad():
        weight.copy_(kernel.reshape(weight.shape))
        for key, tensor in targets.items():
            tensor.copy_(vit.tensors[key])  # type: ignore[operator]
    return vit


def token_settings(vit: VitWeights, features: str = "mean") -> TokenSettings:
    """The settings of an encoder that holds these weights."""
    registers = vit.prefix_count - vit.class_token
    return TokenSettings(vit.class_token, registers, "learned", features, vit.norm_eps)  # type: ignore[arg-type]


def plain_tokens(vit: VitWeights, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens dim"]:
    """All tokens of images of the weights' own grid, in float64; written from the paper alone."""
    w = {name: tensor.double() for name, tensor in vit.tensors.items()}
    dim = vit.kernel.shape[0]
    z = F.conv2d(x.double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=vit.patch_size)
    z = z.flatten(2).transpose(1, 2) + w["pos_embed"]
    if vit.prefix_count:
        z = torch.cat([w["prefix"].expand(len(x), -1, -1), z], 1)

    def norm(z: Tensor, name: str) -> Tensor:
        centred = z - z.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + vit.norm_eps).sqrt()
        return centred / scale * w[name + ".weight"] + w[name + ".bias"]

    def linear(z: Tensor, name: str) -> Tensor:
        return z @ w[name + ".weight"].T + w[name + ".bias"]

    for n in range(vit.depth):
        block = f"blocks.{n}."
        query, key, value = (
            part.reshape(len(x), -1, vit.heads, dim // vit.heads).transpose(1, 2)
            for part in linear(norm(z, block + "norm1"), block + "attn.qkv").chunk(3, -1)
        )
        mixed = (query @ key.transpose(2, 3) / math.sqrt(dim // vit.heads)).softmax(-1) @ value
        z = z + linear(mixed.transpose(1, 2).flatten(2), block + "attn.proj")
        hidden = linear(norm(z, block + "norm2"), block + "mlp.fc1")
        z = z + linear(0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))), block + "mlp.fc2")
    return norm(z, "norm")


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference of two results as a share of the second's largest value; infinite if the shapes differ.

    >>> round(difference(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])), 3)
    0.5
    """
    if a.shape != b.shape:
        return math.inf
    gap = float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
    return gap if math.isfinite(gap) else math.inf


def probe_images(shape: tuple[int, ...], count: int = 4) -> Float[Tensor, "count channels height width"]:
    """Standard normal images, always the same, on which two models are compared."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))


def encoder_of(model: nn.Module) -> nn.Module:
    """The part of a run's network whose features are evaluated: its encoder, or I-JEPA's target encoder.

    >>> from viewproof.models import VectorAutoencoder
    >>> type(encoder_of(VectorAutoencoder(4))).__name__
    'VectorAutoencoder'
    """
    for name in ("target", "encoder"):
        part = getattr(model, name, None)
        if isinstance(part, nn.Module) and hasattr(part, "encode"):
            return part
    return model
