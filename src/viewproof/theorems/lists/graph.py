"""Positive pairs as a graph: alignment, spread, and that a collapsed representation is not free."""

from types import SimpleNamespace
from typing import Annotated, Any

from viewproof import objectives
from viewproof.theorems.lists import kinds
from viewproof.theorems.lists.engine import Formula, Program, lemma, mutant, theorem
from viewproof.theorems.lists.kinds import Indices, Number, Numbers, Opaque, Views, World
from viewproof.theorems.lists.reference import Contract, Graph, apart, spread
from viewproof.theorems.lists.sequences import EDGE
from viewproof.theorems.lists.terms import REAL

DISTANCE, ALIGNMENT, GUARD = ["sq_dist"], ["graph_alignment_energy"], ["real_variance_floor_guard"]
OBJECTIVE, ENERGY = ["graph_ssl_objective"], ["view_graph_energy"]

distance_not_squared = mutant(
    "not_squared", "a - b is not squared", DISTANCE, lambda _, u, v: sum(a - b for a, b in zip(u, v, strict=True))
)
plus_for_minus = mutant("plus_for_minus", "(a + b) squared", DISTANCE, lambda real, u, v: real(u, [-b for b in v]))
edges_not_squared = mutant(
    "not_squared",
    "a - b is not squared",
    ALIGNMENT,
    lambda _, g, reps: sum(a - b for i, k in g.positive_edges for a, b in zip(reps[i], reps[k], strict=True)),
)
first_end_only = mutant(
    "first_end_only",
    "The second end is not read",
    ALIGNMENT,
    lambda _, g, reps: sum(a * a for i, _ in g.positive_edges for a in reps[i]),
)
not_centred = mutant(
    "not_centred",
    "The sum of squares instead of squared differences",
    ["coordinate_spread"],
    lambda _, reps, coordinate: sum(rep[coordinate] ** 2 for rep in reps),
)
arguments_reversed = mutant(
    "arguments_reversed",
    "max(0, spread - gamma)",
    GUARD,
    lambda _, gamma, reps: sum(max(0, objectives.coordinate_spread(reps, j) - gamma) for j in kinds.coordinates(reps)),
)
last_coordinate_left_out = mutant(
    "last_coordinate_left_out",
    "The last coordinate is left out",
    GUARD,
    lambda real, gamma, reps: real(gamma, [rep[:-1] for rep in reps]),
)
guard_dropped = mutant(
    "guard_dropped", "Alignment alone", OBJECTIVE, lambda _, g, gamma, reps: objectives.graph_alignment_energy(g, reps)
)
guard_subtracted = mutant(
    "guard_subtracted",
    "The guard's sign is wrong",
    OBJECTIVE,
    lambda _, g, gamma, reps: (
        objectives.graph_alignment_energy(g, reps) - objectives.real_variance_floor_guard(gamma, reps)
    ),
)
ends_swapped = mutant(
    "ends_swapped", "The edge loss gets (second, first)", ENERGY, lambda real, g, loss: real(g, lambda i, k: loss(k, i))
)
first_edge_left_out = mutant(
    "first_edge_left_out",
    "The first edge is left out",
    ENERGY,
    lambda real, g, loss: real(objectives.SSLViewGraph(g.positive_edges[1:]), loss),
)


@theorem(induction="u", along=["v"], given=("u and v have the same length",), mutants=[distance_not_squared])
def sq_dist_nonneg(p: Program, u: Numbers, v: Annotated[Any, kinds.list_of(REAL, like="u")]) -> Formula:
    """sq_dist is not negative."""
    return p.sq_dist(u, v) >= 0


@theorem(induction="u", mutants=[plus_for_minus])
def sq_dist_self(p: Program, u: Numbers) -> Formula:
    """sq_dist of a vector to itself is 0."""
    return p.sq_dist(u, u) == 0


@theorem(
    induction="positive_edges",
    given=("edges join views that there are",),
    uses={sq_dist_nonneg: lambda w, edge: {"u": w.reps[edge[0]], "v": w.reps[edge[1]]}},
    mutants=[edges_not_squared],
)
def graph_alignment_energy_nonneg(p: Program, graph: Graph, reps: Views) -> Formula:
    """graph_alignment_energy is not negative."""
    return kinds.assuming(kinds.are_views(graph.positive_edges, reps), then=p.graph_alignment_energy(graph, reps) >= 0)


