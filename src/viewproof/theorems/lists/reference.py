"""The definitions, by recursion on the list, written from the specification alone.

Each has the name of the public function that it defines, with which it is compared on short lists (`SHAPES`).
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import z3

from viewproof.theorems.lists import kinds
from viewproof.theorems.lists.kinds import (
    Distance,
    IndexLoss,
    Indices,
    Number,
    Numbers,
    OfIndex,
    OfIndexAndValue,
    Opaque,
)
from viewproof.theorems.lists.sequences import SymList, fold, lower, recursive
from viewproof.theorems.lists.terms import REAL, TOKEN, Num

_ZERO = z3.RealVal(0)


def total(name: str, xs: Any, value: Callable[[Any], Any]) -> Number:
    """The sum of ``value`` over the list: 0 of nil, ``value(head) + total(tail)`` else."""
    if isinstance(xs, list):
        return sum(map(value, xs))
    return Num(fold(name, xs, lambda head, rest: lower(value(head), REAL) + rest, _ZERO))


def masked_loss(idxs: Indices, per_index_loss: IndexLoss) -> Number:
    """The sum over the list."""
    return total("masked_loss", idxs, per_index_loss)


def mae_loss(idxs: Indices, target: OfIndex, pred: OfIndex, patch_loss: Distance) -> Number:
    """The sum of the distances of prediction and target."""
    return total("mae_loss", idxs, lambda i: patch_loss(target(i), pred(i)))


def jepa_loss(idxs: Indices, context: Opaque, target: OfIndex, predict: OfIndexAndValue, rep_loss: Distance) -> Number:
    """The sum of the distances of predicted and target representation."""
    return total("jepa_loss", idxs, lambda i: rep_loss(target(i), predict(context, i)))


class ContractArguments(NamedTuple):
    """The fields that a predictive-view contract is made of."""

    target_idxs: Indices
    context: Opaque
    target: OfIndex
    target_encoder: OfIndexAndValue
    predict: OfIndexAndValue
    distance: Distance
    geometry_guard: Number = 0


PredictiveViewContract = encoded_target_predictive_view_contract = ContractArguments
Contract = Annotated[Any, ContractArguments, "PredictiveViewContract"]


def predictive_loss(contract: Contract) -> Number:
    """The sum of the distances of prediction and encoded target."""
    c = contract

    def distance_at(i: Any) -> Any:
        return c.distance(c.target_encoder(i, c.target(i)), c.predict(c.context, i))

    return total("predictive_loss", c.target_idxs, distance_at)


def predictive_view_objective(contract: Contract) -> Number:
    """The loss plus the guard."""
    return predictive_loss(contract) + contract.geometry_guard


def with_geometry_guard(contract: Contract, guard: Number) -> Contract:
    """The contract with another guard."""
    return contract._replace(geometry_guard=guard)


def _unchanged(_: Any, target: Any) -> Any:
    return target


def mae_as_predictive_view_contract(idxs: Indices, target: OfIndex, pred: OfIndex, patch_loss: Distance) -> Contract:
    """Unit context, identity target encoder, no guard."""
    return PredictiveViewContract(idxs, (), target, _unchanged, lambda _, i: pred(i), patch_loss)


def jepa_as_predictive_view_contract(
    idxs: Indices, context: Opaque, target: OfIndex, predict: OfIndexAndValue, rep_loss: Distance
) -> Contract:
    """Identity target encoder, no guard."""
    return PredictiveViewContract(idxs, context, target, _unchanged, predict, rep_loss)


def variance_floor_penalty(gamma: Number, v: Number) -> Number:
    """``max(0, gamma - v)``."""
    difference = lower(gamma - v, REAL)
    return Num(z3.If(difference > 0, difference, 0))


def variance_term(gamma: Number, vs: Numbers) -> Number:
    """The sum of the penalties."""
    return total("variance_term", vs, lambda v: variance_floor_penalty(gamma, v))


def vicreg_objective(
    lambda_: Number, mu: Number, nu: Number, invariance: Number, variance: Number, covariance: Number
) -> Number:
    """The weighted sum."""
    return lambda_ * invariance + mu * variance + nu * covariance


class VICRegArguments(NamedTuple):
    """The arguments of `vicreg_objective`, and a VICReg guard of them."""

    lambda_: Number
    mu: Number
    nu: Number
    invariance: Number
    variance: Number
    covariance: Number

    @property
    def value(self) -> Number:
        """`vicreg_objective` of the fields."""
        return vicreg_objective(*self)


VICRegGuard = VICRegArguments


def diagonal_redundancy_penalty(c: Number) -> Number:
    """``|c - 1|``."""
    return abs(c - 1)


def off_diagonal_redundancy_penalty(c: Number) -> Number:
    """``|c|``."""
    return abs(c)


def redundancy_reduction_objective(lambda_: Number, diag: Numbers, off_diag: Numbers) -> Number:
    """The sum of the diagonal penalties plus the weighted sum of the others."""
    return total("diagonal", diag, lambda c: abs(c - 1)) + lambda_ * total("off_diagonal", off_diag, abs)


class BarlowArguments(NamedTuple):
    """The arguments of `redundancy_reduction_objective`, and a Barlow guard of them."""

    lambda_: Number
    diag: Numbers
    off_diag: Numbers

    @property
    def value(self) -> Number:
        """`redundancy_reduction_objective` of the fields."""
        return redundancy_reduction_objective(*self)


BarlowGuard = BarlowArguments


class GraphArguments(NamedTuple):
    """The positive pairs."""

    positive_edges: kinds.Edges


SSLViewGraph = GraphArguments
Graph = Annotated[Any, GraphArguments, "SSLViewGraph"]


def view_graph_energy(graph: Graph, edge_loss: Distance) -> Number:
    """The sum of the edges' losses."""
    return total("view_graph_energy", graph.positive_edges, lambda edge: edge_loss(*edge))


