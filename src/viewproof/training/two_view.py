"""Two-view methods (VICReg, Barlow Twins, SIGReg) as one LightningModule: only the loss differs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from viewproof.errors import InvalidArgument
from viewproof.shapes import Float
from viewproof.training.augment import RandomViews
from viewproof.training.base import JointPretraining

Pair = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class ProjectedEncoder(nn.Module):
    """An encoder with ``encode(x) -> [N, dim]``, and what maps its features to the embeddings that the loss sees.

    >>> import torch
    >>> from viewproof.models.patches import PatchEncoder, Projector
    >>> model = ProjectedEncoder(PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=1, heads=2), Projector(8, 16))
    >>> model(torch.zeros(3, 1, 4, 4)).shape, model.encode(torch.zeros(3, 1, 4, 4)).shape
    (torch.Size([3, 16]), torch.Size([3, 8]))
    """

    def __init__(self, encoder: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.encoder, self.projector = encoder, projector

    def encode(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch features"]:
        """The encoder's features, which are what is evaluated."""
        features: Tensor = self.encoder.encode(x)  # type: ignore[operator]
        return features

    def forward(self, x: Float[Tensor, "batch *source"]) -> Float[Tensor, "batch embedding"]:
        """The embeddings."""
        embeddings: Tensor = self.projector(self.encode(x))
        return embeddings


class TwoView(JointPretraining):
    """Trains ``loss(model(a), model(b), step)`` with ``a, b = pair(x, sample_ids, epoch)``.

    ``pair`` is `RandomViews` unless given; a pair of unequal shapes, or of another number of samples than the batch's,
    raises `InvalidArgument` before the first step. ``step`` counts optimizer steps.

    >>> import torch
    >>> from viewproof.losses import VICRegLoss
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    >>> TwoView(model, VICRegLoss()).training_step((torch.rand(3, 1, 4, 4), torch.arange(3)), 0).ndim
    0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Tensor, Tensor, int], Tensor],
        pair: Pair | None = None,
        **optimization: Any,
    ) -> None:
        super().__init__(model, loss, **optimization)
        self.pair = RandomViews() if pair is None else pair

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The loss on the embeddings of two views."""
        a, b = self.pair(x, sample_ids, epoch)
        if a.shape != b.shape or len(a) != len(x):
            raise InvalidArgument(
                f"views of shapes {tuple(a.shape)} and {tuple(b.shape)} of a batch of {len(x)} must have one shape "
                "and the batch's samples; check the pair function"
            )
        first, second = self.model(a), self.model(b)
        self.embeddings = first.detach()
        loss: Tensor = self.loss(first, second, step)
        return loss
