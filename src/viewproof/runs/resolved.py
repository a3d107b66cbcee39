"""The resolved configuration: every default is chosen and every value checked."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from viewproof import methods
from viewproof.data import Dataset
from viewproof.data.audio import Recordings
from viewproof.errors import InvalidArgument
from viewproof.evaluation.probes import probe_indices
from viewproof.methods.base import Method
from viewproof.runs.config import PretrainConfig
from viewproof.training.precision import faster_precision
from viewproof.training.settings import Count, Flag, TrainingSettings, check_fields
from viewproof.training.trainer import check_logger

RECIPES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    (
        {"data": "digits"},
        {
            "epochs": 80, "batch_size": 64, "dim": 64, "decoder_depth": 1, "learning_rate": 2e-3, "threads": 1,
            "min_area": 0.6, "flip": False,
        },
    ),
    (
        {
            "data": "digits", "method": "mae", "model": "masked-autoencoder", "strategy": "ddp", "optimizer": None,
            "learning_rate": None, "depth": None,
        },
        {"optimizer": "muon", "learning_rate": 5e-3, "depth": 2, "epochs": 130},
    ),
    (
        {
            "data": "digits", "method": "simclr", "model": None, "strategy": "ddp", "optimizer": None,
            "learning_rate": None, "depth": None, "augment": None, "min_area": None, "flip": None,
        },
        {
            "optimizer": "muon", "learning_rate": 5e-3, "depth": 2, "epochs": 100, "batch_size": 128,
            "projector_dim": 128, "augment": "Affine(15, 0.12, 0.15)",
        },
    ),
    ({"data": "fashion-mnist"}, {"epochs": 2}),
    ({"data": "photos"}, {"epochs": 20, "batch_size": 128}),
    ({"recordings": True}, {"flip": False}),
    (
        {"recordings": True, "pairs": True, "augment": None, "min_area": None, "flip": None},
        {"augment": "Affine(0, 0.1, 0.1), ColourJitter(0.3)"},
    ),
)  # fmt: skip
"""Defaults in place of the general ones, each with when it holds: what the user must have given, None for nothing.

``recordings`` holds of log-mel spectrograms, of which two views are moved a little in time and pitch and changed in
loudness, never mirrored; ``pairs`` of methods that compare two views.

A later recipe wins. The digits' second one was chosen on a fifth of the training digits, one seed, 3,200 steps: k-NN
96.9 % and linear 97.2 %, raw pixels 96.0 % and 97.5 %. 800 steps at 2e-3 and depth 4 gave 87.6 % and 90.7 %.

SimCLR's moves come from another fifth, one seed, 400 steps at temperature 0.2: k-NN 95.7 % and linear 97.2 %; moves
of 10 degrees, 0.1 and 0.1 gave 93.8 % and 97.5 %, raw pixels 95.0 % and 94.7 %. Its 1,200 steps at the paper's 0.5 were
set without such a comparison.
"""


@dataclass(frozen=True, kw_only=True)
class Resolved(TrainingSettings):
    """A `PretrainConfig` with all defaults chosen: the shared settings, and the method with its own.

    ``mask`` is the rule as text, and None for a method that hides nothing.
    """

    method: Method
    mask: str | None = None
    pretrained: Flag = False
    online_probe: Flag
    online_knn: Flag = False
    lidar: Flag = False
    probe_samples: Count
    size: str | None = None
    mean: str | None = None
    std: str | None = None
    skip_unreadable: Flag
    max_pixels: Count
    image_column: str | None = None
    label_column: str | None = None

    def as_given(self) -> PretrainConfig:
        """The configuration that resolves to this one; settings of other methods have their defaults."""
        flags = {field.name for field in fields(PretrainConfig)}
        values = {
            f.name: getattr(part, f.name) for part in (self.method, self) for f in fields(part) if f.name in flags
        }
        return PretrainConfig(**{**values, "method": self.method.name})

    def unused(self, config: PretrainConfig) -> list[str]:
        """The settings of other methods that the user gave, as text; this run has no use for them."""
        own = {"out"} | {field.name for part in (self.method, self) for field in fields(part)}
        defaults = {field.name: field.default for field in fields(config)}
        given = {name: value for name, value in vars(config).items() if name not in own and value != defaults[name]}
        return [f"{name}={value!r}" for name, value in given.items()]


def restore(config: PretrainConfig) -> Resolved:
    """The resolved configuration of a run's config.json, whose defaults are all chosen, without its data."""
    kind: type[Method] = methods.load(config.method)
    values = vars(config)
    method = kind(**{f.name: values[f.name] for f in fields(kind) if values[f.name] is not None})
    shared = {f.name: values[f.name] for f in fields(Resolved) if f.name != "method"}
    return Resolved(**shared, method=method)


