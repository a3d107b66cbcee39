"""What the losses on two views of one batch share as they train."""

import math
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.losses.numbers import Rows
from viewproof.losses.ranks import all_rows
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float


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
    autocast. Shapes that differ and fewer than 2 rows raise `InvalidArgument`.
    """

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
            if len(a) < 2:
                raise InvalidArgument(
                    f"a batch of {len(a)} has no statistics over samples; {type(self).__name__} needs at least 2"
                )
            return self.value(a, b, step)

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        raise NotImplementedError(f"{type(self).__name__} must define value(a, b, step)")

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank."""
        raise NotImplementedError(f"{type(self).__name__} must define contract(a, b, step)")


def off_diagonal(square: Float[Tensor, "dims dims"]) -> Float[Tensor, "dims dims"]:
    """The matrix with exact zeros on its diagonal, whatever stood there."""
    return torch.where(torch.eye(len(square), dtype=torch.bool, device=square.device), 0, square)
