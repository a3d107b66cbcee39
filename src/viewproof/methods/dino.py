"""DINO with iBOT's masked patches.

Caron et al. 2021, arXiv 2104.14294, and Zhou et al. 2022, arXiv 2111.07832.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.data import Dataset
from viewproof.data.checks import check_int
from viewproof.errors import InvalidArgument
from viewproof.losses.dino import DINOLoss, compared_rows, koleo, mean_of_all, moved_centre
from viewproof.masks import Rule, split_patches_by_sample
from viewproof.methods.base import JointMethod, check_hides_patches
from viewproof.models.patches import PatchEncoder, hide_patches
from viewproof.models.vit import resize_positions
from viewproof.shapes import Float, Int, check_size
from viewproof.training.ema import MomentumSchedule
from viewproof.training.multi_crop import MultiCrop, local_size
from viewproof.training.settings import Count, CountOrZero, Flag, TrainingSettings, non_negative, positive
from viewproof.training.taught import TaughtPretraining


class PrototypeHead(nn.Module):
    """DINO's head: three linear layers, a row of length 1, and its cosines to K prototypes.

    ``[..., dim] -> [..., prototypes]``. Prototypes have length 1: the weight-normed last layer with a fixed norm.

    >>> PrototypeHead(8, prototypes=5, hidden=16, width=4)(torch.zeros(2, 3, 8)).shape
    torch.Size([2, 3, 5])
    """

    def __init__(self, dim: int, prototypes: int, hidden: int = 256, width: int = 64) -> None:
        super().__init__()
        for name, size in (("dim", dim), ("prototypes", prototypes), ("hidden", hidden), ("width", width)):
            check_size(name, size)
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width)
        )
        self.head = nn.Linear(width, prototypes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch prototypes"]:
        """The cosines."""
        return F.linear(F.normalize(self.layers(x), dim=-1), F.normalize(self.head.weight, dim=1))


class Branch(nn.Module):
    """An encoder and a head, as student or as teacher.

    Its values are features, and the logits of images and of chosen patches.
    """

    def __init__(self, encoder: PatchEncoder, head: PrototypeHead) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"],
        places: Int[Tensor, "batch places"] | None = None,
        mask_token: Float[Tensor, "dim"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch features"], Float[Tensor, "batch prototypes"], Float[Tensor, "batch places prototypes"]
    ]:
        """Of images of the encoder's size or smaller; with ``mask_token`` the patches in ``places`` are not read."""
        encoder, rows = self.encoder, torch.arange(len(x), device=x.device)[:, None]
        embedded = encoder.embedded(x, None)
        places = places if places is not None else embedded.new_zeros(len(x), 0, dtype=torch.int64)
        if mask_token is not None:
            embedded = hide_patches(embedded, places, mask_token)
        grid = (x.shape[2] // encoder.patch_size[0], x.shape[3] // encoder.patch_size[1])
        tokens = encoder.transformed(embedded + resize_positions(encoder.positions, encoder.grid, grid))
        features, patches = encoder.pooled(tokens), tokens[:, encoder.settings.count :]
        return features, self.head(features), self.head(patches[rows, places])


class Outputs(NamedTuple):
    """What `DINONetwork` returns, views first."""

    student: Float[Tensor, "views batch prototypes"]
    teacher: Float[Tensor, "globals batch prototypes"]
    student_patches: Float[Tensor, "globals batch places prototypes"]
    teacher_patches: Float[Tensor, "globals batch places prototypes"]
    features: Float[Tensor, "globals batch features"]


class DINONetwork(nn.Module):
    """A student, and its EMA teacher, which takes no gradient.

    >>> encoder = PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2)
    >>> network = DINONetwork(encoder, PrototypeHead(8, prototypes=5))
    >>> x, hidden = torch.zeros(3, 1, 8, 8), torch.tensor([[0, 7]] * 3)
    >>> [tuple(part.shape) for part in network([x, x], [x[:, :, :4, :4]], [hidden, hidden])][:3]
    [(3, 3, 5), (2, 3, 5), (2, 3, 2, 5)]
    """

    def __init__(self, encoder: PatchEncoder, head: PrototypeHead) -> None:
        super().__init__()
        self.student = Branch(encoder, head)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(encoder.dim), std=0.02))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).eval()

    @property
    def encoder(self) -> PatchEncoder:
        """The student's encoder."""
        return self.student.encoder

    @property
    def target(self) -> PatchEncoder:
        """The teacher's encoder, which is evaluated."""
        return self.teacher.encoder

    def train(self, mode: bool = True) -> "DINONetwork":
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, global_views: Sequence[Tensor], local_views: Sequence[Tensor], places: Sequence[Int[Tensor, "..."]]
    ) -> Outputs:
        """Logits and features.

        The student sees the global views without the patches in ``places``, and the local views; the teacher sees the
        whole global views.
        """
        views, where = torch.cat(list(global_views)), torch.cat(list(places))
        count, batch = len(global_views), len(global_views[0])
        features, student, student_patches = self.student(views, where, self.mask_token)
        if local_views:
            student = torch.cat([student, self.student(torch.cat(list(local_views)))[1]])
        with torch.no_grad():
            _, teacher, teacher_patches = self.teacher(views, where)
        return Outputs(
            student.unflatten(0, (-1, batch)),
            *(part.unflatten(0, (count, batch)) for part in (teacher, student_patches, teacher_patches, features)),
        )

    def encode(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """The teacher's features of each whole image."""
        return self.teacher.encoder.encode(x)


class DINO(TaughtPretraining):
    """Trains DINO's cross-entropy between views and iBOT's of hidden patches.

    KoLeo is added if ``koleo_weight`` is set.

    Every student view is compared with every global view of the teacher but itself, and every hidden patch of a global
    view with the teacher's own patch. ``rule`` draws the hidden patches of the v-th of V global views by (seed, V *
    epoch + v, sample id). ``class_centre`` and ``patch_centre`` are the centres ``[K]`` of the teacher's logits, in
    every checkpoint. They move once an optimizer step by ``centre_momentum`` towards the mean over the step's rows
    of all ranks and its micro-batches, which are of one size, after the loss was taken with the old ones; a loop of
    your own calls ``move_centres()`` after its step.

    >>> encoder = PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2)
    >>> from viewproof.masks import RandomPatchMask
    >>> module = DINO(DINONetwork(encoder, PrototypeHead(8, 5)), RandomPatchMask(2, 2, 5), MultiCrop((4, 4)))
    >>> module.training_step((torch.rand(3, 1, 8, 8), torch.arange(3)), 0).ndim
    0
    """

    model: DINONetwork
    class_centre: Tensor
    patch_centre: Tensor

    def __init__(
        self,
        model: DINONetwork,
        rule: Rule,
        views: MultiCrop,
        loss: DINOLoss | None = None,
        *,
        momentum: Callable[[int], float] | None = None,
        centre_momentum: float = 0.9,
        koleo_weight: float = 0.0,
        **optimization: Any,
    ) -> None:
        super().__init__(model, DINOLoss() if loss is None else loss, momentum, **optimization)
        encoder = model.student.encoder
        check_hides_patches(rule, encoder)
        if not 0 <= centre_momentum <= 1 or not koleo_weight >= 0:
            raise InvalidArgument(
                f"centre_momentum={centre_momentum!r} must lie in [0, 1], koleo_weight={koleo_weight!r} be at least 0"
            )
        if views.global_views + views.local_views < 2:
            raise InvalidArgument("global_views=1 and local_views=0 leave no view to compare with; pass one more")
        self.rule, self.views = rule, views
        self.centre_momentum, self.koleo_weight = centre_momentum, koleo_weight
        for name in ("class_centre", "patch_centre"):
            self.register_buffer(name, torch.zeros(model.student.head.head.out_features))
        self._means: list[tuple[Tensor, Tensor]] = []

    def student(self) -> Branch:
        """The encoder and the head that are trained."""
        return self.model.student

    def teacher(self) -> Branch:
        """Their averages."""
        return self.model.teacher

    def places(self, shape: tuple[int, ...], sample_ids: Tensor, epoch: int) -> list[Tensor]:
        """The indices of the hidden patches of each global view, ``[N, places]``."""
        count, patch = self.views.global_views, self.model.student.encoder.patch_size
        masks = (self.rule.mask(shape, sample_ids=sample_ids, epoch=count * epoch + v) for v in range(count))
        return [split_patches_by_sample(mask, *patch)[1] for mask in masks]

    def rows(self, out: Outputs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Both logits row by row: of all pairs of different views, and of all hidden patches."""
        return compared_rows(out.student, out.teacher, out.student_patches, out.teacher_patches)

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The sum of both cross-entropies, and KoLeo of the student's features of each global view."""
        large, small = self.views(x, sample_ids, epoch)
        out = self.model(large, small, self.places(tuple(x.shape[1:]), sample_ids.to(x.device), epoch))
        # What the loss compares: all samples can have one prototype while their features differ.
        self.embeddings = out.teacher[0].detach()
        images, patches = self.rows(out)
        loss: Tensor = self.loss(*images, self.class_centre) + self.loss(*patches, self.patch_centre)
        if self.koleo_weight:
            loss = loss + self.koleo_weight * sum(koleo(view) for view in out.features)
        if self.training:
            self._means.append((mean_of_all(out.teacher.flatten(0, 1)), mean_of_all(patches[1])))
        return loss

    def move_centres(self) -> None:
        """Move the centres towards the means of the micro-batches since the last move."""
        if not self._means:
            return
        for centre, means in zip((self.class_centre, self.patch_centre), zip(*self._means, strict=True), strict=True):
            centre.copy_(moved_centre(centre, torch.stack(means), self.centre_momentum))
        self._means.clear()

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """The optimizer's step, then the teacher's and the centres'."""
        super().optimizer_step(*arguments, **options)
        self.move_centres()

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The student's features of the first global view of an epoch."""
        return self.student().encoder.encode(self.views(x, sample_ids, draw)[0][0])


@dataclass(frozen=True, kw_only=True)
class DINOMethod(JointMethod):
    """DINO with iBOT's masked patches on a ViT with a class token.

    As in the authors' code: the student's temperature 0.1, the teacher's 0.04, centre momentum 0.9, a teacher momentum
    from 0.996, two global views of 40 to 100 % and local ones of 5 to 40 % of the area, gradients clipped at 3, and
    both cross-entropies with weight 1. Other, for small machines: 1,024 prototypes (65,536; iBOT 8,192) and a head of
    width 4 * dim and 64 (2,048 and 256), 4 local views (8), random patches, 30 % of every global view, where iBOT
    draws blocks, and the head shared by images and patches, which is a flag of iBOT's. Left out: iBOT's rise of the
    patches' teacher temperature to 0.07 in 30 epochs, the rise of weight decay from 0.04 to 0.4, the momentum's cosine
    (ours is linear), stochastic depth 0.1, the frozen last layer in the first epoch, and blur, grey and solarisation
    unless ``augment`` adds them to the source. KoLeo is off, as in DINO (DINOv2's weight is 0.1, within a GPU's batch).
    """

    name = "dino"
    hides = True

    momentum: Annotated[float, non_negative] = 0.996
    prototypes: Annotated[int, lambda name, value: check_int(name, value, minimum=2)] = 1024
    local_views: CountOrZero = 4
    centring: Literal["centre", "sinkhorn"] = "centre"
    koleo: Annotated[float, non_negative] = 0.0
    projector_dim: Count = 64
    min_area: Annotated[float, positive] = 0.4
    flip: Flag = True

    @classmethod
    def defaults(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """A class token, whose features are evaluated, and the paper's limit of the gradient."""
        return {"class_token": True, "features": "class", "clip": 3.0}

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse an encoder that cannot leave patches out, and KoLeo of one sample."""
        super().check(settings, dataset)
        if self.model != "vit":
            raise InvalidArgument(
                f"method='dino' hides patches from a plain ViT, not from {self.model}; pass model='vit'"
            )
        if self.koleo and (settings.batch_size == settings.accumulate or len(dataset.test) == 1):
            raise InvalidArgument(f"koleo={self.koleo} needs at least 2 samples in every batch; pass more samples")

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str:
        """Thirty percent of the patches, rounded to a count of at least 1."""
        patch = settings.patch_size
        count = max(1, round(0.3 * (shape[1] // patch) * (shape[2] // patch)))
        return f"RandomPatchMask({patch}, {patch}, {count}, seed={settings.seed})"

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> DINONetwork:
        """The student and its EMA copy."""
        encoder = self.encoder(settings, shape)
        assert isinstance(encoder, PatchEncoder)
        if encoder.feature_dim != settings.dim:
            raise InvalidArgument(
                f"features={settings.features!r} is wider than a patch, and one head reads both; pass 'class' or 'mean'"
            )
        return DINONetwork(encoder, PrototypeHead(settings.dim, self.prototypes, 4 * settings.dim, self.projector_dim))

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> DINO:
        """The training module, whose momentum rises to 1 at the last step."""
        assert isinstance(model, DINONetwork) and rule is not None
        encoder = model.student.encoder
        views = MultiCrop(
            local_size(encoder.grid, encoder.patch_size),
            self.local_views,
            min_area=self.min_area,
            local_area=min(0.05, self.min_area),
            flip=self.flip,
            seed=settings.seed,
        )
        momentum = MomentumSchedule(self.momentum, steps=optimization["total_steps"])
        loss = DINOLoss(sinkhorn=3 if self.centring == "sinkhorn" else 0)
        return DINO(model, rule, views, loss, momentum=momentum, koleo_weight=self.koleo, **optimization)
