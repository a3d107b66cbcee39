"""What ``--backbone`` and ``--init`` stand for: the encoder's sizes, and the weights that a run starts from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from viewproof.errors import InvalidArgument
from viewproof.methods.ijepa import JEPANetwork
from viewproof.models.vit import PatchTransformer
from viewproof.runs.config import PretrainConfig
from viewproof.runs.encoder import load_encoder
from viewproof.weights.layout import encoder_of, from_encoder
from viewproof.weights.sources import Source, read_source

SIZES = {
    "vit-tiny": {"dim": 192, "depth": 12, "heads": 3},
    "vit-small": {"dim": 384, "depth": 12, "heads": 6},
    "vit-base": {"dim": 768, "depth": 12, "heads": 12},
    "vit-large": {"dim": 1024, "depth": 24, "heads": 16},
}
"""The published vision transformers (Dosovitskiy et al. 2021; tiny and small: Touvron et al. 2021)."""


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """The weights that ``--init`` names, read before the data are."""

    source: Source

    def load(self, model: nn.Module) -> dict[str, Any]:
        """Give a run's network these weights; return the report of `Source.load_into`."""
        encoder = model.encoder if isinstance(model, JEPANetwork) else encoder_of(model)
        if not isinstance(encoder, PatchTransformer):
            raise InvalidArgument(
                f"init={self.source.name!r} is a vision transformer, and this run's encoder {type(encoder).__name__}; "
                "leave model out"
            )
        report = self.source.load_into(encoder)
        if isinstance(model, JEPANetwork) and model.target is not None:
            model.target.load_state_dict(encoder.state_dict())
        return report


def with_backbone(config: PretrainConfig) -> tuple[PretrainConfig, InitialWeights | None]:
    """The configuration with the sizes that its backbone or initial weights have, and these weights.

    What the user gives as well must agree with the weights; with a backbone it wins.
    """
    sizes: dict[str, Any] = {}
    if config.backbone is not None:
        if config.backbone not in SIZES:
            raise InvalidArgument(f"backbone={config.backbone!r} is unknown; pass one of {', '.join(SIZES)}")
        sizes = dict(SIZES[config.backbone])
    initial = None
    if config.init is not None:
        folder = Path(config.init)
        if (folder / "model.safetensors").exists() and (folder / "encoder.json").exists():
            encoder = load_encoder(folder).encoder
            if not isinstance(encoder, PatchTransformer):
                raise InvalidArgument(
                    f"init={folder.name!r} is a run of a {type(encoder).__name__}, not of a ViT; pass another"
                )
            source = Source(folder.name, from_encoder(encoder), encoder.all_tokens)
            sizes |= source.settings()
            sizes["positions"] = encoder.settings.positions
        else:
            source = read_source(config.init)
            sizes |= source.settings()
        initial = InitialWeights(source)
    given = {name: value for name, value in sizes.items() if getattr(config, name) is None}
    return replace(config, **given), initial
