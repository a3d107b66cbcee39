"""Positive pairs as a graph: alignment, spread, and that a collapsed representation is not free."""

from types import SimpleNamespace
from typing import Annotated, Any

from viewproof import objectives
from viewproof.theorems.lists.engine import Formula, Program, Public, lemma, mutant, theorem
from viewproof.theorems.lists.inputs import World
from viewproof.theorems.lists.kinds import (
    Distance,
    Indices,
    ListOf,
    Number,
    Numbers,
    Opaque,
    Views,
    are_views,
    assuming,
    both,
    collapsed,
    coordinates,
    each,
    every,
    length,
    nonempty,
    replicate,
)
from viewproof.theorems.lists.reference import Contract, Graph, apart, spread
from viewproof.theorems.lists.sequences import EDGE
from viewproof.theorems.lists.terms import REAL


@mutant("sq_dist", name="not_squared")
def distance_not_squared(real: Public, u: Numbers, v: Numbers) -> Number:
    """a - b is not squared."""
    return sum(a - b for a, b in zip(u, v, strict=True))


@mutant("sq_dist")
def plus_for_minus(real: Public, u: Numbers, v: Numbers) -> Number:
    """(a + b) squared."""
    return real(u, [-b for b in v])


@mutant("graph_alignment_energy", name="not_squared")
def edges_not_squared(real: Public, graph: Graph, reps: Views) -> Number:
    """a - b is not squared."""
    return sum(a - b for i, k in graph.positive_edges for a, b in zip(reps[i], reps[k], strict=True))


@mutant("graph_alignment_energy")
def first_end_only(real: Public, graph: Graph, reps: Views) -> Number:
    """The second end is not read."""
    return sum(a * a for i, _ in graph.positive_edges for a in reps[i])


@mutant("coordinate_spread")
def not_centred(real: Public, reps: Views, coordinate: int) -> Number:
    """The sum of squares instead of squared differences."""
    return sum(rep[coordinate] ** 2 for rep in reps)


@mutant("real_variance_floor_guard")
def arguments_reversed(real: Public, gamma: Number, reps: Views) -> Number:
    """max(0, spread - gamma)."""
    return sum(max(0, objectives.coordinate_spread(reps, j) - gamma) for j in coordinates(reps))


@mutant("real_variance_floor_guard")
def last_coordinate_left_out(real: Public, gamma: Number, reps: Views) -> Number:
    """The last coordinate is left out."""
    return real(gamma, [rep[:-1] for rep in reps])


@mutant("graph_ssl_objective")
def guard_dropped(real: Public, graph: Graph, gamma: Number, reps: Views) -> Number:
    """Alignment alone."""
    return objectives.graph_alignment_energy(graph, reps)


@mutant("graph_ssl_objective")
def guard_subtracted(real: Public, graph: Graph, gamma: Number, reps: Views) -> Number:
    """The guard's sign is wrong."""
    return objectives.graph_alignment_energy(graph, reps) - objectives.real_variance_floor_guard(gamma, reps)


@mutant("view_graph_energy")
def ends_swapped(real: Public, graph: Graph, edge_loss: Distance) -> Number:
    """The edge loss gets (second, first)."""
    return real(graph, lambda i, k: edge_loss(k, i))


@mutant("view_graph_energy")
def first_edge_left_out(real: Public, graph: Graph, edge_loss: Distance) -> Number:
    """The first edge is left out."""
    return real(objectives.SSLViewGraph(graph.positive_edges[1:]), edge_loss)


@theorem(induction="u", along=["v"], given=("u and v have the same length",), mutants=[distance_not_squared])
def sq_dist_nonneg(p: Program, u: Numbers, v: Annotated[Any, ListOf(REAL, like="u")]) -> Formula:
    """sq_dist is not negative."""
    return p.sq_dist(u, v) >= 0


@theorem(induction="u", mutants=[plus_for_minus])
def sq_dist_self(p: Program, u: Numbers) -> Formula:
    """sq_dist of a vector to itself is 0."""
    return p.sq_dist(u, u) == 0


def ends_of_the_edge(w: SimpleNamespace, edge: Any) -> World:
    """The vectors that the new edge joins."""
    return {"u": w.reps[edge[0]], "v": w.reps[edge[1]]}


@theorem(
    induction="positive_edges",
    given=("edges join views that there are",),
    uses={sq_dist_nonneg: ends_of_the_edge},
    mutants=[edges_not_squared],
)
def graph_alignment_energy_nonneg(p: Program, graph: Graph, reps: Views) -> Formula:
    """graph_alignment_energy is not negative."""
    return assuming(are_views(graph.positive_edges, reps), then=p.graph_alignment_energy(graph, reps) >= 0)


def the_one_vector(w: SimpleNamespace, edge: Any) -> World:
    """Both ends of any edge have the same vector."""
    return {"u": w.vector}


@theorem(
    induction="positive_edges",
    given=("every view has the same vector", "edges join views that there are"),
    uses={sq_dist_self: the_one_vector},
    mutants=[first_end_only],
)
def graph_alignment_energy_eq_zero_of_collapsed(p: Program, graph: Graph, vector: Numbers, views: Indices) -> Formula:
    """graph_alignment_energy of a collapsed representation is 0: alignment alone accepts collapse."""
    reps = collapsed(vector, views)
    return assuming(are_views(graph.positive_edges, reps), then=p.graph_alignment_energy(graph, reps) == 0)


