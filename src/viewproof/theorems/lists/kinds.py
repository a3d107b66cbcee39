"""The inputs of a statement, in the three forms it is evaluated in: bounded, of any length, and concrete.

The helpers at the end are what statements say about lists (`every`, `length`, …) whichever form these have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import z3

from viewproof.theorems.lists.sequences import EDGE, SymList, fold, lift, list_sort, lower
from viewproof.theorems.lists.terms import BOOL, REAL, TOKEN, Num, Token, Truth


@dataclass(frozen=True)
class Table:
    """A finite function of a witness; ``otherwise`` is its value at every other argument.

    >>> Table({(1,): 5}, 0)(1), Table({(1,): 5}, 0)(2)
    (5, 0)
    """

    values: Mapping[tuple[Any, ...], Any]
    otherwise: Any

    def __call__(self, *arguments: Any) -> Any:
        """The value at the arguments."""
        return self.values.get(arguments, self.otherwise)

    def __repr__(self) -> str:
        rows = [f"({', '.join(map(str, key))}) -> {value}" for key, value in self.values.items()]
        return "{" + ", ".join([*rows, f"else -> {self.otherwise}"]) + "}"


def concrete(value: Any) -> Any:
    """The Python value of a Z3 value: an int, a Fraction or a pair."""
    if value.sort() == EDGE:
        return tuple(concrete(part) for part in value.children())
    return (
        value.as_long() if z3.is_int_value(value) else Fraction(value.numerator_as_long(), value.denominator_as_long())
    )


@dataclass(frozen=True)
class Scalar:
    """One number or one opaque value."""

    sort: Any
    axes: int = 0

    def bounded(self, name: str, sizes: Sequence[int]) -> Any:
        """The input itself: a constant."""
        return lift(z3.Const(name, self.sort))

    def unbounded(self, name: str) -> Any:
        """The same constant."""
        return self.bounded(name, ())

    def image(self, value: Any) -> Any:
        """The bounded value as the definitions take it."""
        return value

    def witness(self, value: Any, model: Any) -> Any:
        """Its value in a model."""
        return concrete(model.eval(value.term, model_completion=True))


@dataclass(frozen=True)
class ListOf:
    """A list; ``like`` names another list whose length it has."""

    entry: Any
    like: str = ""

    @property
    def axes(self) -> int:
        """How many lengths it has of its own."""
        return 0 if self.like else 1

    def bounded(self, name: str, sizes: Sequence[int]) -> list[Any]:
        """A Python list of symbolic entries."""
        return [lift(z3.Const(f"{name}{place}", self.entry)) for place in range(sizes[0])]

    def unbounded(self, name: str) -> SymList:
        """A list of any length."""
        return SymList(z3.Const(name, list_sort(self.entry)))

    def image(self, value: list[Any]) -> SymList:
        """The bounded list as a term."""
        return SymList.of(value, self.entry)

    def empty(self, value: SymList) -> SymList:
        """The list where the induction starts."""
        return SymList(value.sort.nil)

    def grown(self, head: Any, value: SymList) -> Any:
        """The list one step on."""
        return prepend(head, value)

    def witness(self, value: list[Any], model: Any) -> list[Any]:
        """Its entries in a model."""
        return [concrete(model.eval(lower(entry, self.entry), model_completion=True)) for entry in value]


class Function:
    """An arbitrary function, the last sort its result's."""

    axes = 0

    def __init__(self, *sorts: Any) -> None:
        self.sorts = sorts

    def bounded(self, name: str, sizes: Sequence[int]) -> Callable[..., Any]:
        """A Python function that makes applications of an uninterpreted one."""
        symbol = z3.Function(name, *self.sorts)

        def apply(*arguments: Any) -> Any:
            return lift(symbol(*(lower(value, sort) for value, sort in zip(arguments, self.sorts[:-1], strict=True))))

        apply.symbol = symbol  # type: ignore[attr-defined]
        return apply

    def unbounded(self, name: str) -> Callable[..., Any]:
        """The same function."""
        return self.bounded(name, ())

    def image(self, value: Any) -> Any:
        """The same function."""
        return value

    def witness(self, value: Any, model: Any) -> Table:
        """Its table in a model."""
        if value.symbol not in model.decls():
            return Table({}, 0)
        *rows, otherwise = model[value.symbol].as_list()
        return Table({tuple(map(concrete, row[:-1])): concrete(row[-1]) for row in rows}, concrete(otherwise))


class Rows(Sequence[Any]):
    """Representations ``reps[view][coordinate]``; a symbolic view index picks as well as an int does."""

    def __init__(self, count: int, pick: Callable[[Any], Any]) -> None:
        self.size, self.pick = count, pick

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, view: Any) -> Any:
        if isinstance(view, int) and not 0 <= view < self.size:
            raise IndexError(view)
        return self.pick(view)


@dataclass(frozen=True)
class Vectors:
    """Representations as the definitions take them: a vector for each view, and the list of columns."""

    pick: Callable[[Any], SymList]
    columns: SymList

    def __getitem__(self, view: Any) -> SymList:
        return self.pick(view)


