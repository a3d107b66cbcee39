"""Positive pairs as a graph: alignment, spread, and that a collapsed representation is not free."""

from typing import Any

from viewproof.theorems.lists.engine import PROGRAM, Claim, Use, mutant, theorem
from viewproof.theorems.lists.kinds import (
    Indices,
    ListOf,
    Number,
    Numbers,
    Opaque,
    Views,
    are_views,
    both,
    collapsed,
    dims,
    each,
    every_coordinate,
    has_coordinates,
    nonempty,
    replicate,
)
from viewproof.theorems.lists.reference import CONTRACT, GRAPH, apart, contract, spread
from viewproof.theorems.lists.sequences import EDGE
from viewproof.theorems.lists.terms import REAL
from viewproof.theorems.registry import Theorem

_COLLAPSED = {"edges": GRAPH["edges"], "vector": Numbers, "views": Indices}
_GUARD = {"gamma": Number, "reps": Views()}


def _same(w: Any) -> Any:
    return collapsed(w.vector, w.views)


def _alignment(p: Any, w: Any, reps: Any) -> Any:
    return p.graph_alignment_energy(p.SSLViewGraph(w.edges), reps)


def _objective(p: Any, w: Any) -> Any:
    return p.graph_ssl_objective(p.SSLViewGraph(w.edges), w.gamma, _same(w))


def _no_spread(p: Any, reps: Any) -> Any:
    return every_coordinate(reps, lambda j: p.coordinate_spread(reps, j) == 0)


_NONNEG = Claim(
    "sq_dist_nonneg",
    {"u": Numbers, "v": ListOf(REAL, like="u")},
    lambda p, w: (True, p.sq_dist(w.u, w.v) >= 0),
    on="u",
    along=("v",),
)
_SELF = Claim("sq_dist_self", {"u": Numbers}, lambda p, w: (True, p.sq_dist(w.u, w.u) == 0), on="u")
_ALIGNMENT_NONNEG = Claim(
    "graph_alignment_energy_nonneg",
    GRAPH,
    lambda p, w: (are_views(w.edges, w.reps), _alignment(p, w, w.reps) >= 0),
    on="edges",
    uses=(Use(_NONNEG, lambda w, edge: {"u": w.reps[edge[0]], "v": w.reps[edge[1]]}),),
    upto=2,
)
_ALIGNMENT_ZERO = Claim(
    "graph_alignment_energy_eq_zero_of_collapsed",
    _COLLAPSED,
    lambda p, w: (are_views(w.edges, _same(w)), _alignment(p, w, _same(w)) == 0),
    on="edges",
    uses=(Use(_SELF, lambda w, edge: {"u": w.vector}),),
    upto=2,
)
_APART_ZERO = Claim(
    "apart_from_itself",
    {"x": Number, "views": Indices},
    lambda p, w: (True, apart(w.x, replicate(w.views, w.x)) == 0),
    on="views",
)
_CONSTANT = Claim(
    "spread_of_a_constant_column",
    {"x": Number, "views": Indices, "against": Indices},
    lambda p, w: (True, spread(replicate(w.views, w.x), replicate(w.against, w.x)) == 0),
    on="views",
    uses=(Use(_APART_ZERO, lambda w, head: {"views": w.against}),),
)
_SPREAD_ZERO = Claim(
    "coordinate_spread_eq_zero_of_collapsed",
    {"vector": Numbers, "views": Indices},
    lambda p, w: (True, _no_spread(p, _same(w))),
    on="vector",
    uses=(Use(_CONSTANT, lambda w, x: {"x": x, "against": w.views}),),
)
_GUARD_NONNEG = Claim(
    "real_variance_floor_guard_nonneg",
    _GUARD,
    lambda p, w: (True, p.real_variance_floor_guard(w.gamma, w.reps) >= 0),
    on="reps",
)
_GUARD_ZERO = Claim(
    "real_variance_floor_guard_zero_spread",
    _GUARD,
    lambda p, w: (
        _no_spread(p, w.reps),
        p.real_variance_floor_guard(w.gamma, w.reps) == dims(w.reps) * max(0, w.gamma),
    ),
    on="reps",
    upto=2,
)
_GUARD_POSITIVE = Claim(
    "real_variance_floor_guard_zero_spread_positive",
    _GUARD,
    lambda p, w: (
        both(w.gamma > 0, has_coordinates(w.reps), _no_spread(p, w.reps)),
        p.real_variance_floor_guard(w.gamma, w.reps) > 0,
    ),
    on="reps",
    uses=(Use(_GUARD_NONNEG),),
    upto=2,
)
_FACTS = (Use(_ALIGNMENT_ZERO), Use(_SPREAD_ZERO))
_EQ_GUARD = Claim(
    "graph_ssl_objective_eq_guard_of_collapsed",
    {**_COLLAPSED, "gamma": Number},
    lambda p, w: (
        are_views(w.edges, _same(w)),
        both(
            _objective(p, w) == p.real_variance_floor_guard(w.gamma, _same(w)),
            _objective(p, w) == dims(_same(w)) * max(0, w.gamma),
        ),
    ),
    uses=(*_FACTS, Use(_GUARD_ZERO, lambda w, head: {"reps": _same(w)})),
    upto=2,
)
_POSITIVE = Claim(
    "graph_ssl_objective_collapsed_positive",
    {**_COLLAPSED, "gamma": Number},
    lambda p, w: (
        both(w.gamma > 0, nonempty(w.vector), nonempty(w.views), are_views(w.edges, _same(w))),
        _objective(p, w) > 0,
    ),
    uses=(*_FACTS, Use(_GUARD_POSITIVE, lambda w, head: {"reps": _same(w)})),
    upto=2,
)
_ANCHOR = Claim(
    "predictive_loss_eq_view_graph_energy_from_anchor",
    {**CONTRACT, "anchor": Opaque},
    lambda p, w: (
        True,
        p.predictive_loss(contract(p, w, w.guard))
        == p.view_graph_energy(
            p.SSLViewGraph(each(w.idxs, EDGE, lambda k: (w.anchor, k))),
            lambda _, k: w.distance(w.encoder(k, w.target(k)), w.predict(w.context, k)),
        ),
    ),
    on="idxs",
)

