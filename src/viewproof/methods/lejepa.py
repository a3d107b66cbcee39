"""LeJEPA as published (Balestriero and LeCun 2025, arXiv 2511.08544): many views, a narrow projection, SIGReg."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses.lejepa import LeJEPALoss
from viewproof.losses.sigreg import SIGRegLoss
from viewproof.masks import Rule
from viewproof.methods.base import JointMethod
from viewproof.models.patches import PatchEncoder
from viewproof.models.vit import resize_positions
from viewproof.shapes import Float
from viewproof.training.base import JointPretraining
from viewproof.training.multi_crop import MultiCrop, local_size
from viewproof.training.settings import Count, CountOrZero, Flag, TrainingSettings, positive


class LeJEPANetwork(nn.Module):
    """A ViT and a narrow projection, of views of the image's size and of smaller ones.

    >>> network = LeJEPANetwork(PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2), width=4)
    >>> [tuple(z.shape) for z in network([torch.zeros(3, 1, 8, 8)] * 2, [torch.zeros(3, 1, 4, 4)])]
    [(3, 4), (3, 4), (3, 4)]
    """

    def __init__(self, encoder: PatchEncoder, width: int, hidden: int = 256) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = []
        for narrow in (encoder.feature_dim, hidden):
            layers += [nn.Linear(narrow, hidden), nn.LayerNorm(hidden), nn.GELU()]
        self.projector = nn.Sequential(*layers, nn.Linear(hidden, width))

    def forward(self, global_views: Sequence[Tensor], local_views: Sequence[Tensor]) -> list[Tensor]:
        """The embeddings ``[N, width]`` of every view, in their order."""
        encoder, embeddings = self.encoder, []
        for views in (global_views, local_views):
            if views:
                x = torch.cat(list(views))
                grid = (x.shape[2] // encoder.patch_size[0], x.shape[3] // encoder.patch_size[1])
                positions = resize_positions(encoder.positions, encoder.grid, grid)
                features = encoder.pooled(encoder.transformed(encoder.embedded(x, None) + positions))
                embeddings += self.projector(features).chunk(len(views))
        return embeddings

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The encoder's features of each whole image."""
        return self.encoder.encode(x)


class LeJEPA(JointPretraining):
    """Trains ``loss(model(global views, local views), step)`` of the views that ``views`` draws.

    >>> network = LeJEPANetwork(PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2), width=4)
    >>> module = LeJEPA(network, MultiCrop((4, 4)))
    >>> module.training_step((torch.rand(3, 1, 8, 8), torch.arange(3)), 0).ndim
    0
    """

    model: LeJEPANetwork

    def __init__(
        self, model: LeJEPANetwork, views: MultiCrop, loss: LeJEPALoss | None = None, **optimization: Any
    ) -> None:
        loss = LeJEPALoss(global_views=views.global_views) if loss is None else loss
        super().__init__(model, loss, **optimization)
        if views.global_views + views.local_views < 2 or loss.global_views != views.global_views:
            raise InvalidArgument(
                f"views with {views.global_views} global and {views.local_views} local ones must be at least 2, of "
                f"which the loss reads {loss.global_views} as global; pass one number to both"
            )
        self.views = views

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The loss on the embeddings of all views."""
        embeddings = self.model(*self.views(x, sample_ids, epoch))
        self.embeddings = embeddings[0].detach()
        loss: Tensor = self.loss(embeddings, step)
        return loss

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The embeddings of the first global view of an epoch."""
        out: Tensor = self.model(self.views(x, sample_ids, draw)[0][:1], [])[0]
        return out


@dataclass(frozen=True, kw_only=True)
class LeJEPAMethod(JointMethod):
    """LeJEPA on a ViT.

    As published: lambda 0.05, 1,024 directions, 17 knots from -5 to 5, two global views of 30 to 100 % and six local
    ones of 5 to 30 % of the area, of about half the size. The authors' package integrates from 0 to 3 with 17 knots
    there, by the same trapezoid rule; their small example has lambda 0.02, four views of one size and 256 directions,
    and the projection to 16 numbers is from it. Other than published: layer norm and GELU in the projector in place of
    batch norm and ReLU, width 4 * dim in place of 2,048, a rate of 1e-3 that ends at 0 (theirs 5e-4, at a thousandth of
    it), the mean patch token in place of the class tokens of two layers, and no colour beyond the jitter, blur, grey or
    solarisation unless ``augment`` adds them to the source.
    """

    name = "lejepa"

    projector_dim: Count = 16
    local_views: CountOrZero = 6
    min_area: Annotated[float, positive] = 0.3
    flip: Flag = True

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse an encoder without patches, and batches of one sample."""
        super().check(settings, dataset)
        if self.model != "vit":
            raise InvalidArgument(f"method='lejepa' has small views for a plain ViT, not for {self.model}; pass 'vit'")
        if settings.features == "grid":
            raise InvalidArgument("features='grid' is wider of large views than of small ones; pass 'mean'")
        if settings.batch_size == settings.accumulate or len(dataset.test) == 1:
            raise InvalidArgument("lejepa has statistics over a batch, of at least 2 samples; pass more samples")

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> LeJEPANetwork:
        """The encoder and the projector."""
        encoder = self.encoder(settings, shape)
        assert isinstance(encoder, PatchEncoder)
        return LeJEPANetwork(encoder, self.projector_dim, 4 * settings.dim)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> LeJEPA:
        """The training module; views and directions are drawn by the run's seed."""
        assert isinstance(model, LeJEPANetwork)
        crops = {"min_area": self.min_area, "local_area": min(0.05, self.min_area), "flip": self.flip}
        size = local_size(model.encoder.grid, model.encoder.patch_size)
        views = MultiCrop(size, self.local_views, seed=settings.seed, **crops)  # type: ignore[arg-type]
        return LeJEPA(model, views, LeJEPALoss(SIGRegLoss(slices=1024, seed=settings.seed)), **optimization)
