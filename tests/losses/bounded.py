"""Numbers that carry a bound on what rounding can do to them in any order of evaluation.

``Bounded(value, size, roundings)`` stands for every computed c with ``|c - value| <= g(roundings) * size``, where
``g(m) = m * u / (1 - m * u)`` (Higham 2002, chapter 3) and ``size`` is the expression with every term taken as its
absolute value, at least ``|value|``. A product adds the roundings of its factors and one, a sum takes the larger and
one: a sum of n terms thereby has n - 1 more than its worst term, which bounds every order and every grouping. An
objective that is generic over the number, evaluated on these, yields its exact value and what the running program may
differ by.

Assumed of the running program: no overflow, no underflow that matters, and square roots, cosines and sines within two
units in the last place of the exact function of the computed argument. A comparison that rounding could turn is
refused.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

UNIT = Fraction(torch.finfo(torch.float32).eps) / 2
PLACES = Fraction(1, 10**30)


class Bounded:
    def __init__(self, value: Fraction, size: Fraction, roundings: int) -> None:
        self.value, self.size, self.roundings = value, size, roundings

    @classmethod
    def of(cls, number: Any) -> "Bounded":
        """A constant: exact if float32 holds it, else rounded once."""
        if isinstance(number, Bounded):
            return number
        exact = Fraction(number)
        held = Fraction(torch.tensor(float(number), dtype=torch.float32).item()) == exact
        return cls(exact, abs(exact), 0 if held else 1)

    @classmethod
    def within(cls, value: Fraction, error: Fraction) -> "Bounded":
        """A value with an absolute error, as a size and the roundings that allow for it; at most a thousand of them."""
        size = max(abs(value) + error, error / (1000 * UNIT))
        return cls(value, size, math.ceil(error / (UNIT * size)) if size else 0)

    @property
    def error(self) -> Fraction:
        m = self.roundings * UNIT
        return m / (1 - m) * self.size

    def __add__(self, other: Any) -> "Bounded":
        other = Bounded.of(other)
        if other.size == 0 or self.size == 0:
            return self if other.size == 0 else other
        roundings = max(self.roundings, other.roundings) + 1
        return Bounded(self.value + other.value, self.size + other.size, roundings)

    def __neg__(self) -> "Bounded":
        return Bounded(-self.value, self.size, self.roundings)

    def __sub__(self, other: Any) -> "Bounded":
        return self + -Bounded.of(other)

    def __mul__(self, other: Any) -> "Bounded":
        other = Bounded.of(other)
        return Bounded(self.value * other.value, self.size * other.size, self.roundings + other.roundings + 1)

    def reciprocal(self) -> "Bounded":
        least = abs(self.value) - self.error
        assert least > 0, "a divisor that rounding could make 0"
        if self.roundings == 0:
            return Bounded(1 / self.value, abs(1 / self.value), 0)
        return Bounded.within(1 / self.value, self.error / (abs(self.value) * least))

    def __truediv__(self, other: Any) -> "Bounded":
        return self * Bounded.of(other).reciprocal()

    def __radd__(self, other: Any) -> "Bounded":
        return self + other

    def __rsub__(self, other: Any) -> "Bounded":
        return Bounded.of(other) - self

    def __rmul__(self, other: Any) -> "Bounded":
        return self * other

    def __abs__(self) -> "Bounded":
        return -self if self.value < 0 else self

    def __pow__(self, power: int) -> "Bounded":
        assert power == 2
        return self * self

    def __lt__(self, other: Any) -> bool:
        other = Bounded.of(other)
        assert abs(self.value - other.value) > self.error + other.error, "a comparison that rounding could turn"
        return self.value < other.value

    def __gt__(self, other: Any) -> bool:
        return Bounded.of(other) < self

    def sqrt(self) -> "Bounded":
        """Its slope is at most ``1 / root`` from the exact argument to any other that is not negative."""
        with localcontext() as context:
            context.prec = 60
            root = Fraction((Decimal(self.value.numerator) / Decimal(self.value.denominator)).sqrt())
        error = self.error / root
        return Bounded.within(root, error + 4 * UNIT * (root + error) + PLACES)

    def cos(self) -> "Bounded":
        return self._turned(math.cos)

    def sin(self) -> "Bounded":
        return self._turned(math.sin)

    def exp(self) -> "Bounded":
        """Of an argument that may be off by e the relative error is at most ``exp(e) - 1``, below ``2 * e`` here."""
        assert self.error < Fraction(1, 2)
        value = Fraction(math.exp(float(self.value)))
        slack = Fraction(2) ** -50 * (1 + abs(self.value))
        # Programs subtract the largest argument first: that difference rounds by at most the sizes of both.
        return Bounded.within(value, value * (2 * self.error + 8 * UNIT * (1 + self.size) + slack))

    def log(self) -> "Bounded":
        """Its slope is at most ``1 / least`` between the exact argument and any that rounding makes of it."""
        least = self.value - self.error
        assert least > 0, "a logarithm of what rounding could make 0"
        value = Fraction(math.log(float(self.value)))
        slack = Fraction(2) ** -50 * (1 + abs(value))
        return Bounded.within(value, self.error / least + 8 * UNIT * (1 + abs(value)) + slack)

    def _turned(self, function: Any) -> "Bounded":
        # float64 is off by its argument's rounding and its own: far below what float32 may be.
        slack = Fraction(2) ** -50 * (1 + abs(self.value))
        return Bounded.within(Fraction(function(float(self.value))), self.error + 4 * UNIT + slack)


def bounded(z: Tensor) -> list[list[Bounded]]:
    """The rows of a float32 matrix, each number exact."""
    assert z.dtype == torch.float32
    return [[Bounded.of(v) for v in row] for row in z.tolist()]