@lemma(induction="views")
def apart_from_itself(p: Program, x: Number, views: Indices) -> Formula:
    """A number is not apart from its own copies."""
    return apart(x, replicate(views, x)) == 0


def the_other_copies(w: SimpleNamespace, head: Any) -> World:
    """The column that each entry is compared with."""
    return {"views": w.others}


@lemma(induction="views", uses={apart_from_itself: the_other_copies})
def spread_of_a_constant_column(p: Program, x: Number, views: Indices, others: Indices) -> Formula:
    """A constant column has spread 0 against any constant column of the same number.

    The two lengths differ in the proof, since the induction shortens one of them.
    """
    return spread(replicate(views, x), replicate(others, x)) == 0


def the_new_column(w: SimpleNamespace, x: Any) -> World:
    """One more coordinate ``x`` of the vector is one more column of copies of ``x``."""
    return {"x": x, "others": w.views}


@theorem(
    induction="vector",
    given=("every view has the same vector",),
    uses={spread_of_a_constant_column: the_new_column},
    mutants=[not_centred],
)
def coordinate_spread_eq_zero_of_collapsed(p: Program, vector: Numbers, views: Indices) -> Formula:
    """Every coordinate of a collapsed representation has spread 0."""
    return without_spread(p, collapsed(vector, views))


def without_spread(p: Program, reps: Views) -> Any:
    """Every coordinate's spread is 0."""
    return every(coordinates(reps), lambda j: p.coordinate_spread(reps, j) == 0)


@lemma(induction="reps")
def real_variance_floor_guard_nonneg(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard is not negative."""
    return p.real_variance_floor_guard(gamma, reps) >= 0


@theorem(
    induction="reps", given=("every coordinate's spread is 0",), mutants=[arguments_reversed, last_coordinate_left_out]
)
def real_variance_floor_guard_zero_spread(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard without spread is (number of coordinates) * max(0, gamma)."""
    full_guard = length(coordinates(reps)) * max(0, gamma)
    return assuming(without_spread(p, reps), then=p.real_variance_floor_guard(gamma, reps) == full_guard)


@theorem(
    induction="reps",
    given=("gamma > 0", "there is a coordinate", "every coordinate's spread is 0"),
    uses={real_variance_floor_guard_nonneg: None},
    mutants=[arguments_reversed, last_coordinate_left_out],
)
def real_variance_floor_guard_zero_spread_positive(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard without spread is positive."""
    return assuming(
        gamma > 0,
        nonempty(coordinates(reps)),
        without_spread(p, reps),
        then=p.real_variance_floor_guard(gamma, reps) > 0,
    )


def the_collapsed_views(w: SimpleNamespace, head: Any) -> World:
    """The representations that the theorem is about."""
    return {"reps": collapsed(w.vector, w.views)}


@theorem(
    given=("every view has the same vector", "edges join views that there are"),
    uses={
        graph_alignment_energy_eq_zero_of_collapsed: None,
        coordinate_spread_eq_zero_of_collapsed: None,
        real_variance_floor_guard_zero_spread: the_collapsed_views,
    },
    mutants=[guard_dropped, guard_subtracted],
)
def graph_ssl_objective_eq_guard_of_collapsed(
    p: Program, graph: Graph, vector: Numbers, views: Indices, gamma: Number
) -> Formula:
    """graph_ssl_objective of a collapsed representation is its guard: (number of coordinates) * max(0, gamma)."""
    reps = collapsed(vector, views)
    objective = p.graph_ssl_objective(graph, gamma, reps)
    full_guard = length(coordinates(reps)) * max(0, gamma)
    return assuming(
        are_views(graph.positive_edges, reps),
        then=both(objective == p.real_variance_floor_guard(gamma, reps), objective == full_guard),
    )


@theorem(
    given=(
        "every view has the same vector",
        "edges join views that there are",
        "gamma > 0",
        "there is a view",
        "there is a coordinate",
    ),
    uses={
        graph_alignment_energy_eq_zero_of_collapsed: None,
        coordinate_spread_eq_zero_of_collapsed: None,
        real_variance_floor_guard_zero_spread_positive: the_collapsed_views,
    },
    mutants=[guard_dropped, guard_subtracted],
)
def graph_ssl_objective_collapsed_positive(
    p: Program, graph: Graph, vector: Numbers, views: Indices, gamma: Number
) -> Formula:
    """graph_ssl_objective of a collapsed representation is positive."""
    reps = collapsed(vector, views)
    return assuming(
        are_views(graph.positive_edges, reps),
        gamma > 0,
        nonempty(views),
        nonempty(coordinates(reps)),
        then=p.graph_ssl_objective(graph, gamma, reps) > 0,
    )


@theorem(induction="target_idxs", mutants=[ends_swapped, first_edge_left_out])
def predictive_loss_eq_view_graph_energy_from_anchor(p: Program, contract: Contract, anchor: Opaque) -> Formula:
    """The predictive loss is the view graph's energy over the edges from an anchor to each target index."""

    def edge_loss(_: Opaque, k: Opaque) -> Number:
        return contract.distance(contract.target_encoder(k, contract.target(k)), contract.predict(contract.context, k))

    edges = each(contract.target_idxs, EDGE, lambda k: (anchor, k))
    return p.predictive_loss(contract) == p.view_graph_energy(p.SSLViewGraph(edges), edge_loss)
