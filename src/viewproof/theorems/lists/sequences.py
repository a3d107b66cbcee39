"""Lists of any length as Z3 terms, and recursive functions over them."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import z3

from viewproof.theorems.lists.terms import BOOL, REAL, TOKEN, Num, Token, Truth, real, writing_definition

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
    # SMT-LIB allows no two constructors of one name, and lists of several sorts meet in one goal.
    nil, cons, head, tail = (f"{part}{entry.name()}" for part in ("nil", "cons", "head", "tail"))
    datatype.declare(nil)
    datatype.declare(cons, (head, entry), (tail, datatype))
    sort = datatype.create()
    sort.nil, sort.cons, sort.is_nil = sort.constructor(0)(), sort.constructor(1), sort.recognizer(0)
    sort.head, sort.tail = sort.accessor(1, 0), sort.accessor(1, 1)
    return sort


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

        def with_last(entry: Any, others: Any) -> Any:
            return _append(self.sort)(others, lower([entry], self.sort))

        return SymList(fold("reverse", self, with_last, self.sort.nil))


definitions: dict[str, tuple[Any, Sequence[Any], Any]] = {}
"""Every recursive function by name: the function, its arguments, its body."""


def recursive(name: str, arguments: Sequence[Any], zero: Any, step: Callable[..., Any]) -> Any:
    """The function ``f(nil, *others) = zero``, ``f(head :: tail, *others) = step(head, again)``.

    ``again(*others)`` is ``f(tail, *others)``. The name gets a number if it is taken.
    """
    name = name if name not in definitions else f"{name}_{len(definitions)}"
    whole = SymList(arguments[0])
    function = z3.RecFunction(name, *(argument.sort() for argument in arguments), zero.sort())
    next_step = step(whole.sort.head(whole.term), lambda *others: function(whole.tail.term, *others))
    body = z3.If(whole.term == whole.sort.nil, zero, next_step)
    definitions[name] = function, arguments, body
    z3.RecAddDefinition(function, list(arguments), body)
    return function


@cache
def _append(sort: Any) -> Any:
    xs, ys = z3.Consts("xs ys", sort)
    return recursive(f"append{sort.name()}", [xs, ys], ys, lambda head, again: sort.cons(head, again(ys)))


_folds: dict[tuple[int, ...], tuple[Any, Any]] = {}


def fold(name: str, xs: SymList, step: Callable[[Any, Any], Any], zero: Any) -> Any:
    """The recursive function ``f(nil) = zero``, ``f(head :: tail) = step(head, f(tail))``, at ``xs``.

    ``step`` may mention constants (a weight, a function). Where one fold stands inside another's step, the inner one
    must be closed, with its arguments named: write it with `recursive`.
    """
    # No input is called so: what the step mentions by these names is the list and the result for its tail.
    whole, rest = z3.Const("bound.list", xs.sort), z3.Const("bound.rest", zero.sort())
    with writing_definition():
        body = step(lift(xs.sort.head(whole)), rest)
    # Two statements that write the same step must mean the same function: a lemma about one is used for the other.
    key = whole.get_id(), body.get_id(), zero.get_id()
    if key not in _folds:
        function = recursive(name, [whole], zero, lambda _, again: z3.substitute(body, (rest, again())))
        # Ids of Z3 terms are only unique among living ones: keep what the key is made of.
        _folds[key] = function, (whole, body, zero)
    return _folds[key][0](xs.term)


def unfolded(term: Any) -> Any:
    """The term with definitions applied where a list is known to be empty or not.

    An uninterpreted function may be any function, the defined one among them: if the result is valid, so is the
    term. Z3 decides it at once, where it would unfold the definitions without end.
    """
    results: dict[int, Any] = {}

    def visit(node: Any) -> Any:
        if node.get_id() not in results:
            results[node.get_id()] = node, _unfolded_node(node, visit)
        return results[node.get_id()][1]

    return visit(z3.simplify(term))


def _unfolded_node(node: Any, visit: Callable[[Any], Any]) -> Any:
    if not z3.is_app(node) or node.num_args() == 0:
        return node
    parts = [visit(child) for child in node.children()]
    name = node.decl().name()
    if name not in definitions or definitions[name][0] != node.decl():
        return z3.simplify(node.decl()(*parts))
    _, arguments, body = definitions[name]
    if parts[0].decl().kind() == z3.Z3_OP_DT_CONSTRUCTOR:
        return visit(z3.simplify(z3.substitute(body, *zip(arguments, parts, strict=True))))
    return z3.Function(f"any_{name}", *(part.sort() for part in parts), node.sort())(*parts)


def smt2(goal: Any) -> str:
    """The question whether the goal can fail, as SMT-LIB 2 text with its sorts and definitions."""
    solver = z3.Solver()
    solver.add(z3.Not(goal))
    # Z3 numbers recursive functions as if they were indexed; no other solver reads that.
    return re.sub(r"\(_ (\S+) 0\)", r"\1", solver.sexpr()) + "(check-sat)"