_real = PROGRAM
_NO_SQUARE = mutant(
    "not_squared", "a - b is not squared", sq_dist=lambda u, v: sum(a - b for a, b in zip(u, v, strict=True))
)
_PLUS = mutant(
    "plus_for_minus", "(a + b) squared", sq_dist=lambda u, v: sum((a + b) ** 2 for a, b in zip(u, v, strict=True))
)


def _energy(name: str, what: str, edge: Any) -> Any:
    return mutant(
        name,
        what,
        graph_alignment_energy=lambda graph, reps: sum(edge(reps[i], reps[k]) for i, k in graph.positive_edges),
    )


_SIGNED = _energy("not_squared", "a - b is not squared", lambda u, v: sum(a - b for a, b in zip(u, v, strict=True)))
_FIRST_END = _energy("first_end_only", "the second end is not read", lambda u, v: sum(a * a for a in u))
_NOT_CENTRED = mutant(
    "not_centred",
    "the sum of squares instead of squared differences",
    coordinate_spread=lambda reps, j: sum(rep[j] ** 2 for rep in reps),
)
_REVERSED = mutant(
    "arguments_reversed",
    "max(0, spread - gamma)",
    real_variance_floor_guard=lambda gamma, reps: sum(
        max(0, _real.coordinate_spread(reps, j) - gamma) for j in range(len(reps[0]) if len(reps) else 0)
    ),
)
_ONE_COORDINATE = mutant(
    "last_coordinate_left_out",
    "the last coordinate is left out",
    real_variance_floor_guard=lambda gamma, reps: sum(
        max(0, gamma - _real.coordinate_spread(reps, j)) for j in range(len(reps[0]) - 1 if len(reps) else 0)
    ),
)
_NO_GUARD = mutant(
    "guard_dropped",
    "alignment alone",
    graph_ssl_objective=lambda graph, gamma, reps: _real.graph_alignment_energy(graph, reps),
)
_MINUS_GUARD = mutant(
    "guard_subtracted",
    "the guard's sign is wrong",
    graph_ssl_objective=lambda graph, gamma, reps: (
        _real.graph_alignment_energy(graph, reps) - _real.real_variance_floor_guard(gamma, reps)
    ),
)
_ENDS_SWAPPED = mutant(
    "ends_swapped",
    "the edge loss gets (second, first)",
    view_graph_energy=lambda graph, loss: sum(loss(k, i) for i, k in graph.positive_edges),
)
_EDGE_SKIPPED = mutant(
    "first_edge_left_out",
    "the first edge is left out",
    view_graph_energy=lambda graph, loss: sum(loss(i, k) for i, k in graph.positive_edges[1:]),
)

_SAME, _SPREADLESS, _GAMMA = "every view has the same vector", "every coordinate's spread is 0", "gamma > 0"
_ENDS = "edges join views that there are"

THEOREMS: tuple[Theorem, ...] = (
    theorem(_NONNEG, "sq_dist is not negative.", _NO_SQUARE, given=("u and v have the same length",)),
    theorem(_SELF, "sq_dist of a vector to itself is 0.", _PLUS),
    theorem(_ALIGNMENT_NONNEG, "graph_alignment_energy is not negative.", _SIGNED, given=(_ENDS,)),
    theorem(
        _ALIGNMENT_ZERO,
        "graph_alignment_energy of a collapsed representation is 0: alignment alone accepts collapse.",
        _FIRST_END,
        given=(_SAME, _ENDS),
    ),
    theorem(_SPREAD_ZERO, "Every coordinate of a collapsed representation has spread 0.", _NOT_CENTRED, given=(_SAME,)),
    theorem(
        _GUARD_ZERO,
        "real_variance_floor_guard without spread is (number of coordinates) * max(0, gamma).",
        _REVERSED,
        _ONE_COORDINATE,
        given=(_SPREADLESS,),
    ),
    theorem(
        _GUARD_POSITIVE,
        "real_variance_floor_guard without spread is positive.",
        _REVERSED,
        _ONE_COORDINATE,
        given=(_GAMMA, "there is a coordinate", _SPREADLESS),
    ),
    theorem(
        _EQ_GUARD,
        "graph_ssl_objective of a collapsed representation is its guard: (number of coordinates) * max(0, gamma).",
        _NO_GUARD,
        _MINUS_GUARD,
        given=(_SAME, _ENDS),
    ),
    theorem(
        _POSITIVE,
        "graph_ssl_objective of a collapsed representation is positive.",
        _NO_GUARD,
        _MINUS_GUARD,
        given=(_SAME, _ENDS, _GAMMA, "there is a view", "there is a coordinate"),
    ),
    theorem(
        _ANCHOR,
        "The predictive loss is the view graph's energy over the edges from an anchor to each target index.",
        _ENDS_SWAPPED,
        _EDGE_SKIPPED,
    ),
)
