"""What a run shows and writes while it trains: a progress bar, and a CSV of metrics."""

import csv
import hashlib
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from viewproof.errors import InvalidArgument
from viewproof.files import whole_file
from viewproof.metrics import read_metrics
from viewproof.training.batch import read_batch

DIGEST = "metrics_digest"
FIELDS = ("step", "epoch", "loss", "val_loss", "learning_rate", "images_per_second")


def between_steps(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether an optimizer step has just ended: of accumulated micro-batches, after the last."""
    return (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or batch_idx + 1 == trainer.num_training_batches


class Monitor(pl.Callback):
    """A callback whose ``values`` are columns of ``metrics.csv``; keys that start with ``val_`` are of validations."""

    values: dict[str, float]


class MetricsFile(pl.Callback):
    """Appends a row to ``metrics.csv`` every ``every`` steps and after each validation.

    Columns are `FIELDS` and the keys of ``extra``, whose values are read when a row is written: of keys that start with
    ``val_`` after a validation, of the others every ``every`` steps. A resumed run first drops the rows of steps after
    its checkpoint, so that no step is written twice.
    """

    def __init__(self, path: Path, every: int = 10, extra: Mapping[str, float] | None = None) -> None:
        self.path, self.every, self.extra = path, every, {} if extra is None else extra
        self._since, self._images = 0.0, 0
        self._loss: Any = 0
        self._checked: int | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the length and digest of the file into the checkpoint, once what they tell of is on the disk."""
        if trainer.is_global_zero and self.path.exists():
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())
                content = file.read()
            checkpoint[DIGEST] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse rows that are not those written before the checkpoint; a file that was deleted starts again."""
        if DIGEST in checkpoint and self.path.exists():
            self._checked = checkpoint[DIGEST]["size"]
            if hashlib.sha256(self.path.read_bytes()[: self._checked]).hexdigest() != checkpoint[DIGEST]["sha256"]:
                raise InvalidArgument(
                    f"{self.path} is damaged: its SHA-256 is not what the checkpoint says; restore a copy, or delete it"
                )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the rows up to the step that training starts from."""
        self._since, self._images, self._loss = time.perf_counter(), 0, 0
        if not trainer.is_global_zero:
            return
        rows = [r for r in read_metrics(self.path, self._checked) if int(r["step"]) <= trainer.global_step]
        with whole_file(self.path, newline="") as file:
            writer = csv.DictWriter(file, [*FIELDS, *self.extra])
            writer.writeheader()
            writer.writerows(rows)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One row every few steps, with the loss over all micro-batches and ranks."""
        self._images += len(read_batch(batch)[0]) * trainer.world_size
        # The trainer has divided a micro-batch's loss by their number.
        self._loss = self._loss + outputs["loss"]
        if not between_steps(trainer, batch_idx):
            return
        loss, self._loss = self._loss, 0
        if trainer.global_step % self.every:
            return
        loss = float(trainer.strategy.reduce(loss, reduce_op="mean"))
        now = time.perf_counter()
        speed = self._images / (now - self._since)
        self._since, self._images = now, 0
        pl_module.log("samples/s", speed, prog_bar=True, logger=False)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._append(trainer, False, loss=loss, learning_rate=rate, images_per_second=round(speed, 1))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One row with the held-out loss."""
        if not trainer.sanity_checking and "val_loss" in trainer.callback_metrics:
            self._append(trainer, True, val_loss=float(trainer.callback_metrics["val_loss"]))

    def _append(self, trainer: pl.Trainer, validation: bool, **values: float) -> None:
        if trainer.is_global_zero:
            extra = {name: value for name, value in self.extra.items() if name.startswith("val_") == validation}
            with self.path.open("a", newline="") as file:
                row = {"step": trainer.global_step, "epoch": trainer.current_epoch, **values, **extra}
                csv.DictWriter(file, [*FIELDS, *self.extra]).writerow(row)


class CompileTime(Monitor):
    """Says once what compiling cost: the seconds of the first step beside the median of the ten after the second."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.values = say, {}
        self._start, self._seconds = 0.0, list[float]()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the time."""
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note how long it took; a batch that is compiled again counts as it is."""
        if len(self._seconds) < 12:
            float(outputs["loss"])  # waits for the device
            self._seconds.append(time.perf_counter() - self._start)
            if len(self._seconds) == 12:
                first, later = self._seconds[0], statistics.median(self._seconds[2:])
                self.say(f"compiled: {first:.1f} s for the first batch, {1000 * later:.0f} ms for later ones")


class ClipGradient(pl.Callback):
    """Scales the gradient down to ``norm`` if its Euclidean norm is larger; float32 and bfloat16.

    The trainer's own clipping refuses fused optimizers under autocast, for the sake of float16's loss scaling.
    """

    def __init__(self, norm: float) -> None:
        self.norm = norm

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip what the optimizer is about to use."""
        torch.nn.utils.clip_grad_norm_(pl_module.parameters(), self.norm)


class GradientNorm(Monitor):
    """Measures the Euclidean norm of the whole gradient before every ``every``-th step, before any clipping.

    ``values["gradient_norm"]`` is the last one, for `MetricsFile`.
    """

    def __init__(self, every: int = 10) -> None:
        self.every, self.values = every, {"gradient_norm": math.nan}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure, if the row of this step will be written."""
        if (trainer.global_step + 1) % self.every == 0:
            norm = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
            self.values["gradient_norm"] = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


class RunProgress(ProgressBar):
    """One bar over all steps of the run, with the loss, the held-out loss and images per second."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None

    def disable(self) -> None:
        """Called on every rank but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the step that training starts from."""
        total = int(getattr(pl_module, "total_steps", None) or trainer.estimated_stepping_batches)
        pause = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total, initial=trainer.global_step, unit="step", disable=not self._enabled, mininterval=pause
        )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar to the trainer's step."""
        if self._bar is not None and not self._bar.disable:
            metrics = self.get_metrics(trainer, pl_module)
            metrics.pop("v_num", None)
            self._bar.set_postfix({"epoch": trainer.current_epoch, **metrics}, refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: object = None) -> None:
        """Close the bar, so that the message after it starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()

    on_exception = on_train_end
