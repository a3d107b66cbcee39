"""The arithmetic of contracts over plain numbers."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

Rows = Sequence[Sequence[Any]] | Tensor
"""Embeddings of numbers of any kind that has ``+ - * /``, indexed ``[row][coordinate]``."""


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


def apply_function(name: str, value: Any) -> Any:
    """``value.name()`` (``sqrt``, ``exp``, ``log``, ``cos``, ``sin``) of numbers that have it, else `math`'s."""
    method = getattr(value, name, None)
    return getattr(math, name)(value) if method is None else method()
