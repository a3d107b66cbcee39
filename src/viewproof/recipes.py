"""From a configuration to the objects that train: what is null is chosen from the data and filled in."""

import math
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from viewproof.config import PretrainConfig
from viewproof.data import Dataset
from viewproof.data.checks import check_int
from viewproof.errors import InvalidArgument
from viewproof.expressions import parse_rule
from viewproof.masks import Rule
from viewproof.masks.random.rule import one_for_all
from viewproof.methods import build_joint, check_joint, default_blocks
from viewproof.models import ConvAutoencoder, MaskedAutoencoder, ResNet, VectorAutoencoder, ViTReconstructor

GENERAL: dict[str, Any] = {
    "dim": 128, "depth": 4, "heads": 4, "decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4,
    "projector_dim": 256, "momentum": 0.996, "min_area": 0.3, "flip": True,
    "epochs": 20, "batch_size": 256, "learning_rate": 1e-3,
}  # fmt: skip
MAY_BE_ZERO = (
    "norm_pix", "guard_weight", "weight_decay", "warmup_epochs", "seed", "workers", "momentum", "flip", "compile",
    "online_probe",
)  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "digits": {
        "epochs": 80, "batch_size": 64, "dim": 64, "decoder_depth": 1, "learning_rate": 2e-3, "threads": 1,
        "min_area": 0.6, "flip": False,
    },
    "fashion-mnist": {"epochs": 2},
    "photos": {"epochs": 20, "batch_size": 128},
}  # fmt: skip
"""What is left open in a configuration, in general and by data set; digits in two to three minutes on two cores."""


HIDDEN_SHARE = {"digits": 0.5}
"""What a default mask hides where it is not MAE's 75 %: of the 16 patches of a digit, 4 say too little."""


