"""A rule makes masks: one method says which coordinates are hidden, the rest follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_prefix, check_shape, may_keep_tensors
from viewproof.masks.sample import Sample
from viewproof.shapes import LARGEST, Int, Shaped, check_tensor

Batch = tuple[Any, int, Any]
"""What only rules that draw need: sample ids, epoch and lengths."""


class Rule:
    """Base of all rules. For a fixed one subclass it as a frozen dataclass and write `hidden`.

    Every rule is called alike: ``rule.at(step).mask(shape, sample_ids=ids, epoch=epoch)`` and ``.sample(x, ...)`` with
    the same arguments. A rule that is not ``per_sample`` has one mask for all samples and ignores ids and epoch.

    >>> @dataclass(frozen=True)
    ... class Diagonal(Rule):
    ...     width: int
    ...     def hidden(self, row, col):
    ...         return (row - col).abs() < self.width
    >>> Diagonal(1).mask((2, 3)).hidden
    tensor([[ True, False, False],
            [False,  True, False]])
    """

    per_sample: ClassVar[bool] = False
    """Whether masks are drawn one a sample, from ``sample_ids`` and ``epoch`` (see `RandomRule`)."""
    scores_all_hidden: ClassVar[bool] = True
    """Whether a sample's loss asks for all that its view hides; I-JEPA's context is cut so that it does not."""

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """Whether each coordinate is hidden.

        ``grids[a]`` counts axis ``a`` and has extent 1 on the others. Return a bool tensor that broadcasts to the data
        shape, or one bool for all of it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define hidden(*grids)")

    def at(self, step: int) -> "Rule":
        """The rule of a training step; a fixed rule is the same at every step."""
        return self

    @property
    def padded_axis(self) -> int | None:
        """The data axis that a rule's ``lengths`` cut; None for a rule whose `mask` takes none."""
        return None

    def __invert__(self) -> "Rule":
        return Complement(self)

    def mask(
        self,
        data_shape: Sequence[int],
        *,
        device: torch.device | str | None = None,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Mask:
        """The mask over one sample's shape, or of a rule that draws (`RandomRule`) one mask a sample.

        A fixed rule builds it once per (rule, shape, device), shares it after that, and ignores ``sample_ids`` and
        ``epoch``. A rule that draws gives one mask a sample: ``device`` defaults to that of ``sample_ids``, and missing
        ids raise `InvalidArgument`. With ``lengths`` coordinates from a sample's length on are padding: never hidden.
        Lengths for a rule that takes none (see `viewproof.PaddedMask`) raise `InvalidArgument`.
        """
        batch = self._batch(sample_ids, epoch, lengths)
        return self._masks(check_shape("data_shape", data_shape), None, device, batch)[0]

    def sample(
        self,
        x: Shaped[Tensor, "batch *source"],
        recon_dim: int | None = None,
        *,
        sample_ids: Int[Tensor, " batch"] | None = None,
        epoch: int = 0,
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> Sample:
        """The sample of a batch ``x: [N, *source]``: its masked view and its target.

        The target is the first ``recon_dim`` entries of each flattened original. ``recon_dim`` defaults to the whole
        flattened size; larger raises `InvalidArgument`. For the other arguments see `mask`.
        """
        check_tensor("x", x)
        if x.dim() == 0:
            raise InvalidArgument("x of shape () has no batch axis; pass [N, *source]")
        batch = self._batch(sample_ids, epoch, lengths)
        shape = tuple(x.shape[1:])
        size = math.prod(shape)
        length = check_prefix("recon_dim", size if recon_dim is None else recon_dim, size)
        view, target = self._masks(shape, length, x.device, batch)
        return Sample(view.apply(x), x.reshape(x.shape[0], size)[:, :length], target, view)

    def _batch(self, sample_ids: Any, epoch: int, lengths: Any) -> Batch:
        if lengths is not None and self.padded_axis is None:
            raise InvalidArgument(f"lengths: {self!r} has no padded axis; wrap it: PaddedMask(rule, axis)")
        return sample_ids, epoch, lengths

    def _masks(self, shape: tuple[int, ...], length: int | None, device: Any, batch: Batch) -> tuple[Mask, Mask]:
        """The mask of the view, and that of a loss over the first ``length`` flattened coordinates."""
        if not may_keep_tensors():
            return _build(self, shape, length, device)
        if max(shape, default=0) > LARGEST or math.prod(shape) > LARGEST * 16:
            raise InvalidArgument(f"data_shape={shape!r} must have extents of at most {LARGEST}, {LARGEST * 16} in all")
        # Equal rules share their mask, so that a rule whose fields can change would get an outdated one.
        parameters = vars(type(self)).get("__dataclass_params__")
        try:
            hash(self)
        except TypeError:
            parameters = None
        if parameters is None or not parameters.frozen:
            raise InvalidArgument(
                f"rule {self!r} cannot be kept for the next step; make {type(self).__name__} a frozen dataclass "
                "with hashable fields"
            )
        return _built(self, shape, length, torch.device(device or torch.get_default_device()))


def check_rule(name: str, rule: object) -> None:
    """Refuse what is not a rule."""
    if not isinstance(rule, Rule):
        raise InvalidArgument(f"{name}={rule!r} must be a rule, for instance VectorMask(2, 0)")


@dataclass(frozen=True)
class Complement(Rule):
    """Hides exactly what ``rule`` shows; also written ``~rule``.

    >>> from viewproof.masks import PatchMask
    >>> rule = ~PatchMask(patch_h=2, patch_w=2, period=4, offset=1)
    >>> rule.mask((3, 8, 8)).count, 3 * 8 * 8 * 3 // 4
    (144, 144)
    """

    rule: Rule

    def __post_init__(self) -> None:
        check_rule("rule", self.rule)

    def hidden(self, *grids: Int[Tensor, "..."]) -> Tensor | bool:
        """The negation of the rule."""
        hidden = self.rule.hidden(*grids)
        return ~hidden if isinstance(hidden, Tensor) else not hidden

    def at(self, step: int) -> Rule:
        """The complement of the rule of that step."""
        return Complement(self.rule.at(step))

    def __repr__(self) -> str:
        return f"~{self.rule!r}"


def _build(rule: Rule, shape: tuple[int, ...], length: int | None, device: Any) -> tuple[Mask, Mask]:
    """The mask over ``shape``, and the same mask over the first ``length`` flattened coordinates."""
    grids = [
        torch.arange(extent, device=device).reshape([extent if i == axis else 1 for i in range(len(shape))])
        for axis, extent in enumerate(shape)
    ]
    hidden = torch.as_tensor(rule.hidden(*grids), device=device)
    try:
        view = Mask(hidden.expand(shape), rule=rule)
    except RuntimeError as error:
        raise InvalidArgument(f"{rule!r} gave shape {tuple(hidden.shape)}, which does not fit {shape}") from error
    return view, view if length is None else view.prefix(length)


@lru_cache(maxsize=128)
def _built(rule: Rule, shape: tuple[int, ...], length: int | None, device: torch.device) -> tuple[Mask, Mask]:
    # A tensor made in inference mode could not be saved for a later step's backward pass.
    with torch.inference_mode(False):
        return _build(rule, shape, length, device)
