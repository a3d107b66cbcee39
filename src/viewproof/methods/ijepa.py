"""I-JEPA (Assran et al. 2023, arXiv 2301.08243), and V-JEPA-like training on clips (Bardes et al. 2024, 2404.08471)."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses import JEPALoss, SIGRegLoss
from viewproof.losses.ranks import all_rows
from viewproof.masks import MultiBlockMask, MultiRangeMask, Rule, split_patches_by_sample
from viewproof.methods.base import JointMethod
from viewproof.models.clips import ClipEncoder, fold_mask
from viewproof.models.patches import PatchEncoder, PatchPredictor, block_targets, predict_blocks
from viewproof.shapes import Float, Int
from viewproof.training.ema import MomentumSchedule
from viewproof.training.settings import Count, TrainingSettings, non_negative, one_of
from viewproof.training.taught import TaughtPretraining


class JEPANetwork(nn.Module):
    """A context encoder of images or clips, a predictor, and the target encoder, a copy that takes no gradient.

    Without a ``teacher`` the encoder itself makes the target tokens, with gradient, and ``target`` is None.

    >>> encoder = PatchEncoder((1, 4, 6), (2, 2), dim=16, depth=1, heads=2)
    >>> network = JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=16, width=8, depth=1, heads=2))
    >>> context, blocks = torch.tensor([[0, 1]]), torch.tensor([[[2, 3], [4, 5], [2, 5]]])
    >>> [tuple(part.shape) for part in network(torch.zeros(1, 1, 4, 6), context, blocks)]
    [(1, 3, 2, 16), (1, 3, 2, 16), (1, 16)]
    """

    def __init__(self, encoder: PatchEncoder | ClipEncoder, predictor: PatchPredictor, teacher: bool = True) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.target = copy.deepcopy(encoder).requires_grad_(False).eval() if teacher else None

    def train(self, mode: bool = True) -> "JEPANetwork":
        """The target encoder stays in evaluation mode, so that its tokens are not random."""
        super().train(mode)
        if self.target is not None:
            self.target.eval()
        return self

    def forward(
        self,
        x: Float[Tensor, "batch channels *space"],
        context: Int[Tensor, "batch context"],
        blocks: Int[Tensor, "batch blocks places"],
        *more: Int[Tensor, "..."],
    ) -> tuple[Float[Tensor, "..."], ...]:
        """Predicted and target tokens of every block, and the target encoder's mean token of each sample.

        ``[N, blocks, places, dim]`` twice and ``[N, dim]``. ``context`` and ``blocks`` are indices of patches; ``more``
        holds further contexts, each with its blocks, whose tokens come before the mean. The target encoder sees the
        whole sample, once; its tokens are layer-normalised, without scale and shift.
        """
        with torch.set_grad_enabled(self.target is None and torch.is_grad_enabled()):
            tokens = (self.encoder if self.target is None else self.target)(x)
        pairs: list[Tensor] = []
        for visible, hidden in zip((context, *more[::2]), (blocks, *more[1::2]), strict=True):
            pairs.append(predict_blocks(self.predictor, self.encoder(x, visible), visible, hidden))
            with torch.set_grad_enabled(self.target is None and torch.is_grad_enabled()):
                pairs.append(block_targets(tokens, hidden))
        return *pairs, tokens.mean(1)

    def encode(self, x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch dim"]:
        """The target encoder's mean token of each whole sample: the features that the paper evaluates."""
        return (self.encoder if self.target is None else self.target).encode(x)


