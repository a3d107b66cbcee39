"""The same values at other coordinates: views, reshapes, permutations."""

from collections.abc import Sequence
from typing import Any

import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import axis_of, in_range, meaning, wrapped
from viewproof.symbolic.tensor import Index, SymTensor, broadcast_shape, put, spread
from viewproof.symbolic.terms import Term, known, product, same, times
from viewproof.symbolic.values import NoMeaning

_ALIASES = ("alias", "clone", "contiguous", "detach", "detach_", "lift", "lift_fresh_copy")


@meaning(*(f"aten.{name}.default" for name in _ALIASES))
def _unchanged(facts: Facts, x: SymTensor, **_: Any) -> SymTensor:
    return x


@meaning("aten.sym_size.int")
def _size(facts: Facts, x: SymTensor, axis: int) -> Term:
    return x.shape[axis]


@meaning("aten.sym_numel.default")
def _numel(facts: Facts, x: SymTensor) -> Term:
    return x.numel


@meaning("aten.reshape.default", "aten.view.default", "aten._unsafe_view.default")
def reshape(facts: Facts, x: SymTensor, shape: Sequence[Term]) -> SymTensor:
    """The same row-major order in another shape; ``-1`` stands for what is left over."""
    new_shape = tuple(_left_over(facts, x.shape, shape) if known(d) and d == -1 else d for d in shape)
    if not facts.same_size(x.numel, product(new_shape)):
        facts.need("reshape: the same number of entries", same(x.numel, product(new_shape)))
    groups = _groups(facts, list(new_shape), list(x.shape))

    def at(index: Index) -> Any:
        place: list[Term] = []
        for new, old in groups:
            own, index_rest = [index[axis] for axis in new], [new_shape[axis] for axis in new]
            extents = [x.shape[axis] for axis in old]
            place += own if len(own) == len(extents) == 1 else unravel(facts, join(facts, own, index_rest), extents)
        return x.at(tuple(place))

    return SymTensor(new_shape, x.dtype, at)


def join(facts: Facts, index: Sequence[Term], shape: Sequence[Term]) -> Term:
    """The row-major flat index, put together so that `unravel` takes it apart exactly."""
    flat: Term = 0
    for i, extent in zip(index, shape, strict=True):
        flat = i if known(flat) and flat == 0 else flat if same(extent, 1) is True else facts.join(flat, extent, i)
    return flat


def unravel(facts: Facts, flat: Term, shape: Sequence[Term]) -> list[Term]:
    """The coordinate at a row-major flat index."""
    place: list[Term] = []
    axes = [axis for axis, extent in enumerate(shape) if same(extent, 1) is not True]
    for axis in reversed(range(len(shape))):
        if axis not in axes:
            place.append(0)
        elif axis == axes[0]:
            place.append(flat)
        else:
            place.append(facts.mod(flat, shape[axis]))
            flat = facts.floordiv(flat, shape[axis])
    return place[::-1]


def _left_over(facts: Facts, old: Sequence[Term], new: Sequence[Term]) -> Term:
    rest = list(old)
    others: list[Term] = []
    for extent in (d for d in new if not (known(d) and d in (-1, 1))):
        twin = next((i for i, d in enumerate(rest) if same(d, extent) is True), None)
        if twin is None:
            others.append(extent)
        else:
            del rest[twin]
    facts.need("reshape: a size that -1 stands for", product(d for d in new if not (known(d) and d == -1)) != 0)
    return product(rest) if not others else facts.floordiv(product(rest), product(others))


