"""A finite Boolean mask over a data shape. ``True`` = selected = hidden from the encoder."""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.shapes import LARGEST, Bool, Shaped, check_tensor
from viewproof.torch_internals import under_transform

_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_count(name: str, value: Any, zero: str = "hide nothing") -> Any:
    """Return ``value`` if it is a non-negative integer below 2**63, else raise `InvalidArgument`.

    A ``torch.SymInt`` stays symbolic; a ``bool`` is not an integer here. ``zero`` says what 0 does.
    """
    if isinstance(value, torch.SymInt):
        return value
    remedy = f"pass {name}=0 to {zero}"
    if isinstance(value, float):
        remedy = f"round {name} or {remedy}"
    try:
        # A tuple: torch 2.9 compiles no isinstance of a union. NumPy 1 takes its own bool for an index.
        number = -1 if isinstance(value, (bool, np.bool_, Tensor)) else operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < 2**63:
        raise InvalidArgument(f"{name}={value!r} must be a non-negative integer below 2**63; {remedy}")
    return number


def check_shape(name: str, shape: Sequence[Any]) -> tuple[Any, ...]:
    """Return ``shape`` as a tuple of non-negative integers, else raise `InvalidArgument`."""
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise InvalidArgument(f"{name}={shape!r} must be a sequence of axis extents, such as (3, 32, 32)")
    return tuple(check_count(f"{name}[{axis}]", extent, "have an empty axis") for axis, extent in enumerate(shape))


def check_prefix(name: str, length: Any, size: Any) -> Any:
    """Return ``length`` if it is an integer from 0 to ``size``, else raise `InvalidArgument`."""
    number = check_count(name, length, "predict nothing")
    if number > size:
        raise InvalidArgument(f"{name}={number} is larger than the flattened size {size}; pass at most {size}")
    return number


def may_keep_tensors() -> bool:
    """Whether a tensor made now may serve later calls: it is neither symbolic, fake nor wrapped."""
    if torch.compiler.is_compiling() or under_transform():
        return False
    return type(torch.empty(0)) is Tensor


