"""The online probe: a linear classifier trained beside a run, which the run does not see."""

import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.training.base import checked_labels
from viewproof.training.batch import read_batch
from viewproof.training.callbacks import Monitor


class HeldOutAccuracy(Monitor):
    """The share of held-out samples that ``predicted`` labels right, ``values[column]``, after each validation.

    ``held_out: [samples]`` holds their classes, looked up by the batch's sample ids. Counts are summed over processes.
    """

    column: str
    held_out: Tensor

    def predicted(self, module: pl.LightningModule, x: Tensor) -> Tensor:
        """The classes ``[N]`` that a batch is given."""
        raise NotImplementedError

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from zero."""
        self._right = self._total = 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Label held-out samples, and learn nothing from them."""
        x, ids = read_batch(batch, need_ids=True)
        with torch.no_grad():
            labels = self.predicted(pl_module, x)
        self._right += int((labels == self.held_out.to(x.device)[ids]).sum())
        self._total += len(x)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The accuracy over all held-out batches of all processes."""
        counts = torch.tensor([self._right, self._total], device=trainer.strategy.root_device)
        right, total = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
        if total:
            self.values[self.column] = right / total
            pl_module.log(self.column, right / total, sync_dist=True)


class OnlineProbe(HeldOutAccuracy):
    """Trains a linear classifier on ``model.encode(x)`` of each batch, and logs its accuracy.

    ``labels`` and ``held_out`` are the classes, from 0, of training and held-out samples, looked up by the batch's
    sample ids; ``dim`` is the width of the embeddings. These are detached, taken in evaluation mode and
    layer-normalised; the classifier starts from zero and has an Adam of its own. So neither gradient, nor random state,
    nor running statistics of what is trained depend on it. Its state is part of checkpoints; every process has its own.

    ``values["probe_accuracy"]`` is the mean over the last 10 batches, each labelled before the probe learned from it;
    ``values["val_probe_accuracy"]`` is that of the last validation. Labels outside 0 .. classes - 1, and fewer than two
    classes, raise `InvalidArgument`.

    >>> OnlineProbe([0, 1, 1], [0], classes=2, dim=8).values
    {'probe_accuracy': nan, 'val_probe_accuracy': nan}
    """

    column = "val_probe_accuracy"

    def __init__(self, labels: Any, held_out: Any, classes: int, dim: int, learning_rate: float = 1e-2) -> None:
        if classes < 2:
            raise InvalidArgument(f"classes={classes} must be at least 2: one class tells nothing apart")
        self.labels = checked_labels("labels", labels, classes)
        self.held_out = checked_labels("held_out", held_out, classes)
        # Zeros, made without a layer: its first weights would be drawn from the global generator.
        self.weight = torch.zeros(classes, dim, requires_grad=True)
        self.bias = torch.zeros(classes, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.weight, self.bias], lr=learning_rate)
        self.values = {"probe_accuracy": math.nan, "val_probe_accuracy": math.nan}
        self.recent: deque[float] = deque(maxlen=10)

    @classmethod
    def of(cls, model: nn.Module, data: Dataset) -> "OnlineProbe":
        """The probe of a model's ``encode`` on a data set; one without labels raises `InvalidArgument`."""
        if data.classes is None or data.train.labels is None or data.test.labels is None:
            raise InvalidArgument(f"an online probe needs labels, and {data.name} has none; leave online_probe out")
        return cls(data.train.labels, data.test.labels, data.classes, embed(model, data.fetch("test", [0])).shape[1])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move to the device that trains; a checkpoint has been read by now."""
        device = trainer.strategy.root_device
        self.labels, self.held_out = self.labels.to(device), self.held_out.to(device)
        self.weight.data, self.bias.data = self.weight.data.to(device), self.bias.data.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Label the batch, then learn from it."""
        self.recent.append(self.learn(pl_module.model, *read_batch(batch, need_ids=True)))  # type: ignore[arg-type]
        self.values["probe_accuracy"] = sum(self.recent) / len(self.recent)
        pl_module.log("probe_accuracy", self.values["probe_accuracy"], prog_bar=True)

    def learn(self, model: nn.Module, x: Tensor, sample_ids: Tensor) -> float:
        """One step of the probe's optimizer on a batch; the accuracy before it."""
        labels = self.labels[sample_ids]
        with torch.enable_grad():
            logits = self.logits(model, x)
            self.optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float((logits.argmax(1) == labels).float().mean())

    def predicted(self, module: pl.LightningModule, x: Tensor) -> Tensor:
        """The classifier's class."""
        return self.logits(module.model, x).argmax(1)  # type: ignore[arg-type]

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """The classifier's output on detached embeddings."""
        z = embed(model, x)
        return F.linear(F.layer_norm(z, z.shape[1:]), self.weight, self.bias)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        weights = {"weight": self.weight.detach().clone(), "bias": self.bias.detach().clone()}
        return {**weights, "optimizer": self.optimizer.state_dict(), "recent": list(self.recent)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.weight.data, self.bias.data = state_dict["weight"].clone(), state_dict["bias"].clone()
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.recent.extend(state_dict["recent"])


def embed(model: nn.Module, x: Tensor) -> Tensor:
    """``model.encode(x)``, ``[N, dim]`` float32, in evaluation mode, without gradient.

    >>> from viewproof.models import VectorAutoencoder
    >>> z = embed(VectorAutoencoder(6, latent_dim=4), torch.zeros(3, 6))
    >>> z.shape, z.requires_grad
    (torch.Size([3, 4]), False)
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            features: Tensor = model.encode(x)  # type: ignore[operator]
    finally:
        for module, training in modes.items():
            module.training = training
    return features.float()
