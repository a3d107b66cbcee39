"""Parts of tensors, and tensors put together from parts."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import TABLE, as_tensor, axis_of, common_dtype, meaning, pointwise, wrapped
from viewproof.symbolic.tensor import Index, SymTensor, broadcast_shape, put, spread
from viewproof.symbolic.terms import Term, conj, inside, ite, known, least, most, one_if, plus, same
from viewproof.symbolic.values import NoMeaning


def _bound(facts: Facts, bound: Term | None, extent: Term, default: Term) -> Term:
    """A slice bound as Python has it: negative counts from the end, outside is cut off."""
    if bound is None:
        return default
    if known(bound) and bound >= sys.maxsize:
        return extent
    if facts.entails(conj(bound >= 0, bound <= extent)):
        return bound
    return most(0, least(ite(bound < 0, bound + extent, bound), extent))


def _range(facts: Facts, extent: Term, start: Any, end: Any, step: int) -> tuple[Term, Term]:
    first, last = _bound(facts, start, extent, 0), _bound(facts, end, extent, extent)
    length = plus(last, -first) if step == 1 else facts.floordiv(last - first + step - 1, step)
    return first, length if facts.entails(length >= 0) else most(length, 0)


@meaning("aten.slice.Tensor")
def _slice(facts: Facts, x: SymTensor, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> SymTensor:
    axis = axis_of(axis, x.rank)
    first, length = _range(facts, x.shape[axis], start, end, step)

    def at(index: Index) -> Any:
        return x.at(put(index, axis, facts.join(index[axis], step, first)))

    return SymTensor(put(x.shape, axis, length), x.dtype, at)


@meaning("aten.narrow.default")
def _narrow(facts: Facts, x: SymTensor, axis: int, start: Term, length: Term) -> SymTensor:
    extent = x.shape[axis_of(axis, x.rank)]
    first = wrapped(facts, start, extent)
    facts.need("narrow: a range inside the axis", conj(first >= 0, length >= 0, first + length <= extent))
    return _slice(facts, x, axis, first, first + length)


@meaning("aten.slice_scatter.default")
def _slice_scatter(
    facts: Facts, x: SymTensor, part: SymTensor, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> SymTensor:
    axis = axis_of(axis, x.rank)
    first, length = _range(facts, x.shape[axis], start, end, step)
    facts.need("slice_scatter: a part that fits", same(part.shape[axis], length))

    def at(index: Index) -> Any:
        behind = index[axis] - first
        place = facts.floordiv(behind, step)
        here = conj(behind >= 0, place < length, same(facts.mod(behind, step), 0))
        return ite(here, part.at(put(index, axis, place)), x.at(index))

    return SymTensor(x.shape, x.dtype, at)


@meaning("aten.select_scatter.default")
def _select_scatter(facts: Facts, x: SymTensor, part: SymTensor, axis: int, place: Term) -> SymTensor:
    axis = axis_of(axis, x.rank)
    own = wrapped(facts, place, x.shape[axis])

    def at(index: Index) -> Any:
        return ite(same(index[axis], own), part.at(put(index, axis)), x.at(index))

    return SymTensor(x.shape, x.dtype, at)


@meaning("aten.copy.default")
def _copy(facts: Facts, x: SymTensor, source: SymTensor, *_: Any) -> SymTensor:
    return SymTensor(x.shape, x.dtype, spread(facts, as_tensor(facts, source, x.dtype), x.shape))


@meaning("aten.index_select.default")
def _index_select(facts: Facts, x: SymTensor, axis: int, chosen: SymTensor) -> SymTensor:
    axis = axis_of(axis, x.rank)
    _in_range_everywhere(facts, "index_select", chosen, x.shape[axis], 0)
    count = chosen.shape[0] if chosen.rank else 1

    def at(index: Index) -> Any:
        return x.at(put(index, axis, chosen.at((index[axis],) if chosen.rank else ())))

    return SymTensor(put(x.shape, axis, count), x.dtype, at)


@meaning("aten.gather.default")
def _gather(facts: Facts, x: SymTensor, axis: int, chosen: SymTensor, **_: Any) -> SymTensor:
    axis = axis_of(axis, x.rank)
    _in_range_everywhere(facts, "gather", chosen, x.shape[axis], 0)
    return SymTensor(chosen.shape, x.dtype, lambda index: x.at(put(index, axis, chosen.at(index))))


@meaning("aten.scatter.value")
def _scatter(facts: Facts, x: SymTensor, axis: int, chosen: SymTensor, value: Any) -> SymTensor:
    axis = axis_of(axis, x.rank)
    _in_range_everywhere(facts, "scatter", chosen, x.shape[axis], 0)
    for other, (own, extent) in enumerate(zip(chosen.shape, x.shape, strict=True)):
        if other != axis and not facts.same_size(own, extent):
            facts.need("scatter: indices of the tensor's extents off its axis", same(own, extent))
    number = as_tensor(facts, value, x.dtype).at(())

    def at(index: Index) -> Any:
        def is_here(place: Term) -> Term:
            return one_if(same(chosen.at(put(index, axis, place)), index[axis]))

        return ite(facts.sum(chosen.shape[axis], is_here, z3.IntVal(0)) > 0, number, x.at(index))

    return SymTensor(x.shape, x.dtype, at)


def _in_range_everywhere(facts: Facts, what: str, chosen: SymTensor, extent: Term, lowest: Term) -> None:
    facts.need_everywhere(
        f"{what}: indices in range", chosen.shape, lambda i: conj(lowest <= chosen.at(i), chosen.at(i) < extent)
    )


@meaning("aten.index.Tensor")
def _index(facts: Facts, x: SymTensor, indices: Sequence[SymTensor | None]) -> SymTensor:
    index_tensors = [(axis, chosen) for axis, chosen in enumerate(indices) if chosen is not None]
    if any(chosen.dtype in (torch.bool, torch.uint8) for _, chosen in index_tensors):
        raise NoMeaning("operator aten.index.Tensor with a mask, whose result's shape depends on data")
    common, fits = broadcast_shape(facts, *(chosen.shape for _, chosen in index_tensors))
    facts.need("index: shapes that broadcast", fits)
    for axis, chosen in index_tensors:
        _in_range_everywhere(facts, "index", chosen, x.shape[axis], -x.shape[axis])
    axes = [axis for axis, _ in index_tensors]
    # Indices on neighbouring axes keep their place, others move to the front.
    front = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    rest = [extent for axis, extent in enumerate(x.shape) if axis not in axes]
    reads = {axis: spread(facts, chosen, common) for axis, chosen in index_tensors}

    def at(index: Index) -> Any:
        own, others = index[front : front + len(common)], iter(index[:front] + index[front + len(common) :])
        place = (
            wrapped(facts, reads[axis](own), x.shape[axis]) if axis in reads else next(others) for axis in range(x.rank)
        )
        return x.at(tuple(place))

    return SymTensor((*rest[:front], *common, *rest[front:]), x.dtype, at)


@meaning("aten.index_put.default")
def _index_put(
    facts: Facts, x: SymTensor, indices: Sequence[SymTensor | None], value: SymTensor, accumulate: bool = False
) -> SymTensor:
    index_tensors = [(axis, mask) for axis, mask in enumerate(indices) if mask is not None]
    if accumulate or value.numel != 1 or len(index_tensors) != 1 or index_tensors[0][1].dtype != torch.bool:
        raise NoMeaning("operator aten.index_put.default other than one number under one mask")
    axis, mask = index_tensors[0]
    number = as_tensor(facts, value, x.dtype).at((0,) * value.rank)
    for own, extent in zip(mask.shape, x.shape[axis:], strict=False):
        if not facts.same_size(own, extent):
            facts.need("index_put: a mask of the tensor's shape", same(own, extent))
    return SymTensor(x.shape, x.dtype, lambda index: ite(mask.at(index[axis : axis + mask.rank]), number, x.at(index)))


@meaning("aten.cat.default")
def _cat(facts: Facts, tensors: Sequence[SymTensor], axis: int = 0) -> SymTensor:
    if len({x.rank for x in tensors}) != 1:
        raise NoMeaning("operator aten.cat.default on tensors of several ranks")
    dtype = common_dtype(*tensors) if len(tensors) < 3 else _promoted(tensors)
    parts = [as_tensor(facts, x, dtype) for x in tensors]
    first, axis = parts[0], axis_of(axis, parts[0].rank)
    starts: list[Term] = [0]
    for part in parts:
        starts.append(plus(starts[-1], part.shape[axis]))
        for other, (a, b) in enumerate(zip(first.shape, part.shape, strict=True)):
            if other != axis and not facts.same_size(a, b):
                facts.need("cat: equal extents off its axis", same(a, b))

    def at(index: Index) -> Any:
        places = (put(index, axis, plus(index[axis], -start)) for start in starts)
        read = [part.at(place) for part, place in zip(parts, places, strict=False)]
        value = read[-1]
        for part, end in zip(read[-2::-1], starts[-2:0:-1], strict=True):
            value = ite(index[axis] < end, part, value)
        return value

    return SymTensor(put(first.shape, axis, starts[-1]), dtype, at)


def _promoted(tensors: Sequence[SymTensor]) -> torch.dtype:
    dtype = tensors[0].dtype
    for other in tensors[1:]:
        dtype = torch.promote_types(dtype, other.dtype)
    return dtype


@meaning("aten.stack.default")
def _stack(facts: Facts, tensors: Sequence[SymTensor], axis: int = 0) -> SymTensor:
    axis = axis_of(axis, tensors[0].rank + 1)
    layers = [TABLE["aten.unsqueeze.default"](facts, x, axis) for x in tensors]
    return _cat(facts, layers, axis)


@meaning("aten.constant_pad_nd.default", "aten.pad.default")
def _pad(facts: Facts, x: SymTensor, pad: Sequence[Term], *rest: Any) -> SymTensor:
    mode, value = rest if len(rest) == 2 else ("constant", rest[0] if rest else 0)
    if isinstance(value, str):
        mode, value = value, 0
    if mode != "constant":
        raise NoMeaning(f"operator aten.pad.default with mode {mode}")
    before: list[Term] = [0] * x.rank
    shape = list(x.shape)
    for k, (left, right) in enumerate(zip(pad[::2], pad[1::2], strict=True)):
        axis = x.rank - 1 - k
        before[axis], shape[axis] = left, x.shape[axis] + left + right
    filler = as_tensor(facts, 0 if value is None else value, x.dtype).at(())

    def at(index: Index) -> Any:
        place = tuple(plus(i, -left) for i, left in zip(index, before, strict=True))
        return ite(inside(place, x.shape), x.at(place), filler)

    return SymTensor(tuple(shape), x.dtype, at)


@meaning("aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar")
def _where(facts: Facts, condition: SymTensor, yes: Any, no: Any) -> SymTensor:
    dtype = common_dtype(yes, no)
    return pointwise(facts, ite, [condition, as_tensor(facts, yes, dtype), as_tensor(facts, no, dtype)], dtype, "where")


@meaning("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked_fill(facts: Facts, x: SymTensor, mask: SymTensor, value: Any) -> SymTensor:
    filler = as_tensor(facts, value, x.dtype)
    return pointwise(facts, lambda v, m, f: ite(m, f, v), [x, mask, filler], x.dtype, "masked_fill")