class Views:
    """Any representations: lengths are the number of views and of coordinates; induction is on the columns."""

    axes = 2
    entry = list_sort(REAL)

    def bounded(self, name: str, sizes: Sequence[int]) -> Rows:
        """``views`` rows of ``coordinates`` symbolic entries."""
        entries = [z3.Function(f"{name}_{place}", TOKEN, REAL) for place in range(sizes[1])]
        return Rows(sizes[0], lambda view: [Num(entry(lower(view, TOKEN))) for entry in entries])

    def unbounded(self, name: str) -> Vectors:
        """Any vectors and any columns."""
        vectors = z3.Function(name, TOKEN, list_sort(REAL))
        columns = SymList(z3.Const(f"{name}_columns", list_sort(list_sort(REAL))))
        return Vectors(lambda view: SymList(vectors(lower(view, TOKEN))), columns)

    def image(self, value: Rows) -> Vectors:
        """The bounded rows, transposed for the columns."""
        columns = [SymList.of(column, REAL) for column in zip(*value, strict=True)]
        return Vectors(lambda view: SymList.of(value[view], REAL), SymList.of(columns, list_sort(REAL)))

    def empty(self, value: Vectors) -> Vectors:
        """No columns."""
        return Vectors(value.pick, SymList(value.columns.sort.nil))

    def grown(self, head: Any, value: Vectors) -> Vectors:
        """One column more."""
        return Vectors(value.pick, prepend(head, value.columns))

    def witness(self, value: Rows, model: Any) -> list[list[Any]]:
        """The rows in a model."""
        return [[concrete(model.eval(entry.term, model_completion=True)) for entry in row] for row in value]


Number, Opaque = Scalar(REAL), Scalar(TOKEN)
Numbers, Indices, Edges = ListOf(REAL), ListOf(TOKEN), ListOf(EDGE)


def both(*conditions: Any) -> Any:
    """The conjunction, without forking on its parts."""
    if all(isinstance(condition, bool) for condition in conditions):
        return all(conditions)
    return Truth(z3.And([lower(condition, BOOL) for condition in conditions]))


def every(xs: Any, condition: Callable[[Any], Any]) -> Any:
    """``condition`` holds of every entry."""
    if not isinstance(xs, SymList):
        return both(*map(condition, xs))
    return Truth(fold("every", xs, lambda head, rest: z3.And(lower(condition(head), BOOL), rest), z3.BoolVal(True)))


def prepend(x: Any, xs: Any) -> Any:
    """The list ``x :: xs``."""
    if not isinstance(xs, SymList):
        return [x, *xs]
    return SymList(xs.sort.cons(lower(x, xs.sort.head.range()), xs.term))


def length(xs: Any) -> Any:
    """How many entries."""
    return Num(fold("length", xs, lambda _, rest: 1 + rest, z3.RealVal(0))) if isinstance(xs, SymList) else len(xs)


def each(xs: Any, entry: Any, make: Callable[[Any], Any]) -> Any:
    """The list of ``make(x)`` of sort ``entry`` for each ``x``."""
    if not isinstance(xs, SymList):
        return [make(x) for x in xs]
    sort = list_sort(entry)
    return SymList(fold("each", xs, lambda head, rest: sort.cons(lower(make(head), entry), rest), sort.nil))


def nonempty(xs: Any) -> Any:
    """At least one entry."""
    return Truth(xs.term != xs.sort.nil) if isinstance(xs, SymList) else len(xs) > 0


def dims(reps: Any) -> Any:
    """How many coordinates the representations have."""
    return length(reps.columns) if isinstance(reps, Vectors) else len(reps[0]) if len(reps) else 0


def every_coordinate(reps: Any, condition: Callable[[Any], Any]) -> Any:
    """``condition`` holds of every coordinate (of its column, where columns are what is there)."""
    return every(reps.columns if isinstance(reps, Vectors) else range(dims(reps)), condition)


def has_coordinates(reps: Any) -> Any:
    """At least one coordinate."""
    return nonempty(reps.columns) if isinstance(reps, Vectors) else dims(reps) > 0


def replicate(xs: SymList, x: Any) -> SymList:
    """``x`` as often as ``xs`` is long."""
    nil = list_sort(REAL).nil
    return SymList(fold("replicate", xs, lambda _, rest, x: list_sort(REAL).cons(x.term, rest), nil, [x.term]))


def collapsed(vector: Any, views: Any) -> Any:
    """The representations in which every view is ``vector``."""
    if not isinstance(vector, SymList):
        return Rows(len(views), lambda _: vector)
    return Vectors(lambda _: vector, each(vector, list_sort(REAL), lambda x: replicate(views, x)))


def are_views(edges: Any, reps: Any) -> Any:
    """Every edge joins two of the views; where a representation is a function of any index there is nothing to ask."""
    if isinstance(reps, Vectors):
        return True
    return every(edges, lambda edge: both(*(condition for end in edge for condition in _inside(end, len(reps)))))


def _inside(end: Any, count: int) -> tuple[Any, Any]:
    if isinstance(end, Token):
        return Truth(end.term >= 0), Truth(end.term < count)
    return end >= 0, end < count
