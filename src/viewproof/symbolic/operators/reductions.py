"""Sums, means and quantifiers over axes, as bounded sums."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.arithmetic import divide
from viewproof.symbolic.operators.table import as_tensor, axis_of, meaning
from viewproof.symbolic.tensor import Index, SymTensor
from viewproof.symbolic.terms import Term, ite, product, same
from viewproof.symbolic.values import NoMeaning, is_float, wrap

Axes = int | Sequence[int] | None


def _reduce(
    facts: Facts, x: SymTensor, axes: Axes, keepdim: bool, dtype: torch.dtype, summand: Callable[[Any], Any], zero: Any
) -> SymTensor:
    """The sum of ``summand(value)`` over the axes, over all if the list is empty or missing."""
    reduced = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    gone = sorted({axis_of(axis, x.rank) for axis in reduced} if x.rank else ())
    remaining = [axis for axis in range(x.rank) if axis not in gone]
    shape = tuple(1 if a in gone else d for a, d in enumerate(x.shape) if keepdim or a not in gone)

    def at(index: Index) -> Any:
        own = [index[axis] for axis in remaining] if keepdim else index
        place: dict[int, Term] = dict(zip(remaining, own, strict=True))

        def over(rest: Sequence[int], inner: dict[int, Term]) -> Any:
            if not rest:
                return summand(x.at(tuple(inner[axis] for axis in range(x.rank))))
            return facts.sum(x.shape[rest[0]], lambda i: over(rest[1:], {**inner, rest[0]: i}), zero)

        return over(gone, place)

    return SymTensor(shape, dtype, at)


@meaning("aten.sum.default", "aten.sum.dim_IntList")
def _sum(
    facts: Facts, x: SymTensor, axes: Axes = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> SymTensor:
    result = dtype or (x.dtype if is_float(x.dtype) else torch.int64)
    if not is_float(result):
        whole = as_tensor(facts, x, result)
        return _reduce(facts, whole, axes, keepdim, result, lambda v: wrap(v, result), z3.IntVal(0))

    def exact(value: Any) -> Any:
        if facts.arithmetic != "real":
            raise NoMeaning("a floating-point sum bit for bit, whose order of additions torch leaves open")
        return value

    return _reduce(facts, as_tensor(facts, x, result), axes, keepdim, result, exact, z3.RealVal(0))


@meaning("aten.mean.default", "aten.mean.dim")
def _mean(
    facts: Facts, x: SymTensor, axes: Axes = None, keepdim: bool = False, dtype: torch.dtype | None = None
) -> SymTensor:
    reduced = [axes] if isinstance(axes, int) else list(axes or range(x.rank))
    count = product(x.shape[axis] for axis in {axis_of(axis, x.rank) for axis in reduced})
    facts.need("mean: something to average", count != 0)
    return divide(facts, _sum(facts, x, axes, keepdim, dtype), count)


@meaning("aten.matmul.default", "aten.mm.default")
def _matmul(facts: Facts, a: SymTensor, b: SymTensor) -> SymTensor:
    if facts.arithmetic != "real" or (a.rank, b.rank) != (2, 2):
        raise NoMeaning("a product other than of two matrices of real numbers")
    if not facts.same_size(a.shape[1], b.shape[0]):
        facts.need("matmul: columns of one for rows of the other", same(a.shape[1], b.shape[0]))

    def at(index: Index) -> Any:
        return facts.sum(a.shape[1], lambda k: a.at((index[0], k)) * b.at((k, index[1])), z3.RealVal(0))

    return SymTensor((a.shape[0], b.shape[1]), a.dtype, at)


@meaning("aten.count_nonzero.default", "aten.count_nonzero.dim_IntList")
def _count(facts: Facts, x: SymTensor, axes: Axes = None, keepdim: bool = False, expected: bool = True) -> SymTensor:
    def one_if_expected(truth: Term) -> Term:
        return ite(truth, int(expected), int(not expected))

    truths = as_tensor(facts, x, torch.bool)
    return _reduce(facts, truths, axes, keepdim, torch.int64, one_if_expected, z3.IntVal(0))


@meaning("aten.any.default", "aten.any.dim", "aten.any.dims")
def _any(facts: Facts, x: SymTensor, axes: Axes = None, keepdim: bool = False) -> SymTensor:
    true_entries = _count(facts, x, axes, keepdim)
    return SymTensor(true_entries.shape, torch.bool, lambda index: true_entries.at(index) > 0)


@meaning("aten.all.default", "aten.all.dim", "aten.all.dims")
def _all(facts: Facts, x: SymTensor, axes: Axes = None, keepdim: bool = False) -> SymTensor:
    false_entries = _count(facts, x, axes, keepdim, expected=False)
    return SymTensor(false_entries.shape, torch.bool, lambda index: false_entries.at(index) == 0)