(_U, _V), _X = z3.Consts("u v", kinds.NUMBERS), z3.Const("x", REAL)


def _plus_square_of_first(head: Any, again: Any) -> Any:
    # Of lists of unequal lengths, which raise in the program, it says something that is never compared or used.
    gap = head - kinds.NUMBERS.head(_V)
    return z3.If(kinds.NUMBERS.is_nil(_V), _ZERO, gap * gap + again(kinds.NUMBERS.tail(_V)))


_SQ_DIST = recursive("sq_dist", [_U, _V], _ZERO, _plus_square_of_first)
_APART = recursive("apart", [_V, _X], _ZERO, lambda head, again: (_X - head) * (_X - head) + again(_X))
_SPREAD = recursive("coordinate_spread", [_U, _V], _ZERO, lambda head, again: _APART(_V, head) + again(_V))


def apart(x: Num, ys: SymList) -> Number:
    """The sum over ``ys`` of the squared difference to ``x``."""
    return Num(_APART(ys.term, x.term))


def spread(xs: SymList, ys: SymList) -> Number:
    """The sum of `apart` over ``xs``; of a column against itself, its spread."""
    return Num(_SPREAD(xs.term, ys.term))


def sq_dist(u: Numbers, v: Annotated[Any, kinds.list_of(REAL, like="u")]) -> Number:
    """The sum of the squared differences."""
    return Num(_SQ_DIST(u.term, v.term))


def graph_alignment_energy(graph: Graph, reps: kinds.Views) -> Number:
    """The sum of the squared distances along the edges."""
    return total("graph_alignment_energy", graph.positive_edges, lambda edge: sq_dist(reps[edge[0]], reps[edge[1]]))


def coordinate_spread(reps: kinds.Views, coordinate: kinds.Coordinate) -> Number:
    """The spread of a coordinate's column; for lists of any length the column is the coordinate."""
    if isinstance(coordinate, int):
        columns = reps.columns
        for _ in range(coordinate):
            columns = columns.tail
        coordinate = SymList(columns.sort.head(columns.term))
    return spread(coordinate, coordinate)


real_variance_floor_penalty = variance_floor_penalty


def real_variance_floor_guard(gamma: Number, reps: kinds.Views) -> Number:
    """The sum of the coordinates' penalties."""
    return total(
        "real_variance_floor_guard", reps.columns, lambda column: variance_floor_penalty(gamma, spread(column, column))
    )


def graph_ssl_objective(graph: Graph, gamma: Number, reps: kinds.Views) -> Number:
    """Alignment plus guard."""
    return graph_alignment_energy(graph, reps) + real_variance_floor_guard(gamma, reps)


LONGEST = 6
"""Each public function is compared with its definition on lists of every length up to this."""
_LENGTHS = range(LONGEST + 1)
# Two lengths that do not act on each other: each runs through all its values, not all pairs do.
_PAIRS = [(n, d) for n in _LENGTHS for d in _LENGTHS if min(n, d) <= 1 or n == d]
_MATRICES = [(n, d) for n, d in _PAIRS if n <= 2 or d <= 1]
SHAPES: dict[str, Sequence[tuple[int, ...]]] = {
    "redundancy_reduction_objective": _PAIRS,
    "BarlowGuard": _PAIRS,
    "graph_alignment_energy": [(e, 2, d) for e, d in _PAIRS],
    "coordinate_spread": [(n, d, coordinate) for n, d in _MATRICES if n for coordinate in range(d)],
    "real_variance_floor_guard": _MATRICES,
    "graph_ssl_objective": [
        *((e, 2, 2) for e in _LENGTHS),
        *((1, n, 1) for n in _LENGTHS),
        *((1, 1, d) for d in _LENGTHS),
    ],
}
"""The lengths of functions with several, where it is not every choice of them."""
_EDGE_LOSS = kinds.function(TOKEN, TOKEN, REAL).bounded("edge_loss", ())


def observed(program: Any, value: Any, expected: Any) -> list[Any]:
    """The numbers that tell a function's value from ``expected``: itself, or what a record gives."""
    if isinstance(expected, ContractArguments):
        return [program.predictive_loss(value), program.predictive_view_objective(value)]
    if isinstance(expected, GraphArguments):
        return [program.view_graph_energy(value, _EDGE_LOSS)]
    return [value.value if isinstance(expected, VICRegArguments | BarlowArguments) else value]
