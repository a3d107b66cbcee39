"""Masked autoencoders (He et al. 2022, arXiv 2111.06377), and masked pre-training of any model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses import SIGRegLoss, VICRegLoss
from viewproof.losses.ranks import all_rows, rank_weight, total_count, world_size
from viewproof.masks import Rule, Sample, ScoredPatches, ratio_to_count
from viewproof.masks.patches import split_patches
from viewproof.masks.random.rule import one_for_all
from viewproof.methods.base import Method
from viewproof.models import (
    ConvAutoencoder,
    MaskedAutoencoder,
    MaskedImageModel,
    ResNet,
    VectorAutoencoder,
    ViTReconstructor,
)
from viewproof.models.backbone import is_library
from viewproof.models.clips import ClipAutoencoder, fold_mask
from viewproof.models.series import SeriesAutoencoder, over_images
from viewproof.objectives import masked_l1, masked_mse, masked_smooth_l1
from viewproof.training.base import Pretraining
from viewproof.training.batch import read_batch
from viewproof.training.fixed import Loss, predict
from viewproof.training.settings import Count, Flag, TrainingSettings, network, non_negative, one_of, positive
from viewproof.views import PatchNormalization
from viewproof.weights.backbones import library_encoder

Regularizer = Callable[[Tensor, int], Tensor]
LOSSES: dict[str, Loss] = {"mse": masked_mse, "l1": masked_l1, "smooth-l1": masked_smooth_l1}
HIDDEN_SHARE = {"digits": 0.5}
"""What a default mask hides where it is not MAE's 75 %: of the 16 patches of a digit, 4 say too little."""


class MaskedPretraining(Pretraining):
    """Trains ``loss(predict(model, sample), sample)`` with ``sample = rule.at(step).sample(batch)``.

    A batch is a tensor ``[N, ...]``, or what else `viewproof.training.batch.read_batch` reads. Validation always uses
    the rule of step 0. A random rule draws one mask a sample by the batch's sample ids and the epoch, for validation
    always epoch 0. ``target`` transforms the sample before the loss, for instance `viewproof.PatchNormalization`.
    A `viewproof.ScoredPatches` trains on the patches that it scores, and validates on all that it hides; a model with
    ``takes_scored = True`` computes no other patches in training.
    ``optimization``: see `Pretraining`. On several ranks the loss is taken for a mean over the mask: each rank's counts
    by its share of all selected coordinates, so that the ranks' average is the mean over all.

    ``regularizer(embeddings, step)`` is added to the training loss: a term on the geometry of the mean visible token of
    every sample of all ranks, ``[N, D]`` in float32, for instance ``lambda z, step: 0.01 * VICRegLoss().guard(z)``. It
    needs a model with ``gives_tokens = True``, as `viewproof.models.MaskedAutoencoder` is; without one, ``embeddings``
    stays None. The sum is the objective of `viewproof.objectives.rows.mae_batch_predictive_contract` with that guard.

    >>> import torch, viewproof as vp
    >>> model = vp.VectorAutoencoder(data_dim=6)
    >>> module = MaskedPretraining(model, vp.VectorMask(period=2, offset=0))
    >>> module.training_step(torch.rand(4, 6), 0).ndim
    0
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        loss: Loss = masked_mse,
        *,
        target: Callable[[Sample], Sample] | None = None,
        regularizer: Regularizer | None = None,
        **optimization: Any,
    ) -> None:
        super().__init__(model, loss, **optimization)
        self.rule, self.target, self.regularizer = rule, target, regularizer
        self.embeds = getattr(model, "gives_tokens", False)
        if regularizer is not None and not self.embeds:
            raise InvalidArgument(
                f"regularizer needs a model that gives its visible tokens, and {type(model).__name__} does not; pass a "
                "MaskedAutoencoder, or a model with gives_tokens = True"
            )
        self.observer: Callable[[Sample, Tensor], object] | None = None
        """Called with the sample and prediction of a training step, before the loss."""

    def sample(self, batch: Any, step: int, epoch: int = 0, *, score_all: bool = False) -> Sample:
        """The sample of one step, with its target transformed; ``score_all`` scores whatever is hidden."""
        x, ids = read_batch(batch)
        rule = self.rule.rule if score_all and isinstance(self.rule, ScoredPatches) else self.rule
        sample = rule.at(step).sample(x, sample_ids=ids, epoch=epoch)
        return sample if self.target is None else self.target(sample)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss that is differentiated."""
        sample = self.sample(self.augmented(batch), self.global_step, self.current_epoch)
        partial = isinstance(self.rule, ScoredPatches) and getattr(self.model, "takes_scored", False)
        scored = {"scored": sample.mask} if partial else {}
        if self.embeds:
            prediction, tokens = self.model(sample.x, sample.view, with_tokens=True, **scored)
            embeddings = tokens.mean(1)
            self.embeddings = embeddings.detach()
        else:
            prediction = self.model(sample.x, sample.view, **scored) if partial else predict(self.model, sample)
        if self.observer is not None:
            self.observer(sample, prediction)
        loss: Tensor = self.loss(prediction, sample)
        if world_size() > 1:
            selected = sample.mask.count * (1 if sample.mask.per_sample else len(sample.x))
            loss = loss * rank_weight(selected, loss.device)
        if self.regularizer is not None:
            with torch.autocast(embeddings.device.type, enabled=False):
                loss = loss + self.regularizer(all_rows(embeddings.float()), self.global_step)
        if self._trainer is not None:
            self.log("loss", loss, prog_bar=True)
        return loss

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The mean token that the encoder has of the sample of a step."""
        if not self.embeds:
            return super().drawn_embeddings(x, sample_ids, draw)
        sample = self.sample((x, sample_ids), draw, draw, score_all=True)
        tokens: Tensor = self.model(sample.x, sample.view, with_tokens=True)[1]
        return tokens.mean(1)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The same loss on held-out data over all that is hidden, with the rule of step 0."""
        sample = self.sample(batch, 0, score_all=True)
        loss: Tensor = self.loss(predict(self.model, sample), sample)
        if self._trainer is not None:
            rows, weight = total_count(len(sample.x), loss.device), rank_weight(len(sample.x), loss.device)
            self.log("val_loss", loss * weight, prog_bar=True, batch_size=rows, sync_dist=True)
        return loss


