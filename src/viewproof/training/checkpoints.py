"""Checkpoints from which a killed run goes on bit for bit."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from viewproof.files import whole_file
from viewproof.masks.finite import check_count
from viewproof.training.callbacks import between_steps


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint as a whole file: a kill amid the writing leaves the last one as it was.

    Lightning's own writing goes through the system's temporary folder, from where a file is copied, not renamed, when
    that is another file system. Pass it to a trainer as ``plugins=[WholeFiles()]``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, "wb") as file:
            torch.save(checkpoint, file)


class Checkpoints(Checkpoint):
    """Writes the checkpoint of a run to ``path`` at the end of each epoch and every ``every`` steps.

    None is written between the last step of an epoch and its validation: the one at the epoch's end holds both. With
    gradients accumulated, a checkpoint stands between two optimizer steps.
    """

    def __init__(self, path: Path, every: int | None = None) -> None:
        self.path, self.every = path, None if every is None else check_count("every", every, "never write one")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove what a kill amid a write left beside the checkpoint: it may be as large as that."""
        if trainer.is_global_zero:
            for unfinished in self.path.parent.glob(".*.part"):
                unfinished.unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write one if this step's turn has come."""
        last = trainer.should_stop or batch_idx + 1 == trainer.num_training_batches
        if self.every and not last and between_steps(trainer, batch_idx) and trainer.global_step % self.every == 0:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write one."""
        trainer.save_checkpoint(self.path)


class StopAtStep(pl.Callback):
    """Ends a run after ``steps`` optimizer steps, also within an epoch, with a validation."""

    def __init__(self, steps: int) -> None:
        self.steps = check_count("steps", steps, "not train")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if the last step is done."""
        trainer.should_stop = trainer.should_stop or trainer.global_step >= self.steps
