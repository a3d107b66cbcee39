"""Supervised training of an encoder and a linear head: the yardstick of a comparison, and fine-tuning."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.shapes import Float
from viewproof.training.base import JointPretraining, unpack


class Classifier(nn.Module):
    """An encoder with ``encode(x) -> [N, dim]``, and a linear head: ``x -> logits [N, classes]``.

    >>> from viewproof.models.patches import PatchEncoder
    >>> model = Classifier(PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=1, heads=2), dim=8, classes=3)
    >>> model(torch.zeros(5, 1, 4, 4)).shape, model.encode(torch.zeros(5, 1, 4, 4)).shape
    (torch.Size([5, 3]), torch.Size([5, 8]))
    """

    def __init__(self, encoder: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise InvalidArgument(f"classes={classes} must be at least 2: one class tells nothing apart")
        self.encoder, self.head = encoder, nn.Linear(dim, classes)

    def encode(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch dim"]:
        """The encoder's features."""
        features: Tensor = self.encoder.encode(x)  # type: ignore[operator]
        return features

    def forward(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch classes"]:
        """The logits."""
        logits: Tensor = self.head(self.encode(x))
        return logits


class Supervised(JointPretraining):
    """Trains the cross-entropy of ``model(x)`` with ``labels[sample_ids]``; validation looks in ``held_out``.

    ``labels: [N]`` are int64 classes from 0; so are ``held_out``, which is ``labels`` unless given. A label outside the
    model's classes raises `InvalidArgument` here.

    >>> from viewproof.models.patches import PatchEncoder
    >>> model = Classifier(PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=1, heads=2), dim=8, classes=3)
    >>> Supervised(model, [2, 0, 1]).training_step((torch.rand(2, 1, 4, 4), torch.tensor([2, 0])), 0).ndim
    0
    """

    labels: Tensor
    held_out: Tensor

    def __init__(self, model: Classifier, labels: Any, held_out: Any = None, **optimization: Any) -> None:
        super().__init__(model, F.cross_entropy, **optimization)
        classes = model.head.out_features
        for name, given in (("labels", labels), ("held_out", labels if held_out is None else held_out)):
            known = torch.as_tensor(np.asarray(given), dtype=torch.int64)
            least, most = (int(known.min()), int(known.max())) if len(known) else (0, 0)
            if not 0 <= least <= most < classes:
                raise InvalidArgument(f"{name} from {least} to {most} must lie from 0 to {classes - 1}")
            self.register_buffer(name, known, persistent=False)

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The cross-entropy of training samples."""
        logits = self.model(x)
        self.embeddings = logits.detach()
        return F.cross_entropy(logits, self.labels[sample_ids])

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy and the accuracy on held-out samples."""
        x, ids = unpack(batch)
        logits, wanted = self.model(x), self.held_out[ids]
        loss = F.cross_entropy(logits, wanted)
        if self._trainer is not None:
            accuracy = (logits.argmax(1) == wanted).float().mean()
            self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, batch_size=len(x), sync_dist=True)
        return loss

    @property
    def method(self) -> str:
        """What a checkpoint must have been written by to be continued here."""
        return "Supervised"
