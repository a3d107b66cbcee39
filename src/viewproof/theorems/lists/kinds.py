"""The inputs of a statement, in the three forms it is evaluated in: bounded, of any length, and concrete.

A statement names the kind of each input in its signature: ``def masked_loss_nil(p: Program, loss: IndexLoss)``. The
functions at the end are what statements say about lists (`every`, `length`, …), whichever form these have.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import z3

from viewproof.theorems.lists.sequences import EDGE, SymList, fold, lift, list_sort, lower, recursive
from viewproof.theorems.lists.terms import BOOL, REAL, TOKEN, Num, Token, Truth

NUMBERS = list_sort(REAL)


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


@dataclass(frozen=True)
class Uninterpreted:
    """A Z3 function that is called with Python values."""

    symbol: Any

    def __call__(self, *arguments: Any) -> Any:
        """Its application."""
        sorts = map(self.symbol.domain, range(self.symbol.arity()))
        return lift(self.symbol(*(lower(value, sort) for value, sort in zip(arguments, sorts, strict=True))))


class BoundedViews(Sequence[Any]):
    """Representations ``reps[view][coordinate]``; a symbolic view index picks as well as an int does."""

    def __init__(self, size: int, vector: Callable[[Any], Any]) -> None:
        self.size, self.vector = size, vector

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, view: Any) -> Any:
        if isinstance(view, int) and not 0 <= view < self.size:
            raise IndexError(view)
        return self.vector(view)


@dataclass(frozen=True)
class UnboundedViews:
    """Representations as the definitions take them: the vector of each view, and the list of columns."""

    vector: Callable[[Any], SymList]
    columns: SymList

    @property
    def sort(self) -> Any:
        """The sort of the list that an induction is on."""
        return self.columns.sort

    def __getitem__(self, view: Any) -> SymList:
        return self.vector(view)


def concrete(value: Any, model: Any) -> Any:
    """The value that a bounded input has in a model: numbers, lists of them, tables."""
    if isinstance(value, Num | Token):
        return _number(model.eval(value.term, model_completion=True))
    if isinstance(value, Uninterpreted):
        if value.symbol not in model.decls():
            return Table({}, 0)
        *rows, otherwise = model[value.symbol].as_list()
        return Table({tuple(map(_number, row[:-1])): _number(row[-1]) for row in rows}, _number(otherwise))
    entries = [concrete(entry, model) for entry in value]
    return tuple(entries) if isinstance(value, tuple) else entries


def _number(value: Any) -> int | Fraction:
    if z3.is_int_value(value):
        return int(value.as_long())
    return Fraction(value.numerator_as_long(), value.denominator_as_long())


class Kind:
    """A kind of input; what is not overridden is right for inputs that are the same whatever the lengths."""

    axes = 0
    """How many lengths it has of its own."""
    like = ""
    """The list whose length it has instead."""

    def bounded(self, name: str, sizes: Sequence[int]) -> Any:
        """The input of these lengths, with symbolic entries."""
        raise NotImplementedError

    def unbounded(self, name: str) -> Any:
        """The input of any length."""
        return self.bounded(name, ())

    def image(self, bounded: Any) -> Any:
        """A bounded input in the form that the definitions take."""
        return bounded


@dataclass(frozen=True)
class Scalar(Kind):
    """One number or one opaque value."""

    sort: Any

    def bounded(self, name: str, sizes: Sequence[int]) -> Any:
        """A constant."""
        return lift(z3.Const(name, self.sort))


class Function(Kind):
    """An arbitrary function, the last sort its result's."""

    def __init__(self, *sorts: Any) -> None:
        self.sorts = sorts

    def bounded(self, name: str, sizes: Sequence[int]) -> Uninterpreted:
        """An uninterpreted function."""
        return Uninterpreted(z3.Function(name, *self.sorts))


class Coordinate(Kind):
    """A coordinate of representations: the length of its axis is the coordinate itself."""

    axes = 1

    def bounded(self, name: str, sizes: Sequence[int]) -> int:
        """The coordinate."""
        return sizes[0]


class ListOf(Kind):
    """A list; ``like`` names another list whose length it has."""

    def __init__(self, entry: Any, like: str = "") -> None:
        self.entry, self.like, self.axes = entry, like, 0 if like else 1

    def bounded(self, name: str, sizes: Sequence[int]) -> list[Any]:
        """A Python list of symbolic entries."""
        return [lift(z3.Const(f"{name}{place}", self.entry)) for place in range(sizes[0])]

    def unbounded(self, name: str) -> SymList:
        """A list of any length."""
        return SymList(z3.Const(name, list_sort(self.entry)))

    def image(self, bounded: list[Any]) -> SymList:
        """The list as a term."""
        return SymList.of(bounded, self.entry)


