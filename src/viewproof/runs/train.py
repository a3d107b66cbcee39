"""Training a run from its first step, or from its last checkpoint, to its report."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from safetensors.torch import save
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from viewproof import plots
from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.evaluation.online import LidarMonitor, OnlineKNN
from viewproof.files import whole_file
from viewproof.runs.backbones import with_backbone
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import (
    ENCODER,
    METRICS,
    WEIGHTS,
    Run,
    encoder_facts,
    initial_network,
    load_weights,
    make_folder,
    new_folder,
    prepare,
    read_config,
    write_json,
)  # fmt: skip
from viewproof.runs.guarded import locked, recorded
from viewproof.runs.reading import read
from viewproof.runs.reference import ReferenceCurve, find_reference
from viewproof.runs.report import report
from viewproof.training.base import Pretraining
from viewproof.training.callbacks import CompileTime, Monitor
from viewproof.training.collapse import CollapseMonitor
from viewproof.training.online_probe import OnlineProbe
from viewproof.training.rate_test import BELOW, RangeTest, range_test
from viewproof.training.trainer import CHECKPOINT, RunData, build_trainer, check_layout, is_rank_zero, steps_per_row
from viewproof.weights.sources import write_report

TRAINED = (WEIGHTS, ENCODER, METRICS, "init.json", "skipped.txt")
"""What has its digest from the end of training on."""
RATE = "learning-rate.png"


def pretrain(
    config: PretrainConfig,
    say: Callable[[str], None] = print,
    *,
    allow_import: bool = False,
    lr_find: bool = False,
    data: Callable[[PretrainConfig], Dataset] = read,
) -> int:
    """Train a new run from its configuration, on what ``data`` gives of it; return the exit code.

    With ``lr_find`` its learning rate is the suggestion of a `range_test`, which is made first; a rate that the user
    gives and more than one process are then refused.
    """
    if lr_find and (config.learning_rate is not None or config.ranks > 1):
        clash = "learning_rate" if config.learning_rate is not None else "devices"
        raise InvalidArgument(
            f"lr_find with {clash}={getattr(config, clash)!r} must be alone: it sets the rate, in one process; leave "
            f"one of them out"
        )
    first = is_rank_zero(config.ranks)
    config, source = with_backbone(config)
    folder = new_folder(config) if first else Path(config.out or "runs")
    run = prepare(config, folder, allow_import=allow_import, data=data)
    module = run.module()
    if run.config.lidar:
        LidarMonitor(run.dataset, draws=1).embeddings(module, torch.arange(1))  # a method without draws is refused here
    weights = None if source is None else source.load(run.model)
    test = None
    if lr_find:
        check_layout(run.config, run.dataset)
        run, test = with_found_rate(run, module, say)
        module = run.module()
    if first:
        check_layout(run.config, run.dataset)
        # Nothing is written before every complaint about the configuration could be made.
        run = replace(run, folder=make_folder(run.folder, config))
        write_json(run.folder / "config.json", asdict(run.config.as_given()))
        if unused := run.config.unused(config):
            say(f"method={config.method!r} does not use {', '.join(unused)}")
        if run.dataset.skipped:
            with whole_file(run.folder / "skipped.txt") as file:
                file.write("".join(f"{line}\n" for line in run.dataset.skipped))
        write_json(run.folder / ENCODER, encoder_facts(run.dataset))
        if weights is not None:
            write_json(run.folder / "init.json", weights)
            say(write_report(weights))
        if test is not None:
            title = f"{run.dataset.name}, {run.config.method.name}"
            figure = plots.rate_figure(test.rates, test.losses, test.averages, test.suggestion, title)
            with recorded(run.folder, RATE):
                plots.save_figure(figure, run.folder / RATE)
    with locked(run.folder) if first else nullcontext():
        return fit(run, module, None, say)


def with_found_rate(run: Run, module: Pretraining, say: Callable[[str], None]) -> tuple[Run, RangeTest]:
    """The run with the rate that a range test suggests, or its own where there is none, and the test."""
    test = range_test(
        module, run.config, RunData(run.config, run.dataset, not run.config.method.reconstructs, run.crop_when_read)
    )
    where = f"over {len(test.losses)} steps from {test.rates[0]:.0e} to {test.rates[-1]:.1e}"
    scale = run.config.peak_rate / run.config.learning_rate
    peak = run.config.peak_rate if test.suggestion is None else test.suggestion
    rule = f", which is learning_rate={peak / scale:g} times {scale:g} by rate_rule={run.config.rate_rule!r}"
    rate = f"learning rate: {peak:g}{'' if scale == 1 else rule}"
    if test.suggestion is None:
        say(f"{rate} is kept; {where} the loss does not fall")
        return run, test
    best = f"{BELOW * test.suggestion:g}, where the average loss is least"
    say(f"{rate}; it is a tenth of {best} {where}; see {RATE}")
    return replace(run, config=replace(run.config, learning_rate=test.suggestion / scale)), test


def resume(folder: Path, say: Callable[[str], None] = print, *, allow_import: bool = False) -> int:
    """Continue a run from its last whole checkpoint; return the exit code."""
    config, checkpoint = read_config(folder), folder / CHECKPOINT
    check_unfinished(folder)
    if not checkpoint.exists():
        raise InvalidArgument(f"{folder} has no {CHECKPOINT}: it was stopped before its first one; start it again")
    run = prepare(config, folder, allow_import=allow_import)
    check_layout(run.config, run.dataset)
    with locked(folder) if is_rank_zero(run.config.ranks) else nullcontext():
        # Another process may have finished the run meanwhile.
        check_unfinished(folder)
        return fit(run, run.module(), checkpoint, say)


def check_unfinished(folder: Path) -> None:
    """Refuse a run that has its weights."""
    if (folder / WEIGHTS).exists():
        remedy = f"evaluate it, or start another run with --config {folder}/config.json"
        raise InvalidArgument(f"{folder} is finished; {remedy}")


def fit(run: Run, module: Pretraining, checkpoint: Path | None, say: Callable[[str], None]) -> int:
    """Train, from a checkpoint if there is one, and measure; only the first rank speaks and writes.

    Whenever it is interrupted it says how the run is continued, and returns 130.
    """
    first = is_rank_zero(run.config.ranks)
    say = say if first else lambda line: None
    try:
        with recorded(run.folder, *TRAINED) if first else nullcontext():
            weights = train(run, module, checkpoint, say)
            if first:
                with whole_file(run.folder / WEIGHTS, "wb") as file:
                    file.write(save(weights))
        return finish(run, say) if first else 0
    except KeyboardInterrupt:
        if (run.folder / WEIGHTS).exists():
            remedy = f"all steps are done; measure with: viewproof evaluate {run.folder}"
        elif (run.folder / CHECKPOINT).exists():
            remedy = f"resume with: viewproof pretrain --resume {run.folder}"
        else:
            remedy = "there is no checkpoint to resume from"
        say(f"stopped in epoch {module.current_epoch}; {remedy}")
        return 130


def train(run: Run, module: Pretraining, checkpoint: Path | None, say: Callable[[str], None]) -> dict[str, Tensor]:
    """Train, from a checkpoint if there is one; return the weights that are evaluated."""
    config, data = run.config, run.dataset
    skipped = f", {len(data.skipped)} unreadable files skipped" if data.skipped else ""
    classes = "" if data.classes is None else f" in {data.classes} class{'es' * (data.classes != 1)}"
    say(
        f"{config.data}: {len(data.train)} training and {len(data.test)} held-out samples of "
        f"{data.sample_shape}{classes}{skipped}"
    )
    views = "labels" if config.method.learns_labels else "random views"
    drawn = views if config.mask is None else f"mask {config.mask}"
    say(f"{type(run.model).__name__}, {sum(p.numel() for p in run.model.parameters()):,} parameters; {drawn}")
    monitors: list[Monitor] = (
        [CollapseMonitor(steps_per_row(config, run.steps_per_epoch), say)] if module.embeds else []
    )
    if config.compile:
        run.model.compile()
        monitors.append(CompileTime(say))
    if config.online_probe:
        monitors.append(OnlineProbe.of(run.model, data))
    if config.online_knn:
        monitors.append(OnlineKNN(data))
    if config.lidar:
        monitors.append(LidarMonitor(data))
    reference = find_reference(config.as_given())
    if reference is not None:
        monitors.append(ReferenceCurve(reference))
    trainer = build_trainer(config, run.folder, run.steps_per_epoch, monitors)
    try:
        batches = RunData(config, data, not config.method.reconstructs, run.crop_when_read)
        trainer.fit(module, datamodule=batches, ckpt_path=checkpoint, weights_only=True)
        if trainer.interrupted:
            raise KeyboardInterrupt
        # Every rank takes part in gathering what is sharded.
        trained = run.model if module.average is None else module.average
        state = trained.state_dict().items()
        return {name: (v.full_tensor() if isinstance(v, DTensor) else v).contiguous() for name, v in state}
    except RuntimeError as error:
        if checkpoint is None or "state_dict" not in str(error):
            raise
        raise InvalidArgument(
            f"{checkpoint} does not fit {run.folder}/config.json: another method wrote it, or other sizes"
        ) from error
    except MisconfigurationException as error:
        if checkpoint is None or "restored a checkpoint" not in str(error):
            raise
        raise InvalidArgument(
            f"{checkpoint} lies behind the last epoch that {run.folder}/config.json sets; raise epochs there"
        ) from error
    except SystemExit:
        # Lightning's way to end on Ctrl+C.
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        # What is measured afterwards is measured by one rank alone.
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def finish(run: Run, say: Callable[[str], None]) -> int:
    """Write what is drawn and measured with a run's weights; return the exit code."""
    if isinstance(run.model, FSDPModule) or run.config.ema is not None:
        run = replace(run, model=initial_network(run.config, run.dataset))
        load_weights(run.model, run.folder)
    method = run.config.method
    label = "mean loss over hidden coordinates" if method.reconstructs else f"{method.name} loss"
    with recorded(run.folder, "loss.png"):
        plots.save_figure(plots.loss_figure(run.folder / METRICS, run.dataset.name, label), run.folder / "loss.png")
    return report(run, say)
