"""Symbolic numbers: what the public functions run on.

`Num` and `Token` are the entries a Python function is executed on; a `Truth` that decides a branch forks the
execution (`paths`), so nothing about the branch is assumed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from fractions import Fraction
from functools import partial
from typing import Any

import z3

REAL, TOKEN, BOOL = z3.RealSort(), z3.IntSort(), z3.BoolSort()


class Trace:
    """One execution: the branches it was told to take, and the conditions of those that it took."""

    def __init__(self, prefix: Sequence[bool]) -> None:
        self.prefix = prefix
        self.taken: dict[Any, bool] = {}

    def decide(self, condition: Any) -> bool:
        """The branch taken at ``condition``; a condition met before keeps its branch."""
        if condition not in self.taken:
            place = len(self.taken)
            self.taken[condition] = self.prefix[place] if place < len(self.prefix) else True
        return bool(self.taken[condition])

    @property
    def condition(self) -> Any:
        """What the entries must satisfy for this execution to be the one that happens."""
        decided = [term if branch else z3.Not(term) for term, branch in self.taken.items()]
        return z3.And(decided) if decided else z3.BoolVal(True)


_trace: ContextVar[Trace | None] = ContextVar("_trace", default=None)
binders: ContextVar[tuple[Any, ...]] = ContextVar("binders", default=())
"""The arguments of the recursive definitions that are being written: no branch may depend on them."""


def paths(run: Callable[[], Any], limit: int = 4096) -> Iterator[tuple[Any, Any]]:
    """Every execution of ``run`` as ``(condition, result)``; together the conditions cover all entries."""
    pending: list[list[bool]] = [[]]
    for _ in range(limit):
        trace = Trace(pending.pop())
        token = _trace.set(trace)
        try:
            result = run()
        finally:
            _trace.reset(token)
        branches = list(trace.taken.values())
        pending += [[*branches[:place], False] for place in range(len(trace.prefix), len(branches))]
        yield trace.condition, result
        if not pending:
            return
    raise RuntimeError(f"more than {limit} executions")


class Truth:
    """A Z3 Boolean; asking for its ``bool`` forks the execution."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __bool__(self) -> bool:
        term, trace = z3.simplify(self.term), _trace.get()
        if z3.is_true(term) or z3.is_false(term):
            return bool(z3.is_true(term))
        if trace is None or binders.get():
            raise RuntimeError(f"no execution to fork at {term}")
        return trace.decide(term)


class Num:
    """An exact number: a Z3 real with Python's arithmetic."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __repr__(self) -> str:
        return str(self.term)

    def __abs__(self) -> "Num":
        return Num(z3.If(self.term >= 0, self.term, -self.term))

    def __neg__(self) -> "Num":
        return Num(-self.term)

    def __pow__(self, exponent: int) -> "Num":
        return Num(z3.Product([self.term] * exponent)) if exponent else Num(z3.RealVal(1))

    __hash__ = None  # type: ignore[assignment]


def real(value: Any) -> Any:
    """The Z3 real of an exact number."""
    if isinstance(value, Num):
        return value.term
    number = Fraction(value)
    return z3.Q(number.numerator, number.denominator)


def _operator(make: Callable[[Any, Any], Any], kind: type) -> Callable[[Num, Any], Any]:
    def apply(self: Num, other: Any) -> Any:
        if not isinstance(other, Num | int | Fraction | float):
            return NotImplemented
        return kind(make(self.term, real(other)))

    return apply


def _swapped(make: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    return make(b, a)


for _name, _make in {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "truediv": lambda a, b: a / b,
}.items():
    setattr(Num, f"__{_name}__", _operator(_make, Num))
    setattr(Num, f"__r{_name}__", _operator(partial(_swapped, _make), Num))
for _name, _make in {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}.items():
    setattr(Num, f"__{_name}__", _operator(_make, Truth))


class Token:
    """An opaque value (an index, a patch, a representation): it may be handed on and compared, nothing else."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __repr__(self) -> str:
        return str(self.term)

    def __eq__(self, other: object) -> Any:
        return Truth(self.term == getattr(other, "term", other)) if isinstance(other, Token | int) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
