"""Random rules: one mask a sample, from the sample's id; and rules made of another rule."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count
from viewproof.masks.random.draws import Draws
from viewproof.masks.rule import Batch, Rule, check_rule
from viewproof.shapes import Bool, Int


def check_counts(rule: Any, may_be_zero: Sequence[str]) -> None:
    """Every integer field of a dataclass is a count, positive unless it may be zero."""
    for name in [field.name for field in fields(rule) if field.type is int]:
        value = getattr(rule, name)
        number = check_count(name, value, "start from it")
        if number is not value:
            object.__setattr__(rule, name, number)
        if number == 0 and name not in may_be_zero:
            raise InvalidArgument(f"{name}=0 must be at least 1: {type(rule).__name__} would hide nothing")


class RandomRule(Rule):
    """Base of rules that draw one mask a sample.

    Subclass it as a frozen dataclass with a ``seed`` and write `draw`. The mask of a sample is a function of (seed,
    epoch, sample id) and the data's shape: not of global random state, device, batch mates, order, worker or rank.
    Theorem: ``mask_of_one_sample_alone_eq_its_row_in_the_batch``.

    >>> @dataclass(frozen=True)
    ... class Coin(RandomRule):
    ...     seed: int = 0
    ...     def draw(self, shape, draws, lengths=None):
    ...         return draws.words(shape[0]) % 2 == 0
    >>> Coin().mask((5,), sample_ids=torch.tensor([3, 4])).hidden.int()
    tensor([[1, 1, 1, 1, 1],
            [0, 0, 1, 1, 1]], dtype=torch.int32)
    """

    per_sample: ClassVar[bool] = True
    seed: int
    may_be_zero: ClassVar[tuple[str, ...]] = ("seed", "count")

    def __post_init__(self) -> None:
        check_counts(self, self.may_be_zero)

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """Whether each coordinate of each sample is hidden; extents of 1 stand for a whole axis."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(shape, draws, lengths)")

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """A random rule has no one mask for all samples."""
        raise InvalidArgument(
            f"{self!r} draws one mask a sample; call mask(shape, sample_ids=ids), and ~rule to complement"
        )

    def at(self, step: int) -> "RandomRule":
        """The rule itself: its draws follow the epoch, not the step."""
        return self

    def __invert__(self) -> "RandomRule":
        return RandomComplement(self)

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        ids, epoch, lengths = batch
        draws = self._draws(ids, epoch, device, lengths)
        if lengths is not None:
            lengths = self._checked(lengths, shape, draws.sample_ids)
        hidden = self.draw(shape, draws, lengths)
        if lengths is not None:
            hidden = without_padding(hidden, lengths, shape, self.padded_axis or 0)
        mask = Mask(hidden.expand(-1, *shape), per_sample=True, rule=self)
        return mask, mask if length is None else mask.prefix(length)

    def _draws(self, ids: Any, epoch: int, device: torch.device | str | None, lengths: Any = None) -> Draws:
        if ids is None:
            raise InvalidArgument(
                f"sample_ids=None: {self!r} draws one mask a sample; pass sample_ids=ids, an integer tensor [N]"
            )
        return Draws(self.seed, epoch, ids.to(device) if device is not None and isinstance(ids, Tensor) else ids)

    def _checked(self, lengths: Any, shape: tuple[int, ...], ids: Tensor) -> Tensor:
        """Lengths that fit the samples, or an `InvalidArgument`."""
        axis = self.padded_axis or 0
        if not isinstance(lengths, Tensor) or lengths.shape != ids.shape or lengths.is_floating_point():
            raise InvalidArgument(f"lengths must be an integer tensor of shape {tuple(ids.shape)}, one length a sample")
        if axis >= len(shape):
            raise InvalidArgument(f"axis={axis} of {self!r} is not an axis of data of shape {shape}")
        checked: Tensor = lengths.to(ids.device, torch.int64)
        outside = (checked < 0) | (checked > shape[axis])
        if bool(outside.any()):
            n = int(outside.nonzero()[0])
            raise InvalidArgument(
                f"lengths[{n}]={int(checked[n])} must be from 0 to {shape[axis]}, the extent of the axis"
            )
        return checked


