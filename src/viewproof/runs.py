"""One run folder: configuration, checkpoint, weights, metrics, pictures, table."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from viewproof import plots
from viewproof.config import PretrainConfig
from viewproof.data import Dataset, load_dataset
from viewproof.engine import CHECKPOINT, RunData, build_trainer, check_layout, leads
from viewproof.errors import InvalidArgument
from viewproof.expressions import parse_rule
from viewproof.masks import Rule
from viewproof.methods import build_guard, joint_module
from viewproof.objectives import masked_l1, masked_mse, masked_smooth_l1
from viewproof.recipes import build_model, check_rule, resolve
from viewproof.training.base import whole_weights
from viewproof.training.collapse import CollapseMonitor
from viewproof.training.module import MaskedPretraining
from viewproof.training.online_probe import OnlineProbe
from viewproof.views import PatchNormalization

LOSSES = {"mse": masked_mse, "l1": masked_l1, "smooth-l1": masked_smooth_l1}


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


def pretrain(config: PretrainConfig, say: Callable[[str], None] = print) -> int:
    """Train a new run from its configuration; return the exit code."""
    if not leads(config):
        return _train(prepare(config, Path(config.out or "runs")), None, silent)
    folder = new_folder(config)
    run = prepare(config, folder)
    check_layout(run.config, run.dataset)
    folder.mkdir(parents=True)
    write_text(folder / "config.json", json.dumps(asdict(replace(run.config, out=None)), indent=2) + "\n")
    return _train(run, None, say)


def resume(folder: Path, say: Callable[[str], None] = print) -> int:
    """Continue a run from its last whole checkpoint; return the exit code."""
    run = prepare(read_config(folder), folder)
    checkpoint = folder / CHECKPOINT
    if (folder / "model.safetensors").exists():
        raise InvalidArgument(
            f"{folder} is finished; evaluate it, or start another run with --config {folder}/config.json"
        )
    if not checkpoint.exists():
        raise InvalidArgument(f"{folder} has no {CHECKPOINT}: it was stopped before its first one; start it again")
    check_layout(run.config, run.dataset)
    return _train(run, checkpoint, say if leads(run.config) else silent)


def silent(_: str) -> None:
    """What every process but the first says."""


def _train(run: Run, checkpoint: Path | None, say: Callable[[str], None]) -> int:
    config, data = run.config, run.dataset
    loaders = RunData(config, data)
    module = _module(run, loaders.steps_per_epoch)
    say(f"{config.data}: {len(data.train)} training and {len(data.test)} held-out samples of {data.sample_shape}")
    views = "labels" if config.method == "supervised" else "two random views"
    drawn = views if config.mask is None else f"mask {config.mask}"
    say(f"{type(run.model).__name__}, {sum(p.numel() for p in run.model.parameters()):,} parameters; {drawn}")
    if config.compile:
        run.model.compile()
    trainer = build_trainer(config, run.folder, loaders.steps_per_epoch, _watchers(run, say))
    try:
        trainer.fit(module, datamodule=loaders, ckpt_path=checkpoint, weights_only=True)
    except RuntimeError as error:
        if checkpoint is None or "state_dict" not in str(error):
            raise
        raise InvalidArgument(f"{checkpoint} does not fit {run.folder}/config.json: another method wrote it") from error
    except (KeyboardInterrupt, SystemExit):
        if not trainer.interrupted:
            raise
    else:
        weights = {} if trainer.interrupted else whole_weights(run.model)
    finally:
        # What is measured afterwards is measured by one rank alone.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    if trainer.interrupted:
        kept = f"resume with: viewproof pretrain --resume {run.folder}" if (run.folder / CHECKPOINT).exists() else ""
        say(f"stopped in epoch {trainer.current_epoch}; {kept or 'there is no checkpoint yet, nothing to resume'}")
        return 130
    if leads(config):
        _finish(run, weights, say)
    return 0


def _finish(run: Run, weights: dict[str, Tensor], say: Callable[[str], None]) -> None:
    """Write the weights and what is drawn and measured with them."""
    aside = run.folder / "model.part"
    aside.write_bytes(save(weights))
    aside.replace(run.folder / "model.safetensors")
    if isinstance(run.model, FSDPModule):
        run = load_run(run.folder)
    figure = plots.loss_figure(run.folder / "metrics.csv", run.config.data)
    if run.config.method != "mae":
        figure.axes[0].set_ylabel(f"{run.config.method} loss")
    plots.save_figure(figure, run.folder / "loss.png")
    from viewproof.reports import report  # reports read runs

    report(run, say)


def _module(run: Run, steps_per_epoch: int) -> pl.LightningModule:
    config = run.config
    assert config.learning_rate
    optimization: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "warmup_steps": round(config.warmup_epochs * steps_per_epoch),
        "total_steps": config.steps or (config.epochs or 0) * steps_per_epoch,
    }
    if config.method != "mae":
        return joint_module(config, run.model, run.rule, run.dataset, **optimization)
    assert run.rule is not None
    loss, guard = LOSSES[config.loss], build_guard(config)
    return MaskedPretraining(run.model, run.rule, loss, target=run.normalization, guard=guard, **optimization)


def _watchers(run: Run, say: Callable[[str], None]) -> list[CollapseMonitor | OnlineProbe]:
    watchers: list[CollapseMonitor | OnlineProbe] = []
    if run.config.method != "mae" or run.config.model == "masked-autoencoder":
        watchers.append(CollapseMonitor(say=say))
    if run.config.online_probe:
        watchers.append(OnlineProbe.of(run.model, run.dataset))
    return watchers


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
