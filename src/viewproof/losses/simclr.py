"""SimCLR's contrastive loss (Chen et al. 2020, arXiv 2002.05709) as it trains."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.losses.numbers import Rows, apply_function, constant, exact_rows, inner
from viewproof.losses.pair import PairLoss, check_constants
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float


@dataclass(frozen=True)
class InfoNCELoss(PairLoss):
    """SimCLR's NT-Xent: the mean over all 2N views of the cross-entropy of finding the other view of its sample.

    Each view is compared with the other ``2N - 1`` of the batch of all ranks: ``-log(exp(s_ij / t) / sum_(k != i)
    exp(s_ik / t))``. Here j is the other view of i's sample, ``t`` the temperature and ``s`` the cosine, ``a.b /
    sqrt((|a|**2 + epsilon) * (|b|**2 + epsilon))``: equation 1 of the paper at ``epsilon = 0``, and 0.5 is its
    temperature for CIFAR-10. Fewer than two samples and unequal shapes raise `InvalidArgument`. Theorems:
    ``predictive_view_objective_zero_geometry``, ``info_nce_positive_is_the_other_view_of_the_sample``.

    >>> import torch
    >>> z = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> InfoNCELoss()(z, z), InfoNCELoss()(torch.zeros(2, 3), torch.zeros(2, 3))  # the last: log(2N - 1)
    (tensor(0.2395), tensor(1.0986))
    """

    temperature: float = 0.5
    epsilon: float = 1e-12

    def __post_init__(self) -> None:
        check_constants(self, temperature=1e-6, epsilon=0.0)

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int = 0) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        z, n = torch.cat([a, b]), a.shape[0]
        z = z / (z.square().sum(1, keepdim=True) + self.epsilon).sqrt()
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        similarity = (z @ z.T / self.temperature).masked_fill(itself, -torch.inf)
        return F.cross_entropy(similarity, torch.arange(2 * n, device=z.device).roll(n))

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank.

        The indices are the views, the first N those of ``a``; each predicts its similarities to all others, and the
        target is the place of the other view of its sample.

        >>> from viewproof.objectives import predictive_view_objective
        >>> value = predictive_view_objective(InfoNCELoss().contract([[1, 0], [0, 1]], [[1, 0], [0, 1]]))
        >>> round(value, 4)
        0.2395
        """
        views = [*exact_rows(a), *exact_rows(b)]
        count, like = len(views), views[0][0]
        temperature, epsilon = constant(self.temperature, like), constant(self.epsilon, like)
        lengths = [apply_function("sqrt", inner(view, view) + epsilon) for view in views]
        unit = [[v / length for v in view] for view, length in zip(views, lengths, strict=True)]

        def similarities(context: list[list[Any]], i: int) -> dict[int, Any]:
            return {k: inner(context[i], context[k]) / temperature for k in range(count) if k != i}

        def cross_entropy(positive: int, similarity: dict[int, Any]) -> Any:
            total = sum(apply_function("exp", s) for s in similarity.values())
            return (apply_function("log", total) - similarity[positive]) / count

        return PredictiveViewContract(
            range(count),
            unit,
            lambda i: (i + count // 2) % count,
            lambda _, positive: positive,
            similarities,
            cross_entropy,
        )
