"""Supervised training of an encoder and a linear head, as a baseline and for fine-tuning."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule
from viewproof.methods.base import JointMethod
from viewproof.shapes import Float
from viewproof.training.base import JointPretraining, checked_labels
from viewproof.training.batch import read_batch
from viewproof.training.settings import TrainingSettings


class Classifier(nn.Module):
    """An encoder with ``encode(x) -> [N, dim]``, and a linear head: ``x -> logits [N, classes]``.

    >>> import torch
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
    """Trains the cross-entropy of ``model(x)`` with ``labels[sample_ids]``.

    ``labels: [N]`` are int64 classes from 0; so are those of validation, ``held_out``, by default ``labels``. A label
    outside the model's classes raises `InvalidArgument` here.

    >>> import torch
    >>> from viewproof.models.patches import PatchEncoder
    >>> model = Classifier(PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=1, heads=2), dim=8, classes=3)
    >>> Supervised(model, [2, 0, 1]).training_step((torch.rand(2, 1, 4, 4), torch.tensor([2, 0])), 0).ndim
    0
    """

    embeds = False  # labels keep classes apart, and the logits of two or three classes lie on a line or nearly
    labels: Tensor
    held_out: Tensor

    def __init__(self, model: Classifier, labels: Any, held_out: Any = None, **optimization: Any) -> None:
        super().__init__(model, F.cross_entropy, **optimization)
        classes = model.head.out_features
        for name, values in (("labels", labels), ("held_out", labels if held_out is None else held_out)):
            self.register_buffer(name, checked_labels(name, values, classes), persistent=False)

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The cross-entropy of training samples."""
        return F.cross_entropy(self.model(x), self.labels[sample_ids])

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy and the accuracy on held-out samples."""
        x, ids = read_batch(batch, need_ids=True)
        logits, labels = self.model(x), self.held_out[ids]
        loss = F.cross_entropy(logits, labels)
        if self._trainer is not None:
            accuracy = (logits.argmax(1) == labels).float().mean()
            self.log_dict({"val_loss": loss, "val_accuracy": accuracy}, batch_size=len(x), sync_dist=True)
        return loss

    @property
    def method(self) -> str:
        """What a checkpoint must have been written by to be continued here."""
        return "Supervised"


class SupervisedMethod(JointMethod):
    """Cross-entropy with the labels of all training samples."""

    name = "supervised"
    learns_labels = True

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Images with labels."""
        super().check(settings, dataset)
        if not dataset.classes or dataset.train.labels is None or dataset.test.labels is None:
            raise InvalidArgument(f"method={self.name!r} needs labels, and {settings.data} has none")

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> Classifier:
        """The encoder and the linear head."""
        encoder = self.encoder(settings, shape)
        return Classifier(encoder, encoder.feature_dim, classes or 0)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> Supervised:
        """The training module, which holds the labels."""
        assert isinstance(model, Classifier)
        return Supervised(model, dataset.train.labels, dataset.test.labels, **optimization)
