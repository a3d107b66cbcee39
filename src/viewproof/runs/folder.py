"""One run folder: its configuration, the objects made from it, its weights."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from viewproof import methods
from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.expressions import parse_rule
from viewproof.files import whole_file
from viewproof.masks import Rule
from viewproof.runs.config import MethodName, PretrainConfig
from viewproof.runs.guarded import check_digest
from viewproof.runs.reading import read
from viewproof.runs.resolved import Resolved, resolve
from viewproof.training.augment import Augment, parse_transforms
from viewproof.training.base import Pretraining
from viewproof.weights.sources import format_of

WEIGHTS = "model.safetensors"
ENCODER = "encoder.json"
METRICS = "metrics.csv"
EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Run:
    """A resolved configuration with the objects made from it; ``rule`` is None if nothing is hidden."""

    config: Resolved
    dataset: Dataset
    rule: Rule | None
    model: nn.Module
    folder: Path

    @property
    def steps_per_epoch(self) -> int:
        """The optimizer steps of one epoch."""
        return len(self.dataset.train) // self.config.batch_size

    def module(self) -> Pretraining:
        """The Lightning module that trains the model; a rule that does not fit raises `InvalidArgument`."""
        config, steps = self.config, self.steps_per_epoch
        optimization: dict[str, Any] = {"learning_rate": config.peak_rate, "weight_decay": config.weight_decay}
        optimization |= {"optimizer": config.optimizer, "ema": config.ema}
        optimization["warmup_steps"] = round(config.warmup_epochs * steps)
        optimization["total_steps"] = config.steps or (config.epochs or 0) * steps
        module = config.method.module(self.model, config, self.rule, self.dataset, **optimization)
        augment = self.augment
        if augment.transforms and not config.method.pairs:
            module.augment = augment
        return module

    @property
    def augment(self) -> Augment:
        """The transforms of a training step; a crop that the loader makes is not among those applied."""
        augment = Augment(parse_transforms(self.config.method.augment), self.config.seed)
        return augment if self.crop_when_read is None else augment.after_reading()

    @property
    def crop_when_read(self) -> tuple[float, float] | None:
        """`Augment.of_reading` if the loader crops; None if the training step does, or nothing does."""
        augment = Augment(parse_transforms(self.config.method.augment))
        return augment.of_reading if self.dataset.crops_when_read and not self.config.method.pairs else None


def prepare(
    config: PretrainConfig,
    folder: Path,
    *,
    allow_import: bool = False,
    data: Callable[[PretrainConfig], Dataset] = read,
) -> Run:
    """The run of a configuration, with the data loaded and the network at its first weights.

    ``allow_import`` lets the mask name a rule of another module, which is then imported. ``data`` gives the data set.
    """
    for field in fields(PretrainConfig):
        value = getattr(config, field.name)
        if field.type in (str, str | None, MethodName) and not isinstance(value, str | None):
            raise InvalidArgument(f"{field.name}={value!r} must be text; see `viewproof pretrain --help`")
    methods.load(config.method)  # an unknown name is refused before the data are read
    dataset = data(config)
    resolved = resolve(config, dataset)
    rule = None if resolved.mask is None else parse_rule(resolved.mask, allow_import=allow_import)
    torch.set_num_threads(resolved.threads)
    return Run(resolved, dataset, rule, initial_network(resolved, dataset), folder)


def initial_network(config: Resolved, dataset: Dataset) -> nn.Module:
    """The network with the weights that training starts from, which are a function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return config.method.network(config, dataset.sample_shape, dataset.classes)


def load_run(folder: Path, *, allow_import: bool = False) -> Run:
    """A finished run with its trained weights."""
    config = read_config(folder)
    if not (folder / WEIGHTS).exists():
        raise InvalidArgument(f"{folder} has no {WEIGHTS}: the run is not finished; pass --resume to pretrain")
    run = prepare(config, folder, allow_import=allow_import)
    load_weights(run.model, folder)
    return run


def load_weights(model: nn.Module, folder: Path) -> None:
    """Give a run's network its trained weights; a damaged file raises `InvalidArgument`."""
    check_digest(folder, WEIGHTS)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InvalidArgument(f"{folder}: config.json does not match {WEIGHTS} ({reason})") from error


def encoder_facts(data: Dataset) -> dict[str, Any]:
    """What a run's encoder needs to be used without its data: the sample's shape, its standardisation, the classes."""
    names = None if data.class_names is None else list(data.class_names)
    shape = list(data.sample_shape)
    return {"sample_shape": shape, "mean": data.mean.tolist(), "std": data.std.tolist(), "class_names": names}


def new_folder(config: PretrainConfig) -> Path:
    """The run folder: ``out``, which must not exist, or the next free ``runs/DATA-METHOD``."""
    if config.out is not None:
        if Path(config.out).exists():
            raise InvalidArgument(f"out={config.out!r} exists; choose another folder, no run is overwritten")
        return Path(config.out)
    name = f"{Path(config.data.partition(':')[0]).stem or 'data'}-{config.method}"
    candidates = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in count(1))
    return next(path for path in candidates if not os.path.lexists(path))


def make_folder(folder: Path, config: PretrainConfig) -> Path:
    """Make the run folder and return it: the next free one if another run has just taken a numbered name."""
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            # `new_folder` refuses an ``out`` that exists; a parent that is a file stays an error.
            folder = new_folder(config)
        else:
            return folder


def read_config(folder: Path) -> PretrainConfig:
    """The configuration of a run folder."""
    path = folder / "config.json"
    try:
        if not path.exists():
            raise InvalidArgument(f"{folder} is not a run folder: it has no config.json; pass one that pretrain wrote")
    except OSError as error:  # a name that is too long, a folder that may not be read
        raise InvalidArgument(f"{str(folder)[:80]!r} cannot be read ({error.strerror}); pass a run folder") from error
    try:
        values = json.loads(path.read_text())
    except ValueError as error:  # no JSON, no UTF-8, or a number of more digits than Python reads
        raise InvalidArgument(f"{path} is not a whole configuration: {error}") from error
    try:
        unknown = set(values) - {field.name for field in fields(PretrainConfig)}
        if unknown and (library := format_of(folder)):
            raise InvalidArgument(f"{folder} holds a model of {library}, not a run; {library} loads it, or --init")
        if unknown:
            raise InvalidArgument(f"{path} has unknown entries {sorted(unknown)}; it was written by another version")
        return PretrainConfig(**values)
    except TypeError as error:
        raise InvalidArgument(f"{path} is not a whole configuration: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of a run says, nothing if there is none; a damaged one raises `InvalidArgument`."""
    check_digest(path.parent, path.name)
    if not path.exists():
        return {}
    try:
        result = json.loads(path.read_text())
        if not isinstance(result, dict):
            raise ValueError("no object")
        return result
    except ValueError as error:
        raise InvalidArgument(
            f"{path} is damaged ({error}); restore a copy, or delete it and write it again"
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON; the file is whole or absent."""
    with whole_file(path) as file:
        file.write(json.dumps(value, indent=2) + "\n")
