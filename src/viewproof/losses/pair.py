"""What the losses on two views of one batch share, as they train and over plain numbers."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.losses.ranks import all_rows
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float

Rows = Sequence[Sequence[Any]] | Tensor
"""Embeddings of numbers of any kind that has ``+ - * /``, indexed ``[row][coordinate]``."""


def check_constants(loss: Any, **least: float) -> None:
    """Every named constant of a loss is a finite number of at least ``least``."""
    for name, bound in least.items():
        value = getattr(loss, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not bound <= value < math.inf:
            raise InvalidArgument(f"{name}={value!r} must be a finite number of at least {bound:g}")


def check_embeddings(*views: Tensor) -> None:
    """Every view holds real embeddings ``[N, D]`` of at least one coordinate."""
    for z in views:
        if z.dim() != 2 or z.shape[1] == 0 or z.is_complex():
            raise InvalidArgument(
                f"embeddings of {z.dtype} {tuple(z.shape)} must be real and [N, D] with D at least 1; "
                "flatten them, and split complex numbers"
            )


class PairLoss:
    """Base of the losses on embeddings ``a, b: [N, D]`` of two views; subclasses define `value`.

    ``loss(a, b, step)`` returns a scalar from the rows of all ranks, accumulated in float32 at least, also under
    autocast. Shapes that differ and fewer than ``least_rows`` rows raise `InvalidArgument`.
    """

    least_rows: ClassVar[int] = 2

    def __call__(self, a: Float[Tensor, "..."], b: Float[Tensor, "..."], step: int = 0) -> Float[Tensor, ""]:
        """The loss; ``step`` is the optimizer step, for losses that draw."""
        if a.shape != b.shape or a.dim() != 2:
            raise InvalidArgument(
                f"views with embeddings of shapes {tuple(a.shape)} and {tuple(b.shape)} must both be [N, D] of one "
                "shape; row n of both comes from sample n"
            )
        check_embeddings(a, b)
        with torch.autocast(a.device.type, enabled=False):
            a, b = (all_rows(z.to(torch.promote_types(z.dtype, torch.float32))) for z in (a, b))
            if len(a) < self.least_rows:
                raise InvalidArgument(
                    f"a batch of {len(a)} has no statistics over samples; {type(self).__name__} needs at least "
                    f"{self.least_rows}"
                )
            return self.value(a, b, step)

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        raise NotImplementedError(f"{type(self).__name__} must define value(a, b, step)")

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank."""
        raise NotImplementedError(f"{type(self).__name__} must define contract(a, b, step)")


def centred(z: Float[Tensor, "rows dims"]) -> Float[Tensor, "rows dims"]:
    """The rows less their mean."""
    return z - z.mean(0)


def off_diagonal(square: Float[Tensor, "dims dims"]) -> Float[Tensor, "dims dims"]:
    """The matrix with exact zeros on its diagonal, whatever stood there."""
    return torch.where(torch.eye(len(square), dtype=torch.bool, device=square.device), 0, square)


def exact_rows(z: Rows) -> list[list[Any]]:
    """``z[row][coordinate]`` as lists; whole numbers become fractions, so that no division rounds."""
    return [[Fraction(v) if isinstance(v, int) else v for v in row] for row in z]


def constant(value: float, like: Any) -> Any:
    """``value`` as a number that does not turn an exact ``like`` into a rounded one."""
    return Fraction(value) if isinstance(like, Fraction) else value


def centred_columns(rows: list[list[Any]]) -> list[list[Any]]:
    """Each coordinate's values less their mean.

    >>> centred_columns([[1.0, 2.0], [3.0, 2.0]])
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    means = [(column, sum(column) / len(column)) for column in zip(*rows, strict=True)]
    return [[v - mean for v in column] for column, mean in means]


def inner(u: Sequence[Any], v: Sequence[Any]) -> Any:
    """The sum of products."""
    return sum(a * b for a, b in zip(u, v, strict=True))


def function(name: str, value: Any) -> Any:
    """``value.name()`` of numbers that have it, such as tensors; else `math`'s."""
    method = getattr(value, name, None)
    return getattr(math, name)(value) if method is None else method()
