"""What methods that compare two random views share: all but the loss."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule, ratio_to_count
from viewproof.masks.random.draws import Draws, ranked
from viewproof.methods.base import JointMethod
from viewproof.models import Projector
from viewproof.shapes import Float, Int
from viewproof.training.augment import Augment, AugmentedPair, RandomViews, parse_transforms
from viewproof.training.base import JointPretraining
from viewproof.training.settings import Count, Flag, TrainingSettings, positive, share

Pair = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
LossOfPair = Callable[[Tensor, Tensor, int], Tensor]


class ProjectedEncoder(nn.Module):
    """An encoder with ``encode(x) -> [N, dim]``, and a projector to the embeddings of the loss.

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

    def forward(
        self, x: Float[Tensor, "batch *source"], index: Int[Tensor, "batch kept"] | None = None
    ) -> Float[Tensor, "batch embedding"]:
        """The embeddings; with ``index``, of the mean token of those patches alone, which a ViT encoder can give."""
        features = self.encode(x) if index is None else self.encoder.tokens(x, index).mean(1)  # type: ignore[operator]
        embeddings: Tensor = self.projector(features)
        return embeddings


class TwoView(JointPretraining):
    """Trains ``loss(model(a), model(b), step)`` with ``a, b = pair(x, sample_ids, epoch)``.

    ``pair`` is `RandomViews` unless given; a pair of unequal shapes, or of another number of samples than the batch's,
    raises `InvalidArgument` before the first step. ``step`` counts optimizer steps.

    With ``keep_tokens`` below 1 the encoder sees that share of each view's patches in training, rounded to a count and
    drawn by (seed, epoch, sample id, view); in the last tenth of ``total_steps``, and in validation, all. The model is
    then called as ``model(x, index)``, with a grid in ``model.encoder``, as `ProjectedEncoder` over a ViT has it.

    >>> import torch
    >>> from viewproof.losses import VICRegLoss
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    >>> TwoView(model, VICRegLoss()).training_step((torch.rand(3, 1, 4, 4), torch.arange(3)), 0).ndim
    0
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossOfPair,
        pair: Pair | None = None,
        *,
        keep_tokens: float = 1.0,
        seed: int = 0,
        **optimization: Any,
    ) -> None:
        super().__init__(model, loss, **optimization)
        self.pair = RandomViews() if pair is None else pair
        self.keep_tokens, self.seed = keep_tokens, seed

    def kept_tokens(self, sample_ids: Tensor, step: int, epoch: int) -> list[Tensor] | None:
        """The patch indices ``[N, kept]`` that the encoder sees of each of the two views; None for all of them."""
        late = self.total_steps is not None and 10 * step >= 9 * self.total_steps
        if self.keep_tokens == 1 or late or not self.training:
            return None
        patches = math.prod(self.model.encoder.grid)  # type: ignore[union-attr, arg-type]
        count, draws = max(1, ratio_to_count(self.keep_tokens, patches)), Draws(self.seed, epoch, sample_ids)
        return [ranked(draws.words(patches, stream)).argsort(1)[:, :count].sort(1).values for stream in (10, 11)]

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The loss on the embeddings of two views."""
        a, b = self.pair(x, sample_ids, epoch)
        if a.shape != b.shape or len(a) != len(x):
            raise InvalidArgument(
                f"views of shapes {tuple(a.shape)} and {tuple(b.shape)} of a batch of {len(x)} must have one shape "
                "and the batch's samples; check the pair function"
            )
        kept = self.kept_tokens(sample_ids.to(x.device), step, epoch)
        first, second = (self.model(a), self.model(b)) if kept is None else map(self.model, (a, b), kept)
        self.embeddings = first.detach()
        loss: Tensor = self.loss(first, second, step)
        return loss

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The embeddings of the first view of an epoch."""
        out: Tensor = self.model(self.pair(x, sample_ids, draw)[0])
        return out


@dataclass(frozen=True, kw_only=True)
class TwoViewMethod(JointMethod):
    """Base of methods that train a ViT and a projector on two random views.

    They are `RandomViews`, or with ``augment`` two draws of these transforms.
    """

    pairs = True

    projector_dim: Count = 256
    min_area: Annotated[float, positive] = 0.3
    flip: Flag = True
    keep_tokens: Annotated[float, share] = 1.0

    @staticmethod
    @abstractmethod
    def pair_loss(seed: int) -> LossOfPair:
        """The loss of two batches of embeddings and the step."""

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Images, and at least two samples in every batch."""
        super().check(settings, dataset)
        if self.keep_tokens < 1 and self.model != "vit":
            raise InvalidArgument(f"keep_tokens={self.keep_tokens} is for ViTs, not for {self.model}; leave it out")
        if self.keep_tokens < 1 and settings.features in ("both", "grid"):
            raise InvalidArgument(
                f"keep_tokens={self.keep_tokens} trains the mean of the patches that are kept, and features="
                f"{settings.features!r} is wider; leave one of them out"
            )
        size, accumulate, held_out = settings.batch_size, settings.accumulate, len(dataset.test)
        if size == accumulate or held_out == 1:
            few = f"accumulate={accumulate} micro-batches of 1 sample" if size == accumulate else "1 held-out sample"
            raise InvalidArgument(
                f"{few}: {self.name} has statistics over a batch, of at least 2 samples; pass more samples"
            )

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> ProjectedEncoder:
        """The encoder and the projector."""
        encoder = self.encoder(settings, shape)
        return ProjectedEncoder(encoder, Projector(encoder.feature_dim, self.projector_dim))

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> TwoView:
        """The training module; views and loss draw by the run's seed."""
        transforms = parse_transforms(self.augment)
        views: Pair = RandomViews(self.min_area, self.flip, seed=settings.seed)
        if transforms:
            views = AugmentedPair(Augment(transforms, settings.seed))
        kept: dict[str, Any] = {"keep_tokens": self.keep_tokens, "seed": settings.seed}
        return TwoView(model, self.pair_loss(settings.seed), views, **kept, **optimization)