class Representations(Kind):
    """Any representations: lengths are the number of views and of coordinates; induction is on the columns."""

    axes = 2

    def bounded(self, name: str, sizes: Sequence[int]) -> BoundedViews:
        """Views of symbolic entries, each entry a function of the view's index."""
        entries = [Uninterpreted(z3.Function(f"{name}_{place}", TOKEN, REAL)) for place in range(sizes[1])]
        return BoundedViews(sizes[0], lambda view: [entry(view) for entry in entries])

    def unbounded(self, name: str) -> UnboundedViews:
        """Any vectors and any columns.

        They need not belong together, which only makes a statement about both stronger.
        """
        columns = SymList(z3.Const(f"{name}_columns", list_sort(NUMBERS)))
        return UnboundedViews(Uninterpreted(z3.Function(name, TOKEN, NUMBERS)), columns)

    def image(self, bounded: BoundedViews) -> UnboundedViews:
        """The same vectors, and their transpose for the columns."""
        columns = [SymList.of(column, REAL) for column in zip(*bounded, strict=True)]
        return UnboundedViews(lambda view: SymList.of(bounded[view], REAL), SymList.of(columns, NUMBERS))


# Static checkers see Any: the same parameter is a list of numbers, a list of symbolic numbers and a term.
Number = Annotated[Any, Scalar(REAL)]
Opaque = Annotated[Any, Scalar(TOKEN)]
Numbers = Annotated[Any, ListOf(REAL)]
Indices = Annotated[Any, ListOf(TOKEN)]
Edges = Annotated[Any, ListOf(EDGE)]
Views = Annotated[Any, Representations()]
IndexLoss = Annotated[Any, Function(TOKEN, REAL)]
Distance = Annotated[Any, Function(TOKEN, TOKEN, REAL)]
OfIndex = Annotated[Any, Function(TOKEN, TOKEN)]
OfIndexAndValue = Annotated[Any, Function(TOKEN, TOKEN, TOKEN)]


def both(*conditions: Any) -> Any:
    """The conjunction, without forking on its parts."""
    if all(isinstance(condition, bool) for condition in conditions):
        return all(conditions)
    return Truth(z3.And([lower(condition, BOOL) for condition in conditions]))


def assuming(*hypotheses: Any, then: Any) -> tuple[Any, Any]:
    """The statement that ``then`` follows from the hypotheses."""
    return both(*hypotheses), then


def every(xs: Any, condition: Callable[[Any], Any]) -> Any:
    """``condition`` holds of every entry."""
    if not isinstance(xs, SymList):
        return both(*map(condition, xs))
    return Truth(fold("every", xs, lambda head, rest: z3.And(lower(condition(head), BOOL), rest), z3.BoolVal(True)))


def all_equal(xs: Any, value: Any) -> Any:
    """Every entry is this value."""
    return every(xs, lambda x: x == value)


def prepend(x: Any, xs: Any) -> Any:
    """The list ``x :: xs``; of representations, ``xs`` with one column more."""
    if isinstance(xs, UnboundedViews):
        return UnboundedViews(xs.vector, prepend(x, xs.columns))
    return SymList(xs.sort.cons(lower(x, xs.sort.head.range()), xs.term)) if isinstance(xs, SymList) else [x, *xs]


def emptied(xs: Any) -> Any:
    """The empty list of the same entries; of representations, those without a column."""
    return UnboundedViews(xs.vector, emptied(xs.columns)) if isinstance(xs, UnboundedViews) else SymList(xs.sort.nil)


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


def coordinates(reps: Any) -> Any:
    """The list of coordinates; of representations of any length, the columns stand for them."""
    if isinstance(reps, UnboundedViews):
        return reps.columns
    return range(len(reps[0]) if len(reps) else 0)


_VIEWS, _X = z3.Const("views", list_sort(TOKEN)), z3.Const("x", REAL)
_REPLICATE = recursive("replicate", [_VIEWS, _X], NUMBERS.nil, lambda _, again: NUMBERS.cons(_X, again(_X)))


def replicate(views: SymList, x: Num) -> SymList:
    """``x`` as often as there are ``views``."""
    return SymList(_REPLICATE(views.term, x.term))


def collapsed(vector: Any, views: Any) -> Any:
    """The representations in which every view is ``vector``."""
    if not isinstance(vector, SymList):
        return BoundedViews(len(views), lambda _: vector)
    return UnboundedViews(lambda _: vector, each(vector, NUMBERS, lambda x: replicate(views, x)))


def are_views(edges: Any, reps: Any) -> Any:
    """Every edge joins two of the views; representations of any length have a vector at every index."""
    if isinstance(reps, UnboundedViews):
        return True

    def joins_views(edge: Any) -> Truth:
        ends = [lower(end, TOKEN) for end in edge]
        return Truth(z3.And([z3.And(end >= 0, end < len(reps)) for end in ends]))

    return every(edges, joins_views)
