"""Encoders written for other libraries: the files of each format, and the lines that load them there.

The lines stand in the model card and are what the check runs, in a fresh process that does not know this package. They
find the exported folder as ``folder`` and standardised samples as ``x``, and leave ``features``.
"""

import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.models import Backbone
from viewproof.models.backbone import is_library
from viewproof.models.vit import PatchTransformer
from viewproof.weights.layout import VitWeights, from_encoder
from viewproof.weights.sources import need, transformers_model

Facts = dict[str, Any]
"""A run's encoder.json: "sample_shape", and "mean" and "std" as nested lists."""
TIMM_WEIGHTS = "model.safetensors"
POOLED = {
    "mean": "tokens[:, {prefix}:].mean(1)",
    "class": "tokens[:, 0]",
    "both": "torch.cat([tokens[:, 0], tokens[:, {prefix}:].mean(1)], 1)",
}
"""The features of all encoded tokens, by the setting of that name."""


class Features(nn.Module):
    """An encoder as a function of one argument: standardised samples to features."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """The features."""
        features: Tensor = self.encoder.encode(x)  # type: ignore[operator]
        return features


def vit_of(encoder: nn.Module, target: str) -> tuple[VitWeights, PatchTransformer]:
    """The weights of a vision transformer; any other encoder raises `InvalidArgument`."""
    if not isinstance(encoder, PatchTransformer):
        what, own = f"a {type(encoder).__name__}", ""
        if isinstance(encoder, Backbone) and is_library(encoder.name):
            what, own = encoder.name, f"--to {encoder.name.partition(':')[0]}, "
        raise InvalidArgument(
            f"to={target!r} is for vision transformers, and this run's encoder is {what}; pass {own}--to torch or "
            "--to onnx"
        )
    return from_encoder(encoder), encoder


def to_transformers(encoder: nn.Module, folder: Path, facts: Facts) -> str:
    """Write an IJepaModel, or with a class token or registers a ViTModel or Dinov2WithRegistersModel.

    A model of transformers is written as it is.
    """
    if isinstance(encoder, Backbone) and hasattr(encoder.model, "save_pretrained"):
        encoder.model.save_pretrained(folder)
        pooled = POOLED[encoder.features].format(prefix=encoder.prefix)
        if encoder.is_map:
            pooled = "(tokens.mean((2, 3)) if out.get('pooler_output') is None else out.pooler_output.flatten(1))"
        return f"""import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(folder).eval()
with torch.inference_mode():
    out = model(pixel_values=x)
    tokens = out.last_hidden_state
    features = {pooled}
"""
    vit, ours = vit_of(encoder, "transformers")
    kind = "ijepa" if not vit.prefix_count else "vit" if vit.prefix_count == 1 else "dinov2_with_registers"
    sizes: dict[str, Any] = {
        "hidden_size": ours.dim, "num_hidden_layers": vit.depth, "num_attention_heads": vit.heads,
        "image_size": _one_or_both(vit.image_shape[1:]), "patch_size": _one_or_both(vit.patch_size),
        "num_channels": vit.image_shape[0], "layer_norm_eps": vit.norm_eps,
    }  # fmt: skip
    if kind == "dinov2_with_registers":
        if vit.grid[0] != vit.grid[1]:
            raise InvalidArgument("to='transformers' has registers on square images only; pass --to timm or torch")
        sizes |= {"mlp_ratio": 4, "num_register_tokens": vit.prefix_count - 1}
    else:
        sizes["intermediate_size"] = 4 * ours.dim
    model, _, _ = transformers_model(kind, "to='transformers'", pretrained=False, **sizes)
    pairs, dim = {}, ours.dim
    for name, tensor in vit.tensors.items():
        number, _, rest = name.removeprefix("blocks.").partition(".")
        if name == "pos_embed":
            class_position = torch.zeros(min(1, vit.prefix_count), dim)
            pairs["embeddings.position_embeddings"] = torch.cat([class_position, tensor])[None]
        elif name == "prefix":
            pairs["embeddings.cls_token"] = tensor[None, :1]
            if len(tensor) > 1:
                pairs["embeddings.register_tokens"] = tensor[None, 1:]
        elif name.startswith("patch_embed"):
            pairs[name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")] = tensor
        elif name.startswith("norm"):
            pairs[f"layer{name}"] = tensor
        else:
            layer = f"{'encoder.layer' if kind == 'dinov2_with_registers' else 'layers'}.{number}."
            norms = {} if kind == "dinov2_with_registers" else {"norm1": "layernorm_before", "norm2": "layernorm_after"}
            part, _, weight = rest.rpartition(".")
            if part == "attn.qkv":
                for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                    pairs[f"{layer}attention.{letter}_proj.{weight}"] = third
            else:
                pairs[f"{layer}{norms.get(part, part).replace('attn.proj', 'attention.o_proj')}.{weight}"] = tensor
    left = [key for key in model.state_dict() if key not in pairs]
    for key in left:
        # What is not ours: a pooler, a mask token, scales of layers that stay 1.
        if "layer_scale" in key:
            pairs[key] = torch.ones(dim)
        elif not key.startswith(("pooler.", "embeddings.mask_token")):
            raise InvalidArgument(
                f"this version of transformers has {key!r} in {kind}; export --to torch, or pass version 5"
            )
    incompatible = model.load_state_dict(pairs, strict=False)
    assert not incompatible.unexpected_keys, incompatible
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # type: ignore[assignment]
    model.save_pretrained(folder)  # type: ignore[operator]
    preprocessor = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "do_rescale": False, "do_normalize": True,
        "size": {"height": vit.image_shape[1], "width": vit.image_shape[2]},
        "image_mean": flat(facts["mean"]), "image_std": flat(facts["std"]),
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
    pooler = "" if kind == "dinov2_with_registers" else ", add_pooling_layer=False"
    return f"""import torch
