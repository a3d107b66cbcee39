"""Where weights come from: a checkpoint file, timm, transformers; each with the model that they are compared with."""

import importlib.util
import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.models.vit import PatchTransformer
from viewproof.weights.layout import (
    BOUND,
    VitWeights,
    difference,
    from_state,
    plain_tokens,
    probe_images,
    to_encoder,
)  # fmt: skip

Tokens = Callable[[Tensor], Tensor]
PLAIN = ("vit", "deit", "vit_mae", "dinov2", "dinov2_with_registers", "ijepa")
"""The model types of transformers that are plain vision transformers."""


@dataclass(frozen=True, eq=False)
class Source:
    """Weights with the name they were asked for by, and the library's own model: images to all its tokens, if any.

    Without a ``reference`` the tokens that the weights must give are those of `plain_tokens`.
    """

    name: str
    weights: VitWeights
    reference: Tokens | None = None

    def settings(self) -> dict[str, Any]:
        """What the weights say about an encoder, by the names of the settings."""
        vit = self.weights
        if vit.patch_size[0] != vit.patch_size[1]:
            raise InvalidArgument(
                f"init={self.name!r} has patches of {vit.patch_size}; pass a checkpoint with square ones"
            )
        return {
            "dim": vit.kernel.shape[0], "depth": vit.depth, "heads": vit.heads, "patch_size": vit.patch_size[0],
            "class_token": vit.class_token, "registers": vit.prefix_count - vit.class_token, "positions": "learned",
            "norm_eps": vit.norm_eps,
        }  # fmt: skip

    def load_into(self, encoder: PatchTransformer) -> dict[str, Any]:
        """Give an encoder these weights and compare the two; return the table of tensors and the differences.

        Tokens of probe images are compared twice: the library's model with the plain formula on the weights' own grid,
        and this encoder with the formula on its own. A difference above `BOUND` raises `InvalidArgument`.
        """
        broken = [key for key, tensor in self.weights.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise InvalidArgument(f"init={self.name!r}: {broken[0]} holds NaN or infinite values; pass another")
        checks: dict[str, float] = {}
        with torch.inference_mode():
            if self.reference is not None:
                x = probe_images(self.weights.image_shape)
                checks["the source's model and the plain formula"] = difference(
                    self.reference(x), plain_tokens(self.weights, x)
                )
        used = to_encoder(self.weights, encoder, self.name)
        was_training = encoder.training
        encoder.eval()
        with torch.inference_mode():
            x = probe_images(tuple(encoder.image_shape))
            checks["this encoder and the plain formula"] = difference(encoder.all_tokens(x), plain_tokens(used, x))
        encoder.train(was_training)
        for what, gap in checks.items():
            if gap > BOUND:
                raise InvalidArgument(
                    f"init={self.name!r}: {what} differ by {gap:.1e} of the largest token value, more than {BOUND:g}; "
                    "its function is not a plain ViT's, pass another checkpoint"
                )
        tensors = [{"source": row.source, "target": row.target, "what": row.what} for row in used.rows]
        assumed = {"heads": used.heads} if self.reference is None else {}
        return {"init": shown(self.name), "bound": BOUND, "differences": checks, **assumed, "tensors": tensors}


def read_source(text: str, name: str = "init") -> Source:
    """The weights that ``timm:NAME``, ``hf:NAME``, ``hf:FOLDER`` or a checkpoint file stands for, pretrained.

    Files end in .safetensors, .pth, .pt, .ckpt or .bin; pickles are read with ``weights_only``. What is not there, not
    installed or damaged raises `InvalidArgument`, which calls the argument ``name``.
    """
    kind, _, rest = text.partition(":")
    if kind == "timm" and rest:
        return from_timm(rest, text, pretrained=True)
    if kind in ("hf", "transformers") and rest:
        return from_transformers(rest, text, pretrained=True)
    path = Path(text)
    if format_of(path) == "timm":
        return from_timm(f"local-dir:{text}", text, pretrained=True)
    if format_of(path) == "transformers":
        return from_transformers(text, text, pretrained=True)
    if not path.is_file():
        remedy = "download it, and pass its path" if "://" in text else "check the path"
        raise InvalidArgument(f"{name}={text!r} is no file, run folder, timm:NAME or hf:NAME; {remedy}")
    return Source(path.name, from_state(read_state(path), path.name))


def format_of(folder: Path) -> str:
    """The library whose model a folder holds, by its config.json: "transformers" or "timm"; "" for any other."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return ""
    return "transformers" if "model_type" in config else "timm" if "architecture" in config else ""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; what lies under "model" or "state_dict" is taken out.

    Of other dictionaries inside it the names are joined by dots. Pickles are read with ``weights_only``; the one class
    beside tensors and plain values that is let in is argparse's Namespace, in which published recipes keep their flags.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # A damaged pickle raises anything; the first line says what it was.
        more: list[str] = []
        with suppress(Exception):
            more = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        reason = "it is damaged"
        if not isinstance(error, SafetensorError | OSError):
            reason = f"it holds {more[0]} beside tensors" if more else "it is damaged, or holds more than tensors"
        raise InvalidArgument(
            f"init={path.name!r} cannot be read: {reason}, and nothing of it was run ({type(error).__name__}); save "
            "its state dict again, as .safetensors"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise InvalidArgument(f"init={path.name!r} holds no state dict; save model.state_dict()")
    return _tensors(state)


def _tensors(state: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value
        elif isinstance(value, Mapping):
            found |= _tensors(value, f"{prefix}{key}.")
    return found


def need(package: str, what: str) -> None:
    """Refuse what needs a package that is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InvalidArgument(f"{what} needs {package}, which is not installed; pip install {package}")


def from_timm(architecture: str, text: str, *, pretrained: bool, **arguments: Any) -> Source:
    """A plain vision transformer of timm; ``arguments`` go to ``timm.create_model``."""
    return timm_source(timm_model(architecture, text, pretrained=pretrained, **arguments), text)


def timm_model(architecture: str, text: str, *, pretrained: bool, **arguments: Any) -> nn.Module:
    """A model of timm without its classifier, in evaluation mode."""
    need("timm", text)
    import timm

    try:
        model: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0, **arguments)
    except Exception as error:
        raise InvalidArgument(f"{shown(text)} cannot be made: {_short(error)}; {_remedy(pretrained)}") from error
    return model.eval()