@dataclass(frozen=True, kw_only=True)
class MAEMethod(Method):
    """Masked pre-training by one of several networks, on images or on samples of any other shape."""

    name = "mae"
    hides = True
    reconstructs = True
    natural_augment = "RandomResizedCrop(0.2), Flip()"

    model: Annotated[str, network("masked-autoencoder", "vit", "resnet", "conv", "vector")]
    decoder: Literal["self-attention", "cross-attention"] = "self-attention"
    loss: Annotated[str, one_of(*LOSSES)] = "mse"
    guard: Annotated[str | None, one_of("vicreg", "sigreg")] = None
    guard_weight: Annotated[float, non_negative] = 0.01
    norm_pix: Flag = False
    predict: Annotated[float | None, positive] = None
    decoder_dim: Count = 64
    decoder_depth: Count = 2
    decoder_heads: Count = 4

    @classmethod
    def defaults(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """The network for images, and that for everything else."""
        return {"model": "masked-autoencoder" if len(shape) == 3 else "vector"}

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse texts, image settings without images, and a regularizer without tokens."""
        super().check(settings, dataset)
        if settings.data.lower().endswith(".txt"):
            raise InvalidArgument(f"method='mae' predicts numbers, and {settings.data} is a text; pass method='mlm'")
        series = len(dataset.sample_shape) in (2, 4) and self.model == "masked-autoencoder"
        if len(dataset.sample_shape) != 3 and ((self.model != "vector" and not series) or self.norm_pix):
            name, remedy = (
                ("norm_pix", "") if self.model == "vector" or series else (f"model={self.model!r}", "; pass vector")
            )
            samples = f"the samples of {settings.data} are {dataset.sample_shape}"
            raise InvalidArgument(f"{name} needs images [C, H, W], {samples}{remedy}")
        if self.guard is not None and self.model != "masked-autoencoder":
            raise InvalidArgument(
                f"guard={self.guard!r} is for model='masked-autoencoder', whose visible tokens it reads; {self.model} "
                "has none, leave guard out"
            )
        if self.predict is not None and (self.model != "masked-autoencoder" or len(dataset.sample_shape) != 3):
            raise InvalidArgument(
                f"predict={self.predict} is for images and model='masked-autoencoder', which decodes patch by patch; "
                "leave predict out"
            )

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str:
        """A share of the patches, drawn each step; of clips tubes; else every other value."""
        if len(shape) == 3:
            patch = settings.patch_size
            patches = math.ceil(shape[1] / patch) * math.ceil(shape[2] / patch)
            count = round(HIDDEN_SHARE.get(settings.data, 0.75) * patches)
            return f"SharedRandomPatchMask({patch}, {patch}, {count}, seed={settings.seed})"
        if len(shape) == 4 and self.model == "masked-autoencoder":
            patches = (shape[2] // settings.patch_size) * (shape[3] // settings.patch_size)
            count = max(1, min(patches - 1, round(0.9 * patches)))
            return f"TubeMask({settings.patch_size}, {settings.patch_size}, {count}, seed={settings.seed})"
        if len(shape) == 2 and self.model == "masked-autoencoder":
            patches = math.ceil(shape[0] / settings.patch_size)
            return f"RandomBlockMask(({settings.patch_size}, None), {round(0.75 * patches)}, seed={settings.seed})"
        if len(shape) == 1:
            return "Rotating(VectorMask(2, 0))"
        return f"Rotating(BlockMask({(1,) * len(shape)!r}, 2, 0))"

    def normalization(self, settings: TrainingSettings) -> PatchNormalization | None:
        """The patch-wise normalization of ``norm_pix``."""
        return PatchNormalization(settings.patch_size, settings.patch_size) if self.norm_pix else None

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> nn.Module:
        """The network that ``model`` names."""
        patch, encoder = (settings.patch_size, settings.patch_size), (settings.dim, settings.depth, settings.heads)
        if self.model == "masked-autoencoder":
            decoder = (self.decoder_dim, self.decoder_depth, self.decoder_heads)
            if len(shape) == 2:
                return SeriesAutoencoder(shape, settings.patch_size, *encoder, *decoder, decoder=self.decoder)
            if len(shape) == 4:
                tubelet, tokens = settings.tubelet_sizes, settings.tokens
                return ClipAutoencoder(shape, tubelet, *encoder, *decoder, decoder=self.decoder, settings=tokens)
            return MaskedAutoencoder(shape, patch, *encoder, *decoder, decoder=self.decoder, settings=settings.tokens)
        if is_library(self.model):
            return MaskedImageModel(library_encoder(self.model, shape, settings.features))
        if self.model == "vit":
            return ViTReconstructor(shape, patch, *encoder, settings=settings.tokens)
        if self.model == "resnet":
            return ResNet(shape[0], math.prod(shape))
        if self.model == "conv":
            return ConvAutoencoder(shape[0])
        return VectorAutoencoder(math.prod(shape), 2 * settings.dim, settings.dim)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> MaskedPretraining:
        """The training module; a rule that hides nothing or everything raises `InvalidArgument`."""
        assert rule is not None
        shape, patch = dataset.sample_shape, settings.patch_size
        patches = math.prod(shape[1:]) // patch**2 if len(shape) == 3 else 0
        scored = None if self.predict is None else max(1, ratio_to_count(self.predict, patches))
        for step in range(16):
            mask = one_for_all(rule.at(step)).mask(shape)
            if mask.count in (0, math.prod(shape)):
                share = "nothing" if mask.count == 0 else "everything"
                raise InvalidArgument(f"mask={rule!r} hides {share} of samples {shape}; pass one that hides a part")
            if isinstance(model, MaskedAutoencoder):
                hidden = len(split_patches(mask, *model.patch_size)[1])
                if scored is not None and scored > hidden:
                    raise InvalidArgument(
                        f"predict={self.predict} is {scored} of {patches} patches, and mask={rule!r} hides {hidden}; "
                        f"pass at most {hidden / patches:.3g}"
                    )
            if isinstance(model, SeriesAutoencoder):
                split_patches(over_images(mask), *model.image_model.patch_size)
            if isinstance(model, ClipAutoencoder):
                split_patches(fold_mask(mask, model.tubelet[0]), *model.tubelet[1:])
        if scored is not None:
            rule = ScoredPatches(rule, patch, patch, scored, settings.seed)
        target, regularizer = self.normalization(settings), self.regularizer(settings.seed)
        return MaskedPretraining(model, rule, LOSSES[self.loss], target=target, regularizer=regularizer, **optimization)

    def regularizer(self, seed: int) -> Regularizer | None:
        """What ``guard`` adds to the loss, of the mean visible tokens ``[N, D]`` and the step."""
        if self.guard == "vicreg":
            variance = VICRegLoss()
            return lambda z, step: self.guard_weight * variance.guard(z)
        if self.guard == "sigreg":
            statistic = SIGRegLoss(seed=seed)
            return lambda z, step: self.guard_weight * statistic.guard(z, step=step)
        return None
