"""LeJEPA's loss of many views as its authors publish it (Balestriero, LeCun 2025, arXiv 2511.08544)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.losses.numbers import Rows, constant, exact_rows
from viewproof.losses.pair import check_embeddings
from viewproof.losses.ranks import all_rows
from viewproof.losses.sigreg import SIGRegLoss
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float


@dataclass(frozen=True)
class LeJEPALoss:
    """``(1 - lambda) * prediction + lambda * T`` of embeddings ``[N, D]`` of V views, the global ones first.

    The prediction term is the mean squared distance, over views, samples and coordinates, of every view to the mean of
    its sample's global views; ``T`` is SIGReg's statistic, averaged over views. Algorithm 2 of the paper, with its
    1,024 directions, 17 knots from -5 to 5 and lambda 0.05. Statistics are over the rows of all ranks, in float32 at
    least. Shapes that differ, fewer than two views or samples and no global view raise `InvalidArgument`. Theorems:
    ``predictive_loss_with_geometry_guard``, ``lejepa_views_predict_the_mean_of_the_global_views``.

    >>> z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(LeJEPALoss()([z, z, z]) < 0.1), bool(LeJEPALoss()([0 * z, 0 * z, 0 * z]) > 10)
    (True, True)
    """

    statistic: SIGRegLoss = field(default_factory=lambda: SIGRegLoss(slices=1024))
    global_views: int = 2

    def __call__(self, views: Sequence[Tensor], step: int = 0) -> Float[Tensor, ""]:
        """The loss; ``step`` is the optimizer step, which draws the directions."""
        check_embeddings(*views)
        if len(views) < 2 or len({tuple(z.shape) for z in views}) > 1 or not 0 < self.global_views <= len(views):
            raise InvalidArgument(
                f"{len(views)} views with embeddings of shapes {sorted({tuple(z.shape) for z in views})} and "
                f"global_views={self.global_views} must be at least 2 views of one shape [N, D], 1 or more of them "
                "global; row n of all comes from sample n"
            )
        with torch.autocast(views[0].device.type, enabled=False):
            rows = [all_rows(z.to(torch.promote_types(z.dtype, torch.float32))) for z in views]
            if len(rows[0]) < 2:
                raise InvalidArgument(f"a batch of {len(rows[0])} has no statistics over samples; pass at least 2")
            share, prediction = self.statistic.lambda_, self.prediction_term(torch.stack(rows))
            loss: Tensor = (1 - share) * prediction + share * self.statistic.guard(*rows, step=step)
            return loss

    def prediction_term(self, views: Float[Tensor, "views batch dims"]) -> Float[Tensor, ""]:
        """The mean squared distance of every view to the mean of its sample's global views, which come first."""
        return (views - views[: self.global_views].mean(0)).square().mean()

    def contract(self, views: Sequence[Rows], step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank.

        The indices are (view, sample); each view predicts the mean of its sample's global views, the statistic is the
        guard.

        >>> from viewproof.objectives import predictive_loss
        >>> loss = LeJEPALoss(SIGRegLoss(lambda_=0.5, slices=1))
        >>> predictive_loss(loss.contract([[[0], [1]], [[2], [1]], [[1], [4]]]))
        Fraction(11, 12)
        """
        rows = [exact_rows(z) for z in views]
        n, d, like = len(rows[0]), len(rows[0][0]), rows[0][0][0]
        share, rest = (constant(c, like) for c in (self.statistic.lambda_, 1 - self.statistic.lambda_))
        large = rows[: self.global_views]
        centres = [[sum(z[i][j] for z in large) / len(large) for j in range(d)] for i in range(n)]

        def distance(target: list[Any], prediction: list[Any]) -> Any:
            squares = sum((p - t) * (p - t) for t, p in zip(target, prediction, strict=True))
            return rest * (squares / (len(rows) * n * d))

        return PredictiveViewContract(
            [(v, i) for v in range(len(rows)) for i in range(n)],
            rows,
            lambda place: centres[place[1]],
            lambda _, centre: centre,
            lambda context, place: context[place[0]][place[1]],
            distance,
            share * self.statistic.exact_guard(*rows, step=step),
        )