from transformers import AutoModel

model = AutoModel.from_pretrained(folder{pooler}).eval()
with torch.inference_mode():
    tokens = model(pixel_values=x).last_hidden_state
    features = {POOLED[ours.settings.features].format(prefix=vit.prefix_count)}
"""


def to_timm(encoder: nn.Module, folder: Path, facts: Facts) -> str:
    """Write a VisionTransformer's weights and configuration, for ``checkpoint_path=`` and for ``local-dir:``.

    A model of timm is written as it is.
    """
    if isinstance(encoder, Backbone) and hasattr(encoder.model, "pretrained_cfg"):
        return timm_backbone(encoder, folder, facts)
    vit, ours = vit_of(encoder, "timm")
    state = {name: tensor for name, tensor in vit.tensors.items() if name not in ("prefix", "pos_embed")}
    state["pos_embed"] = vit.tensors["pos_embed"][None]
    if vit.prefix_count:
        tokens = vit.tensors["prefix"][None]
        if vit.class_token:
            state["cls_token"] = tokens[:, :1].contiguous()
        if vit.prefix_count > vit.class_token:
            state["reg_token"] = tokens[:, int(vit.class_token) :].contiguous()
    save_file(state, folder / TIMM_WEIGHTS)
    pool = {"mean": "avg", "class": "token", "both": ""}[ours.settings.features]
    arguments: dict[str, Any] = {
        "img_size": list(vit.image_shape[1:]), "patch_size": _one_or_both(vit.patch_size),
        "in_chans": vit.image_shape[0],
        "embed_dim": ours.dim, "depth": vit.depth, "num_heads": vit.heads, "class_token": vit.class_token,
        "reg_tokens": vit.prefix_count - vit.class_token, "no_embed_class": True, "global_pool": pool, "fc_norm": False,
    }  # fmt: skip
    configuration = {
        "architecture": "vit_base_patch16_224", "num_classes": 0, "num_features": ours.dim,
        "global_pool": pool, "model_args": arguments,
        "pretrained_cfg": {
            "input_size": list(vit.image_shape), "fixed_input_size": True, "num_classes": 0, "classifier": "head",
            "first_conv": "patch_embed.proj", "mean": flat(facts["mean"]), "std": flat(facts["std"]),
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    pooled = "model(x)"
    if ours.settings.features == "both":
        pooled = POOLED["both"].format(prefix=vit.prefix_count).replace("tokens", "model.forward_features(x)")
    return timm_lines(pooled)


def timm_backbone(encoder: Backbone, folder: Path, facts: Facts) -> str:
    """Write a model of timm and what made it."""
    save_file({key: value.contiguous() for key, value in encoder.model.state_dict().items()}, folder / TIMM_WEIGHTS)
    old: Any = encoder.model.pretrained_cfg
    configuration = {
        "architecture": old["architecture"], "num_classes": 0, "model_args": encoder.arguments,
        "pretrained_cfg": {
            "input_size": list(encoder.image_shape), "num_classes": 0, "first_conv": old.get("first_conv"),
            "classifier": old.get("classifier"), "mean": flat(facts["mean"]), "std": flat(facts["std"]),
        },
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(configuration, indent=2) + "\n")
    pooled = POOLED[encoder.features].format(prefix=encoder.prefix).replace("tokens", "model.forward_features(x)")
    return timm_lines("model.forward_head(model.forward_features(x), pre_logits=True)" if encoder.is_map else pooled)


def timm_lines(features: str) -> str:
    """The lines that load a folder in timm, with the expression for the features."""
    return f"""import json
