"""Redundancy reduction: Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) as it trains."""

from dataclasses import dataclass

from torch import Tensor

from viewproof.losses.numbers import Rows, apply_function, centred_columns, constant, exact_rows, inner
from viewproof.losses.pair import PairLoss, check_constants, off_diagonal
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.objectives.guards import BarlowGuard
from viewproof.shapes import Float


@dataclass(frozen=True)
class BarlowTwinsLoss(PairLoss):
    """``sum_i (1 - C_ii)**2 + lambda * sum_(i != j) C_ij**2`` of embeddings ``[N, D]`` of two views.

    ``C`` is the cross-correlation over the batch, ``C_ij = cov(a_i, b_j) / sqrt((var(a_i) + epsilon) * (var(b_j) +
    epsilon))`` with averages over N: equations 1 and 2 of the paper at ``epsilon = 0``, its code at 1e-5, which keeps a
    constant coordinate at ``C = 0`` (a loss of 1 each) where the formula has no value. Fewer than two samples and
    unequal shapes raise `InvalidArgument`. Theorem: ``predictive_view_objective_with_barlow_guard``.

    >>> import torch
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> BarlowTwinsLoss()(z, z).round(decimals=4), BarlowTwinsLoss()(torch.zeros(4, 2), torch.zeros(4, 2))
    (tensor(0.), tensor(2.))
    """

    lambda_: float = 5e-3
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        check_constants(self, lambda_=0.0, epsilon=0.0)

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int = 0) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        n = len(a)
        a, b = a - a.mean(0), b - b.mean(0)
        lengths = [(z.square().sum(0) / n + self.epsilon).sqrt() for z in (a, b)]
        correlation = (a.T @ b / n) / (lengths[0][:, None] * lengths[1])
        loss: Tensor = (1 - correlation.diagonal()).square().sum()
        return loss + self.lambda_ * off_diagonal(correlation).square().sum()

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank.

        Each diagonal correlation is a prediction of 1; what is off the diagonal is a `BarlowGuard`.

        >>> from viewproof.objectives import predictive_view_objective
        >>> predictive_view_objective(BarlowTwinsLoss(epsilon=0.0).contract([[-1], [1]], [[-1], [1]]))
        0.0
        """
        first, second = exact_rows(a), exact_rows(b)
        n, d = len(first), len(first[0])
        like = first[0][0]
        lambda_, epsilon = constant(self.lambda_, like), constant(self.epsilon, like)
        left, right = centred_columns(first), centred_columns(second)
        wide, high = ([apply_function("sqrt", inner(c, c) / n + epsilon) for c in columns] for columns in (left, right))
        correlation = [[inner(left[i], right[j]) / n / (wide[i] * high[j]) for j in range(d)] for i in range(d)]
        squares = [correlation[i][j] * correlation[i][j] for i in range(d) for j in range(d) if i != j]
        return PredictiveViewContract(
            range(d),
            correlation,
            lambda i: 1,
            lambda _, t: t,
            lambda c, i: c[i][i],
            lambda t, p: (t - p) * (t - p),
            BarlowGuard(lambda_, diag=(), off_diag=squares).value,
        )
