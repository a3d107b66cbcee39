"""Statistics of one batch of embeddings that show a collapse, over samples, never over views."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.losses.ranks import all_rows
from viewproof.masks.finite import check_count
from viewproof.shapes import Float
from viewproof.training.callbacks import Monitor, between_steps

LEAST_RANK = 2.0
LEAST_SPREAD = 1e-4
FEWEST = 8
"""Samples below which nothing is measured: two have rank 1 whatever their embeddings are."""


@dataclass(frozen=True)
class Geometry:
    """What one batch of embeddings ``[N, D]`` says about collapse.

    ``std_mean`` and ``std_least``: the standard deviation over samples, mean and least over coordinates, in the
    embeddings' units. ``spread``, from 0 to 1: the coordinate spreads, summed, over the largest sum that embeddings of
    these lengths can have. ``rank``, from 1 to D (0 for one point): RankMe of the embeddings less their mean, for many
    losses leave the mean free, and a large one would hide every other direction.
    """

    std_mean: float
    std_least: float
    spread: float
    rank: float

    @property
    def collapsed(self) -> bool:
        """All samples nearly on one line or one point, or a number that is none."""
        return not (self.rank >= LEAST_RANK and self.spread >= LEAST_SPREAD and math.isfinite(self.std_mean))


def rankme(z: Float[Tensor, "samples dims"]) -> float:
    """RankMe: the exponential of the entropy of the singular values' shares (arXiv 2210.02885).

    1 where all samples are one point, or one line through 0; D where all directions weigh the same; 0 for zeros. The
    paper adds 1e-7 to each share, which is left out: it adds to the rank of what has collapsed.

    >>> round(rankme(torch.ones(5, 3)), 9), round(rankme(torch.eye(3)), 9)
    (1.0, 3.0)
    """
    values = torch.linalg.svdvals(z.double())
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def measure(z: Float[Tensor, "..."]) -> Geometry:
    """The `Geometry` of embeddings ``[N, D]`` of at least two samples.

    >>> measure(torch.eye(4)).collapsed, measure(torch.ones(4, 4)).collapsed
    (False, True)
    """
    if z.dim() != 2 or len(z) < 2 or not z.shape[1]:
        raise InvalidArgument(f"embeddings of shape {tuple(z.shape)} must be [N, D] of at least two samples")
    z = z.detach().double()
    if not z.isfinite().all():
        return Geometry(math.nan, math.nan, math.nan, math.nan)
    deviation = z.std(0)
    centred = z - z.mean(0)
    whole = float(z.square().sum())
    spread = float(centred.square().sum()) / whole if whole else 0.0
    return Geometry(float(deviation.mean()), float(deviation.min()), spread, rankme(centred))


class CollapseMonitor(Monitor):
    """Measures ``pl_module.embeddings`` every ``every`` steps, and says so when they collapse.

    ``values`` holds the last numbers, None for fewer than `FEWEST` samples, or coordinates that cannot have
    `LEAST_RANK`. One line is said when a collapse begins and one when it ends.
    """

    values: dict[str, Any]

    def __init__(self, every: int = 10, say: Callable[[str], None] = print) -> None:
        if check_count("every", every) == 0:
            raise InvalidArgument("every=0 measures nothing; leave the callback out, or pass 10")
        self.every, self.say = every, say
        self.values = asdict(Geometry(math.nan, math.nan, math.nan, math.nan))
        self.collapsed = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure, if this step's turn has come."""
        embeddings = getattr(pl_module, "embeddings", None)
        if trainer.global_step % self.every or embeddings is None or not between_steps(trainer, batch_idx):
            return
        rows = all_rows(embeddings)
        if len(rows) < FEWEST or rows.shape[1] <= LEAST_RANK:
            self.values.update(dict.fromkeys(self.values))
            return
        geometry = measure(rows)
        self.values.update(asdict(geometry))
        pl_module.log_dict(self.values, on_step=True)
        if geometry.collapsed != self.collapsed and trainer.is_global_zero:
            numbers = f"RankMe {geometry.rank:.3g} of {embeddings.shape[1]}, spread {geometry.spread:.2g}"
            what = "COLLAPSE: the embeddings of all samples lie nearly on one point or line"
            self.say(f"step {trainer.global_step}: {what if geometry.collapsed else 'no collapse now'} ({numbers})")
        self.collapsed = geometry.collapsed
