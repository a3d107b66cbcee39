"""What proofs about random masks assume of ``torch.kthvalue``, shifts and integer bits."""

from collections.abc import Callable
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import as_tensor, axis_of, pointwise
from viewproof.symbolic.tensor import Index, SymTensor
from viewproof.symbolic.terms import Term, as_z3, conj, floordiv, implies, known, one_if, same


class Order:
    """The k-th smallest entry of a row, and how many entries of the row are below it or at most it.

    It is one of the entries; fewer than k are below it, and k or more at most it: nothing else is assumed of
    ``torch.kthvalue``. Rows with equal entries at every index have one and the same.
    """

    def __init__(self, facts: Facts, row: Callable[[Term], Any], extent: Term, k: Term) -> None:
        self.value, self.place = (facts.fresh(name, z3.IntSort()) for name in ("smallest", "place"))

        self.below = facts.sum(extent, lambda i: one_if(row(i) < self.value), z3.IntVal(0))
        self.at_most = facts.sum(extent, lambda i: one_if(row(i) <= self.value), z3.IntVal(0))
        inside = conj(self.place >= 0, self.place < extent)
        chosen = conj(inside, row(self.place) == self.value, self.below <= k - 1, self.at_most >= k)
        facts.assume(implies(conj(k >= 1, k <= extent), chosen))

    def is_only_own(self, key: Any, i: Term) -> Term:
        """The key at place ``i`` is at most this one without being below it iff the place is its own."""
        own = one_if(self.place < i + 1) - one_if(self.place < i)
        return same(one_if(key <= self.value) - one_if(key < self.value), own)


def order(facts: Facts, row: Callable[[Term], Any], extent: Term, k: Term) -> Order:
    """The order statistic of a row, stated once."""
    terms = tuple(z3.simplify(as_z3(term)) for term in (row(z3.Int("any index")), extent, k))
    key = ("order", *(term.get_id() for term in terms))
    if key not in facts.memo:
        # The terms are kept with it: Z3 gives the number of a dead term to the next one.
        facts.memo[key] = Order(facts, row, extent, k), terms
    found: Order = facts.memo[key][0]
    return found


def _kthvalue(facts: Facts, x: SymTensor, k: Term, axis: int = -1, keepdim: bool = False) -> tuple[SymTensor, None]:
    axis = axis_of(axis, x.rank)
    assert x.rank == 2 and axis == 1 and keepdim
    facts.need("kthvalue: k from 1 to the extent", conj(k >= 1, k <= x.shape[1]))

    def value(at: Index) -> Any:
        return order(facts, lambda i: x.at((at[0], i)), x.shape[1], k).value

    return SymTensor((x.shape[0], 1), x.dtype, value), None


def _remembered(at: Callable[[Index], Any]) -> Callable[[Index], Any]:
    """Philox reads each word twice a round: asked anew, ten rounds would ask a thousand times."""
    entries: dict[tuple[int, ...], tuple[Index, Any]] = {}

    def once(index: Index) -> Any:
        key = tuple(i if known(i) else -1 - i.get_id() for i in index)
        if key not in entries:
            entries[key] = index, at(index)
        return entries[key][1]

    return once


def _uninterpreted(name: str) -> Callable[..., SymTensor]:
    """An integer operator of which only this is assumed: equal arguments, equal results."""
    function = z3.Function(name, z3.IntSort(), z3.IntSort(), z3.IntSort())

    def meaning(facts: Facts, a: Any, b: Any) -> SymTensor:
        operands = [as_tensor(facts, x, torch.int64) for x in (a, b)]
        result = pointwise(facts, lambda x, y: function(as_z3(x), as_z3(y)), operands, torch.int64, name)
        return SymTensor(result.shape, result.dtype, _remembered(result.at))

    return meaning


def _shift(facts: Facts, x: SymTensor, places: int) -> SymTensor:
    return SymTensor(x.shape, x.dtype, lambda at: floordiv(as_z3(x.at(at)), 2**places))


KTHVALUE: dict[str, Callable[..., Any]] = {"aten.kthvalue.default": _kthvalue}
SHIFT: dict[str, Callable[..., Any]] = {"aten.__rshift__.Scalar": _shift}
BITS: dict[str, Callable[..., Any]] = {
    **KTHVALUE,
    **{
        f"aten.{name}.{form}": _uninterpreted(name)
        for form in ("Scalar", "Tensor")
        for name in ("__rshift__", "bitwise_xor", "bitwise_and", "__xor__", "__and__")
    },
}
