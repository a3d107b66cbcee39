"""Training a run from its first step, or from its last checkpoint, to its report."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from viewproof import plots
from viewproof.config import PretrainConfig
from viewproof.engine import CHECKPOINT, RunData, build_trainer, check_layout, leads
from viewproof.errors import InvalidArgument
from viewproof.methods import build_guard, joint_module
from viewproof.objectives import masked_l1, masked_mse, masked_smooth_l1
from viewproof.reports import report
from viewproof.runs import Run, load_run, new_folder, prepare, read_config, write_text
from viewproof.training.base import whole_weights
from viewproof.training.collapse import CollapseMonitor
from viewproof.training.module import MaskedPretraining
from viewproof.training.online_probe import OnlineProbe

LOSSES = {"mse": masked_mse, "l1": masked_l1, "smooth-l1": masked_smooth_l1}


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
    module = build_module(run, loaders.steps_per_epoch)
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
    report(run, say)


def build_module(run: Run, steps_per_epoch: int) -> pl.LightningModule:
    """The module that trains a run, by its configuration's method."""
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