class IJEPA(TaughtPretraining):
    """Trains ``loss(prediction, target)`` of the blocks that ``rule`` draws by sample id and epoch.

    The target encoder moves once an optimizer step, after it, by ``momentum(step)``, whatever the number of
    micro-batches. A rule of other patches than the encoder's, one that does not fit the images and one that leaves no
    context raise `InvalidArgument` here, before training. A `MultiRangeMask` draws two masks of each sample, by the
    epochs 2e and 2e + 1 in epoch e: the loss is the mean of both, and the target encoder runs once.

    ``regularizer(embeddings, step)`` is added to the loss, of the mean target token of every sample of all ranks, in
    float32. A network without a teacher needs one: tokens that are equal everywhere have the least loss. The sum is the
    objective of ``loss.contract(prediction, target)`` with that guard (`viewproof.with_geometry_guard`).

    >>> encoder = PatchEncoder((1, 8, 8), (2, 2), dim=16, depth=1, heads=2)
    >>> network = JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=16, width=8, depth=1, heads=2))
    >>> rule = MultiBlockMask(2, 2, context=5, target_area=(2, 4), context_area=(14, 16))
    >>> IJEPA(network, rule).training_step((torch.rand(3, 1, 8, 8), torch.arange(3)), 0).ndim
    0
    """

    model: JEPANetwork

    def __init__(
        self,
        model: JEPANetwork,
        rule: Rule,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        momentum: Callable[[int], float] | None = None,
        regularizer: Callable[[Tensor, int], Tensor] | None = None,
        **optimization: Any,
    ) -> None:
        teacher = model.target is not None
        super().__init__(
            model, JEPALoss(stop_gradient=teacher) if loss is None else loss, momentum=momentum, **optimization
        )
        if regularizer is None and not teacher:
            raise InvalidArgument(
                "regularizer=None must be a function: without a teacher a collapsed encoder loses least; pass one"
            )
        self.regularizer = regularizer
        encoder = model.encoder
        patch: tuple[int, ...]
        if isinstance(encoder, ClipEncoder):
            patch, shape = encoder.tubelet[1:], encoder.clip_shape
        else:
            patch, shape = encoder.patch_size, encoder.image_shape
        if not isinstance(rule, MultiBlockMask | MultiRangeMask) or (rule.patch_h, rule.patch_w) != patch:
            raise InvalidArgument(
                f"rule {rule!r} must be a MultiBlockMask of the encoder's patches {patch}, or a MultiRangeMask of two"
            )
        self.rule = rule
        if not all(places.numel() for places in self.places(shape, torch.arange(2), 0)):
            raise InvalidArgument(f"rule {rule!r} leaves an empty context or no target; nothing can be predicted")

    def places(self, shape: tuple[int, ...], sample_ids: Tensor, epoch: int) -> tuple[Tensor, ...]:
        """Patch indices of the context, ``[N, context]``, and of the blocks, ``[N, blocks, places]``.

        Of a `MultiRangeMask` those of the short range and then those of the long one.
        """
        encoder, patch = self.model.encoder, (self.rule.patch_h, self.rule.patch_w)
        if isinstance(encoder, ClipEncoder):
            shape = (1, *shape[1:])  # the blocks are those of every channel
        ranges = 2 if isinstance(self.rule, MultiRangeMask) else 1
        found: list[Tensor] = []
        for k in range(ranges):
            context, targets = self.rule.blocks(shape, sample_ids=sample_ids, epoch=ranges * epoch + k)
            if isinstance(encoder, ClipEncoder):
                context, *targets = (fold_mask(mask, encoder.tubelet[0]) for mask in (context, *targets))
            blocks = [split_patches_by_sample(target, *patch)[1] for target in targets]
            found += [split_patches_by_sample(context, *patch)[0], torch.stack(blocks, 1)]
        return tuple(found)

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The distance of predicted and target tokens, the mean over the ranges of the rule."""
        places = self.places(tuple(x.shape[1:]), sample_ids.to(x.device), epoch)
        *pairs, embeddings = self.model(x, *places)
        self.embeddings = embeddings.detach()
        losses = [self.loss(*pair) for pair in zip(pairs[::2], pairs[1::2], strict=True)]
        loss = torch.stack(losses).mean() if len(losses) > 1 else losses[0]
        if self.regularizer is not None:
            with torch.autocast(embeddings.device.type, enabled=False):
                loss = loss + self.regularizer(all_rows(embeddings.float()), step)
        return loss

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The mean token of the context of an epoch."""
        tokens: Tensor = self.model.encoder(x, self.places(tuple(x.shape[1:]), sample_ids, draw)[0])
        return tokens.mean(1)

    @property
    def method(self) -> str:
        """What a checkpoint must have been written by to be continued here."""
        return super().method + ("" if self.model.target is not None else " without a teacher")

    def student(self) -> PatchEncoder | ClipEncoder:
        """The context encoder."""
        return self.model.encoder

    def teacher(self) -> PatchEncoder | ClipEncoder | None:
        """The target encoder."""
        return self.model.target


