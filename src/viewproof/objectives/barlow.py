"""Redundancy reduction on a cross-correlation matrix (after Barlow Twins, Zbontar et al. 2021), finite and exact.

The penalties are absolute values, as in the finite theory; the paper's are squares.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


def diagonal_redundancy_penalty(c: Any) -> Any:
    """``|c - 1|``. Theorems: ``diagonal_redundancy_penalty_one``, ``diagonal_redundancy_penalty_zero_positive``.

    >>> diagonal_redundancy_penalty(3)
    2
    """
    return abs(c - 1)


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
    """The redundancy objective as a geometry guard.

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
