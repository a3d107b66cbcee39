"""What a method is: the interface between the code of a run and one way of pre-training."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.masks import RandomRule, Rule, split_patches_by_sample
from viewproof.models import Backbone, PatchEncoder
from viewproof.models.backbone import is_library
from viewproof.models.clips import ClipEncoder
from viewproof.training.augment import parse_transforms
from viewproof.training.base import Pretraining
from viewproof.training.settings import CheckedFields, TrainingSettings, network
from viewproof.views import PatchNormalization
from viewproof.weights.backbones import library_encoder


@dataclass(frozen=True, kw_only=True)
class Method(CheckedFields, ABC):
    """One way of pre-training, with its own settings as fields.

    A field is set by the flag of its name in `viewproof.runs.config.PretrainConfig`; its default and its check stand
    here. Class variables say what the method does: whether it ``hides`` coordinates by a mask, whether its network
    ``reconstructs`` them, whether it ``learns_labels``, whether it draws ``pairs`` of views itself, and how it augments
    photographs where the user does not say (``natural_augment``). Held-out batches of a method that does not
    reconstruct are all of one size and equal on every rank.
    """

    name: ClassVar[str]
    hides: ClassVar[bool] = False
    reconstructs: ClassVar[bool] = False
    learns_labels: ClassVar[bool] = False
    pairs: ClassVar[bool] = False
    natural_augment: ClassVar[str] = "none"

    augment: Annotated[str, lambda name, value: parse_transforms(value)] = "none"

    @classmethod
    def defaults(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Defaults that depend on the samples' shape, by the setting's name; shared settings too."""
        return {}

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse settings and data that the method has no use for, with an `InvalidArgument`."""
        if parse_transforms(self.augment) and len(dataset.sample_shape) != 3:
            raise InvalidArgument(
                f"augment={self.augment!r} needs images [C, H, W], the samples of {settings.data} are"
                f" {dataset.sample_shape}; leave it out"
            )

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str | None:
        """The rule of a method that ``hides``, as text, where the user gives none."""
        return None

    def normalization(self, settings: TrainingSettings) -> PatchNormalization | None:
        """What is done to the target that a method ``reconstructs``."""
        return None

    @abstractmethod
    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> nn.Module:
        """A new network with ``encode(x) -> [N, dim]`` for samples of ``shape``, labelled or not."""

    @abstractmethod
    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> Pretraining:
        """The Lightning module that trains the network; rules that do not fit are an `InvalidArgument`."""


@dataclass(frozen=True, kw_only=True)
class JointMethod(Method):
    """Base of methods that learn embeddings of images, by a ViT unless ``model`` names another.

    One that ``takes_clips`` learns those of clips ``[C, T, H, W]`` too.
    """

    takes_clips: ClassVar[bool] = False

    model: Annotated[str, network("vit")] = "vit"

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse samples that are not images, nor clips where these are taken."""
        super().check(settings, dataset)
        shape = dataset.sample_shape
        if len(shape) != 3 and not (self.takes_clips and len(shape) == 4):
            clips = " or clips [C, T, H, W]" if self.takes_clips else ""
            raise InvalidArgument(
                f"method={self.name!r} needs images [C, H, W]{clips}, the samples of {settings.data} are {shape}"
            )

    def encoder(self, settings: TrainingSettings, shape: tuple[int, ...]) -> PatchEncoder | ClipEncoder | Backbone:
        """The encoder that all these methods share: a ViT, or another library's model; of clips, one of tubelets."""
        if is_library(self.model):
            return library_encoder(self.model, shape, settings.features)
        sizes = (settings.dim, settings.depth, settings.heads)
        if len(shape) == 4:
            return ClipEncoder(shape, settings.tubelet_sizes, *sizes, settings=settings.tokens)
        return PatchEncoder(shape, (settings.patch_size,) * 2, *sizes, settings=settings.tokens)


def check_hides_patches(rule: Rule, encoder: PatchEncoder) -> None:
    """Refuse a rule that draws no mask for each sample, or hides none or all of the encoder's patches."""
    if not isinstance(rule, RandomRule):
        raise InvalidArgument(f"rule {rule!r} must draw one mask a sample; pass a RandomPatchMask")
    mask = rule.mask(encoder.image_shape, sample_ids=torch.arange(2))
    if not all(part.shape[1] for part in split_patches_by_sample(mask, *encoder.patch_size)):
        raise InvalidArgument(f"rule {rule!r} must hide a part of the patches; pass one that hides some of them")
