"""Any rule on sequences of different lengths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask
from viewproof.masks.random.draws import Draws
from viewproof.masks.random.rule import RandomRule
from viewproof.masks.rule import Rule
from viewproof.shapes import Bool, Int


@dataclass(frozen=True)
class PaddedMask(RandomRule):
    """Hides what ``rule`` hides, but no padding behind a sample's length along a data axis.

    The rule may be fixed (then ``sample_ids`` may be left out) or random; it draws over the whole extent, so a count is
    that of a sample without padding. `SpanMask`, `TokenMask` and `SpectrogramMask` take ``lengths`` themselves and keep
    their counts. Theorem: ``padding_is_never_hidden``.

    >>> from viewproof.masks import VectorMask
    >>> rule = PaddedMask(VectorMask(period=2, offset=0))
    >>> rule.mask((6,), lengths=torch.tensor([6, 3])).hidden.int()
    tensor([[1, 0, 1, 0, 1, 0],
            [1, 0, 1, 0, 0, 0]], dtype=torch.int32)
    """

    rule: Rule
    axis: int = 0
    may_be_zero = ("axis",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rule, Rule):
            raise InvalidArgument(f"rule={self.rule!r} must be a rule, for instance VectorMask(2, 0)")

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The rule's; 0 for a rule that has none."""
        return int(getattr(self.rule, "seed", 0))

    @property
    def padded_axis(self) -> int | None:
        """The axis of which a sample fills the first ``length`` places."""
        return self.axis

    def at(self, step: int) -> RandomRule:
        """The padded rule of that step."""
        return replace(self, rule=self.rule.at(step))

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The rule's mask; `mask` takes the padding out."""
        ids = draws.sample_ids
        own: dict[str, Any] = {"lengths": lengths} if self.rule.padded_axis == self.axis else {}
        mask = self.rule.mask(shape, device=ids.device, sample_ids=ids, epoch=draws.epoch, **own)
        return mask.hidden.expand(len(ids), *shape)

    def mask(
        self,
        data_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Mask:
        """One mask a sample over ``data_shape``; ``lengths`` are needed."""
        if lengths is None:
            raise InvalidArgument(
                f"lengths=None: {self!r} needs lengths=, an integer tensor [N] with one length a sample"
            )
        ids = lengths if sample_ids is None and not self.rule.per_sample else sample_ids
        return super().mask(data_shape, device=device, sample_ids=ids, epoch=epoch, lengths=lengths)