from pathlib import Path

import timm
import torch

config = json.loads(Path(folder, "config.json").read_text())
weights = str(Path(folder, "{TIMM_WEIGHTS}"))
model = timm.create_model(config["architecture"], num_classes=0, checkpoint_path=weights, **config["model_args"]).eval()
with torch.inference_mode():
    features = {features}
"""


def to_torch(encoder: nn.Module, folder: Path, facts: Facts) -> str:
    """Write an exported program, for any number of samples."""
    x = torch.zeros(3, *facts["sample_shape"])
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Features(encoder), (x,), dynamic_shapes=({0: batch},))
    content = io.BytesIO()  # torch ends the process where a disk is full
    torch.export.save(program, content)
    (folder / "encoder.pt2").write_bytes(content.getvalue())
    return """from pathlib import Path

import torch

encoder = torch.export.load(Path(folder, "encoder.pt2")).module()
with torch.inference_mode():
    features = encoder(x)
"""


def to_onnx(encoder: nn.Module, folder: Path, facts: Facts) -> str:
    """Write an ONNX graph, for any number of samples."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need(package, "to='onnx'")
    x = torch.zeros(3, *facts["sample_shape"])
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Features(encoder), (x,), folder / "encoder.onnx", dynamo=True, external_data=False, verbose=False,
            input_names=["x"], output_names=["features"], dynamic_shapes=({0: batch},),
        )  # fmt: skip
    return """from pathlib import Path

import onnxruntime

session = onnxruntime.InferenceSession(Path(folder, "encoder.onnx"))
features = session.run(["features"], {"x": x.numpy()})[0]
"""


TARGETS: dict[str, Callable[[nn.Module, Path, Facts], str]] = {
    "transformers": to_transformers, "timm": to_timm, "torch": to_torch, "onnx": to_onnx,
}  # fmt: skip
"""The function that writes each format into a folder, which returns the lines that load it."""


def _one_or_both(pair: tuple[int, ...]) -> int | list[int]:
    return pair[0] if pair[0] == pair[1] else list(pair)


def flat(nested: Any) -> list[float]:
    """The numbers of nested lists, in order.

    >>> flat([[[1.0]], [[2.0]]])
    [1.0, 2.0]
    """
    return [number for part in nested for number in flat(part)] if isinstance(nested, list) else [nested]


CHECK = """
import sys
import torch
from safetensors.torch import load_file, save_file
folder, files = sys.argv[1:]
x = load_file(files + "/x.safetensors")["x"]
{lines}
assert not any(name.split(".")[0] == "viewproof" for name in sys.modules)
save_file(dict(features=torch.as_tensor(features).clone().contiguous()), files + "/features.safetensors")
"""


def features_in_a_fresh_process(lines: str, folder: Path, x: Tensor) -> Tensor:
    """What the loading lines give for ``x`` in a new Python that imports nothing of this package."""
    with tempfile.TemporaryDirectory() as files:
        save_file({"x": x.contiguous()}, f"{files}/x.safetensors")
        script = CHECK.replace("{lines}", lines)
        ran = subprocess.run(
            [sys.executable, "-c", script, str(folder), files], capture_output=True, text=True, cwd=files, check=False
        )
        if ran.returncode:
            reason = (ran.stderr.strip() or "it was stopped").splitlines()[-1]
            raise InvalidArgument(
                f"the exported folder does not load in a fresh process: {reason}; nothing was written"
            )
        return load_file(f"{files}/features.safetensors")["features"]
