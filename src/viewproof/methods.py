"""From a configuration to the networks and modules of every method but mae: they learn embeddings."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from viewproof.config import PretrainConfig
from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses import BarlowTwinsLoss, SIGRegLoss, VICRegLoss
from viewproof.masks import Rule
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector
from viewproof.training.augment import RandomViews
from viewproof.training.base import JointPretraining
from viewproof.training.ema import MomentumSchedule
from viewproof.training.ijepa import IJEPA, JEPANetwork
from viewproof.training.supervised import Classifier, Supervised
from viewproof.training.two_view import ProjectedEncoder, TwoView


def check_joint(config: PretrainConfig, dataset: Dataset) -> None:
    """Refuse what a joint-embedding method has no use for."""
    name, shape = config.method, dataset.sample_shape
    if len(shape) != 3:
        raise InvalidArgument(f"method={name!r} needs images [C, H, W], the samples of {config.data} are {shape}")
    if config.model not in (None, "vit"):
        raise InvalidArgument(f"model={config.model!r} is for method='mae'; {name} trains a vit, leave model out")
    if name == "ijepa":
        return
    if config.mask is not None:
        raise InvalidArgument(f"mask={config.mask!r} is for mae and ijepa; {name} hides nothing, leave mask out")
    if name == "supervised":
        if not dataset.classes or dataset.train.labels is None or dataset.test.labels is None:
            raise InvalidArgument(f"method='supervised' needs labels, and {config.data} has none")
        return
    if config.accumulate > 1 and config.batch_size == config.accumulate:
        raise InvalidArgument(
            f"accumulate={config.accumulate} parts of 1 sample: {name} has statistics over a batch, of at least 2 "
            "samples; pass fewer parts"
        )
    if config.batch_size == 1 or len(dataset.test) == 1:
        raise InvalidArgument(
            f"batch_size={config.batch_size}, {len(dataset.test)} held-out samples: {name} has statistics over a "
            "batch, of at least 2 samples"
        )


def default_blocks(shape: tuple[int, ...], patch: int, seed: int = 0) -> str:
    """I-JEPA's blocks: four targets of 15 to 20 % of the patches, of a context block of 85 to 100 % see 40 % of all.

    >>> default_blocks((1, 28, 28), 4)
    'MultiBlockMask(4, 4, 20, (7, 10), (42, 49), seed=0)'
    """
    total = (shape[1] // patch) * (shape[2] // patch)
    low, high, least = (max(1, round(share * total)) for share in (0.15, 0.2, 0.85))
    context = max(1, round(0.4 * total))
    return f"MultiBlockMask({patch}, {patch}, {context}, ({low}, {high}), ({least}, {total}), seed={seed})"


def build_joint(config: PretrainConfig, shape: tuple[int, ...], classes: int | None = None) -> nn.Module:
    """The network of a resolved configuration for images of ``shape``."""
    assert config.patch_size and config.dim and config.depth and config.heads and config.projector_dim
    encoder = PatchEncoder(shape, (config.patch_size, config.patch_size), config.dim, config.depth, config.heads)
    if config.method == "supervised":
        assert classes
        return Classifier(encoder, config.dim, classes)
    if config.method != "ijepa":
        return ProjectedEncoder(encoder, Projector(config.dim, config.projector_dim))
    assert config.decoder_dim and config.decoder_depth and config.decoder_heads
    sizes = (config.decoder_dim, config.decoder_depth, config.decoder_heads)
    return JEPANetwork(encoder, PatchPredictor(encoder.grid, config.dim, *sizes))


def build_guard(config: PretrainConfig) -> Callable[[Tensor, int], Tensor] | None:
    """What the configuration adds to mae's loss, of the mean visible tokens ``[N, D]`` and the step."""
    if config.guard == "vicreg":
        variance = VICRegLoss()
        return lambda z, step: config.guard_weight * variance.guard(z)
    if config.guard == "sigreg":
        statistic = SIGRegLoss(seed=config.seed)
        return lambda z, step: config.guard_weight * statistic.guard(z, step=step)
    return None


def joint_module(
    config: PretrainConfig,
    model: nn.Module,
    rule: Rule | None,
    dataset: Dataset,
    total_steps: int = 1,
    **optimization: Any,
) -> JointPretraining:
    """The module that trains ``model`` by the configuration's method; what does not fit is refused here."""
    assert config.momentum is not None and config.min_area is not None and config.flip is not None
    if isinstance(model, JEPANetwork):
        assert rule is not None
        momentum = MomentumSchedule(config.momentum, steps=total_steps)
        return IJEPA(model, rule, momentum=momentum, total_steps=total_steps, **optimization)
    if isinstance(model, Classifier):
        return Supervised(model, dataset.train.labels, dataset.test.labels, total_steps=total_steps, **optimization)
    loss = {"vicreg": VICRegLoss(), "barlow": BarlowTwinsLoss(), "sigreg": SIGRegLoss(seed=config.seed)}[config.method]
    pair = RandomViews(config.min_area, config.flip, seed=config.seed)
    return TwoView(model, loss, pair, total_steps=total_steps, **optimization)
