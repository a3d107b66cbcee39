"""VICReg (Bardes, Ponce, LeCun 2022, arXiv 2105.04906) as it trains."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from viewproof.losses.numbers import Rows, apply_function, centred_columns, constant, exact_rows, inner
from viewproof.losses.pair import PairLoss, check_constants, check_embeddings, off_diagonal
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.objectives.graph import sq_dist
from viewproof.objectives.guards import VICRegGuard, variance_term, vicreg_objective
from viewproof.shapes import Float


@dataclass(frozen=True)
class VICRegLoss(PairLoss):
    """VICReg's loss ``lambda * s(a, b) + mu * (v(a) + v(b)) + nu * (c(a) + c(b))`` of ``[N, D]``.

    Algorithm 1 of the paper: ``s`` is the mean squared difference over samples and coordinates, ``v`` the mean over
    coordinates of ``max(0, gamma - sqrt(Var + epsilon))``, ``c`` the sum of squared covariances off the diagonal over
    D; variances and covariances divide by ``N - 1``. (Equation 5 of the paper writes ``s`` without the division by D,
    and the authors' code takes half of ``v``; the paper's constants go with the division.) Fewer than two samples and
    unequal shapes raise `InvalidArgument`. Theorem: ``predictive_view_objective_with_vicreg_guard``.

    >>> import torch
    >>> collapsed = torch.zeros(4, 3)
    >>> VICRegLoss()(collapsed, collapsed)
    tensor(49.5000)
    """

    lambda_: float = 25.0
    mu: float = 25.0
    nu: float = 1.0
    gamma: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        # At 0 the square root has no slope where a coordinate is constant: exactly where the term must act.
        check_constants(self, lambda_=0.0, mu=0.0, nu=0.0, gamma=0.0, epsilon=1e-12)

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int = 0) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        loss: Tensor = self.lambda_ * (a - b).square().mean() + self.guard(a, b)
        return loss

    def guard(self, *views: Float[Tensor, "rows dims"]) -> Float[Tensor, ""]:
        """The variance and covariance terms alone, summed over the views: a regularizer for any loss."""
        check_embeddings(*views)
        variance: Any = 0
        covariance: Any = 0
        for z in views:
            c = z - z.mean(0)
            matrix = c.T @ c / (len(z) - 1)
            deviation = (matrix.diagonal() + self.epsilon).sqrt()
            variance = variance + (self.gamma - deviation).clamp(min=0).mean()
            covariance = covariance + off_diagonal(matrix).square().sum() / z.shape[1]
        guard: Tensor = vicreg_objective(self.lambda_, self.mu, self.nu, 0, variance, covariance)
        return guard

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """The same objective over plain numbers, on one rank.

        Each sample's invariance is a prediction of ``b`` from ``a``; the rest is a `VICRegGuard`.

        >>> from viewproof.objectives import predictive_view_objective
        >>> predictive_view_objective(VICRegLoss(mu=0.0).contract([[0, 0], [2, 2]], [[0, 0], [2, 4]]))
        Fraction(45, 1)
        """
        first, second = exact_rows(a), exact_rows(b)
        n, d = len(first), len(first[0])
        like = first[0][0]
        lambda_, mu, nu, gamma, epsilon = (
            constant(c, like) for c in (self.lambda_, self.mu, self.nu, self.gamma, self.epsilon)
        )
        variance: Any = 0
        covariance: Any = 0
        for z in (first, second):
            columns = centred_columns(z)
            matrix = [[inner(u, v) / (n - 1) for v in columns] for u in columns]
            # At 0 the term, and with it the one function that rounds, is left out.
            if mu:
                variance += variance_term(gamma, (apply_function("sqrt", matrix[j][j] + epsilon) for j in range(d))) / d
            covariance += sum(matrix[j][k] * matrix[j][k] for j in range(d) for k in range(d) if j != k) / d
        return PredictiveViewContract(
            range(n),
            first,
            second.__getitem__,
            lambda _, t: t,
            lambda c, i: c[i],
            lambda t, p: lambda_ * (sq_dist(t, p) / (n * d)),
            VICRegGuard(lambda_, mu, nu, 0, variance, covariance).value,
        )
