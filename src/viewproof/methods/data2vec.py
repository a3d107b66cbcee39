"""data2vec (Baevski et al. 2022, arXiv 2202.03555) on images."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses import JEPALoss
from viewproof.masks import Rule, split_patches_by_sample
from viewproof.methods.base import JointMethod, check_hides_patches
from viewproof.models.patches import PatchEncoder, hide_patches, mean_of_last_layers, tokens_at
from viewproof.shapes import Float, Int
from viewproof.training.ema import MomentumSchedule
from viewproof.training.settings import OptionalCount, TrainingSettings, non_negative
from viewproof.training.taught import TaughtPretraining


class Layers(nn.Module):
    """An encoder that gives the outputs of all its blocks, as student and as teacher."""

    def __init__(self, encoder: PatchEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        places: Int[Tensor, "batch places"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> tuple[Float[Tensor, "batch patches dim"], Any]:
        """The encoded patches and a list of every block's; with ``mask_token`` those in ``places`` are not read."""
        encoder = self.encoder
        outputs: list[Tensor] = []
        tokens, count = encoder.embedded(x, None), encoder.settings.count
        if places is not None and mask_token is not None:
            tokens = hide_patches(tokens, places, mask_token)
        tokens = tokens + encoder.positions
        if count:
            tokens = torch.cat([encoder.prefix.expand(len(tokens), -1, -1), tokens], 1)
        for block in encoder.blocks:
            tokens = block(tokens)
            outputs.append(tokens[:, count:])
        return encoder.norm(tokens)[:, count:], outputs


class Data2VecNetwork(nn.Module):
    """A student that sees all but hidden patches, a linear head, and the EMA teacher, which sees the whole image.

    The target is the mean over the teacher's last ``layers`` blocks of their layer-normalised tokens.

    >>> network = Data2VecNetwork(PatchEncoder((1, 4, 6), (2, 2), dim=8, depth=2, heads=2), layers=2)
    >>> [tuple(part.shape) for part in network(torch.zeros(3, 1, 4, 6), torch.tensor([[0, 5]] * 3))]
    [(3, 2, 8), (3, 2, 8), (3, 8)]
    """

    def __init__(self, encoder: PatchEncoder, layers: int) -> None:
        super().__init__()
        if not 1 <= layers <= len(encoder.blocks):
            raise InvalidArgument(f"target_layers={layers} must lie in 1 to {len(encoder.blocks)}, the encoder's depth")
        self.student, self.layers = Layers(encoder), layers
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(encoder.dim), std=0.02))
        self.head = nn.Linear(encoder.dim, encoder.dim)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    @property
    def encoder(self) -> PatchEncoder:
        """The student's encoder, which is evaluated."""
        return self.student.encoder

    def train(self, mode: bool = True) -> "Data2VecNetwork":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, x: Float[Tensor, "batch channels height width"], places: Int[Tensor, "batch places"]
    ) -> tuple[Float[Tensor, "batch places dim"], Float[Tensor, "batch places dim"], Float[Tensor, "batch dim"]]:
        """Predicted and target tokens of the hidden patches in ``places``, and the teacher's mean token."""
        prediction = self.head(tokens_at(self.student(x, places, self.mask_token)[0], places))
        with torch.no_grad():
            tokens, outputs = self.teacher(x)
            target = mean_of_last_layers(outputs, self.layers, places)
        return prediction, target, tokens.mean(1)

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The student's features of each whole image, as the paper fine-tunes them."""
        return self.encoder.encode(x)


class Data2Vec(TaughtPretraining):
    """Trains the smooth-L1 distance of predicted and target tokens of the patches that ``rule`` hides.

    >>> from viewproof.masks import RandomPatchMask
    >>> network = Data2VecNetwork(PatchEncoder((1, 4, 6), (2, 2), dim=8, depth=2, heads=2), layers=1)
    >>> module = Data2Vec(network, RandomPatchMask(2, 2, 3))
    >>> module.training_step((torch.rand(3, 1, 4, 6), torch.arange(3)), 0).ndim
    0
    """

    model: Data2VecNetwork

    def __init__(
        self,
        model: Data2VecNetwork,
        rule: Rule,
        loss: JEPALoss | None = None,
        *,
        momentum: Callable[[int], float] | None = None,
        **optimization: Any,
    ) -> None:
        super().__init__(model, JEPALoss(beta=2.0) if loss is None else loss, momentum, **optimization)
        check_hides_patches(rule, model.encoder)
        self.rule = rule

    def student(self) -> Layers:
        """The encoder that is trained."""
        return self.model.student

    def teacher(self) -> Layers:
        """Its average."""
        return self.model.teacher

    def places(self, shape: tuple[int, ...], sample_ids: Tensor, epoch: int) -> Tensor:
        """The indices of the hidden patches, ``[N, places]``."""
        mask = self.rule.mask(shape, sample_ids=sample_ids, epoch=epoch)
        return split_patches_by_sample(mask, *self.model.encoder.patch_size)[1]

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The distance of predicted and target tokens."""
        places = self.places(tuple(x.shape[1:]), sample_ids.to(x.device), epoch)
        prediction, target, self.embeddings = self.model(x, places)
        loss: Tensor = self.loss(prediction, target)
        return loss

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The mean token of the visible patches of an epoch."""
        mask = self.rule.mask(tuple(x.shape[1:]), sample_ids=sample_ids, epoch=draw)
        visible = split_patches_by_sample(mask, *self.model.encoder.patch_size)[0]
        return self.model.encoder.tokens(x, visible).mean(1)


@dataclass(frozen=True, kw_only=True)
class Data2VecMethod(JointMethod):
    """data2vec on a ViT: 60 % of the patches hidden, smooth L1 with beta 2, targets of the last two blocks.

    Other than published: patches are hidden one by one, not in blocks; the targets are the blocks' outputs after their
    residual; the teacher averages the patch embedding too; the momentum rises linearly from 0.996 to 1.
    """

    name = "data2vec"
    hides = True

    momentum: Annotated[float, non_negative] = 0.996
    target_layers: OptionalCount = None

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse an encoder without patches."""
        super().check(settings, dataset)
        if self.model != "vit":
            raise InvalidArgument(
                f"method='data2vec' hides patches from a plain ViT, not from {self.model}; pass 'vit'"
            )

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str:
        """Sixty percent of the patches, rounded to a count of at least 1."""
        patch = settings.patch_size
        count = max(1, round(0.6 * (shape[1] // patch) * (shape[2] // patch)))
        return f"RandomPatchMask({patch}, {patch}, {count}, seed={settings.seed})"

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> Data2VecNetwork:
        """The student and its EMA copy."""
        encoder = self.encoder(settings, shape)
        assert isinstance(encoder, PatchEncoder)
        return Data2VecNetwork(encoder, self.target_layers or min(2, len(encoder.blocks)))

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> Data2Vec:
        """The training module, whose momentum rises to 1 at the last step."""
        assert isinstance(model, Data2VecNetwork) and rule is not None
        momentum = MomentumSchedule(self.momentum, steps=optimization["total_steps"])
        return Data2Vec(model, rule, momentum=momentum, **optimization)