def resolve(config: PretrainConfig, dataset: Dataset) -> Resolved:
    """The configuration with its defaults chosen; what is wrong in it raises `InvalidArgument`.

    A value that the user gives wins over the data set's recipe, that over the method's default for the samples' shape,
    and that over the general default, which stands at the field.
    """
    kind: type[Method] = methods.load(config.method)
    shape, size = dataset.sample_shape, len(dataset.train)
    user_values = {name: value for name, value in vars(config).items() if value is not None}
    if config.precision == "auto":
        if config.ranks > 1:
            raise InvalidArgument(
                "precision='auto' is measured, and ranks could measure different ones; pass '32-true' or 'bf16-mixed'"
            )
        user_values["precision"] = faster_precision(config.accelerator)
    check_fields(Resolved, user_values)
    check_fields(kind, user_values)
    if config.epochs is not None and config.steps is not None:
        raise InvalidArgument(f"epochs={config.epochs} and steps={config.steps} both end the run; pass one of them")
    own = {field.name for field in fields(kind)} | ({"mask"} if kind.hides else set())
    for name in {"mask", "guard", "predict", "keep_tokens"} - own:
        if user_values.get(name) in (None, getattr(PretrainConfig, name)):
            continue
        raise InvalidArgument(
            f"{name}={user_values[name]!r} does not apply to method={config.method!r}; leave {name} out"
        )
    if len(shape) != 4 and config.tubelet not in (None, 1):
        raise InvalidArgument(
            f"tubelet={config.tubelet} must be left out: it is the frames of a patch of clips [C, T, H, W], and the "
            f"samples of {config.data} have shape {shape}"
        )
    values: dict[str, Any] = {
        "batch_size": 256,
        "patch_size": default_patch(shape[-3:]) if len(shape) in (3, 4) else 1,
        "tubelet": 2 if len(shape) == 4 and shape[1] % 2 == 0 else 1,
        "augment": kind.natural_augment if dataset.natural else "none",
        "threads": max(1, torch.get_num_threads() // config.devices),
        **kind.defaults(shape),
    }
    values_read = getattr(dataset.train.values, "base", dataset.train.values)
    facts = {"data": config.data.partition(":")[0], "recordings": isinstance(values_read, Recordings)}
    chosen = {**kind.defaults(shape), **user_values, **facts, "pairs": kind.pairs}
    for where, defaults in RECIPES:
        if all(chosen.get(name) == value for name, value in where.items()):
            values |= defaults
    shares = config.accumulate * config.ranks
    values["batch_size"] = max(1, min(values["batch_size"], size) // shares) * shares
    if config.steps is not None:
        values["epochs"] = None
    if config.model == "masked-autoencoder" and len(shape) == 2:
        values["patch_size"] = default_patch((1, shape[0], shape[0]))
    values |= user_values
    values["method"] = method = kind(**{name: values[name] for name in own & values.keys() - {"mask"}})
    resolved = Resolved(**{f.name: values[f.name] for f in fields(Resolved) if f.name in values})
    method.check(resolved, dataset)
    if resolved.batch_size > size:
        raise InvalidArgument(
            f"batch_size={resolved.batch_size} is larger than the training part of {size}; pass at most {size}"
        )
    labels = dataset.train.labels
    probed = probe_indices(size, config.probe_samples).numpy()
    if labels is not None and (dataset.classes or 0) > 1 and len(np.unique(labels[probed])) < 2:
        raise InvalidArgument(
            f"probe_samples={config.probe_samples} must draw samples of two classes at least; pass a larger number"
        )
    check_logger(config.logger)
    for name, needs_labels in (("online_probe", True), ("online_knn", True), ("lidar", False)):
        if getattr(config, name) and needs_labels and (dataset.classes or 0) < 2:
            raise InvalidArgument(f"{name} needs labels of at least two classes, and {config.data} has none")
        if getattr(config, name) and config.ranks > 1 and config.strategy == "fsdp":
            raise InvalidArgument(f"{name} needs the whole encoder on each device; pass strategy='ddp' or leave it out")
    if config.ranks > 1 and config.strategy == "fsdp" and (resolved.optimizer == "muon" or config.ema is not None):
        flag = "optimizer='muon'" if resolved.optimizer == "muon" else f"ema={config.ema}"
        raise InvalidArgument(f"{flag} needs whole matrices on each device; pass strategy='ddp' or leave it out")
    return resolved if config.mask is not None else replace(resolved, mask=method.default_mask(resolved, shape))


def default_patch(shape: tuple[int, ...]) -> int:
    """The largest common divisor of height and width up to 16 whose grid has 7 (else 4) a side; or 1.

    >>> [default_patch((1, side, side)) for side in (8, 28, 32, 224, 6)]
    [2, 4, 4, 16, 1]
    """
    common = math.gcd(*shape[1:])
    divisors = [p for p in range(min(16, common), 1, -1) if common % p == 0]
    return next((p for least in (7, 4) for p in divisors if min(shape[1:]) // p >= least), 1)
