"""The premises of a captured path, the needs of its operators, and its bounded sums."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import z3

from viewproof.symbolic import second_solver
from viewproof.symbolic.terms import Term, as_z3, conj, floordiv, fold, implies, inside, known, mod, plus, same, times

Arithmetic = str
"""``ieee``: floating values are bit patterns. ``real``: they are real numbers, without rounding or NaN."""


@dataclass(frozen=True)
class BoundedSum:
    """A constant that stands for ``body(0) + ... + body(extent - 1)``."""

    term: z3.ExprRef
    extent: Term
    body: Callable[[Term], Any]


_ENTAILED: dict[tuple[int, ...], tuple[tuple[z3.ExprRef, ...], bool]] = {}
"""What premises imply, for all paths and programs that ask the same."""


@dataclass
class Facts:
    """The premises of every goal about one captured path."""

    arithmetic: Arithmetic = "ieee"
    replayed: bool = False
    """Whether values come from a run in floating point, at coordinates that are numbers."""
    place: tuple[Term, ...] = ()
    """The coordinate that `each` stands at."""
    assumed: list[z3.BoolRef] = field(default_factory=list)
    needs: list[tuple[str, Term]] = field(default_factory=list)
    sums: dict[str, BoundedSum] = field(default_factory=dict)
    splits: dict[int, tuple[Term, Term, Term, Term]] = field(default_factory=dict)
    """What `join` put together, by its number: the whole, kept so that the number is its own, and its parts."""
    count: int = 0
    meanings: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Meanings of operators for these goals alone, before those of the table."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """What meanings state once for all goals, by keys of their own."""

    def fresh(self, name: str, sort: z3.SortRef) -> Any:
        """A constant that occurs nowhere else."""
        self.count += 1
        return z3.Const(f"{name}!{self.count}", sort)

    def assume(self, *facts: Term) -> None:
        """Add premises; a fact that is known to be false makes every goal hold."""
        self.assumed += [as_z3(f) for f in facts if not (known(f) and f)]

    @contextmanager
    def given(self, *facts: Term) -> Iterator[None]:
        """Premises that hold inside the block only."""
        length = len(self.assumed)
        self.assume(*facts)
        try:
            yield
        finally:
            del self.assumed[length:]

    def each(self, shape: Sequence[Term]) -> Iterator[tuple[Term, ...]]:
        """A fresh coordinate of a shape, which stands for all; in a replayed run every coordinate."""
        if self.replayed:
            for place in itertools.product(*(range(fold(extent)) for extent in shape)):
                self.place = place
                yield place
            self.place = ()
        else:
            place = tuple(self.fresh("at", z3.IntSort()) for _ in shape)
            with self.given(inside(place, shape)):
                yield place

    def need(self, what: str, condition: Term) -> None:
        """An operator is defined only where the condition holds; it must follow from the premises."""
        if not (known(condition) and condition):
            self.needs.append((what, condition))

    def need_everywhere(self, what: str, shape: Sequence[Term], condition: Callable[[tuple[Term, ...]], Term]) -> None:
        """The same at every coordinate of a shape."""
        if all(map(known, shape)):
            for index in itertools.product(*map(range, shape)):
                self.need(what, condition(index))
        else:
            index = tuple(self.fresh("at", z3.IntSort()) for _ in shape)
            self.need(what, implies(inside(index, shape), condition(index)))

    def equal(self, a: Any, b: Any) -> Term:
        """Equality of two real numbers, up to rounding where they are ``replayed``."""
        if not self.replayed:
            return a == b
        gap = z3.simplify(z3.ToReal(a - b) if (a - b).is_int() else a - b)
        limit = z3.Q(1, 10**6)
        return z3.And(-limit <= gap, gap <= limit)

    def entails(self, condition: Term, milliseconds: int = 300) -> bool:
        """Whether the premises imply the condition; a doubt counts as no."""
        if known(condition):
            return bool(condition)
        terms = (*self.assumed, condition)
        key = tuple(term.get_id() for term in terms)
        if key not in _ENTAILED:
            solver = z3.Solver()
            solver.set("timeout", milliseconds)
            solver.add(*self.assumed, z3.Not(condition))
            # The terms are kept with the answer: Z3 gives the number of a dead term to the next one.
            _ENTAILED[key] = terms, solver.check() == z3.unsat
        if _ENTAILED[key][1]:
            second_solver.note("sizes and indices", [*self.assumed, z3.Not(condition)])
        return _ENTAILED[key][1]

    def same_size(self, a: Term, b: Term) -> bool:
        """Whether two sizes are equal for certain."""
        if known(a) and known(b):
            return bool(a == b)
        if same(a, b) is True:
            return True
        if fold(a - b) == 0:
            second_solver.note("sizes", [a != b])
            return True
        return self.entails(a == b)

    def positive(self, divisor: Term) -> bool:
        """Whether a divisor is known to be positive, so that division needs no case split."""
        return self.entails(divisor > 0)

    def floordiv(self, a: Term, b: Term) -> Term:
        """``a // b``; exactly the quotient if ``a`` was put together as ``quotient * b + remainder``."""
        parts = self._split(a, b)
        return floordiv(a, b, self.positive(b)) if parts is None else parts[0]

    def mod(self, a: Term, b: Term) -> Term:
        """``a % b``; see `floordiv`."""
        parts = self._split(a, b)
        return mod(a, b, self.positive(b)) if parts is None else parts[1]

    def join(self, quotient: Term, divisor: Term, remainder: Term) -> Term:
        """``quotient * divisor + remainder`` for ``0 <= remainder < divisor``, remembered for `floordiv`.

        The lemma behind it, that the parts are unique, is `viewproof.theorems.tensors.lemmas.row_major_division`.

        """
        if known(divisor) and divisor == 1:
            return plus(quotient, remainder)
        halved = _whole_of(quotient, divisor, remainder)
        if halved is not None:
            return halved
        whole = plus(times(quotient, divisor), remainder)
        if not known(whole):
            self.splits[whole.get_id()] = whole, quotient, divisor, remainder
        return whole

    def _split(self, a: Term, b: Term) -> tuple[Term, Term] | None:
        parts = None if known(a) else self.splits.get(a.get_id())
        if parts is None:
            return None
        _, quotient, divisor, remainder = parts
        fits = divisor == b if known(divisor) or known(b) else divisor.eq(b) or self.entails(divisor == b)
        inside = self.entails(conj(remainder >= 0, remainder < b))
        return (quotient, remainder) if (known(fits) and fits) and inside else None

    def sum(self, extent: Term, body: Callable[[Term], Any], zero: Any) -> Any:
        """``body(0) + ... + body(extent - 1)``; ``zero`` is the sum of nothing and gives the sort."""
        if known(extent):
            total = zero
            for i in range(extent):
                total = total + body(i)
            return total
        term = self.fresh("sum", zero.sort())
        self.sums[term.decl().name()] = BoundedSum(term, extent, body)
        return term


def _whole_of(quotient: Term, divisor: Term, remainder: Term) -> Term | None:
    """``a`` if the parts are ``a // divisor`` and ``a % divisor``."""
    if known(quotient) or known(remainder):
        return None
    kinds = quotient.decl().kind(), remainder.decl().kind()
    if kinds != (z3.Z3_OP_IDIV, z3.Z3_OP_MOD) or known(divisor):
        return None
    same_parts = quotient.arg(0).eq(remainder.arg(0)) and quotient.arg(1).eq(divisor) and remainder.arg(1).eq(divisor)
    return quotient.arg(0) if same_parts else None
