"""Masked pre-training as a LightningModule: any model, any rule, any loss."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.masks import RandomRule, Rule, Sample
from viewproof.objectives import masked_mse
from viewproof.training.fixed import Loss, predict


class MaskedPretraining(pl.LightningModule):
    """Trains ``loss(predict(model, sample), sample)`` with ``sample = rule.at(step).sample(batch)``.

    A batch is a tensor ``[N, ...]``, or a sequence or mapping whose first entry (or entry ``"x"``) is one. Validation
    always uses the rule of step 0. A random rule draws one mask a sample, by the ids in the batch's second entry (or
    entry ``"sample_ids"``) and the epoch; validation by the ids and epoch 0. ``target`` transforms the sample before
    the loss, for instance `viewproof.PatchNormalization`. AdamW; the rate warms up linearly over ``warmup_steps``, then
    follows a cosine to 0 at ``total_steps`` (constant if that is None); biases and one-dimensional parameters are not
    decayed.

    >>> import viewproof as vp
    >>> model = vp.VectorAutoencoder(data_dim=6)
    >>> module = MaskedPretraining(model, vp.VectorMask(period=2, offset=0))
    >>> module.training_step(torch.rand(4, 6), 0).ndim
    0
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        loss: Loss = masked_mse,
        *,
        target: Callable[[Sample], Sample] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup_steps: int = 0,
        total_steps: int | None = None,
    ) -> None:
        super().__init__()
        self.model, self.rule, self.loss, self.target = model, rule, loss, target
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        self.observer: Callable[[Sample, Tensor], object] | None = None
        """Called with the sample and prediction of a training step, before the loss."""

    def source(self, batch: Any) -> Tensor:
        """The tensor ``[N, ...]`` of a batch."""
        if isinstance(batch, Mapping):
            batch = batch.get("x")
        elif isinstance(batch, Sequence):
            batch = batch[0]
        if not isinstance(batch, Tensor):
            raise InvalidArgument(
                f"batch of type {type(batch).__name__} must be a tensor, (tensor, ...) or {{'x': tensor}}"
            )
        return batch

    def sample(self, batch: Any, step: int, epoch: int = 0) -> Sample:
        """The sample of one step, target transformed; a random rule draws by the batch's sample ids and the epoch."""
        rule, x = self.rule.at(step), self.source(batch)
        sample = rule.sample(x, sample_ids=_ids(batch), epoch=epoch) if isinstance(rule, RandomRule) else rule.sample(x)
        return sample if self.target is None else self.target(sample)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss that is differentiated."""
        sample = self.sample(batch, self.global_step, self.current_epoch)
        prediction = predict(self.model, sample)
        if self.observer is not None:
            self.observer(sample, prediction)
        loss = self.loss(prediction, sample)
        if self._trainer is not None:
            self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The same loss on held-out data, with the rule of step 0."""
        sample = self.sample(batch, 0)
        loss = self.loss(predict(self.model, sample), sample)
        if self._trainer is not None:
            self.log("val_loss", loss, prog_bar=True, batch_size=len(sample.x), sync_dist=True)
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW on two groups, with the schedule stepped once an optimizer step."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """The learning rate's factor at a step: linear warm-up, then half a cosine."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def _ids(batch: Any) -> Tensor | None:
    """The sample ids that come with a batch, if any do."""
    if isinstance(batch, Mapping):
        return batch.get("sample_ids")
    return batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None
