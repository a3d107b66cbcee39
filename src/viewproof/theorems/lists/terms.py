"""Symbolic numbers: what the public functions run on.

`Num` and `Token` are the entries a Python function is executed on; a `Truth` that decides a branch forks the
execution (`executions`), so nothing about the branch is assumed.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

import z3

REAL, TOKEN, BOOL = z3.RealSort(), z3.IntSort(), z3.BoolSort()


class Execution:
    """One execution: the branches it must take first, and the branch taken at each condition it met."""

    def __init__(self, prefix: Sequence[bool]) -> None:
        self.prefix = prefix
        self.branches: dict[Any, bool] = {}

    def decide(self, condition: Any) -> bool:
        """The branch taken at ``condition``; a condition met before keeps its branch."""
        if condition not in self.branches:
            place = len(self.branches)
            self.branches[condition] = self.prefix[place] if place < len(self.prefix) else True
        return self.branches[condition]

    @property
    def condition(self) -> Any:
        """What the entries must satisfy for this execution to be the one that happens."""
        return conjunction([term if branch else z3.Not(term) for term, branch in self.branches.items()])


_execution: ContextVar[Execution | None] = ContextVar("_execution", default=None)
_writing: ContextVar[bool] = ContextVar("_writing", default=False)


def executions(run: Callable[[], Any], limit: int = 4096) -> Iterator[tuple[Any, Any]]:
    """Every execution of ``run`` as ``(condition, result)``; the conditions cover all entries."""
    pending: list[list[bool]] = [[]]
    for _ in range(limit):
        execution = Execution(pending.pop())
        token = _execution.set(execution)
        try:
            result = run()
        finally:
            _execution.reset(token)
        # Beyond its prefix an execution takes every branch as true; each of these may also be false.
        branches = list(execution.branches.values())
        pending += [[*branches[:place], False] for place in range(len(execution.prefix), len(branches))]
        yield execution.condition, result
        if not pending:
            return
    raise RuntimeError(f"more than {limit} executions")


@contextmanager
def writing_definition() -> Iterator[None]:
    """While a recursive definition is written; a branch taken here would be lost."""
    if _writing.get():
        raise RuntimeError("a definition inside another's body would not be closed")
    token = _writing.set(True)
    try:
        yield
    finally:
        _writing.reset(token)


class Truth:
    """A Z3 Boolean; asking for its ``bool`` forks the execution."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __bool__(self) -> bool:
        term, execution = z3.simplify(self.term), _execution.get()
        if z3.is_true(term) or z3.is_false(term):
            return bool(z3.is_true(term))
        if execution is None or _writing.get():
            raise RuntimeError(f"no execution to fork at {term}")
        return execution.decide(term)


class Token:
    """An opaque value (an index, a patch, a representation): it may be passed on and compared."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __repr__(self) -> str:
        return str(self.term)

    def __eq__(self, other: object) -> Any:
        return Truth(self.term == getattr(other, "term", other)) if isinstance(other, Token | int) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


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


def conjunction(terms: Sequence[Any]) -> Any:
    """The Z3 conjunction, without the parts that are plainly true."""
    parts = [term for term in terms if not z3.is_true(term)]
    return z3.And(parts) if len(parts) > 1 else parts[0] if parts else z3.BoolVal(True)


def _method(apply: Callable[[Any, Any], Any], result: type, reflected: bool = False) -> Callable[[Num, Any], Any]:
    def method(self: Num, other: Any) -> Any:
        if not isinstance(other, Num | int | Fraction | float):
            return NotImplemented
        return result(apply(real(other), self.term) if reflected else apply(self.term, real(other)))

    return method


for _name in ("add", "sub", "mul", "truediv"):
    setattr(Num, f"__{_name}__", _method(getattr(operator, _name), Num))
    setattr(Num, f"__r{_name}__", _method(getattr(operator, _name), Num, reflected=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Num, f"__{_name}__", _method(getattr(operator, _name), Truth))