def without_padding(
    hidden: Bool[Tensor, "batch *grid"], lengths: Int[Tensor, " batch"], shape: Sequence[int], axis: int
) -> Bool[Tensor, "batch *shape"]:
    """What is hidden before each sample's length along a data axis.

    Theorem: ``padding_is_never_hidden``.
    """
    return hidden & inside(lengths, shape, axis)


def inside(lengths: Tensor, shape: Sequence[int], axis: int) -> Bool[Tensor, "batch *shape"]:
    """Whether a coordinate lies before its sample's length; extents of 1 on the other axes."""
    before = torch.arange(shape[axis], device=lengths.device) < lengths[:, None]
    return before.reshape(
        lengths.shape[0], *(extent if i == axis % len(shape) else 1 for i, extent in enumerate(shape))
    )


@dataclass(frozen=True)
class RandomComplement(RandomRule):
    """Hides exactly what a random rule shows, padding excepted; written ``~rule``.

    >>> from viewproof.masks import RandomPatchMask
    >>> (~RandomPatchMask(1, 1, count=5)).mask((1, 4, 4), sample_ids=torch.arange(3)).row(0).count
    11
    """

    rule: RandomRule

    def __post_init__(self) -> None:
        check_rule("rule", self.rule)

    @property
    def seed(self) -> int:  # type: ignore[override]
        """The rule's."""
        return self.rule.seed

    @property
    def padded_axis(self) -> int | None:
        """The rule's."""
        return self.rule.padded_axis

    def at(self, step: int) -> RandomRule:
        """The complement of the rule of that step."""
        return replace(self, rule=self.rule.at(step))

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The negation of the rule."""
        return ~self.rule.draw(shape, draws, lengths)

    def __invert__(self) -> RandomRule:
        return self.rule

    def __repr__(self) -> str:
        return f"~{self.rule!r}"


@dataclass(frozen=True)
class MaskOfSample(Rule):
    """The fixed rule with the mask that a random rule gives one sample, for pictures and evaluation.

    >>> from viewproof.masks import RandomPatchMask
    >>> MaskOfSample(RandomPatchMask(1, 1, count=2), sample_id=7).mask((1, 2, 3)).selected_idxs
    [2, 3]
    """

    rule: Rule
    sample_id: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        check_rule("rule", self.rule)

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """The sample's row; a rule that takes lengths sees no padding."""
        shape, axis = tuple(grid.shape[axis] for axis, grid in enumerate(grids)), self.rule.padded_axis
        ids = torch.tensor([self.sample_id], device=grids[0].device)
        lengths = None if axis is None else torch.full_like(ids, shape[axis])
        mask = self.rule.mask(shape, sample_ids=ids, epoch=self.epoch, lengths=lengths)
        return (mask.row(0) if mask.per_sample else mask).hidden


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
        check_rule("rule", self.rule)

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
        ids, own = draws.sample_ids, lengths if self.rule.padded_axis == self.axis else None
        mask = self.rule.mask(shape, device=ids.device, sample_ids=ids, epoch=draws.epoch, lengths=own)
        return mask.hidden.expand(len(ids), *shape)

    def _draws(self, ids: Any, epoch: int, device: torch.device | str | None, lengths: Any = None) -> Draws:
        if lengths is None:
            raise InvalidArgument(
                f"lengths=None: {self!r} needs lengths=, an integer tensor [N] with one length a sample"
            )
        return super()._draws(lengths if ids is None and not self.rule.per_sample else ids, epoch, device)


def one_for_all(rule: Rule) -> Rule:
    """The rule, or if it draws one mask a sample, the fixed rule with the mask of sample 0."""
    return MaskOfSample(rule) if rule.per_sample else rule
