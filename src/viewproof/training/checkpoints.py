"""Checkpoints from which a killed run goes on bit for bit."""

import hashlib
from pathlib import Path
from typing import IO, Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from viewproof.errors import InvalidArgument
from viewproof.files import whole_file
from viewproof.masks.finite import check_count
from viewproof.training.callbacks import between_steps

SEAL = b"viewproof sha256 "
"""Stands before the digest at the end of a checkpoint; readers of zip files skip what follows their archive."""


class Sealed:
    """A file that is written from start to end, and `seal`ed by the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, part: Any) -> int:
        """Write bytes and count them in."""
        self.digest.update(part)
        return self.file.write(part)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()

    def seal(self) -> None:
        """Append the digest."""
        self.file.write(SEAL + self.digest.digest())


def check_seal(path: Path) -> None:
    """Refuse a sealed file whose bytes are not those that were written; one without a seal passes."""
    with path.open("rb") as file:
        size = path.stat().st_size - len(SEAL) - 32
        file.seek(max(size, 0))
        seal = file.read()
        if not seal.startswith(SEAL):
            return
        file.seek(0)
        digest = hashlib.sha256()
        while size > 0 and (part := file.read(min(size, 1 << 20))):
            digest.update(part)
            size -= len(part)
    if digest.digest() != seal[len(SEAL) :]:
        raise InvalidArgument(f"{path} is damaged: its bytes are not those that were written; restore a copy of it")


class WholeFiles(TorchCheckpointIO):
    """Writes each checkpoint as a whole file, with a digest that is checked when it is read.

    A kill amid the writing leaves the last one as it was. Lightning's own writing goes through the system's temporary
    folder, from where a file is copied, not renamed, when that is another file system. Pass it to a trainer as
    ``plugins=[WholeFiles()]``.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, "wb") as file:
            sealed = Sealed(file)
            try:
                torch.save(checkpoint, cast(IO[bytes], sealed))
            except RuntimeError as error:
                # torch's writer raises an error of its own over what ended a write: a full disk, or Ctrl+C.
                raise error if error.__context__ is None else error.__context__ from None
            sealed.seal()

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint; a damaged one raises `InvalidArgument` and names the file."""
        check_seal(Path(path))
        try:
            return super().load_checkpoint(path, *arguments, **options)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle raises anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InvalidArgument(f"{path} is damaged ({reason}); restore a copy of it, or train again") from error


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
