"""Masked tokens (BERT: Devlin et al. 2019, arXiv 1810.04805) on the bytes of a text file."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.losses import masked_cross_entropy
from viewproof.losses.ranks import rank_weight
from viewproof.masks import Rule, Sample, TokenMask
from viewproof.methods.base import Method
from viewproof.models.vit import initialise, transformer_blocks
from viewproof.shapes import Float, Int, Shaped, check_size
from viewproof.training.base import JointPretraining
from viewproof.training.settings import TrainingSettings

BYTES = 256
"""The vocabulary; the id after it is the mask's."""


class TextEncoder(nn.Module):
    """A transformer over token ids ``[N, T]``: logits ``[N, T, vocabulary]``, and the mean token as features.

    ``embed`` has a row more than the vocabulary, for the mask. Positions are learned. Ids may come as floats.

    >>> model = TextEncoder(length=6, vocabulary=256, dim=8, depth=1, heads=2)
    >>> ids = torch.tensor([[104, 105, 256, 32, 33, 10]])
    >>> model(ids).shape, model.encode(ids.float()).shape
    (torch.Size([1, 6, 256]), torch.Size([1, 8]))
    """

    def __init__(self, length: int, vocabulary: int = BYTES, dim: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        for name, size in (("length", length), ("vocabulary", vocabulary), ("dim", dim)):
            check_size(name, size)
        self.embed = nn.Embedding(vocabulary + 1, dim)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(length, dim), std=0.02))
        self.blocks = transformer_blocks("depth", depth, dim, heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, vocabulary)
        initialise(self)
        nn.init.normal_(self.embed.weight, std=0.02)

    def tokens(self, ids: Shaped[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens dim"]:
        """The encoded tokens."""
        x = self.embed(ids.long()) + self.positions
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    def encode(self, ids: Shaped[Tensor, "batch tokens"]) -> Float[Tensor, "batch dim"]:
        """The mean token of each row."""
        return self.tokens(ids).mean(1)

    def forward(self, ids: Shaped[Tensor, "batch tokens"], with_tokens: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The logits ``[N, T, vocabulary]`` of every place; ``with_tokens``: beside the encoded tokens."""
        tokens = self.tokens(ids)
        logits: Tensor = self.head(tokens)
        return (logits, tokens) if with_tokens else logits


class MaskedTokens(JointPretraining):
    """Trains `masked_cross_entropy` of the tokens that ``rule`` selects by (seed, epoch, sample id).

    Each rank's mean counts by its share of all selected tokens, so that the ranks' average is the mean over all.

    >>> module = MaskedTokens(TextEncoder(6, dim=8, depth=1, heads=2), TokenMask(1, 1, 1, BYTES, BYTES))
    >>> module.training_step((torch.full((2, 6), 65.0), torch.arange(2)), 0).ndim
    0
    """

    def __init__(self, model: nn.Module, rule: TokenMask, **optimization: Any) -> None:
        super().__init__(model, masked_cross_entropy, **optimization)
        self.rule = rule

    @property
    def method(self) -> str:
        """What a checkpoint must have been written by to be continued here."""
        return "MaskedTokens"

    def sample(self, x: Tensor, sample_ids: Int[Tensor, " batch"], epoch: int) -> Sample:
        """The corrupted ids, the ids, and the selected places."""
        return self.rule.sample(x.long(), sample_ids=sample_ids, epoch=epoch)

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        """The mean cross-entropy of the selected tokens."""
        sample = self.sample(x, sample_ids, epoch)
        logits, tokens = self.model(sample.x, with_tokens=True)
        self.embeddings = tokens.detach().mean(1)
        return masked_cross_entropy(logits, sample) * rank_weight(sample.mask.count, logits.device)

    def drawn_embeddings(self, x: Tensor, sample_ids: Tensor, draw: int) -> Tensor:
        """The mean token of the corrupted text of an epoch."""
        features: Tensor = self.model.encode(self.sample(x, sample_ids, draw).x)  # type: ignore[operator]
        return features


@dataclass(frozen=True, kw_only=True)
class MLMMethod(Method):
    """Masked bytes of a text file: BERT's 15 %, of which 80 % are masked, 10 % replaced and 10 % kept."""

    name = "mlm"
    hides = True

    @classmethod
    def defaults(cls, shape: tuple[int, ...]) -> dict[str, Any]:
        """Few samples a step: one is a whole paragraph, with many predictions."""
        return {"batch_size": 32}

    def check(self, settings: TrainingSettings, dataset: Dataset) -> None:
        """Refuse samples that are not bytes."""
        super().check(settings, dataset)
        values = dataset.train.values
        if len(dataset.sample_shape) != 1 or values.dtype.kind != "u" or values.dtype.itemsize != 1:
            raise InvalidArgument(
                f"method='mlm' needs the bytes of a text, the samples of {settings.data} are {values.dtype} "
                f"{dataset.sample_shape}; pass a .txt file"
            )

    def default_mask(self, settings: TrainingSettings, shape: tuple[int, ...]) -> str:
        """BERT's counts in 200 tokens, cut to the sample's length."""
        return f"TokenMask(24, 3, 3, mask_id={BYTES}, vocabulary={BYTES}, seed={settings.seed}, per=200)"

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> TextEncoder:
        """The text encoder."""
        return TextEncoder(shape[0], BYTES, settings.dim, settings.depth, settings.heads)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> MaskedTokens:
        """The training module; another rule than a `TokenMask` of bytes, or an empty one, raises `InvalidArgument`."""
        if not isinstance(rule, TokenMask) or max(rule.mask_id, rule.vocabulary) > BYTES:
            raise InvalidArgument(f"mask={rule!r} must be a TokenMask with mask_id and vocabulary up to {BYTES}")
        length = dataset.sample_shape[0]
        first = dataset.fetch("train", torch.arange(1)).long()
        if not rule.sample(first, sample_ids=torch.arange(1)).mask.count:
            raise InvalidArgument(f"mask={rule!r} selects nothing of {length} tokens; pass larger counts")
        return MaskedTokens(model, rule, **optimization)
