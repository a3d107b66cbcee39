"""Integers and truth values: Python's where they are known, Z3 terms where they are not."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import z3

Term = Any
"""A Python ``int`` or ``bool``, or a Z3 term of that sort."""


def known(value: Term) -> bool:
    """Whether the value is a Python number, so that Python computes with it."""
    return not isinstance(value, z3.ExprRef)


def as_z3(value: Term) -> Any:
    """The Z3 term of a number or truth value."""
    if not known(value):
        return value
    return z3.BoolVal(value) if isinstance(value, bool) else z3.IntVal(value)


def one_if(condition: Term) -> Any:
    """The Z3 integer 1 where the condition holds, else 0."""
    return z3.IntVal(int(condition)) if known(condition) else z3.If(condition, z3.IntVal(1), z3.IntVal(0))


def fold(value: Term) -> Term:
    """The Python number that a numeral stands for; any other term simplified."""
    if known(value):
        return value
    value = z3.simplify(value)
    if z3.is_int_value(value):
        return value.as_long()
    return z3.is_true(value) if z3.is_true(value) or z3.is_false(value) else value


def subterms(term: z3.ExprRef, enter: Callable[[z3.ExprRef], bool] = lambda _: True) -> Iterator[z3.ExprRef]:
    """Each part of a term once, the term first; no parts of one that is not to be entered."""
    seen: set[int] = set()
    pending = [term]
    while pending:
        term = pending.pop()
        if term.get_id() not in seen:
            seen.add(term.get_id())
            yield term
            pending += term.children() if enter(term) else []


def floordiv(a: Term, b: Term, positive: bool = False) -> Term:
    """Python's ``a // b``.

    Z3's division rounds down for positive divisors only, hence the case split.
    """
    if known(b) and b == 1:
        return a
    if known(a) and known(b):
        return a // b if b else 0
    if positive or (known(b) and b > 0):
        return z3.simplify(as_z3(a)) / b if known(a) else a / b
    return z3.If(b > 0, as_z3(a) / b, (-as_z3(a)) / (-as_z3(b)))


def mod(a: Term, b: Term, positive: bool = False) -> Term:
    """Python's ``a % b``, which has the sign of ``b``."""
    if known(a) and known(b):
        return a % b if b else 0
    if known(b) and b == 1:
        return 0
    if positive or (known(b) and b > 0):
        return as_z3(a) % b
    return z3.If(b > 0, as_z3(a) % b, -((-as_z3(a)) % (-as_z3(b))))


def times(a: Term, b: Term) -> Term:
    """The product, without the factors 0 and 1 that make goals nonlinear for nothing."""
    for x, y in ((a, b), (b, a)):
        if known(x) and x in (0, 1):
            return y if x == 1 else 0
    return a * b


def plus(a: Term, b: Term) -> Term:
    """The sum, without zeros."""
    if known(a) and a == 0:
        return b
    return a if known(b) and b == 0 else a + b


def product(factors: Iterable[Term]) -> Term:
    """The product of all, 1 for none."""
    result: Term = 1
    for factor in factors:
        result = times(result, factor)
    return result


def least(a: Term, b: Term) -> Term:
    """The smaller of two."""
    return min(a, b) if known(a) and known(b) else ite(a <= b, a, b)


def most(a: Term, b: Term) -> Term:
    """The larger of two."""
    return max(a, b) if known(a) and known(b) else ite(a >= b, a, b)


def same(a: Term, b: Term) -> Term:
    """Equality of two terms of one sort."""
    if known(a) and known(b):
        return a == b
    if not known(a) and not known(b) and a.eq(b):
        return True
    return a == b


def conj(*parts: Term) -> Term:
    """Every part holds."""
    if any(known(p) and not p for p in parts):
        return False
    rest = [p for p in parts if not known(p)]
    return True if not rest else rest[0] if len(rest) == 1 else z3.And(rest)


def disj(*parts: Term) -> Term:
    """Some part holds."""
    if any(known(p) and p for p in parts):
        return True
    rest = [p for p in parts if not known(p)]
    return False if not rest else rest[0] if len(rest) == 1 else z3.Or(rest)


def neg(part: Term) -> Term:
    """The part does not hold."""
    return not part if known(part) else z3.Not(part)


def implies(premise: Term, conclusion: Term) -> Term:
    """The conclusion holds where the premise does."""
    return disj(neg(premise), conclusion)


def iff(a: Term, b: Term) -> Term:
    """Both hold or neither does."""
    if known(a):
        return b if a else neg(b)
    return iff(b, a) if known(b) else a == b


def ite(condition: Term, yes: Term, no: Term) -> Term:
    """``yes`` where the condition holds, else ``no``."""
    if known(condition):
        return yes if condition else no
    return yes if known(yes) and known(no) and yes == no else z3.If(condition, yes, no)


def inside(index: Sequence[Term], shape: Sequence[Term]) -> Term:
    """Whether the index is a coordinate of the shape."""
    return conj(*(conj(i >= 0, i < d) for i, d in zip(index, shape, strict=True)))
