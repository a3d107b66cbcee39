"""Variance, invariance and covariance terms (VICReg, Bardes et al. 2022), finite and exact."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def variance_floor_penalty(gamma: Any, v: Any) -> Any:
    """``max(0, gamma - v)``; ``NaN`` stays ``NaN``. Theorem: ``variance_floor_penalty_zero``.

    >>> variance_floor_penalty(1, 3), variance_floor_penalty(3, 1)
    (0, 2)
    """
    return max(gamma - v, 0)


def variance_term(gamma: Any, vs: Iterable[Any]) -> Any:
    """The sum of `variance_floor_penalty` over ``vs``.

    Theorems: ``variance_term_nil``, ``variance_term_cons``, ``variance_term_append``,
    ``variance_term_replicate_zero``, ``variance_term_collapsed_positive``.

    >>> variance_term(2, [0, 1, 5])
    3
    """
    return sum(variance_floor_penalty(gamma, v) for v in vs)


def vicreg_objective(lambda_: Any, mu: Any, nu: Any, invariance: Any, variance: Any, covariance: Any) -> Any:
    """``lambda_ * invariance + mu * variance + nu * covariance``.

    Theorems: ``vicreg_objective_zero``, ``vicreg_objective_variance_positive``.

    >>> vicreg_objective(25, 25, 1, invariance=2, variance=1, covariance=3)
    78
    """
    return lambda_ * invariance + mu * variance + nu * covariance


@dataclass(frozen=True)
class VICRegGuard:
    """The VICReg objective as a geometry guard.

    Theorems: ``predictive_view_objective_with_vicreg_guard``, ``vicreg_guard_variance_only_positive``.

    >>> VICRegGuard(25, 25, 1, invariance=0, variance=1, covariance=0).value
    25
    """

    lambda_: Any
    mu: Any
    nu: Any
    invariance: Any
    variance: Any
    covariance: Any

    @property
    def value(self) -> Any:
        """`vicreg_objective` of the fields."""
        return vicreg_objective(self.lambda_, self.mu, self.nu, self.invariance, self.variance, self.covariance)
