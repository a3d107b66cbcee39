"""The inputs of a statement in three forms: bounded, of any length, and concrete.

A statement names the kind of each input in its signature: ``def masked_loss_nil(p: Program, loss: IndexLoss)``. A
parameter is annotated with its kind, or with a record of several inputs. A record that is annotated with a public name
too (a contract, a graph) is made by the program in hand: ``contract: Contract`` is any contract, of that program. The
functions at the end are what statements say about lists (`every`, `length`, …), whichever form these have.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
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


@dataclass(frozen=True)
class Kind:
    """A kind of input: how each form is made. The defaults are right for what has no length."""

    bounded: Callable[[str, Sequence[int]], Any]
    """The input of this name and these lengths, with symbolic entries."""
    unbounded: Callable[[str], Any]
    """The input of any length."""
    image: Callable[[Any], Any] = lambda bounded: bounded
    """A bounded input in the form that the definitions take."""
    axes: int = 0
    """How many lengths it has of its own."""
    like: str = ""
    """The list whose length it has instead."""


def scalar(sort: Any) -> Kind:
    """One number or one opaque value."""
    return Kind(lambda name, _: lift(z3.Const(name, sort)), lambda name: lift(z3.Const(name, sort)))


def function(*sorts: Any) -> Kind:
    """An arbitrary function, the last sort its result's."""

    def make(name: str, _: Sequence[int] = ()) -> Uninterpreted:
        return Uninterpreted(z3.Function(name, *sorts))

    return Kind(make, make)


def list_of(entry: Any, like: str = "") -> Kind:
    """A list; ``like`` names another list whose length it has."""
    return Kind(
        lambda name, sizes: [lift(z3.Const(f"{name}{place}", entry)) for place in range(sizes[0])],
        lambda name: SymList(z3.Const(name, list_sort(entry))),
        lambda bounded: SymList.of(bounded, entry),
        axes=0 if like else 1,
        like=like,
    )


def _bounded_views(name: str, sizes: Sequence[int]) -> BoundedViews:
    """Views of symbolic entries, each entry a function of the view's index."""
    entries = [Uninterpreted(z3.Function(f"{name}_{place}", TOKEN, REAL)) for place in range(sizes[1])]
    return BoundedViews(sizes[0], lambda view: [entry(view) for entry in entries])


def _unbounded_views(name: str) -> UnboundedViews:
    """Any vectors and any columns; not tying them together only strengthens a statement."""
    columns = SymList(z3.Const(f"{name}_columns", list_sort(NUMBERS)))
    return UnboundedViews(Uninterpreted(z3.Function(name, TOKEN, NUMBERS)), columns)


def _image_of_views(bounded: BoundedViews) -> UnboundedViews:
    """The same vectors, and their transpose for the columns."""
    columns = [SymList.of(column, REAL) for column in zip(*bounded, strict=True)]
    return UnboundedViews(lambda view: SymList.of(bounded[view], REAL), SymList.of(columns, NUMBERS))


# Static checkers see Any: the same parameter is a list of numbers, a list of symbolic numbers and a term.
Number = Annotated[Any, scalar(REAL)]
Opaque = Annotated[Any, scalar(TOKEN)]
Numbers = Annotated[Any, list_of(REAL)]
Indices = Annotated[Any, list_of(TOKEN)]
Edges = Annotated[Any, list_of(EDGE)]
Views = Annotated[Any, Kind(_bounded_views, _unbounded_views, _image_of_views, axes=2)]
"""Representations: lengths are the number of views and of coordinates; induction is on the columns."""
Coordinate = Annotated[Any, Kind(lambda _, sizes: sizes[0], lambda _: None, axes=1)]
"""A coordinate of representations: the length of its axis is the coordinate itself."""
IndexLoss = Annotated[Any, function(TOKEN, REAL)]
Distance = Annotated[Any, function(TOKEN, TOKEN, REAL)]
OfIndex = Annotated[Any, function(TOKEN, TOKEN)]
OfIndexAndValue = Annotated[Any, function(TOKEN, TOKEN, TOKEN)]


World = Mapping[str, Any]
"""A value for each input, by name."""


class Inputs:
    """The kinds of the inputs by name, the fields of records among them."""

    def __init__(self, function: Callable[..., Any], skip: int = 0) -> None:
        self.parameters = dict(list(_kinds(function).items())[skip:])
        self.kinds: dict[str, Kind] = {}
        for name, (kind, *_) in self.parameters.items():
            fields: dict[str, tuple[Any, ...]] = {name: (kind,)} if isinstance(kind, Kind) else _kinds(kind)
            added = {field: its_kind for field, (its_kind, *_) in fields.items()}
            # Two inputs of one name would be one input: the statement would say less than it seems to.
            assert self.kinds.keys().isdisjoint(added), f"{function.__name__} has two inputs of one name"
            self.kinds.update(added)

    @property
    def axes(self) -> int:
        """How many lengths there are to choose."""
        return sum(kind.axes for kind in self.kinds.values())

    def shapes(self, least: int, most: int) -> list[tuple[int, ...]]:
        """Every choice of lengths from ``least`` to ``most``, smallest first."""
        shapes = product(range(least, most + 1), repeat=self.axes)
        return sorted(shapes, key=lambda shape: (sum(shape), shape))

    def bounded(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Inputs of these lengths, with symbolic entries."""
        world: dict[str, Any] = {}
        lengths = iter(shape)
        for name, kind in self.kinds.items():
            sizes = [len(world[kind.like])] if kind.like else [next(lengths) for _ in range(kind.axes)]
            world[name] = kind.bounded(name, sizes)
        return world

    def unbounded(self) -> dict[str, Any]:
        """Inputs of any length."""
        return {name: kind.unbounded(name) for name, kind in self.kinds.items()}

    def images(self, world: World) -> dict[str, Any]:
        """Bounded inputs in the form that the definitions take."""
        return {name: kind.image(world[name]) for name, kind in self.kinds.items()}

    def arguments(self, program: Any, world: World) -> Iterator[Any]:
        """What the function is called with."""
        for name, (kind, *public) in self.parameters.items():
            if isinstance(kind, Kind):
                yield world[name]
            else:
                make = getattr(program, public[0]) if public else kind
                yield make(*(world[field] for field in _kinds(kind)))


def _kinds(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """The kind or record of each parameter, and the public name of a record that the program makes."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: getattr(each.annotation, "__metadata__", (each.annotation,)) for each in parameters}


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