def resolve(config: PretrainConfig, dataset: Dataset) -> PretrainConfig:
    """The configuration, checked.

    Null stay only ``out``, ``clip``, ``checkpoint_every``, one of ``steps`` and ``epochs``, and the mask of a method
    that hides nothing.
    """
    shape = dataset.sample_shape
    image = len(shape) == 3
    if config.method != "mae":
        check_joint(config, dataset)
    picture = "masked-autoencoder" if config.method == "mae" else "vit"
    model = config.model or (picture if image else "vector")
    if not image and model != "vector":
        raise InvalidArgument(
            f"model={model!r} needs images [C, H, W], the samples of {config.data} are {shape}; pass vector"
        )
    if config.norm_pix and not image:
        raise InvalidArgument(f"norm_pix needs images [C, H, W], the samples of {config.data} are {shape}")
    if config.guard is not None and (config.method, model) != ("mae", "masked-autoencoder"):
        raise InvalidArgument(
            f"guard={config.guard!r} is for mae with model='masked-autoencoder', whose visible tokens it reads; "
            f"{config.method} with {model} has none, leave guard out"
        )
    if config.online_probe and (dataset.classes or 0) < 2:
        raise InvalidArgument(f"online_probe needs labels of at least two classes, and {config.data} has none")
    size = len(dataset.train)
    recipe = {**GENERAL, **RECIPES.get(config.data.partition(":")[0], {})}
    for name in ("accumulate", "devices", "nodes"):
        check_int(name, getattr(config, name), 1)
    if config.checkpoint_every is not None:
        check_int("checkpoint_every", config.checkpoint_every, 1)
    recipe = {"threads": max(1, torch.get_num_threads() // config.devices), **recipe}
    recipe |= {"model": model, "patch_size": default_patch(shape) if image else 1}
    shares = config.accumulate * config.ranks
    recipe["batch_size"] = max(1, min(int(recipe["batch_size"]), size) // shares) * shares
    open_fields: Any = {name: value for name, value in recipe.items() if getattr(config, name) is None}
    if config.steps is not None:
        if config.epochs is not None:
            raise InvalidArgument(f"epochs={config.epochs} and steps={config.steps} both end the run; pass one of them")
        del open_fields["epochs"]
    config = replace(config, **open_fields)
    for name, value in asdict(config).items():
        least = 0 if name in MAY_BE_ZERO else math.nextafter(0, 1)
        if isinstance(value, int | float) and not least <= value < math.inf:
            raise InvalidArgument(f"{name}={value} must be {'at least 0' if least == 0 else 'positive'}")
    assert config.batch_size is not None and config.patch_size is not None
    if config.batch_size > size:
        raise InvalidArgument(
            f"batch_size={config.batch_size} is larger than the training part of {size}; pass at most {size}"
        )
    mask = config.mask
    if mask is None and config.method == "ijepa":
        mask = default_blocks(shape, config.patch_size, config.seed)
    elif mask is None and config.method == "mae":
        mask = default_mask(shape, config.patch_size, config.seed, HIDDEN_SHARE.get(config.data, 0.75))
    return replace(config, mask=None if mask is None else repr(parse_rule(mask)))


def default_patch(shape: tuple[int, ...]) -> int:
    """The largest common divisor of height and width, from 2 to 16, that leaves a grid of 7 (else 4) a side; else 1.

    >>> [default_patch((1, side, side)) for side in (8, 28, 32, 224, 6)]
    [2, 4, 4, 16, 1]
    """
    common = math.gcd(*shape[1:])
    divisors = [p for p in range(min(16, common), 1, -1) if common % p == 0]
    for least in (7, 4):
        for p in divisors:
            if min(shape[1:]) // p >= least:
                return p
    return 1


def default_mask(shape: tuple[int, ...], patch: int, seed: int = 0, share: float = 0.75) -> str:
    """Hide a share of the patches, rounded to the nearest count, drawn anew each step; of other data every other value.

    >>> default_mask((1, 28, 28), 4), default_mask((30,), 1)
    ('SharedRandomPatchMask(4, 4, 37, seed=0)', 'Rotating(VectorMask(2, 0))')
    """
    if len(shape) == 3:
        patches = math.ceil(shape[1] / patch) * math.ceil(shape[2] / patch)
        return f"SharedRandomPatchMask({patch}, {patch}, {round(share * patches)}, seed={seed})"
    if len(shape) == 1:
        return "Rotating(VectorMask(2, 0))"
    return f"Rotating(BlockMask({(1,) * len(shape)!r}, 2, 0))"


def build_model(config: PretrainConfig, shape: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """The network of a resolved configuration for samples of ``shape``, and of ``classes`` if it is supervised."""
    if config.method != "mae":
        return build_joint(config, shape, classes)
    assert config.patch_size and config.dim and config.depth and config.heads
    assert config.decoder_dim and config.decoder_depth and config.decoder_heads
    patch = (config.patch_size, config.patch_size)
    if config.model == "masked-autoencoder":
        sizes = (config.dim, config.depth, config.heads, config.decoder_dim, config.decoder_depth, config.decoder_heads)
        return MaskedAutoencoder(shape, patch, *sizes, decoder=config.decoder)
    if config.model == "vit":
        return ViTReconstructor(shape, patch, config.dim, config.depth, config.heads)
    if config.model == "resnet":
        return ResNet(shape[0], math.prod(shape))
    if config.model == "conv":
        return ConvAutoencoder(shape[0])
    return VectorAutoencoder(math.prod(shape), 2 * config.dim, config.dim)


def check_rule(config: PretrainConfig, rule: Rule, model: nn.Module, shape: tuple[int, ...]) -> None:
    """Refuse, before anything is written, a rule that does not fit the samples or the model."""
    from viewproof.masks.patches import split_patches

    for step in range(16):
        mask = one_for_all(rule.at(step)).mask(shape)
        if mask.count in (0, math.prod(shape)):
            what = "nothing" if mask.count == 0 else "everything"
            raise InvalidArgument(
                f"mask={config.mask!r} hides {what} of samples {shape}; nothing can be learned from that"
            )
        if isinstance(model, MaskedAutoencoder):
            split_patches(mask, *model.patch_size)
