"""From a configuration to the trainer of a run and the batches of a rank."""

import os
import warnings
from collections import ChainMap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy

from viewproof.config import PretrainConfig
from viewproof.data import Dataset, batches
from viewproof.data.batches import BatchLoader
from viewproof.errors import InvalidArgument
from viewproof.training.callbacks import ClipGradient, MetricsFile, RunProgress
from viewproof.training.checkpoints import Checkpoints, StopAtStep, WholeFiles
from viewproof.training.collapse import CollapseMonitor
from viewproof.training.online_probe import OnlineProbe

CHECKPOINT = Path("checkpoints") / "last.ckpt"
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""What torchrun, Lightning and Slurm tell a process of its place; all are 0, or missing, in the first."""


def leads(config: PretrainConfig) -> bool:
    """Whether this process is the one that prints and writes: the only one, or the first of its run."""
    return config.ranks == 1 or not any(int(os.environ.get(name, 0)) for name in RANKS)


class RunData(pl.LightningDataModule):
    """The batches of a run; the trainer asks for them when it knows the rank."""

    def __init__(self, config: PretrainConfig, dataset: Dataset) -> None:
        super().__init__()
        assert config.batch_size
        self.config, self.held_out = config, min(config.batch_size, len(dataset.test))
        if config.method != "mae":
            # Statistics over samples need a whole batch, in equal shares: the last one may hold a single sample.
            self.held_out -= self.held_out % config.ranks
        self.steps_per_epoch = len(dataset.train) // config.batch_size
        self.loader = partial(batches, dataset, seed=config.seed, num_workers=config.workers, world=config.ranks)

    def train_dataloader(self) -> BatchLoader:
        """This rank's share of every part of every step's batch."""
        assert self.config.batch_size and self.trainer
        parts = self.config.accumulate
        return self.loader("train", self.config.batch_size, rank=self.trainer.global_rank, parts=parts)

    def val_dataloader(self) -> BatchLoader:
        """This rank's share of the held-out batches."""
        assert self.trainer
        return self.loader("test", self.held_out, rank=self.trainer.global_rank, drop_last=self.config.method != "mae")


def check_layout(config: PretrainConfig, dataset: Dataset) -> None:
    """Refuse shares of a batch that are not equal, ranks without a sample, and devices that are not there."""
    size, parts, ranks = config.batch_size or 0, config.accumulate, config.ranks
    if size % (parts * ranks):
        raise InvalidArgument(
            f"batch_size={size} must be a multiple of devices={config.devices} times nodes={config.nodes} times "
            f"accumulate={parts}, so that every share is equal; pass {max(1, size // (parts * ranks)) * parts * ranks}"
        )
    if len(dataset.test) < ranks:
        raise InvalidArgument(f"{len(dataset.test)} held-out samples are too few for {ranks} ranks; pass fewer devices")
    cuda = torch.cuda.device_count() if config.accelerator != "cpu" else 0
    if config.accelerator == "cuda" and not cuda:
        raise InvalidArgument("accelerator='cuda' finds no CUDA device; pass cpu")
    if cuda and config.devices > cuda:
        raise InvalidArgument(f"devices={config.devices} is more than the {cuda} CUDA devices here; pass fewer")


def build_trainer(
    config: PretrainConfig, folder: Path, steps_per_epoch: int, watchers: Sequence[CollapseMonitor | OnlineProbe] = ()
) -> pl.Trainer:
    """The trainer of a resolved configuration, whose files go to ``folder``; what ``watchers`` measure joins them."""
    epochs = config.epochs or -(-(config.steps or 0) // steps_per_epoch)
    callbacks: list[Callback] = [
        RunProgress(),
        *watchers,
        *([ClipGradient(config.clip)] if config.clip else []),
        *([StopAtStep(config.steps)] if config.steps else []),
        MetricsFile(folder / "metrics.csv", extra=ChainMap(*(watcher.values for watcher in reversed(watchers)))),
        Checkpoints(folder / CHECKPOINT, config.checkpoint_every),
    ]
    with warnings.catch_warnings():
        # An accelerator that this configuration does not use, and workers that it chose to do without.
        warnings.filterwarnings("ignore", ".*(does not have many workers|available but not used).*")
        return pl.Trainer(
            max_epochs=epochs,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            strategy=_strategy(config),
            use_distributed_sampler=False,
            accumulate_grad_batches=config.accumulate,
            precision=config.precision,
            deterministic=True,
            callbacks=callbacks,
            plugins=[WholeFiles()],
            logger=TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
            log_every_n_steps=10,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )


def _strategy(config: PretrainConfig) -> Strategy | str:
    if config.ranks == 1:
        return "auto"
    return (
        "ddp" if config.strategy == "ddp" else ModelParallelStrategy(config.ranks, 1, save_distributed_checkpoint=False)
    )