def _groups(facts: Facts, new: list[Term], old: list[Term]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes with equal products, as short as possible.

    Flat indices are needed only inside a run.
    """
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(new) or j < len(old):
        left, right = [i] if i < len(new) else [], [j] if j < len(old) else []
        i, j = i + len(left), j + len(right)
        while not facts.same_size(product(new[a] for a in left), product(old[a] for a in right)):
            ahead = len(new) - i, len(old) - j
            if ahead == (0, 0):
                break
            # The side with more axes left grows, or else the one with fewer factors: C*H*W meets [C, H, W].
            if ahead[0] > ahead[1] or (ahead[0] == ahead[1] and _factors(new, left) < _factors(old, right)):
                left, i = [*left, i], i + 1
            else:
                right, j = [*right, j], j + 1
        groups.append((left, right))
    return groups


def _factors(shape: Sequence[Term], axes: Sequence[int]) -> int:
    term = z3.simplify(z3.IntVal(1) * product(shape[axis] for axis in axes))
    if z3.is_int_value(term):
        return 0 if term.as_long() == 1 else 1
    return term.num_args() if term.decl().kind() == z3.Z3_OP_MUL else 1


@meaning("aten.flatten.using_ints")
def _flatten(facts: Facts, x: SymTensor, start: int = 0, end: int = -1) -> SymTensor:
    if x.rank == 0:
        return reshape(facts, x, [1])
    first, last = axis_of(start, x.rank), axis_of(end, x.rank)
    return reshape(facts, x, [*x.shape[:first], product(x.shape[first : last + 1]), *x.shape[last + 1 :]])


@meaning("aten.unflatten.int")
def _unflatten(facts: Facts, x: SymTensor, axis: int, sizes: Sequence[Term]) -> SymTensor:
    axis = axis_of(axis, x.rank)
    own = [_left_over(facts, [x.shape[axis]], sizes) if known(d) and d == -1 else d for d in sizes]
    return reshape(facts, x, put(x.shape, axis, *own))


@meaning("aten.expand.default", "aten.broadcast_to.default")
def _expand(facts: Facts, x: SymTensor, shape: Sequence[Term], **_: Any) -> SymTensor:
    new = len(shape) - x.rank
    new_shape = tuple(x.shape[a - new] if known(d) and d == -1 else d for a, d in enumerate(shape))
    for own, extent in zip(x.shape, new_shape[new:], strict=True):
        if not facts.same_size(own, extent):
            facts.need("expand: an axis of extent 1, or the same extent", z3.Or(own == 1, own == extent))
    return SymTensor(new_shape, x.dtype, spread(facts, x, new_shape))


@meaning("aten.expand_as.default")
def _expand_as(facts: Facts, x: SymTensor, other: SymTensor) -> SymTensor:
    return _expand(facts, x, other.shape)


@meaning("aten.broadcast_tensors.default")
def _broadcast_tensors(facts: Facts, tensors: Sequence[SymTensor]) -> list[SymTensor]:
    shape, fits = broadcast_shape(facts, *(x.shape for x in tensors))
    facts.need("broadcast_tensors: shapes that broadcast", fits)
    return [SymTensor(shape, x.dtype, spread(facts, x, shape)) for x in tensors]


@meaning("aten.permute.default")
def permute(facts: Facts, x: SymTensor, axes: Sequence[int]) -> SymTensor:
    """Axis ``i`` of the result is axis ``axes[i]`` of the argument."""
    order = [axis_of(axis, x.rank) for axis in axes]
    back = [order.index(axis) for axis in range(x.rank)]
    return SymTensor(
        tuple(x.shape[axis] for axis in order), x.dtype, lambda index: x.at(tuple(index[place] for place in back))
    )


@meaning("aten.transpose.int")
def _transpose(facts: Facts, x: SymTensor, first: int, second: int) -> SymTensor:
    order = list(range(x.rank))
    a, b = axis_of(first, x.rank), axis_of(second, x.rank)
    order[a], order[b] = order[b], order[a]
    return permute(facts, x, order)


@meaning("aten.t.default", "aten.numpy_T.default")
def _t(facts: Facts, x: SymTensor) -> SymTensor:
    return permute(facts, x, list(reversed(range(x.rank))))


@meaning("aten.movedim.int")
def _movedim(facts: Facts, x: SymTensor, source: int, destination: int) -> SymTensor:
    order = [axis for axis in range(x.rank) if axis != axis_of(source, x.rank)]
    order.insert(axis_of(destination, x.rank), axis_of(source, x.rank))
    return permute(facts, x, order)


@meaning("aten.unsqueeze.default")
def _unsqueeze(facts: Facts, x: SymTensor, axis: int) -> SymTensor:
    axis = axis_of(axis, x.rank + 1)
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    return SymTensor(shape, x.dtype, lambda index: x.at(put(index, axis)))


@meaning("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def _squeeze(facts: Facts, x: SymTensor, axes: int | Sequence[int] | None = None) -> SymTensor:
    asked = range(x.rank) if axes is None else [axes] if isinstance(axes, int) else axes
    gone = []
    for axis in sorted({axis_of(axis, x.rank) for axis in asked} if x.rank else ()):
        if facts.entails(x.shape[axis] == 1):
            gone.append(axis)
        else:
            facts.need("squeeze: whether an extent is 1 is known", x.shape[axis] != 1)
    remaining = [axis for axis in range(x.rank) if axis not in gone]

    def at(index: Index) -> Any:
        places = iter(index)
        return x.at(tuple(0 if axis in gone else next(places) for axis in range(x.rank)))

    return SymTensor(tuple(x.shape[axis] for axis in remaining), x.dtype, at)


@meaning("aten.flip.default")
def _flip(facts: Facts, x: SymTensor, axes: Sequence[int]) -> SymTensor:
    turned = {axis_of(axis, x.rank) for axis in axes}
    return SymTensor(
        x.shape,
        x.dtype,
        lambda index: x.at(tuple(x.shape[a] - 1 - i if a in turned else i for a, i in enumerate(index))),
    )


@meaning("aten.roll.default")
def _roll(facts: Facts, x: SymTensor, shifts: Sequence[Term], axes: Sequence[int] = ()) -> SymTensor:
    if not axes:
        flat = _roll(facts, reshape(facts, x, [x.numel]), shifts, [0])
        return reshape(facts, flat, x.shape)
    by = {axis_of(axis, x.rank): shift for axis, shift in zip(axes, shifts, strict=True)}
    # An axis of extent 0 has no coordinate to roll.
    return SymTensor(
        x.shape,
        x.dtype,
        lambda index: x.at(tuple(facts.mod(i - by.get(a, 0), x.shape[a]) for a, i in enumerate(index))),
    )


@meaning("aten.repeat.default")
def _repeat(facts: Facts, x: SymTensor, repeats: Sequence[Term]) -> SymTensor:
    new = len(repeats) - x.rank
    own = (1,) * new + x.shape
    shape = tuple(times(d, r) for d, r in zip(own, repeats, strict=True))

    def at(index: Index) -> Any:
        pairs = list(zip(index, own, shape, strict=True))[new:]
        return x.at(tuple(i if same(d, full) is True else facts.mod(i, d) for i, d, full in pairs))

    return SymTensor(shape, x.dtype, at)


@meaning("aten.repeat_interleave.self_int")
def _repeat_interleave(facts: Facts, x: SymTensor, repeats: Term, axis: int | None = None, **_: Any) -> SymTensor:
    if axis is None:
        x, axis = reshape(facts, x, [x.numel]), 0
    axis = axis_of(axis, x.rank)
    shape = put(x.shape, axis, times(x.shape[axis], repeats))
    return SymTensor(shape, x.dtype, lambda index: x.at(put(index, axis, facts.floordiv(index[axis], repeats))))


@meaning("aten.unbind.int")
def _unbind(facts: Facts, x: SymTensor, axis: int = 0) -> list[SymTensor]:
    axis = axis_of(axis, x.rank)
    if not known(x.shape[axis]):
        raise NoMeaning("operator aten.unbind.int over an axis of symbolic extent")
    return [select(facts, x, axis, i) for i in range(x.shape[axis])]


@meaning("aten.select.int")
def select(facts: Facts, x: SymTensor, axis: int, place: Term) -> SymTensor:
    """The tensor at one place of an axis."""
    axis = axis_of(axis, x.rank)
    in_range(facts, "select", place, x.shape[axis])
    at = wrapped(facts, place, x.shape[axis])
    return SymTensor(put(x.shape, axis), x.dtype, lambda index: x.at((*index[:axis], at, *index[axis:])))