@dataclass(frozen=True, eq=False)
class Mask:
    """Which coordinates are hidden: over the data shape, or one mask a sample (``per_sample=True``).

    ``rule`` is what made the mask; error messages name it. The mask does not own ``hidden``: do not
    write to it. Theorems: ``all_mask_selected``, ``empty_mask_not_selected``, ``complement_selected_iff``,
    ``mask_idempotent``, ``mask_then_complement_partition``.

    >>> mask = Mask(torch.tensor([True, False, False, True]))
    >>> mask.selected_idxs, mask.count, (~mask).selected_idxs, mask.selected(1)
    ([0, 3], 2, [1, 2], False)
    >>> mask.apply(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    tensor([[0., 2., 3., 0.]])
    """

    hidden: Bool[Tensor, "*shape"]
    per_sample: bool = False
    rule: object = None

    def __post_init__(self) -> None:
        if not isinstance(self.hidden, Tensor) or self.hidden.dtype != torch.bool:
            kind = self.hidden.dtype if isinstance(self.hidden, Tensor) else type(self.hidden).__name__
            raise InvalidArgument(f"hidden of type {kind} must be a bool tensor, True = hidden; compare first")
        if self.per_sample and self.hidden.dim() == 0:
            raise InvalidArgument("hidden of shape () has no batch axis; pass per_sample=False")

    @classmethod
    def all(cls, shape: Sequence[int], device: torch.device | str | None = None) -> "Mask":
        """Every coordinate is selected.

        >>> Mask.all((2, 3)).count
        6
        """
        extents = check_shape("shape", shape)
        return cls(torch.ones((), dtype=torch.bool, device=device).expand(extents), rule="Mask.all")

    @classmethod
    def empty(cls, shape: Sequence[int], device: torch.device | str | None = None) -> "Mask":
        """No coordinate is selected.

        >>> Mask.empty((2, 3)).count
        0
        """
        extents = check_shape("shape", shape)
        return cls(torch.zeros((), dtype=torch.bool, device=device).expand(extents), rule="Mask.empty")

    def __invert__(self) -> "Mask":
        return Mask(~self.hidden, self.per_sample, f"~{self.rule!r}")

    @property
    def data_shape(self) -> torch.Size:
        """The shape of one sample, without the batch axis."""
        return self.hidden.shape[1:] if self.per_sample else self.hidden.shape

    @cached_property
    def count(self) -> int:
        """How many coordinates are selected, over all rows if there is one mask a sample."""
        # An axis along which the mask is broadcast is one and the same memory, and counted once.
        same = [extent for extent, stride in zip(self.hidden.shape, self.hidden.stride(), strict=True) if not stride]
        once = self.hidden[tuple(slice(None if stride else 1) for stride in self.hidden.stride())]
        return int(once.count_nonzero()) * math.prod(same)

    @property
    def selected_idxs(self) -> list[int]:
        """The selected indices of the flattened mask, ascending; of a per-sample mask take `row` first."""
        if self.per_sample:
            raise InvalidArgument("selected_idxs of a per-sample mask has no single list; take mask.row(n) first")
        return list(self._idxs)

    @cached_property
    def _idxs(self) -> list[int]:
        if self.count > LARGEST:
            raise InvalidArgument(
                f"a mask that selects {self.count} coordinates is too large for a list; use mask.hidden"
            )
        return [*self.hidden.reshape(-1).nonzero().reshape(-1).tolist()]

    def selected(self, coordinate: int | Sequence[int]) -> bool:
        """Whether one coordinate, batch index first if there is one mask a sample, is selected."""
        place = check_shape("coordinate", coordinate if isinstance(coordinate, Sequence) else [coordinate])
        inside = all(index < extent for index, extent in zip(place, self.hidden.shape, strict=False))
        if len(place) != self.hidden.dim() or not inside:
            raise InvalidArgument(f"coordinate={place} is not inside a mask of shape {tuple(self.hidden.shape)}")
        return bool(self.hidden[place])

    def row(self, n: int) -> "Mask":
        """The mask of sample ``n``; a mask over the data shape is its own row."""
        if not self.per_sample:
            return self
        if check_count("n", n, "take the first row") >= self.hidden.shape[0]:
            raise InvalidArgument(f"n={n} is not a row of a mask of {self.hidden.shape[0]} rows; rows count from 0")
        return Mask(self.hidden[n], rule=self.rule)

    def prefix(self, length: int) -> "Mask":
        """The mask cut to the first ``length`` coordinates of each flattened row."""
        size = math.prod(self.data_shape)
        flat = self.hidden.reshape(*self.hidden.shape[: int(self.per_sample)], size)
        return Mask(flat[..., : check_prefix("length", length, size)], self.per_sample, self.rule)

    def fits(self, x: Tensor) -> bool:
        """Whether ``x`` is a batch over the data shape, with one row for each of a per-sample mask."""
        check_tensor("x", x)
        expected = self.hidden.shape if self.per_sample else (*x.shape[:1], *self.hidden.shape)
        return x.dim() > 0 and tuple(x.shape) == tuple(expected)

    def apply(
        self, x: Shaped[Tensor, "batch *shape"], out: Shaped[Tensor, "batch *shape"] | None = None
    ) -> Shaped[Tensor, "batch *shape"]:
        """``x`` with hidden coordinates exactly ``+0.0`` and visible ones the very same bits.

        A selection, never a product: ``NaN``, infinities and ``-0.0`` under the mask become ``+0.0``. ``out``
        is a ready buffer of x's shape and dtype. Theorems: ``block_mask_apply_scalar_at``,
        ``block_mask_hidden_scalar_eq_zero``, ``block_mask_visible_scalar_eq_input``,
        ``masking_commutes_with_batch_selection``, ``multiplicative_mask_is_not_a_mask``.
        """
        if not self.fits(x):
            raise InvalidArgument(
                f"x of shape {tuple(x.shape)} does not fit a mask over {tuple(self.data_shape)}; "
                "pass a batch of that shape, batch axis first"
            )
        if x.device != self.hidden.device:
            raise InvalidArgument(
                f"x is on {x.device}, the mask on {self.hidden.device}; make the mask there: device={x.device}"
            )
        if out is None:
            return torch.where(self.hidden, x.new_zeros(()), x)
        if out.shape != x.shape or out.dtype != x.dtype or out.device != x.device:
            raise InvalidArgument(
                f"out is {out.dtype} {tuple(out.shape)} on {out.device}, x is {x.dtype} {tuple(x.shape)} "
                f"on {x.device}; pass out=torch.empty_like(x)"
            )
        if x.requires_grad and torch.is_grad_enabled():
            raise InvalidArgument("out takes no gradient; call apply(x) without it, or under torch.no_grad()")
        word = _WORDS.get(x.element_size())
        if word is None:
            return torch.where(self.hidden, x.new_zeros(()), x, out=out)
        # One bitwise "and" with ones where visible and zeros where hidden selects in the time of a copy.
        ones: dict[torch.dtype, Tensor] = self.__dict__.setdefault("_ones", {})
        if word not in ones:
            ones[word] = self.hidden.to(word) - 1
        torch.bitwise_and(x.detach().view(word), ones[word], out=out.view(word))
        return out
