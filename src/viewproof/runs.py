"""One run folder: configuration, checkpoint, weights, metrics, pictures, table."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
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
from viewproof.evaluation import encode_all, hidden_errors, probe
from viewproof.expressions import parse_rule
from viewproof.masks import Rule, Sample
from viewproof.masks.random.rule import one_for_all
from viewproof.methods import joint_module
from viewproof.objectives import masked_l1, masked_mse, masked_smooth_l1
from viewproof.recipes import build_model, check_rule, resolve
from viewproof.training import predict
from viewproof.training.base import whole_weights
from viewproof.training.module import MaskedPretraining
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
    trainer = build_trainer(config, run.folder, loaders.steps_per_epoch, say)
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
    return MaskedPretraining(run.model, run.rule, LOSSES[config.loss], target=run.normalization, **optimization)


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


def report(run: Run, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the trained model on held-out data, draw reconstructions (of mae), print and write the table."""
    data = run.dataset
    run.model.eval().cpu()
    lines: list[str] = []
    result: dict[str, Any] = {}
    if run.config.method == "mae":
        result["hidden_error"] = errors = reconstruction_errors(run)
        lines += ["", "held-out error on hidden values (mean squared, in training standard deviations)"]
        lines += [f"  {name:<34} {error:8.4f}" for name, error in errors.items()]
        if len(data.sample_shape) == 3:
            draw_reconstructions(run, run.folder / "reconstruction.png")
    result["accuracy"] = scores = {}
    if data.classes and data.train.labels is not None and data.test.labels is not None:
        result["accuracy"] = scores = probe_table(run)
        used = min(run.config.probe_samples, len(data.train))
        lines += ["", f"held-out accuracy, probes fit on {used} samples {'k-NN':>12} {'linear':>9}"]
        lines += [f"  {name:<44} {100 * s['knn']:8.1f} % {100 * s['linear']:6.1f} %" for name, s in scores.items()]
    write_text(run.folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    say("\n".join([*lines, "", f"written to {run.folder}"]))
    return result


def reconstruction_errors(run: Run) -> dict[str, float]:
    """The error on hidden values of held-out samples, of the model and of plain baselines."""
    data = run.dataset
    assert run.rule is not None
    held_out = [data.fetch("test", part) for part in torch.split(torch.arange(len(data.test)), 256)]
    return hidden_errors(held_out, one_for_all(run.rule.at(0)), mean_sample(data), partial(restore_prediction, run))


def probe_table(run: Run) -> dict[str, dict[str, float]]:
    """Probe accuracy of the trained encoder, the same encoder untrained, and raw values."""
    data, untrained = run.dataset, prepare(run.config, run.folder).model.eval()
    train = torch.arange(len(data.train))
    if len(train) > run.config.probe_samples:
        train = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: run.config.probe_samples]
    test = torch.arange(len(data.test))
    assert data.train.labels is not None and data.test.labels is not None
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "trained encoder": run.model.encode,  # type: ignore[dict-item]
        "the same encoder, untrained": untrained.encode,  # type: ignore[dict-item]
        "raw values": partial(torch.flatten, start_dim=1),
    }
    table = {}
    for name, encode in encoders.items():
        features = [encode_all(encode, partial(data.fetch, p), i) for p, i in (("train", train), ("test", test))]
        table[name] = asdict(probe(features[0], data.train.labels[train.numpy()], features[1], data.test.labels))
    return table


def restore_prediction(run: Run, sample: Sample) -> Tensor:
    """The model's prediction in the sample's units; de-normalised with what is visible, never with what is hidden."""
    prediction = predict(run.model, sample)
    if run.normalization is None:
        return prediction
    return run.normalization.inverse(prediction, *run.normalization.visible_statistics(sample))


def mean_sample(data: Dataset) -> Tensor:
    """The mean training sample, standardised, in one chunked pass."""
    order = torch.arange(len(data.train))
    total = torch.zeros(data.sample_shape, dtype=torch.float64)
    for part in torch.split(order, 1024):
        total += data.fetch("train", part).double().sum(0)
    return (total / len(order)).float()


def draw_reconstructions(run: Run, path: Path, count: int = 6) -> None:
    """Held-out images spread over the test part: original, seen, reconstruction with visible pixels copied, error."""
    data = run.dataset
    assert run.rule is not None
    chosen = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).long()
    sample = one_for_all(run.rule.at(0)).sample(data.fetch("test", chosen))
    assert sample.view is not None
    with torch.inference_mode():
        predicted = restore_prediction(run, sample).reshape(sample.x.shape)
    original = sample.y.reshape(sample.x.shape)
    filled = torch.where(sample.view.hidden, predicted, original)
    pictures = [data.restore(x) for x in (original, sample.x, filled)]
    title = f"{run.config.data}, held out\n{run.config.mask}, step 0"
    figure = plots.reconstruction_figure(pictures[0], pictures[1], sample.view.hidden, pictures[2], title)
    plots.save_figure(figure, path)


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
