"""The size expressions of torch (sympy) as Z3 terms."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, disj, ite, known, least, most, neg, plus, product, same, times
from viewproof.symbolic.values import NoMeaning


def translate(expression: Any, symbols: Mapping[sympy.Symbol, Term], facts: Facts) -> Term:
    """The term for a sympy expression over the symbols; an unknown function raises `NoMeaning`.

    The facts tell which divisors are positive.
    """
    if expression in (sympy.true, sympy.false):
        return bool(expression)
    if isinstance(expression, sympy.Symbol):
        if expression not in symbols:
            raise NoMeaning(f"size {expression} that depends on data")
        return symbols[expression]
    if isinstance(expression, sympy.Integer):
        return int(expression)
    name = type(expression).__name__
    if name in ("Equality", "Unequality") and isinstance(expression.lhs, sympy.Mul) and expression.rhs == 0:
        # A product is 0 iff a factor is, which spares the solver the product.
        zero = disj(*(same(translate(factor, symbols, facts), 0) for factor in expression.lhs.args))
        return zero if name == "Equality" else neg(zero)
    arguments = [translate(argument, symbols, facts) for argument in expression.args]
    if name in ("Mod", "PythonMod"):
        return facts.mod(*arguments)
    if name in ("FloorDiv", "CleanDiv"):
        return facts.floordiv(*arguments)
    if name not in _FUNCTIONS:
        raise NoMeaning(f"size expression {name}")
    return _FUNCTIONS[name](*arguments)


def _fold_left(step: Any) -> Any:
    return lambda *arguments: reduce(step, arguments)


def power(base: Term, exponent: Term) -> Term:
    """The product of as many factors as the exponent, a number, says."""
    if not known(exponent) or exponent < 0:
        raise NoMeaning("a power with a symbolic exponent")
    return product([base] * exponent)


_FUNCTIONS: dict[str, Any] = {
    "Add": _fold_left(plus),
    "Mul": _fold_left(times),
    "Pow": power,
    "PowByNatural": power,
    "Max": _fold_left(most),
    "Min": _fold_left(least),
    "Equality": same,
    "Unequality": lambda a, b: neg(same(a, b)),
    "StrictLessThan": lambda a, b: a < b,
    "LessThan": lambda a, b: a <= b,
    "StrictGreaterThan": lambda a, b: a > b,
    "GreaterThan": lambda a, b: a >= b,
    "And": conj,
    "Or": disj,
    "Not": neg,
    "ITE": ite,
}
