"""What ``--backbone`` and ``--init`` stand for: an encoder's sizes, and its first weights."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from viewproof.errors import InvalidArgument
from viewproof.models import Backbone
from viewproof.models.backbone import is_library
from viewproof.models.vit import PatchTransformer
from viewproof.runs.config import PretrainConfig
from viewproof.runs.encoder import load_encoder
from viewproof.weights.backbones import library_encoder, load_backbone, plain_source
from viewproof.weights.layout import encoder_of, from_encoder
from viewproof.weights.sources import Source, format_of, read_source, read_state, shown

SIZES = {
    "vit-tiny": {"dim": 192, "depth": 12, "heads": 3},
    "vit-small": {"dim": 384, "depth": 12, "heads": 6},
    "vit-base": {"dim": 768, "depth": 12, "heads": 12},
    "vit-large": {"dim": 1024, "depth": 24, "heads": 16},
}
"""The published vision transformers (Dosovitskiy et al. 2021; tiny and small: Touvron et al. 2021)."""
SETTINGS = ("dim", "depth", "heads", "patch_size", "class_token", "registers", "positions", "norm_eps")
"""What a plain vision transformer's configuration says."""


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """The weights that ``--init`` names.

    Those of a plain vision transformer are read before the data are. ``source`` is None for a run whose encoder is
    another library's model.
    """

    text: str
    source: Source | None

    def load(self, model: nn.Module) -> dict[str, Any]:
        """Give a run's network these weights; return the report of `Source.load_into`."""
        if self.source is None:
            return self._load_backbone(encoder_of(model))
        # The trained encoder, whose teacher, if there is one, starts from the same weights.
        trained = getattr(model, "encoder", None)
        encoder = trained if isinstance(trained, PatchTransformer) else encoder_of(model)
        if not isinstance(encoder, PatchTransformer):
            raise InvalidArgument(
                f"init={shown(self.source.name)!r} is a vision transformer, and this run's encoder a "
                f"{type(encoder).__name__}; leave model out"
            )
        report = self.source.load_into(encoder)
        for teacher in (getattr(model, name, None) for name in ("target", "teacher")):
            teacher = getattr(teacher, "encoder", teacher)
            if isinstance(teacher, PatchTransformer):
                teacher.load_state_dict(encoder.state_dict())
        return report

    def _load_backbone(self, encoder: nn.Module) -> dict[str, Any]:
        assert isinstance(encoder, Backbone)
        path, tensors = Path(self.text), None
        named = self.text.replace("hf:", "transformers:", 1) if self.text.startswith("hf:") else self.text
        if format_of(path) == "transformers":
            named = f"transformers:{self.text}"
        if is_library(named):
            own = library_encoder(named, encoder.image_shape, encoder.features, pretrained=True)
        else:
            own = copy.deepcopy(encoder)
            if format_of(path) == "timm":
                state = read_state(path / "model.safetensors")
            elif (path / "model.safetensors").exists():
                loaded = load_encoder(path).encoder
                if not isinstance(loaded, Backbone):
                    raise InvalidArgument(
                        f"init={path.name!r} is a run of a {type(loaded).__name__}, not of {encoder.name}; pass another"
                    )
                state = loaded.model.state_dict()
            elif path.is_file():
                state = read_state(path)
            else:
                raise InvalidArgument(f"init={self.text!r} is no file, run folder, timm:NAME or transformers:NAME")
            tensors = load_backbone(own, state, self.text, own)["tensors"]
        report = load_backbone(encoder, own.model.state_dict(), self.text, own)
        return report if tensors is None else {**report, "tensors": tensors}


def with_backbone(config: PretrainConfig) -> tuple[PretrainConfig, InitialWeights | None]:
    """The configuration with the sizes that its backbone or initial weights have, and these weights.

    What the user gives as well must agree with the weights; with a backbone it wins.
    """
    sizes: dict[str, Any] = {}
    named = next((text for text in (config.model, config.backbone) if is_library(text)), None)
    if config.pretrained:
        if named is None:
            raise InvalidArgument("pretrained is of a model of another library; pass model='timm:NAME', or init")
        config = replace(config, pretrained=False, init=config.init or named)
    if named is not None:
        library = None
        if config.model == named or any(getattr(config, name) is None for name in SETTINGS):
            library = plain_source(named)
            if library is None:
                # Another library's model, used as it is; its weights are read when the images' shape is known.
                initial = None if config.init is None else InitialWeights(config.init, None)
                return replace(config, model=named, backbone=None), initial
            sizes = library.settings()
        config = replace(config, model=None if config.model == named else config.model, backbone=named)
    elif config.backbone is not None:
        if config.backbone not in SIZES:
            raise InvalidArgument(
                f"backbone={config.backbone!r} is unknown; pass one of {', '.join(SIZES)}, timm:NAME, transformers:NAME"
            )
        sizes = dict(SIZES[config.backbone])
    initial = None
    if config.init is not None:
        folder = Path(config.init)
        if (folder / "model.safetensors").exists() and (folder / "encoder.json").exists():
            encoder = load_encoder(folder).encoder
            if not isinstance(encoder, PatchTransformer):
                remedy = f"--model {encoder.name} too" if isinstance(encoder, Backbone) else "another"
                raise InvalidArgument(
                    f"init={folder.name!r} is a run of a {type(encoder).__name__}, not of a ViT; pass {remedy}"
                )
            source = Source(folder.name, from_encoder(encoder), encoder.all_tokens)
            own = source.settings() | {"positions": encoder.settings.positions}
        else:
            source = read_source(config.init)
            if source.reference is None:  # a file, which does not say these two
                vit = source.weights
                heads = config.heads or sizes.get("heads", vit.heads)
                norm_eps = config.norm_eps or sizes.get("norm_eps", vit.norm_eps)
                source = replace(source, weights=replace(vit, heads=heads, norm_eps=norm_eps))
            own = source.settings()
        for name in ("dim", "depth", "heads"):
            if own[name] != sizes.get(name, own[name]) and getattr(config, name) is None:
                raise InvalidArgument(
                    f"init={source.name!r} has {name}={own[name]}, and {config.backbone} {name}={sizes[name]}; leave "
                    "the latter out"
                )
        sizes |= own
        initial = InitialWeights(config.init, source)
    given = {name: value for name, value in sizes.items() if getattr(config, name) is None}
    return replace(config, **given), initial
