"""Encoders that other libraries name: a plain vision transformer becomes ours, any other model is used as it is."""

import re
from typing import Any, Literal

import torch
from torch import nn

from viewproof.errors import InvalidArgument
from viewproof.models import Backbone, PatchEncoder
from viewproof.models.backbone import is_library
from viewproof.weights.layout import BOUND, UNUSED, difference, only_prefix, probe_images, token_settings
from viewproof.weights.sources import (
    Source,
    read_source,
    shown,
    timm_model,
    timm_source,
    transformers_model,
    transformers_source,
)  # fmt: skip


def plain_source(text: str) -> Source | None:
    """The architecture of ``timm:NAME`` or ``transformers:NAME`` if it is a plain vision transformer, without weights.

    Its tensors lie on torch's meta device. A name that is unknown, and a library that is not installed, raise
    `InvalidArgument`.
    """
    kind, _, name = text.partition(":")
    with torch.device("meta"):
        if kind == "timm":
            model = timm_model(name, text, pretrained=False)
        else:
            model, config, loading = transformers_model(name, text, pretrained=False)
        try:
            return timm_source(model, text) if kind == "timm" else transformers_source(model, config, loading, text)
        except InvalidArgument:
            return None


def library_encoder(
    text: str,
    image_shape: tuple[int, ...],
    features: Literal["mean", "class", "both", "grid"] = "mean",
    *,
    pretrained: bool = False,
) -> Backbone:
    """The model ``timm:NAME`` or ``transformers:NAME`` for images ``(C, H, W)``, used as it is.

    Of transformers the name is a model type (``swin``, ``convnext``), a folder with a config.json, or a name on the
    hub. Its stochastic depth and dropout are off: a resumed run goes on bit for bit.
    """
    kind, _, name = text.partition(":")
    arguments: dict[str, Any]
    channels, height, width = image_shape
    if kind == "timm":
        arguments = {"in_chans": channels, "img_size": (height, width)}
        try:
            model = timm_model(name, text, pretrained=pretrained, **arguments)
        except InvalidArgument as error:
            if "img_size" not in str(error):
                raise
            del arguments["img_size"]  # a model of images of any size takes none
            model = timm_model(name, text, pretrained=pretrained, **arguments)
    else:
        size = height if height == width else (height, width)
        arguments = {"num_channels": channels, "image_size": size}
        model, _, loading = transformers_model(name, text, pretrained=pretrained, **arguments)
        lost = [key for key in loading.get("missing_keys", ()) if not key.startswith("pooler.")]
        if lost or loading.get("mismatched_keys"):
            wrong = [*lost, *map(str, loading["mismatched_keys"])][0]
            raise InvalidArgument(f"{shown(text)} does not hold {wrong} as its configuration says; pass another")
    for module in model.modules():
        for rate in ("p", "drop_prob"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
    encoder = Backbone(model, image_shape, features, shown(text))
    encoder.arguments = arguments
    return encoder


def make_encoder(
    text: str,
    image_shape: tuple[int, int, int],
    features: Literal["mean", "class", "both", "grid"] = "mean",
    *,
    pretrained: bool = False,
) -> PatchEncoder | Backbone:
    """The encoder ``timm:NAME`` or ``transformers:NAME``: a `PatchEncoder` for a plain ViT, else a `Backbone`.

    With ``pretrained`` it has the library's weights, and a plain ViT gives the tokens of the library's model, or
    `InvalidArgument` is raised; see `Source.load_into`.
    """
    if not is_library(text):
        raise InvalidArgument(f"name={text!r} must be timm:NAME or transformers:NAME")
    source = read_source(text, "name") if pretrained and plain_source(text) is not None else plain_source(text)
    if source is None:
        return library_encoder(text, image_shape, features, pretrained=pretrained)
    vit = source.weights
    sizes = (vit.kernel.shape[0], vit.depth, vit.heads)
    encoder = PatchEncoder(image_shape, vit.patch_size, *sizes, settings=token_settings(vit, features))
    if pretrained:
        source.load_into(encoder)
    return encoder


def load_backbone(encoder: Backbone, state: dict[str, torch.Tensor], name: str, source: nn.Module) -> dict[str, Any]:
    """Copy a state dict into an encoder's model; return the report that `Source.load_into` gives.

    All names may have a prefix, such as ``module.``. A tensor of the model too many, one too few and one of another
    shape raise `InvalidArgument`. Features of probe images are compared with those of the ``source``.
    """
    own = encoder.model.state_dict()
    first = next(iter(own))
    stems = [key.removesuffix(first) for key in state if key.endswith(first)]
    prefix = only_prefix([stem for stem in stems if all(stem + key in state for key in own)], shown(name))
    rows = []
    for key in state:
        bare = key.removeprefix(prefix)
        reason = next((why for pattern, why in UNUSED.items() if re.fullmatch(pattern, bare) and bare not in own), None)
        if not key.startswith(prefix):
            reason = f"unused: not of the encoder {prefix.removesuffix('.')}"
        rows.append({"source": key, "target": "" if reason else bare, "what": reason or "loaded"})
    state = {row["target"]: state[row["source"]] for row in rows if row["target"]}
    shapes = [{key: tuple(tensor.shape) for key, tensor in part.items()} for part in (state, own)]
    wrong = [key for key in {**own, **state} if shapes[0].get(key) != shapes[1].get(key)]
    if wrong:
        theirs, ours = (part.get(wrong[0], "none") for part in shapes)
        raise InvalidArgument(
            f"init={shown(name)!r}: {wrong[0]} has the shape {theirs}, in {encoder.name} {ours}; pass weights of it"
        )
    encoder.model.load_state_dict(state)
    training = encoder.training
    with torch.inference_mode():
        x = probe_images(encoder.image_shape)
        gap = difference(encoder.eval().encode(x), source.eval().encode(x))  # type: ignore[operator]
    encoder.train(training)
    if gap > BOUND:
        raise InvalidArgument(f"init={name!r}: its features differ by {gap:.1e} of the largest; pass other weights")
    return {"init": shown(name), "bound": BOUND, "differences": {"this encoder and the source": gap}, "tensors": rows}
