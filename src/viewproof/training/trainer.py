"""The trainer of a run, the batches of a rank, and which rank a process is."""

import importlib.util
import logging
import os
import warnings
from collections import ChainMap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy

from viewproof.data import Dataset, batches
from viewproof.data.batches import BatchLoader
from viewproof.errors import InvalidArgument
from viewproof.training.callbacks import ClipGradient, GradientNorm, MetricsFile, Monitor, RunProgress
from viewproof.training.checkpoints import Checkpoints, StopAtStep, WholeFiles
from viewproof.training.settings import TrainingSettings

CHECKPOINT = Path("checkpoints") / "last.ckpt"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Where torchrun, Lightning and Slurm give a process its rank; all are 0, or missing, in the first."""


def silence_lightning() -> None:
    """Keep the trainer's advice off the terminal; call it after the import, which sets the level."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning\.")


def is_rank_zero(ranks: int) -> bool:
    """Whether this process prints and writes: the only one of its run, or the first of ``ranks``."""
    return ranks == 1 or not any(int(os.environ.get(name, 0)) for name in RANKS)


class RunData(pl.LightningDataModule):
    """The batches of a run; the trainer asks for them when it knows the rank.

    With ``whole_batches`` all held-out batches are of one size and shared equally by the ranks, as statistics over
    samples need it: the last batch, which may hold a single sample, is left out. ``crop``: the least area and
    the share of flips of training images that are cropped as they are decoded.
    """

    def __init__(
        self, settings: TrainingSettings, dataset: Dataset, whole_batches: bool, crop: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        self.settings, self.whole_batches = settings, whole_batches
        self.min_area: float | None = crop[0] if crop else None
        self.flip = crop[1] if crop else 0.0
        self.held_out = min(settings.batch_size, len(dataset.test))
        if whole_batches:
            self.held_out -= self.held_out % settings.ranks
        self.loader = partial(batches, dataset, seed=settings.seed, num_workers=settings.workers, world=settings.ranks)

    def train_dataloader(self) -> BatchLoader:
        """This rank's share of every micro-batch of every step."""
        assert self.trainer
        size, accumulate = self.settings.batch_size, self.settings.accumulate
        crop: dict[str, Any] = {"min_area": self.min_area, "flip": self.flip}
        return self.loader("train", size, **crop, rank=self.trainer.global_rank, accumulate=accumulate)

    def val_dataloader(self) -> BatchLoader:
        """This rank's share of the held-out batches."""
        assert self.trainer
        return self.loader("test", self.held_out, rank=self.trainer.global_rank, drop_last=self.whole_batches)


def check_layout(settings: TrainingSettings, dataset: Dataset) -> None:
    """Refuse unequal shares of a batch, ranks without held-out samples, and missing devices."""
    size, accumulate, ranks = settings.batch_size, settings.accumulate, settings.ranks
    if size % (accumulate * ranks):
        raise InvalidArgument(
            f"batch_size={size} must be a multiple of devices={settings.devices} times nodes={settings.nodes} times "
            f"accumulate={accumulate}, so that every share is equal; pass "
            f"{max(1, size // (accumulate * ranks)) * accumulate * ranks}"
        )
    if len(dataset.test) < ranks:
        raise InvalidArgument(f"{len(dataset.test)} held-out samples are too few for {ranks} ranks; pass fewer devices")
    cuda = torch.cuda.device_count() if settings.accelerator != "cpu" else 0
    if settings.accelerator == "cuda" and not cuda:
        raise InvalidArgument("accelerator='cuda' finds no CUDA device; pass cpu")
    if cuda and settings.devices > cuda:
        raise InvalidArgument(f"devices={settings.devices} is more than the {cuda} CUDA devices here; pass fewer")


LOGGERS = {"tensorboard": ["tensorboard"], "csv": [], "wandb": ["wandb"], "mlflow": ["mlflow", "sqlalchemy"]}
"""The choices of ``logger``, each with the packages that it needs beside Lightning's."""


def check_logger(name: str) -> None:
    """Refuse a logger whose package is not installed."""
    for package in LOGGERS[name]:
        if importlib.util.find_spec(package) is None:
            raise InvalidArgument(f"logger={name!r} needs {package}, which is not installed; pip install {name}")


def build_logger(name: str, folder: Path) -> Logger:
    """One of Lightning's loggers, which writes into the run folder.

    wandb goes on line unless WANDB_MODE=offline, mlflow to the server that MLFLOW_TRACKING_URI names.
    """
    if name == "csv":
        return CSVLogger(folder, name="csv", version="")
    if name == "wandb":
        return WandbLogger(name=folder.name, save_dir=folder, project="viewproof")
    if name == "mlflow":
        server, path = os.environ.get("MLFLOW_TRACKING_URI"), folder.absolute()
        return MLFlowLogger(
            "viewproof",
            run_name=folder.name,
            tracking_uri=server or f"sqlite:///{path / 'mlflow.db'}",
            artifact_location=None if server else (path / "mlflow").as_uri(),
        )
    return TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False)


def steps_per_row(settings: TrainingSettings, steps_per_epoch: int) -> int:
    """The steps from one measurement to the next: 10, fewer in a run of less than 100 steps."""
    steps = settings.steps or (settings.epochs or 0) * steps_per_epoch
    return max(1, min(10, steps // 10))


def build_trainer(
    settings: TrainingSettings, folder: Path, steps_per_epoch: int, monitors: Sequence[Monitor] = ()
) -> pl.Trainer:
    """The trainer of a run; its files go to ``folder``, its metrics have the ``monitors``' values."""
    epochs = settings.epochs or -(-(settings.steps or 0) // steps_per_epoch)
    every = steps_per_row(settings, steps_per_epoch)
    gradient = GradientNorm(every)
    extra = ChainMap(gradient.values, *(monitor.values for monitor in reversed(monitors)))
    callbacks: list[Callback] = [
        RunProgress(),
        gradient,
        *monitors,
        *([ClipGradient(settings.clip)] if settings.clip else []),
        *([StopAtStep(settings.steps)] if settings.steps else []),
        MetricsFile(folder / "metrics.csv", every, extra),
        Checkpoints(folder / CHECKPOINT, settings.checkpoint_every),
    ]
    strategy: Strategy | str = "auto"
    if settings.ranks > 1:
        fsdp = settings.strategy == "fsdp"
        strategy = ModelParallelStrategy(settings.ranks, 1, save_distributed_checkpoint=False) if fsdp else "ddp"
    with warnings.catch_warnings():
        # An accelerator that these settings do not use, and workers that they do without.
        warnings.filterwarnings("ignore", ".*(does not have many workers|available but not used).*")
        return pl.Trainer(
            max_epochs=epochs,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy=strategy,
            use_distributed_sampler=False,
            accumulate_grad_batches=settings.accumulate,
            precision=settings.precision,
            deterministic=True,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            logger=build_logger(settings.logger, folder),
            log_every_n_steps=every,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
