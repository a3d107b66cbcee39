"""Image models of other libraries as encoders, and masked image modelling with any of them."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.models.vit import coarse_grid
from viewproof.shapes import Float, check_kind, check_sizes

LIBRARIES = ("timm", "transformers")
CELLS = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64)
"""Rows and columns of pixels that a token may stand for, where a model does not say."""


def is_library(text: str | None) -> bool:
    """Whether a text names a model of another library.

    >>> is_library("timm:resnet18"), is_library("vit-tiny"), is_library("transformers:")
    (True, False, False)
    """
    kind, _, name = (text or "").partition(":")
    return kind in LIBRARIES and bool(name)


class Backbone(nn.Module):
    """An image model of timm, transformers or your own as an encoder of images ``image_shape = (C, H, W)``.

    The model's ``forward_features``, or else its forward, returns a map ``[N, D, rows, columns]``, tokens
    ``[N, tokens, D]`` whose last are those of a grid, or an object with such a ``last_hidden_state``. ``features`` is
    what `encode` returns: of a map the library's own pooled features, by default the mean over all places, of tokens
    the ``"mean"`` patch token; or the ``"class"`` token, ``"both"``, the class token first;
    or ``"grid"``, the means of `coarse_grid`.

    >>> encoder = Backbone(nn.Conv2d(3, 16, 4, stride=4), (3, 8, 12))
    >>> x = torch.zeros(2, 3, 8, 12)
    >>> encoder.grid, encoder.feature_map(x).shape, encoder.encode(x).shape
    ((2, 3), torch.Size([2, 16, 2, 3]), torch.Size([2, 16]))
    """

    model: Any

    def __init__(
        self,
        model: nn.Module,
        image_shape: Sequence[int],
        features: Literal["mean", "class", "both", "grid"] = "mean",
        name: str = "model",
    ) -> None:
        super().__init__()
        check_kind("model", model, nn.Module)
        check_sizes("image_shape", image_shape, 3)
        check_kind("name", name, str)
        if features not in ("mean", "class", "both", "grid"):
            raise InvalidArgument(f"features={features!r} must be 'mean', 'class', 'both' or 'grid'")
        self.model, self.image_shape, self.features, self.name = model, tuple(image_shape), features, name
        self.prefix, self.grid, self.is_map = 0, (1, 1), False
        self.arguments: dict[str, Any] = {}
        """What the library made the model with, beside its name; for an export."""
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                out, _ = self._run(torch.zeros(1, *self.image_shape))
                if out.dim() == 3:
                    self.prefix, self.grid = self._places(out.shape[1])
                elif out.dim() == 4:
                    self.is_map, self.grid = True, (out.shape[2], out.shape[3])
                else:
                    raise InvalidArgument(f"{name} returns {tuple(out.shape)}, no map of features; pass another model")
                if features in ("class", "both") and not self.prefix:
                    raise InvalidArgument(f"features={features!r} needs a class token; {name} has none, pass 'mean'")
                self.width = out.shape[1] if out.dim() == 4 else out.shape[2]
                self.feature_dim = int(self.encode(torch.zeros(1, *self.image_shape)).shape[1])
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, InvalidArgument):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InvalidArgument(
                f"{name} does not take images {self.image_shape}: {reason[:160]}; pass another size or model"
            ) from error
        model.train(training)

    def _run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """A map ``[N, D, rows, columns]`` or tokens, and the library's pooled features of a map, if there are any."""
        if hasattr(self.model, "forward_features"):
            out = self.model.forward_features(x)
            pooled = self.model.forward_head(out, pre_logits=True) if out.dim() == 4 else None
            if out.dim() == 4 and getattr(self.model, "output_fmt", "NCHW") == "NHWC":
                out = out.permute(0, 3, 1, 2)
            return out, pooled
        result = self.model(x)
        out = getattr(result, "last_hidden_state", result)
        pooled = getattr(result, "pooler_output", None) if out.dim() == 4 else None
        return out, None if pooled is None else pooled.flatten(1)

    def _places(self, tokens: int) -> tuple[int, tuple[int, int]]:
        """The number of tokens before those of the grid, and the grid."""
        prefix = getattr(self.model, "num_prefix_tokens", None)
        found = []
        for cell in CELLS:
            grid = (math.ceil(self.image_shape[1] / cell), math.ceil(self.image_shape[2] / cell))
            before = tokens - math.prod(grid)
            if before == prefix or (prefix is None and 0 <= before < 9):
                found.append((before, grid))
        if not found:
            raise InvalidArgument(f"{self.name} returns {tokens} tokens, which are no grid of {self.image_shape}")
        return min(found)

    def tokens(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch places dim"]:
        """The features of every place of the grid, in row-major order."""
        return self.feature_map(x).flatten(2).transpose(1, 2)

    def feature_map(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dim rows columns"]:
        """The features of every place of the grid."""
        out, _ = self._run(self._checked(x))
        return out if out.dim() == 4 else out[:, self.prefix :].mT.reshape(len(x), -1, *self.grid)

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The features of each whole image."""
        if self.features == "grid":
            return coarse_grid(self.feature_map(x))
        out, pooled = self._run(self._checked(x))
        if out.dim() == 4:
            return out.mean((2, 3)) if pooled is None else pooled
        first, mean = out[:, 0], out[:, self.prefix :].mean(1)
        return {"mean": mean, "class": first}.get(self.features, torch.cat([first, mean], 1))

    def _checked(self, x: Tensor) -> Tensor:
        if tuple(x.shape[1:]) != self.image_shape:
            raise InvalidArgument(f"x of shape {tuple(x.shape)} must be [N, {', '.join(map(str, self.image_shape))}]")
        return x


class MaskedImageModel(nn.Module):
    """Masked image modelling with any encoder: SimMIM of Xie et al. 2022 (arXiv 2111.09886).

    ``forward(x, view)`` puts a learned value a channel in place of what ``view`` hides, and the `Backbone` sees that
    image; with ``fill="zero"`` the value is 0. The decoder is light: one linear map from each place of the encoder's
    grid to the pixels around it. The result is ``[N, C * H * W]``, of visible pixels too.

    >>> from viewproof.views import image_patch_mae_sample
    >>> model = MaskedImageModel(Backbone(nn.Conv2d(3, 16, 4, stride=4), (3, 8, 12)))
    >>> sample = image_patch_mae_sample(torch.rand(2, 3, 8, 12), 4, 4, period=2, offset=0)
    >>> model(sample.x, sample.view).shape
    torch.Size([2, 288])
    """

    takes_view = True
    gives_tokens = True
    fill: Tensor

    def __init__(self, encoder: Backbone, fill: Literal["learned", "zero"] = "learned") -> None:
        super().__init__()
        if fill not in ("learned", "zero"):
            raise InvalidArgument(f"fill={fill!r} must be 'learned' or 'zero'")
        check_kind("encoder", encoder, Backbone)
        channels, height, width = encoder.image_shape
        self.encoder = encoder
        self.cell = (math.ceil(height / encoder.grid[0]), math.ceil(width / encoder.grid[1]))
        value = torch.zeros(channels, 1, 1)
        if fill == "learned":
            self.fill = nn.Parameter(value)
        else:
            self.register_buffer("fill", value, persistent=False)
        self.head = nn.Linear(encoder.width, channels * math.prod(self.cell))

    def forward(
        self, x: Float[Tensor, "batch channels height width"], view: Mask, with_tokens: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The predicted pixels ``[N, pixels]``, flat; ``with_tokens``: beside the features of every place."""
        channels, height, width = self.encoder.image_shape
        tokens = self.encoder.tokens(torch.where(view.hidden, self.fill.to(x.dtype), x))
        pixels = self.head(tokens).unflatten(2, (channels, *self.cell)).unflatten(1, self.encoder.grid)
        # [N, rows, columns, C, h, w] -> [N, C, rows, h, columns, w]; a ragged last cell is cut.
        image = pixels.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[:, :, :height, :width]
        prediction: Tensor = image.flatten(1)
        return (prediction, tokens) if with_tokens else prediction

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The encoder's features of each whole image."""
        return self.encoder.encode(x)