@theorem(
    induction="positive_edges",
    given=("every view has the same vector", "edges join views that there are"),
    uses={sq_dist_self: lambda w, edge: {"u": w.vector}},
    mutants=[first_end_only],
)
def graph_alignment_energy_eq_zero_of_collapsed(p: Program, graph: Graph, vector: Numbers, views: Indices) -> Formula:
    """graph_alignment_energy of a collapsed representation is 0: alignment alone accepts collapse."""
    reps = kinds.collapsed(vector, views)
    return kinds.assuming(kinds.are_views(graph.positive_edges, reps), then=p.graph_alignment_energy(graph, reps) == 0)


@lemma(induction="views")
def apart_from_itself(p: Program, x: Number, views: Indices) -> Formula:
    """A number is not apart from its own copies."""
    return apart(x, kinds.replicate(views, x)) == 0


@lemma(induction="views", uses={apart_from_itself: lambda w, head: {"views": w.others}})
def spread_of_a_constant_column(p: Program, x: Number, views: Indices, others: Indices) -> Formula:
    """A constant column has spread 0 against any constant column of the same number.

    The two lengths differ in the proof, since the induction shortens one of them.
    """
    return spread(kinds.replicate(views, x), kinds.replicate(others, x)) == 0


@theorem(
    induction="vector",
    given=("every view has the same vector",),
    # One more coordinate x of the vector is one more column of copies of x.
    uses={spread_of_a_constant_column: lambda w, x: {"x": x, "others": w.views}},
    mutants=[not_centred],
)
def coordinate_spread_eq_zero_of_collapsed(p: Program, vector: Numbers, views: Indices) -> Formula:
    """Every coordinate of a collapsed representation has spread 0."""
    return without_spread(p, kinds.collapsed(vector, views))


def without_spread(p: Program, reps: Views) -> Any:
    """Every coordinate's spread is 0."""
    return kinds.every(kinds.coordinates(reps), lambda j: p.coordinate_spread(reps, j) == 0)


@lemma(induction="reps")
def real_variance_floor_guard_nonneg(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard is not negative."""
    return p.real_variance_floor_guard(gamma, reps) >= 0


@theorem(
    induction="reps", given=("every coordinate's spread is 0",), mutants=[arguments_reversed, last_coordinate_left_out]
)
def real_variance_floor_guard_zero_spread(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard without spread is (number of coordinates) * max(0, gamma)."""
    full_guard = kinds.length(kinds.coordinates(reps)) * max(0, gamma)
    return kinds.assuming(without_spread(p, reps), then=p.real_variance_floor_guard(gamma, reps) == full_guard)


@theorem(
    induction="reps",
    given=("gamma > 0", "there is a coordinate", "every coordinate's spread is 0"),
    uses={real_variance_floor_guard_nonneg: None},
    mutants=[arguments_reversed, last_coordinate_left_out],
)
def real_variance_floor_guard_zero_spread_positive(p: Program, gamma: Number, reps: Views) -> Formula:
    """real_variance_floor_guard without spread is positive."""
    return kinds.assuming(
        gamma > 0,
        kinds.nonempty(kinds.coordinates(reps)),
        without_spread(p, reps),
        then=p.real_variance_floor_guard(gamma, reps) > 0,
    )


def the_collapsed_views(w: SimpleNamespace, _: Any) -> World:
    """The representations that the theorem is about."""
    return {"reps": kinds.collapsed(w.vector, w.views)}


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
    """graph_ssl_objective of a collapsed representation is its guard, coordinates * max(0, gamma)."""
    reps = kinds.collapsed(vector, views)
    objective = p.graph_ssl_objective(graph, gamma, reps)
    full_guard = kinds.length(kinds.coordinates(reps)) * max(0, gamma)
    return kinds.assuming(
        kinds.are_views(graph.positive_edges, reps),
        then=kinds.both(objective == p.real_variance_floor_guard(gamma, reps), objective == full_guard),
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
    reps = kinds.collapsed(vector, views)
    return kinds.assuming(
        kinds.are_views(graph.positive_edges, reps),
        gamma > 0,
        kinds.nonempty(views),
        kinds.nonempty(kinds.coordinates(reps)),
        then=p.graph_ssl_objective(graph, gamma, reps) > 0,
    )


@theorem(induction="target_idxs", mutants=[ends_swapped, first_edge_left_out])
def predictive_loss_eq_view_graph_energy_from_anchor(p: Program, contract: Contract, anchor: Opaque) -> Formula:
    """The predictive loss is the graph energy over edges from an anchor to each target index."""

    def edge_loss(_: Opaque, k: Opaque) -> Number:
        return contract.distance(contract.target_encoder(k, contract.target(k)), contract.predict(contract.context, k))

    edges = kinds.each(contract.target_idxs, EDGE, lambda k: (anchor, k))
    return p.predictive_loss(contract) == p.view_graph_energy(p.SSLViewGraph(edges), edge_loss)