@dataclass(frozen=True, kw_only=True)
class IJEPAMethod(JointMethod):
    """I-JEPA with a ViT; what is evaluated is the target encoder.

    On clips ``[C, T, H, W]`` its patches are tubelets of ``tubelet`` frames, and blocks and context are the same at all
    times, with V-JEPA's short-range numbers: eight blocks of 15 % and a context of 10 %. Its second mask, two blocks of
    70 %, comes with a `MultiRangeMask`, and costs a second pass of the encoder and the predictor. Other than published
    there: the context has one size and is a part of what no block covers, each block is predicted by itself, smooth L1
    in place of L1, a momentum from 0.996, not 0.998, and a shallow predictor.

    With ``guard`` there is no EMA teacher: the encoder makes the targets, and SIGReg's test of its mean tokens, times
    ``guard_weight``, is a term of the loss (LeJEPA's regularizer, arXiv 2511.08544). It penalises mean tokens that are
    equal for all samples; whether a run keeps its RankMe has to be measured.
    """

    name = "ijepa"
    hides = True
    takes_clips = True

    momentum: Annotated[float, non_negative] = 0.996
    guard: Annotated[str | None, one_of("sigreg")] = None
    guard_weight: Annotated[float, non_negative] = 0.01
    decoder_dim: Count = 64
    decoder_depth: Count = 2
    decoder_heads: Count = 4

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse an encoder that cannot leave patches out."""
        super().check(settings, dataset)
        if self.model != "vit":
            raise InvalidArgument(
                f"method='ijepa' encodes chosen patches, which {self.model} cannot; pass a plain ViT, or method mae"
            )

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str:
        """The paper's four targets of 15 to 20 % of the patches, and a context of 40 % of all; for clips V-JEPA's.

        The context is drawn from a block of 85 to 100 % of the patches.
        """
        patch = settings.patch_size
        total = (shape[-2] // patch) * (shape[-1] // patch)
        if len(shape) == 4:
            area, context = (max(1, round(share * total)) for share in (0.15, 0.1))
            return (
                f"MultiBlockMask({patch}, {patch}, {context}, ({area}, {area}), ({total}, {total}), targets=8,"
                f" seed={settings.seed})"
            )
        low, high, least, context = (max(1, round(share * total)) for share in (0.15, 0.2, 0.85, 0.4))
        return f"MultiBlockMask({patch}, {patch}, {context}, ({low}, {high}), ({least}, {total}), seed={settings.seed})"

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> JEPANetwork:
        """The context encoder, its EMA copy, and the predictor."""
        encoder, sizes = self.encoder(settings, shape), (self.decoder_dim, self.decoder_depth, self.decoder_heads)
        assert isinstance(encoder, PatchEncoder | ClipEncoder)
        return JEPANetwork(encoder, PatchPredictor(encoder.grid, settings.dim, *sizes), teacher=self.guard is None)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> IJEPA:
        """The training module, whose momentum rises to 1 at the last step."""
        assert isinstance(model, JEPANetwork) and rule is not None
        momentum = MomentumSchedule(self.momentum, steps=optimization["total_steps"])
        statistic = SIGRegLoss(seed=settings.seed)
        guard = None if self.guard is None else lambda z, step: self.guard_weight * statistic.guard(z, step=step)
        return IJEPA(model, rule, momentum=momentum, regularizer=guard, **optimization)
