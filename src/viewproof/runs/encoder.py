"""A finished run's encoder, without its data."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.models.vit import PatchTransformer
from viewproof.runs.folder import ENCODER, WEIGHTS, load_weights, read_config, read_json
from viewproof.runs.resolved import restore
from viewproof.shapes import Float, Shaped, check_sizes
from viewproof.weights.layout import encoder_of, from_encoder, to_encoder


class RunEncoder(nn.Module):
    """A run's encoder with the standardisation of its data: images in the data's units to features.

    ``encoder`` is the network itself, with ``encode(standardised) -> [N, features]``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, facts: dict[str, Any]) -> None:
        super().__init__()
        self.encoder, self.facts = encoder, facts
        self.register_buffer("mean", torch.tensor(facts["mean"]))
        self.register_buffer("std", torch.tensor(facts["std"]))

    def standardize(self, x: Shaped[Tensor, "batch *sample"]) -> Float[Tensor, "batch *sample"]:
        """Samples in the data's units, as training standardised them."""
        return (x.to(self.mean.dtype) - self.mean) / self.std

    def encode(self, x: Float[Tensor, "batch *sample"]) -> Float[Tensor, "batch features"]:
        """The features of standardised samples."""
        features: Tensor = self.encoder.encode(x)  # type: ignore[operator]
        return features

    def forward(self, x: Shaped[Tensor, "batch *sample"]) -> Float[Tensor, "batch features"]:
        """The features of samples in the data's units."""
        return self.encode(self.standardize(x))


def load_encoder(run: str | Path, image_size: tuple[int, int] | None = None) -> RunEncoder:
    """The encoder of a finished run folder, in evaluation mode; its data are not needed.

    ``image_size``: rows and columns of other images than it was trained on, a multiple of the patch, for a vision
    transformer: learned positions are interpolated bicubically, fixed ones are those of the new grid. A folder that
    holds no finished run raises `InvalidArgument`.
    """
    if not isinstance(run, str | Path):
        raise InvalidArgument(f"run={run!r} must be the path of a run folder; pass a str or a Path")
    if image_size is not None:
        check_sizes("image_size", image_size, 2)
    folder = Path(run)
    config = restore(read_config(folder))
    if not (folder / WEIGHTS).exists():
        raise InvalidArgument(f"{folder} has no {WEIGHTS}: the run is not finished; pass --resume to pretrain")
    if not (folder / ENCODER).exists():
        raise InvalidArgument(f"{folder} has no {ENCODER}; restore a copy, or train again")
    facts = read_json(folder / ENCODER)
    if facts.keys() != {"sample_shape", "mean", "std", "class_names"}:
        raise InvalidArgument(f"{folder / ENCODER} is damaged: it has {sorted(facts)}; restore a copy, or train again")
    shape = tuple(facts["sample_shape"])
    classes = None if facts["class_names"] is None else len(facts["class_names"])
    with torch.random.fork_rng(devices=[]):
        network = config.method.network(config, shape, classes)
        load_weights(network, folder)
        encoder = encoder_of(network)
        if image_size is not None and tuple(image_size) != shape[1:]:
            if not isinstance(encoder, PatchTransformer):
                raise InvalidArgument(
                    f"image_size={image_size} is for vision transformers; {folder.name} is a {type(encoder).__name__}"
                )
            larger = config.method.network(config, (shape[0], *image_size), classes)
            resized = encoder_of(larger)
            assert isinstance(resized, PatchTransformer)
            to_encoder(from_encoder(encoder), resized, folder.name)
            encoder, facts = resized, {**facts, "sample_shape": [shape[0], *image_size]}
    try:
        return RunEncoder(encoder.requires_grad_(False), facts).eval()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{folder / ENCODER} is damaged ({error}); restore a copy, or train again") from error
