"""A learning-rate range test (Smith 2017, arXiv 1506.01186): the loss while the rate rises, on a copy of the model."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from viewproof.training.base import Pretraining
from viewproof.training.callbacks import ClipGradient
from viewproof.training.settings import TrainingSettings

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
SMOOTHING = 0.9
"""Weight of the earlier losses in the exponential average that is read, whose start is corrected as Adam's is."""
DIVERGED = 4.0
"""The test ends when the average is this many times its least value above zero, or not finite."""
LEAST_FALL = 0.02
"""The share of the first average that the loss must fall for a rate to be suggested."""
BELOW = 10.0
"""How far the suggested rate lies below that of the least average: there the loss is about to rise."""


@dataclass(frozen=True)
class RangeTest:
    """The losses of a range test, one a ``rates`` entry; ``suggestion`` is None where the loss does not fall."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]

    @property
    def averages(self) -> tuple[float, ...]:
        """The exponential average of the losses.

        >>> RangeTest((1e-6, 1e-5), (2.0, 2.0)).averages
        (2.0, 2.0)
        """
        mean, out = 0.0, []
        for k, loss in enumerate(self.losses, 1):
            mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
            out.append(mean / (1 - SMOOTHING**k))
        return tuple(float(f"{value:.12g}") for value in out)

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the average is least, rounded to two digits.

        >>> rates = tuple(10.0 ** (k / 10 - 6) for k in range(60))
        >>> RangeTest(rates, tuple(1 - k / 100 if k < 50 else 5.0 for k in range(60))).suggestion
        0.0079
        """
        finite = [value for value in self.averages if math.isfinite(value)]
        if not finite or min(finite) > finite[0] - LEAST_FALL * abs(finite[0]):
            return None
        return float(f"{self.rates[finite.index(min(finite))] / BELOW:.1e}")


class RaisingRate(Callback):
    """Sets the rate of each step and reads its loss; ends the training when the loss has blown up."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._sum = 0.0

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Set the rate of all groups."""
        rate = LOWEST * (HIGHEST / LOWEST) ** (len(self.rates) / (STEPS - 1))
        self.rates.append(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a step, the sum over its micro-batches, which was taken before the step."""
        self._sum += float(outputs["loss"])
        if trainer.global_step == len(self.losses):
            return
        self.losses.append(self._sum)
        self._sum = 0.0
        averages = RangeTest(tuple(self.rates), tuple(self.losses)).averages
        last, least = averages[-1], min(averages)
        if not math.isfinite(last) or (least > 0 and last > DIVERGED * least):
            trainer.should_stop = True


def range_test(module: Pretraining, settings: TrainingSettings, data: pl.LightningDataModule) -> RangeTest:
    """Train a copy of the module for at most `STEPS` steps, its rate rising exponentially from `LOWEST` to `HIGHEST`.

    Losses are those before each step, of the batches and draws that training begins with, in one process. The module
    and the global random state are left as they are; what is found is a function of the seed.
    """
    sweep = RaisingRate()
    trainer = pl.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        min_steps=1,
        accelerator=settings.accelerator,
        devices=1,
        precision=settings.precision,
        accumulate_grad_batches=settings.accumulate,
        deterministic=True,
        callbacks=[sweep, *([ClipGradient(settings.clip)] if settings.clip else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    with torch.random.fork_rng():
        trainer.fit(copy.deepcopy(module), datamodule=data)
    return RangeTest(tuple(sweep.rates[: len(sweep.losses)]), tuple(sweep.losses))
