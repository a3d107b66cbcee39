"""The definitions, by recursion on the list, written from the specification and not from the code; and what ties
each public function to its definition: a call of it, compared at every small length.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from types import SimpleNamespace
from typing import Any

import z3

from viewproof.theorems.lists.kinds import Edges, Function, Indices, ListOf, Number, Numbers, Opaque, Views
from viewproof.theorems.lists.sequences import SymList, fold, list_sort, lower, recursive
from viewproof.theorems.lists.terms import REAL, TOKEN, Num

LONGEST = 6
ZERO = z3.RealVal(0)


def total(name: str, xs: Any, value: Callable[[Any], Any]) -> Any:
    """The sum of ``value`` over the list: 0 of nil, ``value(head) + total(tail)`` else."""
    if isinstance(xs, list):
        return Num(z3.Sum([ZERO, *(lower(value(x), REAL) for x in xs)]))
    return Num(fold(name, xs, lambda head, rest: lower(value(head), REAL) + rest, ZERO))


@dataclass(frozen=True)
class Contract:
    """The fields of a predictive-view contract."""

    target_idxs: Any
    context: Any
    target: Any
    target_encoder: Any
    predict: Any
    distance: Any
    geometry_guard: Any = 0


@dataclass(frozen=True)
class Guard:
    """A guard is its value."""

    value: Any


def _predictive_loss(c: Contract) -> Any:
    def at(i: Any) -> Any:
        return c.distance(c.target_encoder(i, c.target(i)), c.predict(c.context, i))

    return total("predictive_loss", c.target_idxs, at)


def _positive_part(x: Any) -> Any:
    term = lower(x, REAL)
    return Num(z3.If(term > 0, term, 0))


def _variance_term(gamma: Any, vs: Any) -> Any:
    return total("variance_term", vs, lambda v: _positive_part(gamma - v))


def _vicreg(lambda_: Any, mu: Any, nu: Any, invariance: Any, variance: Any, covariance: Any) -> Any:
    return lambda_ * invariance + mu * variance + nu * covariance


def _redundancy(lambda_: Any, diag: Any, off_diag: Any) -> Any:
    return total("diagonal", diag, lambda c: abs(c - 1)) + lambda_ * total("off_diagonal", off_diag, abs)


@cache
def _squares() -> Any:
    # lists of unequal lengths raise in the program: what the definition says of them is never compared or used
    sort = list_sort(REAL)
    u, v = z3.Consts("u v", sort)
    apart = sort.head(u) - sort.head(v)
    return recursive(
        "sq_dist",
        [u, v],
        REAL,
        lambda f: z3.If(z3.Or(u == sort.nil, v == sort.nil), ZERO, apart * apart + f(sort.tail(u), sort.tail(v))),
    )


def _sq_dist(u: SymList, v: SymList) -> Any:
    return Num(_squares()(u.term, v.term))


def _alignment(edges: Any, reps: Any) -> Any:
    return total("graph_alignment_energy", edges, lambda edge: _sq_dist(reps[edge[0]], reps[edge[1]]))


def _column(reps: Any, place: int) -> SymList:
    columns = reps.columns
    for _ in range(place):
        columns = columns.tail
    return SymList(columns.sort.head(columns.term))


def apart(x: Any, ys: SymList) -> Any:
    """The sum over ``ys`` of the squared difference to ``x``."""

    def step(y: Any, rest: Any, x: Any) -> Any:
        return (x.term - y.term) * (x.term - y.term) + rest

    return Num(fold("apart", ys, step, ZERO, [x.term]))


def spread(xs: SymList, ys: SymList) -> Any:
    """The sum of `apart` over ``xs``; of a column against itself, its spread."""
    return Num(fold("coordinate_spread", xs, lambda x, rest, ys: apart(x, ys).term + rest, ZERO, [ys.term]))


def _coordinate_spread(reps: Any, j: Any) -> Any:
    column = _column(reps, j) if isinstance(j, int) else j
    return spread(column, column)


def _floor_guard(gamma: Any, reps: Any) -> Any:
    return total(
        "real_variance_floor_guard", reps.columns, lambda column: _positive_part(gamma - spread(column, column))
    )


REFERENCE = SimpleNamespace(
    masked_loss=lambda idxs, loss: total("masked_loss", idxs, loss),
    mae_loss=lambda idxs, target, pred, loss: total("mae_loss", idxs, lambda i: loss(target(i), pred(i))),
    jepa_loss=lambda idxs, context, target, predict, loss: total(
        "jepa_loss", idxs, lambda i: loss(target(i), predict(context, i))
    ),
    PredictiveViewContract=Contract,
    predictive_loss=_predictive_loss,
    predictive_view_objective=lambda c: _predictive_loss(c) + c.geometry_guard,
    with_geometry_guard=lambda c, guard: replace(c, geometry_guard=guard),
    mae_as_predictive_view_contract=lambda idxs, target, pred, loss: Contract(
        idxs, (), target, lambda _, t: t, lambda _, i: pred(i), loss
    ),
    jepa_as_predictive_view_contract=lambda idxs, context, target, predict, loss: Contract(
        idxs, context, target, lambda _, t: t, predict, loss
    ),
    encoded_target_predictive_view_contract=Contract,
    variance_floor_penalty=lambda gamma, v: _positive_part(gamma - v),
    variance_term=_variance_term,
    vicreg_objective=_vicreg,
    VICRegGuard=lambda *fields: Guard(_vicreg(*fields)),
    diagonal_redundancy_penalty=lambda c: abs(c - 1),
    off_diagonal_redundancy_penalty=abs,
    redundancy_reduction_objective=_redundancy,
    BarlowGuard=lambda *fields: Guard(_redundancy(*fields)),
    SSLViewGraph=lambda edges: edges,
    view_graph_energy=lambda edges, loss: total("view_graph_energy", edges, lambda edge: loss(*edge)),
    sq_dist=_sq_dist,
    graph_alignment_energy=_alignment,
    coordinate_spread=_coordinate_spread,
    real_variance_floor_penalty=lambda gamma, spread: _positive_part(gamma - spread),
    real_variance_floor_guard=_floor_guard,
    graph_ssl_objective=lambda edges, gamma, reps: _alignment(edges, reps) + _floor_guard(gamma, reps),
)


@dataclass(frozen=True)
class Tie:
    """A call of public functions that must equal the same call of their definitions, at each of ``sizes``."""

    inputs: Mapping[str, Any]
    call: Callable[[Any, Any], Any]
    sizes: Iterable[tuple[int, ...]] | None = None

    def shapes(self) -> Iterable[tuple[int, ...]]:
        """The lengths compared: all up to `LONGEST` unless it says otherwise."""
        axes = sum(kind.axes for kind in self.inputs.values())
        return self.sizes or product(_LENGTHS, repeat=axes)


CONTRACT = {
    "idxs": Indices,
    "context": Opaque,
    "target": Function(TOKEN, TOKEN),
    "encoder": Function(TOKEN, TOKEN, TOKEN),
    "predict": Function(TOKEN, TOKEN, TOKEN),
    "distance": Function(TOKEN, TOKEN, REAL),
    "guard": Number,
}
MAE = {"idxs": Indices, "target": Function(TOKEN, TOKEN), "pred": Function(TOKEN, TOKEN)}
MAE["patch_loss"] = Function(TOKEN, TOKEN, REAL)
JEPA = {key: CONTRACT[key] for key in ("idxs", "context", "target", "predict")}
JEPA["rep_loss"] = Function(TOKEN, TOKEN, REAL)
WEIGHTS = ("lambda_", "mu", "nu", "invariance", "variance", "covariance")
VICREG = dict.fromkeys(WEIGHTS, Number)
BARLOW = {"lambda_": Number, "diag": Numbers, "off_diag": Numbers}
GRAPH = {"edges": Edges, "reps": Views()}
# two lengths that do not act on each other: each runs through all its values, not all pairs do
_LENGTHS = range(LONGEST + 1)
_PAIRS = [(n, d) for n in _LENGTHS for d in _LENGTHS if min(n, d) <= 1 or n == d]
_MATRICES = [(n, d) for n, d in _PAIRS if n <= 2 or d <= 1]


def contract(p: Any, w: Any, guard: Any = 0) -> Any:
    """The contract with the inputs of `CONTRACT`."""
    return p.PredictiveViewContract(w.idxs, w.context, w.target, w.encoder, w.predict, w.distance, guard)


def mae(w: Any) -> tuple[Any, ...]:
    """The inputs of `MAE` in order."""
    return w.idxs, w.target, w.pred, w.patch_loss


def jepa(w: Any) -> tuple[Any, ...]:
    """The inputs of `JEPA` in order."""
    return w.idxs, w.context, w.target, w.predict, w.rep_loss


def vicreg(w: Any) -> tuple[Any, ...]:
    """The inputs of `VICREG` in order."""
    return tuple(getattr(w, name) for name in WEIGHTS)


def encoded(p: Any, w: Any) -> Any:
    """The encoded-target contract with the inputs of `CONTRACT`."""
    return p.encoded_target_predictive_view_contract(
        w.idxs, w.context, w.target, w.encoder, w.predict, w.distance, w.guard
    )


TIES: dict[str, Tie] = {
    "masked_loss": Tie({"idxs": Indices, "loss": Function(TOKEN, REAL)}, lambda p, w: p.masked_loss(w.idxs, w.loss)),
    "mae_loss": Tie(MAE, lambda p, w: p.mae_loss(*mae(w))),
    "jepa_loss": Tie(JEPA, lambda p, w: p.jepa_loss(*jepa(w))),
    "PredictiveViewContract": Tie(CONTRACT, lambda p, w: p.predictive_loss(contract(p, w))),
    "predictive_loss": Tie(CONTRACT, lambda p, w: p.predictive_loss(contract(p, w, w.guard))),
    "predictive_view_objective": Tie(CONTRACT, lambda p, w: p.predictive_view_objective(contract(p, w, w.guard))),
    "with_geometry_guard": Tie(
        CONTRACT, lambda p, w: p.predictive_view_objective(p.with_geometry_guard(contract(p, w), w.guard))
    ),
    "mae_as_predictive_view_contract": Tie(
        MAE, lambda p, w: p.predictive_view_objective(p.mae_as_predictive_view_contract(*mae(w)))
    ),
    "jepa_as_predictive_view_contract": Tie(
        JEPA, lambda p, w: p.predictive_view_objective(p.jepa_as_predictive_view_contract(*jepa(w)))
    ),
    "encoded_target_predictive_view_contract": Tie(CONTRACT, lambda p, w: p.predictive_view_objective(encoded(p, w))),
    "variance_floor_penalty": Tie({"gamma": Number, "v": Number}, lambda p, w: p.variance_floor_penalty(w.gamma, w.v)),
    "variance_term": Tie({"gamma": Number, "vs": Numbers}, lambda p, w: p.variance_term(w.gamma, w.vs)),
    "vicreg_objective": Tie(VICREG, lambda p, w: p.vicreg_objective(*vicreg(w))),
    "VICRegGuard": Tie(VICREG, lambda p, w: p.VICRegGuard(*vicreg(w)).value),
    "diagonal_redundancy_penalty": Tie({"c": Number}, lambda p, w: p.diagonal_redundancy_penalty(w.c)),
    "off_diagonal_redundancy_penalty": Tie({"c": Number}, lambda p, w: p.off_diagonal_redundancy_penalty(w.c)),
    "redundancy_reduction_objective": Tie(
        BARLOW, lambda p, w: p.redundancy_reduction_objective(w.lambda_, w.diag, w.off_diag), _PAIRS
    ),
    "BarlowGuard": Tie(BARLOW, lambda p, w: p.BarlowGuard(w.lambda_, w.diag, w.off_diag).value, _PAIRS),
    "view_graph_energy": Tie(
        {"edges": Edges, "loss": Function(TOKEN, TOKEN, REAL)},
        lambda p, w: p.view_graph_energy(p.SSLViewGraph(w.edges), w.loss),
    ),
    "sq_dist": Tie({"u": Numbers, "v": ListOf(REAL, like="u")}, lambda p, w: p.sq_dist(w.u, w.v)),
    "graph_alignment_energy": Tie(
        GRAPH, lambda p, w: p.graph_alignment_energy(p.SSLViewGraph(w.edges), w.reps), [(e, 2, d) for e, d in _PAIRS]
    ),
    "coordinate_spread": Tie(
        {"reps": Views()},
        # without a view there is no coordinate
        lambda p, w: [p.coordinate_spread(w.reps, j) for j in range(w.sizes[1] if w.sizes[0] else 0)],
        _MATRICES,
    ),
    "real_variance_floor_penalty": Tie(
        {"gamma": Number, "spread": Number}, lambda p, w: p.real_variance_floor_penalty(w.gamma, w.spread)
    ),
    "real_variance_floor_guard": Tie(
        {"gamma": Number, "reps": Views()}, lambda p, w: p.real_variance_floor_guard(w.gamma, w.reps), _MATRICES
    ),
    "graph_ssl_objective": Tie(
        {**GRAPH, "gamma": Number},
        lambda p, w: p.graph_ssl_objective(p.SSLViewGraph(w.edges), w.gamma, w.reps),
        [*((e, 2, 2) for e in _LENGTHS), *((1, n, 1) for n in _LENGTHS), *((1, 1, d) for d in _LENGTHS)],
    ),
}
TIES["SSLViewGraph"] = TIES["view_graph_energy"]
