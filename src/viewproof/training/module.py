"""Masked pre-training as a LightningModule: any model, any rule, any loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.losses.ranks import all_rows, rank_share, total_count, world_size
from viewproof.masks import Rule, Sample
from viewproof.objectives import masked_mse
from viewproof.training.base import Pretraining
from viewproof.training.fixed import Loss, predict


class MaskedPretraining(Pretraining):
    """Trains ``loss(predict(model, sample), sample)`` with ``sample = rule.at(step).sample(batch)``.

    A batch is a tensor ``[N, ...]``, or a sequence or mapping whose first entry (or entry ``"x"``) is one. Validation
    always uses the rule of step 0. A random rule draws one mask a sample, by the ids in the batch's second entry (or
    entry ``"sample_ids"``) and the epoch; validation by the ids and epoch 0. ``target`` transforms the sample before
    the loss, for instance `viewproof.PatchNormalization`. ``optimization``: see `Pretraining`. On several ranks the
    loss is taken for a mean over the mask: each rank's counts by its share of all selected coordinates, so that the
    ranks' average is the mean over all.

    ``guard(embeddings, step)`` is added to the training loss: a geometry guard on the mean visible token of every
    sample of all ranks, ``[N, D]`` in float32, for instance ``lambda z, step: 0.01 * VICRegLoss().guard(z)``. It needs
    a model with ``gives_tokens = True``, as `viewproof.models.MaskedAutoencoder` is; without one, ``embeddings`` stays
    None. The sum is the objective of `viewproof.objectives.rows.mae_batch_predictive_contract` with that guard.

    >>> import torch, viewproof as vp
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
        guard: Callable[[Tensor, int], Tensor] | None = None,
        **optimization: Any,
    ) -> None:
        super().__init__(model, loss, **optimization)
        self.rule, self.target, self.guard = rule, target, guard
        self.gives_tokens = getattr(model, "gives_tokens", False)
        if guard is not None and not self.gives_tokens:
            raise InvalidArgument(
                f"guard needs a model that gives its visible tokens, and {type(model).__name__} does not; pass a "
                "MaskedAutoencoder, or a model with gives_tokens = True"
            )
        self.embeddings: Tensor | None = None
        """The last training step's mean visible tokens, ``[N, D]``, detached, for `CollapseMonitor`."""
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
        sample = self.rule.at(step).sample(self.source(batch), sample_ids=_ids(batch), epoch=epoch)
        return sample if self.target is None else self.target(sample)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss that is differentiated."""
        sample = self.sample(batch, self.global_step, self.current_epoch)
        if self.gives_tokens:
            prediction, tokens = self.model(sample.x, sample.view, with_tokens=True)
            embeddings = tokens.mean(1)
            self.embeddings = embeddings.detach()
        else:
            prediction = predict(self.model, sample)
        if self.observer is not None:
            self.observer(sample, prediction)
        loss: Tensor = self.loss(prediction, sample)
        if world_size() > 1:
            loss = loss * rank_share(_selected(sample), loss.device)
        if self.guard is not None:
            with torch.autocast(embeddings.device.type, enabled=False):
                loss = loss + self.guard(all_rows(embeddings.float()), self.global_step)
        if self._trainer is not None:
            self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The same loss on held-out data, with the rule of step 0."""
        sample = self.sample(batch, 0)
        loss: Tensor = self.loss(predict(self.model, sample), sample)
        if self._trainer is not None:
            rows, share = total_count(len(sample.x), loss.device), rank_share(len(sample.x), loss.device)
            self.log("val_loss", loss * share, prog_bar=True, batch_size=rows, sync_dist=True)
        return loss


def _selected(sample: Sample) -> int:
    """The coordinates that a mean over the mask divides by."""
    return sample.mask.count * (1 if sample.mask.per_sample else len(sample.x))


def _ids(batch: Any) -> Tensor | None:
    """The sample ids that come with a batch, if any do."""
    if isinstance(batch, Mapping):
        return batch.get("sample_ids")
    return batch[1] if isinstance(batch, Sequence) and len(batch) > 1 else None
