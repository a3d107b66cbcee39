"""Lists of any length as Z3 terms, and recursive functions over them."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import z3

from viewproof.theorems.lists.terms import BOOL, REAL, TOKEN, Num, Token, Truth, binders, real

EDGE, _edge, (_first, _second) = z3.TupleSort("Edge", [TOKEN, TOKEN])


def lift(term: Any) -> Any:
    """The Python value that stands for a Z3 term, by its sort."""
    sort = term.sort()
    if sort == EDGE:
        return Token(_first(term)), Token(_second(term))
    return {REAL: Num, TOKEN: Token, BOOL: Truth}.get(sort, SymList)(term)


def lower(value: Any, sort: Any) -> Any:
    """The Z3 term of a Python value."""
    if isinstance(value, Num | Token | Truth | SymList):
        return value.term
    if sort == EDGE:
        return _edge(lower(value[0], TOKEN), lower(value[1], TOKEN))
    if sort == BOOL:
        return z3.BoolVal(value)
    if sort == REAL:
        return real(value)
    if sort == TOKEN:
        return z3.IntVal(value)
    return SymList.of(value, sort.constructor(1).domain(0)).term


@cache
def list_sort(entry: Any) -> Any:
    """The Z3 sort of lists of ``entry``: ``nil`` or ``cons(head, tail)``."""
    datatype = z3.Datatype(f"List{entry.name()}")
    datatype.declare("nil")
    datatype.declare("cons", ("head", entry), ("tail", datatype))
    return datatype.create()


class SymList:
    """A list of any length, as a Z3 term."""

    def __init__(self, term: Any) -> None:
        self.term = term
        # the sort that a term carries lacks the names nil, cons, head, tail
        self.sort = list_sort(term.sort().accessor(1, 0).range())

    @classmethod
    def of(cls, values: Sequence[Any], entry: Any) -> "SymList":
        """A Python list of symbolic entries as a term."""
        sort = list_sort(entry)
        term = sort.nil
        for value in reversed(values):
            term = sort.cons(lower(value, entry), term)
        return cls(term)

    @property
    def tail(self) -> "SymList":
        """Everything but the first entry."""
        return SymList(self.sort.tail(self.term))

    def __add__(self, other: Any) -> "SymList":
        return SymList(_append(self.sort)(self.term, lower(other, self.sort)))

    def __getitem__(self, part: slice) -> "SymList":
        assert part == slice(None, None, -1), "of a list of unknown length only the reverse is a list"
        return SymList(
            fold(
                "reverse",
                self,
                lambda head, rest: (SymList(rest) + SymList.of([head], self.sort.head.range())).term,
                self.sort.nil,
            )
        )


_folds: dict[tuple[int, ...], tuple[Any, Any]] = {}
definitions: dict[str, tuple[Any, Sequence[Any], Any]] = {}


def recursive(name: str, arguments: Sequence[Any], result: Any, body: Callable[[Any], Any]) -> Any:
    """A new recursive Z3 function; its name gets a number if it is taken."""
    unique = name if name not in definitions else f"{name}_{len(definitions)}"
    function = z3.RecFunction(unique, *(argument.sort() for argument in arguments), result)
    definitions[unique] = function, arguments, body(function)
    z3.RecAddDefinition(function, list(arguments), body(function))
    return function


@cache
def _append(sort: Any) -> Any:
    xs, ys = z3.Consts("xs ys", sort)
    return recursive(
        f"append{sort.name()}",
        [xs, ys],
        sort,
        lambda append: z3.If(xs == sort.nil, ys, sort.cons(sort.head(xs), append(sort.tail(xs), ys))),
    )


def symbols(term: Any) -> set[str]:
    """The names of the functions and constants of a Z3 term."""
    seen: dict[int, str] = {}
    pending = [term]
    while pending:
        node = pending.pop()
        if node.get_id() not in seen:
            seen[node.get_id()] = node.decl().name()
            pending += node.children()
    return set(seen.values())


def fold(name: str, xs: SymList, step: Callable[..., Any], zero: Any, given: Sequence[Any] = ()) -> Any:
    """The recursive function ``f(nil) = zero``, ``f(head :: tail) = step(head, f(tail), *given)``, at ``xs``.

    ``given`` are arguments of the function; every other constant of ``step`` is fixed. A fold inside another's
    ``step`` takes the outer list as an argument of its own, so both are closed.
    """
    outer = binders.get()
    bound = z3.Const(f"l{len(outer)}_{xs.sort.name()}", xs.sort)
    rest = z3.Const(f"rest{len(outer)}_{zero.sort()}", zero.sort())
    own = [z3.Const(f"given{len(outer)}_{place}", term.sort()) for place, term in enumerate(given)]
    token = binders.set((*outer, bound, rest, *own))
    try:
        body = step(lift(xs.sort.head(bound)), rest, *map(lift, own))
    finally:
        binders.reset(token)
    used = symbols(body) | symbols(zero)
    extra = [binder for binder in outer if str(binder) in used]
    # names that do not depend on the depth, so that the same function at another depth is the same function
    plain = [
        z3.Const(f"{kind}{place}", part.sort())
        for kind, parts in (("l", [bound]), ("rest", [rest]), ("outer", extra), ("given", own))
        for place, part in enumerate(parts)
    ]
    body, zero = (z3.substitute(t, *zip([bound, rest, *extra, *own], plain, strict=True)) for t in (body, zero))
    bound, rest, *arguments = plain
    key = (bound.get_id(), body.get_id(), zero.get_id(), *(argument.get_id() for argument in arguments))
    if key not in _folds:

        def step_unfolded(function: Any) -> Any:
            again = function(xs.sort.tail(bound), *arguments)
            return z3.If(bound == xs.sort.nil, zero, z3.substitute(body, (rest, again)))

        function = recursive(name, [bound, *arguments], zero.sort(), step_unfolded)
        # ids of Z3 terms are only unique among living ones: keep what the key is made of
        _folds[key] = (function, (plain, body, zero))
    return _folds[key][0](xs.term, *extra, *given)


def defined_in(term: Any) -> list[str]:
    """The recursive definitions that a term rests on."""
    needed: dict[str, str] = {}
    pending = symbols(term)
    while pending:
        name = pending.pop()
        if name in definitions and name not in needed:
            function, arguments, body = definitions[name]
            needed[name] = f"{function(*arguments)} := {body}"
            pending |= symbols(body)
    return [needed[name] for name in sorted(needed)]


def unfolded(term: Any) -> Any:
    """The term with each definition applied where the list is known to be empty or not, and arbitrary elsewhere.

    It says more than the term, so if it is valid the term is; Z3 does not unfold the rest without end.
    """
    done: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if node.get_id() not in done:
            done[node.get_id()] = node, _rewritten(node, visit)
        return done[node.get_id()][1]

    return visit(z3.simplify(term))


def _rewritten(node: Any, visit: Callable[[Any], Any]) -> Any:
    if not z3.is_app(node) or node.num_args() == 0:
        return node
    parts = [visit(child) for child in node.children()]
    name = node.decl().name()
    if name not in definitions or definitions[name][0] != node.decl():
        return z3.simplify(node.decl()(*parts))
    _, arguments, body = definitions[name]
    if parts[0].decl().name() in ("nil", "cons"):
        return visit(z3.simplify(z3.substitute(body, *zip(arguments, parts, strict=True))))
    return z3.Function(f"any_{name}", *(part.sort() for part in parts), node.sort())(*parts)


def definitions_at(term: Any) -> list[Any]:
    """Each definition at the arguments at which the term applies it, in the same functions as in `unfolded`."""
    applications: dict[int, Any] = {}
    pending = [term]
    while pending:
        node = pending.pop()
        if node.get_id() not in applications:
            applications[node.get_id()] = node
            pending += node.children()
    equations = []
    for node in applications.values():
        name = node.decl().name()
        if name in definitions and definitions[name][0] == node.decl():
            _, arguments, body = definitions[name]
            there = z3.substitute(body, *zip(arguments, node.children(), strict=True))
            equations.append(unfolded(node) == unfolded(there))
    return equations
