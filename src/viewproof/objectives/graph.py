"""Positive pairs of views as a graph: alignment over its edges, spread against collapse.

A representation is anything indexed twice, ``reps[view][coordinate]``: nested lists or a ``[views, dims]`` tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.objectives.guards import variance_floor_penalty
from viewproof.objectives.sums import masked_loss, widened
from viewproof.shapes import check_kind

Indexed = Sequence[Any] | Tensor


@dataclass(frozen=True)
class SSLViewGraph:
    """The positive pairs of views, as pairs of view indices."""

    positive_edges: Sequence[tuple[Any, Any]]


def _at(values: Indexed, index: Any) -> Any:
    if isinstance(index, int) and not 0 <= index < len(values):
        raise InvalidArgument(f"index={index} of a view or coordinate must be from 0 to {len(values) - 1}")
    return values[index]


def view_graph_energy(graph: SSLViewGraph, edge_loss: Callable[[Any, Any], Any]) -> Any:
    """The sum of ``edge_loss(i, k)`` over the edges.

    Theorem: ``predictive_loss_eq_view_graph_energy_from_anchor``.

    >>> view_graph_energy(SSLViewGraph([(0, 1), (0, 2)]), lambda i, k: k - i)
    3
    """
    check_kind("graph", graph, SSLViewGraph)
    return masked_loss(graph.positive_edges, lambda edge: edge_loss(*edge))


def sq_dist(u: Indexed, v: Indexed) -> Any:
    """The squared Euclidean distance. Theorems: ``sq_dist_nonneg``, ``sq_dist_self``.

    >>> sq_dist([0, 3], [4, 0])
    25
    """
    try:
        pairs = list(zip(u, v, strict=True))
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"u and v must be vectors of one length ({error}); pass as many coordinates") from error
    return sum((widened(a) - widened(b)) ** 2 for a, b in pairs)


def graph_alignment_energy(graph: SSLViewGraph, reps: Indexed) -> Any:
    """The sum of `sq_dist` over the edges.

    Theorems: ``graph_alignment_energy_nonneg``, ``graph_alignment_energy_eq_zero_of_collapsed``.

    >>> graph_alignment_energy(SSLViewGraph([(0, 1)]), [[0, 3], [4, 0]])
    25
    """
    return view_graph_energy(graph, lambda i, k: sq_dist(_at(reps, i), _at(reps, k)))


def coordinate_spread(reps: Indexed, coordinate: int) -> Any:
    """``sum_i sum_k (reps[i][j] - reps[k][j]) ** 2`` over all pairs of views.

    Theorem: ``coordinate_spread_eq_zero_of_collapsed``.

    >>> coordinate_spread([[0, 9], [2, 9]], 0), coordinate_spread([[0, 9], [2, 9]], 1)
    (8, 0)
    """
    check_count("coordinate", coordinate, "take the first coordinate")
    values = [widened(_at(rep, coordinate)) for rep in reps]
    return sum((a - b) ** 2 for a in values for b in values)


def real_variance_floor_penalty(gamma: Any, spread: Any) -> Any:
    """``max(0, gamma - spread)`` of a coordinate's spread."""
    return variance_floor_penalty(gamma, spread)


def real_variance_floor_guard(gamma: Any, reps: Indexed) -> Any:
    """The sum of `real_variance_floor_penalty` over the coordinates.

    Theorems: ``real_variance_floor_guard_zero_spread``, ``real_variance_floor_guard_zero_spread_positive``.

    >>> real_variance_floor_guard(5, [[0, 9], [2, 9]])
    5
    """
    dims = len(reps[0]) if len(reps) else 0
    if ragged := {len(rep) for rep in reps} - {dims}:
        raise InvalidArgument(f"reps of lengths {sorted({dims, *ragged})} must have one length; pass [views, dims]")
    return sum(real_variance_floor_penalty(gamma, coordinate_spread(reps, j)) for j in range(dims))


def graph_ssl_objective(graph: SSLViewGraph, gamma: Any, reps: Indexed) -> Any:
    """`graph_alignment_energy` plus `real_variance_floor_guard`.

    Theorems: ``graph_ssl_objective_eq_guard_of_collapsed``, ``graph_ssl_objective_collapsed_positive``.

    >>> graph_ssl_objective(SSLViewGraph([(0, 1)]), 5, [[0, 9], [2, 9]])
    9
    """
    return graph_alignment_energy(graph, reps) + real_variance_floor_guard(gamma, reps)
