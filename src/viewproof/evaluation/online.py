"""What is measured of the encoder after each epoch, beside the online probe: k-NN accuracy, and LiDAR."""

import math

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.evaluation.probes import probe_indices
from viewproof.evaluation.torch_probes import knn_predict, standardizer
from viewproof.masks.finite import check_count
from viewproof.shapes import Float
from viewproof.training.base import Pretraining, checked_labels
from viewproof.training.callbacks import Monitor
from viewproof.training.online_probe import HeldOutAccuracy, embed


class OnlineKNN(HeldOutAccuracy):
    """The k-NN accuracy on held-out samples after each epoch: ``values["val_knn_accuracy"]``.

    Neighbours are sought among ``samples`` labelled training samples, always the same, encoded anew for each
    validation; features are standardised by theirs. Nothing is drawn, and nothing of it is in checkpoints. Data without
    labels raise `InvalidArgument`.
    """

    column = "val_knn_accuracy"

    def __init__(self, data: Dataset, samples: int = 2000, neighbours: int = 20) -> None:
        if (data.classes or 0) < 2 or data.train.labels is None or data.test.labels is None:
            raise InvalidArgument(f"online_knn needs labels of at least two classes, and {data.name} has none")
        self.data, self.neighbours = data, check_count("neighbours", neighbours)
        self.chosen = probe_indices(len(data.train), check_count("samples", samples))
        self.labels = checked_labels("labels", data.train.labels[self.chosen.numpy()], data.classes or 0)
        self.held_out = checked_labels("held_out", data.test.labels, data.classes or 0)
        self.values = {"val_knn_accuracy": math.nan}
        self._features = torch.empty(0)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Encode the training samples."""
        super().on_validation_epoch_start(trainer, pl_module)
        self._features = encoded(pl_module, self.data, self.chosen)

    def predicted(self, module: pl.LightningModule, x: Tensor) -> Tensor:
        """The class of a sample's neighbours."""
        mean, std = standardizer(self._features)
        train, queries = (((z - mean) / std).float() for z in (self._features, embed(model_of(module), x)))
        return knn_predict(train, self.labels.to(x.device), queries, min(self.neighbours, len(train)))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the features."""
        super().on_validation_epoch_end(trainer, pl_module)
        self._features = torch.empty(0)


class LidarMonitor(Monitor):
    """LiDAR after each epoch, ``values["val_lidar"]``, of training samples that are always the same.

    Each of ``samples`` samples is a class, and its members are the embeddings ``module.drawn_embeddings(x, ids, draw)``
    of ``draws`` draws of what the method draws: masks, or augmented views. Nothing of it is in checkpoints.
    """

    def __init__(self, data: Dataset, samples: int = 500, draws: int = 8) -> None:
        self.data, self.draws = data, check_count("draws", draws)
        self.chosen = probe_indices(len(data.train), check_count("samples", samples))
        self.values = {"val_lidar": math.nan}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure; every process does so, on the same samples."""
        assert isinstance(pl_module, Pretraining)
        self.values["val_lidar"] = lidar(self.embeddings(pl_module, self.chosen))
        pl_module.log("val_lidar", self.values["val_lidar"])

    def embeddings(self, module: Pretraining, indices: Tensor) -> Float[Tensor, "samples draws dims"]:
        """The embeddings of training samples under each draw; a method without draws raises `InvalidArgument`."""
        training = module.training
        module.eval()
        parts = []
        with torch.no_grad():
            for part in torch.split(indices, 250):
                x, ids = self.data.fetch("train", part).to(module.device), part.to(module.device)
                parts.append(torch.stack([module.drawn_embeddings(x, ids, draw) for draw in range(self.draws)], 1))
        module.train(training)
        return torch.cat(parts)


def lidar(z: Float[Tensor, "..."], least: float = 1e-4) -> float:
    """LiDAR of ``[N, draws, D]``: effective rank of a discriminant analysis (Thilak et al., arXiv 2312.04000).

    Samples are classes and the draws of each its members: the exponential of the entropy of the eigenvalues' shares of
    the covariance between classes, whitened by that within classes plus ``least`` on its diagonal. From 1 to the
    smaller of dims and samples - 1; 0 where all classes have one mean, NaN where a value is not finite.

    >>> z = torch.eye(4).repeat_interleave(3, 0).reshape(4, 3, 4)
    >>> round(lidar(z), 6), lidar(torch.ones(4, 3, 4))
    (3.0, 0.0)
    """
    if z.dim() != 3 or z.shape[0] < 2 or z.shape[1] < 2:
        raise InvalidArgument(f"embeddings of shape {tuple(z.shape)} must be [N, draws, D] of two samples and draws")
    z = z.double()
    if not z.isfinite().all():
        return math.nan
    means = z.mean(1)
    between = means - means.mean(0)
    within = (z - means[:, None]).flatten(0, 1)
    spread = within.T @ within / len(within) + least * torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    # Whitened by a triangular factor; the eigenvalues are those of the symmetric inverse root.
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), between.T, upper=False)
    values = torch.linalg.svdvals(white).square()
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0


def encoded(module: pl.LightningModule, data: Dataset, indices: Tensor) -> Float[Tensor, "samples features"]:
    """The features of training samples on the module's device."""
    model = model_of(module)
    return torch.cat([embed(model, data.fetch("train", ids).to(module.device)) for ids in torch.split(indices, 256)])


def model_of(module: pl.LightningModule) -> nn.Module:
    """The network that a training module trains."""
    model = module.model
    assert isinstance(model, nn.Module)
    return model