def timm_source(model: Any, text: str) -> Source:
    """The weights of a plain vision transformer of timm; any other model raises `InvalidArgument`."""
    import timm

    if not isinstance(model, timm.models.vision_transformer.VisionTransformer):
        raise InvalidArgument(
            f"{shown(text)} is a {type(model).__name__}, not a plain ViT whose weights can be read; pass --model "
            "timm:NAME too, which is then trained as it is"
        )
    attention = model.blocks[0].attn
    weights = from_state(
        model.state_dict(), text, heads=attention.num_heads, norm_eps=model.blocks[0].norm1.eps,
        grid=tuple(model.patch_embed.grid_size),
    )  # fmt: skip
    return Source(text, weights, model.forward_features)


def from_transformers(identifier: str, text: str, *, pretrained: bool, **arguments: Any) -> Source:
    """A plain vision transformer of transformers: a name on the hub, a folder, or from configuration a model type."""
    return transformers_source(*transformers_model(identifier, text, pretrained=pretrained, **arguments), text)


def transformers_source(model: nn.Module, config: Any, loading: dict[str, Any], text: str) -> Source:
    """The weights of a plain vision transformer, with what its loading reported; any other is an `InvalidArgument`."""
    if config.model_type not in PLAIN:
        raise InvalidArgument(
            f"{text} is of type {config.model_type!r}; weights are read from {', '.join(PLAIN)}, any other model is "
            "trained as it is: pass --model transformers:NAME --pretrained"
        )
    if config.hidden_act != "gelu":
        raise InvalidArgument(f"{text} has the activation {config.hidden_act!r}; this encoder has gelu, pass another")
    size, patch = ((v, v) if isinstance(v, int) else tuple(v) for v in (config.image_size, config.patch_size))
    grid = (size[0] // patch[0], size[1] // patch[1])
    heads = config.num_attention_heads
    missing = [key for key in loading.get("missing_keys", ()) if not key.startswith("pooler.")]
    if missing or loading.get("mismatched_keys"):
        wrong = [*missing, *map(str, loading["mismatched_keys"])][0]
        raise InvalidArgument(f"{text} does not hold {wrong} as its configuration says; pass a whole checkpoint")
    # The library leaves out what its backbone has no place for; here it is accounted for with the rest.
    state = {**model.state_dict(), **{key: torch.zeros(0) for key in loading.get("unexpected_keys", ())}}
    weights = from_state(state, text, heads=heads, norm_eps=config.layer_norm_eps, grid=grid)

    def reference(x: Tensor) -> Tensor:
        if config.model_type == "vit_mae":
            # It shuffles the patches even where it hides none; noise in order leaves them in order.
            noise = torch.arange(grid[0] * grid[1], dtype=x.dtype).expand(len(x), -1)
            return model(pixel_values=x, noise=noise).last_hidden_state  # type: ignore[no-any-return]
        return model(pixel_values=x).last_hidden_state  # type: ignore[no-any-return]

    return Source(text, weights, reference)


def transformers_model(
    identifier: str, text: str, *, pretrained: bool, **arguments: Any
) -> tuple[nn.Module, Any, dict[str, Any]]:
    """A backbone of transformers in evaluation mode, its configuration, and what its loading reported.

    ``arguments`` are values of the configuration.
    """
    need("transformers", text)
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
    from transformers.utils import logging

    level, loading = logging.get_verbosity(), {}
    logging.set_verbosity(50)  # CRITICAL
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        if not pretrained and identifier in CONFIG_MAPPING:
            config = CONFIG_MAPPING[identifier](**arguments)
        else:
            config = AutoConfig.from_pretrained(identifier, **arguments)
        if config.model_type == "vit_mae":
            config.mask_ratio = 0.0
        if pretrained:
            model, loading = AutoModel.from_pretrained(identifier, config=config, output_loading_info=True)
        else:
            model = AutoModel.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise InvalidArgument(f"{shown(text)} cannot be made: {_short(error)}; {_remedy(pretrained)}") from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    return model.eval(), config, loading


def _short(error: Exception) -> str:
    """The first line of an error, without the user's folders."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return " ".join(Path(word).name if word.startswith("/") else word for word in line.split())[:200]


def _remedy(pretrained: bool) -> str:
    return "check the name, and the network if its weights are to be fetched" if pretrained else "check the name"


def write_report(report: dict[str, Any]) -> str:
    """The lines that a run prints about its initial weights, from `Source.load_into`'s report."""
    counts: dict[str, int] = {}
    for tensor in report["tensors"]:
        counts[tensor["what"]] = counts.get(tensor["what"], 0) + 1
    lines = [f"weights from {report['init']}: " + "; ".join(f"{n} {what}" for what, n in sorted(counts.items()))]
    if heads := report.get("heads"):
        lines.append(f"  heads: {heads}, which the file does not say; pass --heads if it has others")
    for what, gap in report["differences"].items():
        lines.append(f"  {what}: tokens of probe images differ by {gap:.1e} of the largest (bound {report['bound']:g})")
    return "\n".join(lines)


def shown(text: str) -> str:
    """A source's name without the user's folders.

    >>> shown("hf:/home/me/vit"), shown("timm:vit_tiny_patch16_224"), shown("runs/digits-mae")
    ('hf:vit', 'timm:vit_tiny_patch16_224', 'digits-mae')
    """
    kind, colon, rest = text.partition(":")
    if not colon:
        return Path(text).name
    return f"{kind}:{Path(rest).name if rest.startswith(('/', '.', '~')) else rest}"
