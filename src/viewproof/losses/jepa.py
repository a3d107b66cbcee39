"""The loss of I-JEPA (Assran et al. 2023, arXiv 2301.08243) as it trains."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.losses.numbers import constant
from viewproof.losses.pair import check_constants
from viewproof.losses.ranks import share_of_mean
from viewproof.objectives.contracts import PredictiveViewContract, jepa_as_predictive_view_contract
from viewproof.shapes import Float


@dataclass(frozen=True)
class JEPALoss:
    """The mean smooth-L1 distance of predicted and target representations ``[N, ..., D]``.

    ``d**2 / (2 * beta)`` where ``|d| < beta``, else ``|d| - beta / 2``: the authors' code; the paper writes the
    squared distance. No gradient reaches the target unless ``stop_gradient`` is False. With unequal batches on W ranks
    the average over ranks is the mean over all samples. Shapes that differ and an empty target raise `InvalidArgument`.
    Rounded as `viewproof.masked_smooth_l1`: `rounding_bound` with 5. Theorem: ``jepa_is_predictive_view_objective``.

    >>> JEPALoss()(torch.tensor([[0.5, 3.0]]), torch.zeros(1, 2))
    tensor(1.3125)
    """

    beta: float = 1.0
    stop_gradient: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        check_constants(self, beta=1e-12)

    def __call__(self, prediction: Float[Tensor, "..."], target: Float[Tensor, "..."]) -> Float[Tensor, ""]:
        """The loss, accumulated in float32 at least."""
        if prediction.shape != target.shape or prediction.numel() == 0:
            raise InvalidArgument(
                f"prediction of shape {tuple(prediction.shape)} and target of shape {tuple(target.shape)} must have "
                "one shape that holds something; gather the target blocks from the target encoder's tokens"
            )
        wide = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
        target = target.detach() if self.stop_gradient else target
        terms = F.smooth_l1_loss(prediction.to(wide), target.to(wide), beta=self.beta, reduction="sum")
        return share_of_mean(terms, prediction.numel())

    def contract(self, prediction: Sequence[Any] | Tensor, target: Sequence[Any] | Tensor) -> PredictiveViewContract:
        """The same objective over the flat coordinates, exact with exact numbers in; on one rank.

        >>> from viewproof.objectives import predictive_view_objective
        >>> predictive_view_objective(JEPALoss().contract([1, 3], [0, 0]))
        Fraction(3, 2)
        """
        predictions, targets = (
            [Fraction(v) if isinstance(v, int) else v for v in (z.flatten() if isinstance(z, Tensor) else z)]
            for z in (prediction, target)
        )
        beta = constant(self.beta, predictions[0])

        def distance(t: Any, p: Any) -> Any:
            d = abs(p - t)
            return (d * d / (2 * beta) if d < beta else d - beta / 2) / len(predictions)

        return jepa_as_predictive_view_contract(
            range(len(predictions)), predictions, targets.__getitem__, lambda c, i: c[i], distance
        )
