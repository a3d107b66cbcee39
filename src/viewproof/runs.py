"""One run folder: its configuration, the objects made from it, its weights."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from viewproof.config import PretrainConfig
from viewproof.data import Dataset, load_dataset
from viewproof.errors import InvalidArgument
from viewproof.expressions import parse_rule
from viewproof.masks import Rule
from viewproof.methods import joint_module
from viewproof.recipes import build_model, check_rule, resolve
from viewproof.views import PatchNormalization


@dataclass(frozen=True)
class Run:
    """The objects of one resolved configuration; the model's initial weights are a function of the seed.

    ``rule`` is None for methods that hide nothing.
    """

    config: PretrainConfig
    dataset: Dataset
    rule: Rule | None
    model: nn.Module
    folder: Path

    @property
    def normalization(self) -> PatchNormalization | None:
        """The target transform, if the configuration asks for one."""
        patch = self.config.patch_size
        return PatchNormalization(patch, patch) if self.config.norm_pix and patch else None


def prepare(config: PretrainConfig, folder: Path) -> Run:
    """Load the data and build rule and model; every complaint about the configuration comes from here."""
    dataset = load_dataset(config.data)
    config = resolve(config, dataset)
    rule = None if config.mask is None else parse_rule(config.mask)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build_model(config, dataset.sample_shape, dataset.classes)
    if config.method != "mae":
        joint_module(config, model, rule, dataset)
    elif rule is not None:
        check_rule(config, rule, model, dataset.sample_shape)
    assert config.threads
    torch.set_num_threads(config.threads)
    return Run(config, dataset, rule, model, folder)


def load_run(folder: Path) -> Run:
    """A finished run with its trained weights."""
    run = prepare(read_config(folder), folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise InvalidArgument(f"{folder} has no model.safetensors: the run is not finished; pass --resume to pretrain")
    try:
        run.model.load_state_dict(load_file(weights))
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InvalidArgument(f"{folder}: config.json does not match model.safetensors ({reason})") from error
    return run


def new_folder(config: PretrainConfig) -> Path:
    """The run folder: ``out``, which must not exist, or the next free ``runs/DATA-METHOD``."""
    if config.out is not None:
        if Path(config.out).exists():
            raise InvalidArgument(f"out={config.out!r} exists; choose another folder, no run is overwritten")
        return Path(config.out)
    name = f"{Path(config.data.partition(':')[0]).stem or 'data'}-{config.method}"
    candidates = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def read_config(folder: Path) -> PretrainConfig:
    """The configuration of a run folder."""
    path = folder / "config.json"
    if not path.exists():
        raise InvalidArgument(f"{folder} is not a run folder: it has no config.json")
    try:
        values = json.loads(path.read_text())
        unknown = set(values) - {field.name for field in fields(PretrainConfig)}
        if unknown:
            raise InvalidArgument(f"{path} has unknown entries {sorted(unknown)}; it was written by another version")
        return PretrainConfig(**values)
    except (json.JSONDecodeError, TypeError) as error:
        raise InvalidArgument(f"{path} is not a whole configuration: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write beside the name, then rename: the file is whole or absent."""
    aside = path.with_name(path.name + ".part")
    aside.write_text(text)
    aside.replace(path)
