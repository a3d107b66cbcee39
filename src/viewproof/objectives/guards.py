"""The finite, exact terms of VICReg and Barlow Twins that penalise collapse.

Bardes et al. 2022 and Zbontar et al. 2021. Barlow Twins' penalties are absolute values here, as in the finite theory;
the paper's are squares.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from viewproof.objectives.sums import widened


def variance_floor_penalty(gamma: Any, v: Any) -> Any:
    """``max(0, gamma - v)``; ``NaN`` stays ``NaN``. Theorem: ``variance_floor_penalty_zero``.

    >>> variance_floor_penalty(1, 3), variance_floor_penalty(3, 1)
    (0, 2)
    """
    return max(widened(gamma) - widened(v), 0)


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
    """The VICReg objective as a contract's regularizer.

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


def diagonal_redundancy_penalty(c: Any) -> Any:
    """``|c - 1|``.

    Theorems: ``diagonal_redundancy_penalty_one``, ``diagonal_redundancy_penalty_zero_positive``.

    >>> diagonal_redundancy_penalty(3)
    2
    """
    return abs(widened(c) - 1)


def off_diagonal_redundancy_penalty(c: Any) -> Any:
    """``|c|``. Theorem: ``off_diagonal_redundancy_penalty_zero``.

    >>> off_diagonal_redundancy_penalty(-3)
    3
    """
    return abs(c)


def redundancy_reduction_objective(lambda_: Any, diag: Iterable[Any], off_diag: Iterable[Any]) -> Any:
    """The diagonal penalties' sum plus ``lambda_`` times the off-diagonal penalties' sum.

    Theorems: ``redundancy_reduction_objective_identity``, ``redundancy_reduction_objective_collapsed_diag_positive``.

    >>> redundancy_reduction_objective(2, diag=[1, 0], off_diag=[3, -1])
    9
    """
    diagonal = sum(diagonal_redundancy_penalty(c) for c in diag)
    return diagonal + lambda_ * sum(off_diagonal_redundancy_penalty(c) for c in off_diag)


@dataclass(frozen=True)
class BarlowGuard:
    """The redundancy objective as a contract's regularizer.

    Theorems: ``predictive_view_objective_with_barlow_guard``, ``barlow_guard_identity_value_zero``,
    ``barlow_guard_collapsed_diag_positive``.

    >>> BarlowGuard(2, diag=(1, 1), off_diag=(0, 0)).value
    0
    """

    lambda_: Any
    diag: Iterable[Any]
    off_diag: Iterable[Any]

    def __post_init__(self) -> None:
        # An iterator would be empty, and the guard 0, the second time.
        object.__setattr__(self, "diag", tuple(self.diag))
        object.__setattr__(self, "off_diag", tuple(self.off_diag))

    @property
    def value(self) -> Any:
        """`redundancy_reduction_objective` of the fields."""
        return redundancy_reduction_objective(self.lambda_, self.diag, self.off_diag)
