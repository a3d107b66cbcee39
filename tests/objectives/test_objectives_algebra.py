"""The finite theorems, one test a name, with exact numbers."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import plain
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from viewproof import (
    BarlowGuard,
    InvalidArgument,
    PredictiveViewContract,
    SSLViewGraph,
    VICRegGuard,
    coordinate_spread,
    diagonal_redundancy_penalty,
    encoded_target_predictive_view_contract,
    graph_alignment_energy,
    graph_ssl_objective,
    image_mae_reconstruction_idxs,
    jepa_as_predictive_view_contract,
    jepa_loss,
    mae_as_predictive_view_contract,
    mae_loss,
    masked_loss,
    off_diagonal_redundancy_penalty,
    predictive_loss,
    predictive_view_objective,
    real_variance_floor_guard,
    real_variance_floor_penalty,
    redundancy_reduction_objective,
    sq_dist,
    variance_floor_penalty,
    variance_term,
    vicreg_objective,
    view_graph_energy,
    with_geometry_guard,
)

numbers = st.integers(-99, 99) | st.builds(Fraction, st.integers(-99, 99), st.sampled_from([2, 3, 7, 97]))
positive = st.builds(Fraction, st.integers(1, 99), st.sampled_from([1, 2, 3, 7, 97]))
non_negative = positive | st.just(0)
indices = st.lists(st.integers(0, 9), max_size=8)
tables = st.lists(st.integers(-99, 99), min_size=10, max_size=10).map(
    lambda values: [Fraction(value, place + 1) for place, value in enumerate(values)]
)
distances = st.sampled_from([lambda t, p: (t - p) ** 2, lambda t, p: abs(t - p), lambda t, p: 3 * t - 2 * p])
Distance = Callable[[Any, Any], Any]


def exact(value: Any) -> bool:
    return isinstance(value, int | Fraction)


@given(table=tables)
def test_masked_loss_nil(table: list[Fraction]) -> None:
    assert masked_loss([], table.__getitem__) == 0


@given(i=st.integers(0, 9), idxs=indices, table=tables)
def test_masked_loss_cons(i: int, idxs: list[int], table: list[Fraction]) -> None:
    assert masked_loss([i, *idxs], table.__getitem__) == table[i] + masked_loss(idxs, table.__getitem__)


@given(a=indices, b=indices, table=tables)
def test_masked_loss_append(a: list[int], b: list[int], table: list[Fraction]) -> None:
    whole = masked_loss(a + b, table.__getitem__)
    assert whole == masked_loss(a, table.__getitem__) + masked_loss(b, table.__getitem__)
    assert exact(whole)


@given(idxs=indices, table=tables)
def test_masked_loss_reverse(idxs: list[int], table: list[Fraction]) -> None:
    assert masked_loss(idxs[::-1], table.__getitem__) == masked_loss(idxs, table.__getitem__)


@given(idxs=indices, table=tables)
def test_masked_loss_eq_zero_of_all_zero(idxs: list[int], table: list[Fraction]) -> None:
    zero_on_the_list = [0 if i in idxs else value for i, value in enumerate(table)]
    assert masked_loss(idxs, zero_on_the_list.__getitem__) == 0


@given(idxs=indices, table=tables)
def test_masked_loss_counts_every_entry_of_the_list(idxs: list[int], table: list[Fraction]) -> None:
    assert masked_loss(idxs, table.__getitem__) == sum(idxs.count(i) * table[i] for i in range(10))


@given(target=tables, pred=tables, distance=distances)
def test_mae_loss_nil(target: list[Fraction], pred: list[Fraction], distance: Distance) -> None:
    assert mae_loss([], target.__getitem__, pred.__getitem__, distance) == 0


@given(a=indices, b=indices, target=tables, pred=tables, distance=distances)
def test_mae_loss_append(
    a: list[int], b: list[int], target: list[Fraction], pred: list[Fraction], distance: Distance
) -> None:
    def loss(idxs: list[int]) -> Any:
        return mae_loss(idxs, target.__getitem__, pred.__getitem__, distance)

    assert loss(a + b) == loss(a) + loss(b)


@given(idxs=indices, target=tables, pred=tables, distance=distances)
def test_mae_loss_reverse(idxs: list[int], target: list[Fraction], pred: list[Fraction], distance: Distance) -> None:
    forward = mae_loss(idxs, target.__getitem__, pred.__getitem__, distance)
    assert forward == mae_loss(idxs[::-1], target.__getitem__, pred.__getitem__, distance)
    total = Fraction(0)
    for i in idxs:
        total += distance(target[i], pred[i])
    assert forward == total


@given(idxs=indices, target=tables, pred=tables)
def test_mae_loss_eq_zero_of_patch_losses_zero(idxs: list[int], target: list[Fraction], pred: list[Fraction]) -> None:
    agreeing = [t if i in idxs else p for i, (t, p) in enumerate(zip(target, pred, strict=True))]
    assert mae_loss(idxs, target.__getitem__, agreeing.__getitem__, lambda t, p: (t - p) ** 2) == 0


@given(idxs=indices, target=tables)
def test_exact_reconstruction_identity(idxs: list[int], target: list[Fraction]) -> None:
    assert mae_loss(idxs, target.__getitem__, target.__getitem__, lambda t, p: abs(t - p)) == 0


def predict(context: Fraction, i: int) -> Fraction:
    return 2 * context - i


@given(context=numbers, target=tables, distance=distances)
def test_jepa_loss_nil(context: Fraction, target: list[Fraction], distance: Distance) -> None:
    assert jepa_loss([], context, target.__getitem__, predict, distance) == 0


@given(a=indices, b=indices, context=numbers, target=tables, distance=distances)
def test_jepa_loss_append(
    a: list[int], b: list[int], context: Fraction, target: list[Fraction], distance: Distance
) -> None:
    def loss(idxs: list[int]) -> Any:
        return jepa_loss(idxs, context, target.__getitem__, predict, distance)

    assert loss(a + b) == loss(a) + loss(b)


@given(idxs=indices, context=numbers, target=tables, distance=distances)
def test_jepa_loss_reverse(idxs: list[int], context: Fraction, target: list[Fraction], distance: Distance) -> None:
    forward = jepa_loss(idxs, context, target.__getitem__, predict, distance)
    assert forward == jepa_loss(idxs[::-1], context, target.__getitem__, predict, distance)
    assert forward == sum(distance(target[i], 2 * context - i) for i in idxs)


@given(idxs=indices, context=numbers, target=tables, other=tables, distance=distances)
def test_jepa_loss_target_ext(
    idxs: list[int], context: Fraction, target: list[Fraction], other: list[Fraction], distance: Distance
) -> None:
    same_on_the_list = [t if i in idxs else o for i, (t, o) in enumerate(zip(target, other, strict=True))]
    assert jepa_loss(idxs, context, target.__getitem__, predict, distance) == jepa_loss(
        idxs, context, same_on_the_list.__getitem__, predict, distance
    )


# The shape checks of constructors draw random numbers, which a strategy may not: it draws the fields.
Fields = tuple[Any, ...]


@st.composite
def contract_fields(draw: st.DrawFn) -> Fields:
    target, scale = draw(tables), draw(numbers)
    return (
        tuple(draw(indices)),
        draw(numbers),
        target.__getitem__,
        lambda i, t: scale * t + i,
        predict,
        draw(distances),
        draw(numbers),
    )


@given(fields=contract_fields())
def test_predictive_view_objective_decomposes(fields: Fields) -> None:
    contract = PredictiveViewContract(*fields)
    objective = predictive_view_objective(contract)
    assert objective == predictive_loss(contract) + contract.geometry_guard
    assert exact(objective)


@given(fields=contract_fields())
def test_predictive_view_objective_zero_geometry(fields: Fields) -> None:
    contract = PredictiveViewContract(*fields)
    unguarded = with_geometry_guard(contract, 0)
    assert predictive_view_objective(unguarded) == predictive_loss(unguarded) == predictive_loss(contract)


@given(fields=contract_fields(), guard=numbers)
def test_predictive_loss_with_geometry_guard(fields: Fields, guard: Fraction) -> None:
    contract = PredictiveViewContract(*fields)
    assert predictive_loss(with_geometry_guard(contract, guard)) == predictive_loss(contract)


@given(fields=contract_fields(), guard=numbers)
def test_predictive_view_objective_with_geometry_guard(fields: Fields, guard: Fraction) -> None:
    contract = PredictiveViewContract(*fields)
    guarded = with_geometry_guard(contract, guard)
    assert predictive_view_objective(guarded) == predictive_loss(contract) + guard
    assert guarded.target_idxs == contract.target_idxs
    assert guarded.context == contract.context


@given(fields=contract_fields())
def test_predictive_loss_is_the_sum_over_the_index_list(fields: Fields) -> None:
    contract = PredictiveViewContract(*fields)
    total = Fraction(0)
    for i in contract.target_idxs:
        encoded = contract.target_encoder(i, contract.target(i))
        total += contract.distance(encoded, predict(contract.context, i))
    assert predictive_loss(contract) == total


@given(idxs=indices, target=tables, pred=tables, distance=distances)
def test_mae_is_predictive_view_loss(
    idxs: list[int], target: list[Fraction], pred: list[Fraction], distance: Distance
) -> None:
    contract = mae_as_predictive_view_contract(idxs, target.__getitem__, pred.__getitem__, distance)
    assert predictive_loss(contract) == mae_loss(idxs, target.__getitem__, pred.__getitem__, distance)


@given(idxs=indices, target=tables, pred=tables, distance=distances)
def test_mae_is_predictive_view_objective(
    idxs: list[int], target: list[Fraction], pred: list[Fraction], distance: Distance
) -> None:
    contract = mae_as_predictive_view_contract(idxs, target.__getitem__, pred.__getitem__, distance)
    assert predictive_view_objective(contract) == mae_loss(idxs, target.__getitem__, pred.__getitem__, distance)
    assert contract.context == ()
    assert contract.geometry_guard == 0
    assert all(contract.target_encoder(i, target[i]) == target[i] for i in range(10))


@given(idxs=indices, context=numbers, target=tables, distance=distances)
def test_jepa_is_predictive_view_loss(
    idxs: list[int], context: Fraction, target: list[Fraction], distance: Distance
) -> None:
    contract = jepa_as_predictive_view_contract(idxs, context, target.__getitem__, predict, distance)
    assert predictive_loss(contract) == jepa_loss(idxs, context, target.__getitem__, predict, distance)


@given(idxs=indices, context=numbers, target=tables, distance=distances)
def test_jepa_is_predictive_view_objective(
    idxs: list[int], context: Fraction, target: list[Fraction], distance: Distance
) -> None:
    contract = jepa_as_predictive_view_contract(idxs, context, target.__getitem__, predict, distance)
    assert predictive_view_objective(contract) == jepa_loss(idxs, context, target.__getitem__, predict, distance)
    assert contract.geometry_guard == 0


@given(fields=contract_fields())
def test_encoded_target_predictive_view_contract_loss_eq_masked_loss(fields: Fields) -> None:
    contract = PredictiveViewContract(*fields)
    c = encoded_target_predictive_view_contract(
        contract.target_idxs,
        contract.context,
        contract.target,
        contract.target_encoder,
        contract.predict,
        contract.distance,
        contract.geometry_guard,
    )
    expected = masked_loss(
        c.target_idxs, lambda i: c.distance(c.target_encoder(i, c.target(i)), c.predict(c.context, i))
    )
    assert c == contract
    assert predictive_loss(c) == expected
    assert predictive_view_objective(c) == expected + contract.geometry_guard


@given(fields=contract_fields(), weights=st.tuples(*[numbers] * 6))
def test_predictive_view_objective_with_vicreg_guard(fields: Fields, weights: tuple[Fraction, ...]) -> None:
    contract = PredictiveViewContract(*fields)
    lambda_, mu, nu, invariance, variance, covariance = weights
    guard = VICRegGuard(*weights)
    expected = lambda_ * invariance + mu * variance + nu * covariance
    assert predictive_view_objective(with_geometry_guard(contract, guard.value)) == predictive_loss(contract) + expected


@given(fields=contract_fields(), lambda_=numbers, diag=indices, off_diag=tables)
def test_predictive_view_objective_with_barlow_guard(
    fields: Fields, lambda_: Fraction, diag: list[int], off_diag: list[Fraction]
) -> None:
    contract = PredictiveViewContract(*fields)
    guard = BarlowGuard(lambda_, tuple(diag), tuple(off_diag))
    expected = sum(abs(c - 1) for c in diag) + lambda_ * sum(abs(c) for c in off_diag)
    assert predictive_view_objective(with_geometry_guard(contract, guard.value)) == predictive_loss(contract) + expected


@given(gamma=numbers, excess=non_negative)
def test_variance_floor_penalty_zero(gamma: Fraction, excess: Fraction) -> None:
    assert variance_floor_penalty(gamma, gamma + excess) == 0


@given(gamma=numbers, v=numbers)
def test_variance_floor_penalty_is_the_shortfall(gamma: Fraction, v: Fraction) -> None:
    assert variance_floor_penalty(gamma, v) == (gamma - v if v < gamma else 0)
    assert real_variance_floor_penalty(gamma, v) == variance_floor_penalty(gamma, v)


@given(gamma=numbers)
def test_variance_term_nil(gamma: Fraction) -> None:
    assert variance_term(gamma, []) == 0


@given(gamma=numbers, v=numbers, vs=st.lists(numbers))
def test_variance_term_cons(gamma: Fraction, v: Fraction, vs: list[Fraction]) -> None:
    assert variance_term(gamma, [v, *vs]) == max(gamma - v, 0) + variance_term(gamma, vs)


@given(gamma=numbers, a=st.lists(numbers), b=st.lists(numbers))
def test_variance_term_append(gamma: Fraction, a: list[Fraction], b: list[Fraction]) -> None:
    assert variance_term(gamma, a + b) == variance_term(gamma, a) + variance_term(gamma, b)


@given(gamma=numbers, excess=non_negative, count=st.integers(0, 9))
def test_variance_term_replicate_zero(gamma: Fraction, excess: Fraction, count: int) -> None:
    assert variance_term(gamma, [gamma + excess] * count) == 0


@given(gamma=positive, count=st.integers(1, 9))
def test_variance_term_collapsed_positive(gamma: Fraction, count: int) -> None:
    assert variance_term(gamma, [0] * count) == count * gamma > 0


@given(lambda_=numbers, mu=numbers, nu=numbers)
def test_vicreg_objective_zero(lambda_: Fraction, mu: Fraction, nu: Fraction) -> None:
    assert vicreg_objective(lambda_, mu, nu, 0, 0, 0) == 0


@given(lambda_=numbers, mu=positive, nu=numbers, variance=positive)
def test_vicreg_objective_variance_positive(lambda_: Fraction, mu: Fraction, nu: Fraction, variance: Fraction) -> None:
    assert vicreg_objective(lambda_, mu, nu, 0, variance, 0) == mu * variance > 0


@given(lambda_=numbers, mu=positive, nu=numbers, variance=positive)
def test_vicreg_guard_variance_only_positive(lambda_: Fraction, mu: Fraction, nu: Fraction, variance: Fraction) -> None:
    assert VICRegGuard(lambda_, mu, nu, 0, variance, 0).value == mu * variance > 0


def test_vicreg_keeps_its_six_numbers_apart() -> None:
    assert vicreg_objective(1, 10, 100, 2, 3, 5) == VICRegGuard(1, 10, 100, 2, 3, 5).value == 532


def test_diagonal_redundancy_penalty_one() -> None:
    assert diagonal_redundancy_penalty(1) == diagonal_redundancy_penalty(Fraction(1)) == 0


def test_off_diagonal_redundancy_penalty_zero() -> None:
    assert off_diagonal_redundancy_penalty(0) == off_diagonal_redundancy_penalty(Fraction(0)) == 0


@given(c=numbers)
def test_redundancy_penalties_are_absolute_values(c: Fraction) -> None:
    assert diagonal_redundancy_penalty(c) == (c - 1 if c >= 1 else 1 - c)
    assert off_diagonal_redundancy_penalty(c) == (c if c >= 0 else -c)


def test_diagonal_redundancy_penalty_zero_positive() -> None:
    assert diagonal_redundancy_penalty(0) == 1 > 0


@given(lambda_=numbers, dims=st.integers(0, 9))
def test_redundancy_reduction_objective_identity(lambda_: Fraction, dims: int) -> None:
    assert redundancy_reduction_objective(lambda_, [1] * dims, [0] * (dims * (dims - 1))) == 0


@given(lambda_=non_negative, dims=st.integers(1, 9), off_diag=st.lists(numbers))
def test_redundancy_reduction_objective_collapsed_diag_positive(
    lambda_: Fraction, dims: int, off_diag: list[Fraction]
) -> None:
    assert redundancy_reduction_objective(lambda_, [0] * dims, off_diag) >= dims > 0


@given(lambda_=numbers, dims=st.integers(0, 9))
def test_barlow_guard_identity_value_zero(lambda_: Fraction, dims: int) -> None:
    assert BarlowGuard(lambda_, (1,) * dims, (0,) * (dims * (dims - 1))).value == 0


@given(lambda_=non_negative, dims=st.integers(1, 9), off_diag=st.lists(numbers).map(tuple))
def test_barlow_guard_collapsed_diag_positive(lambda_: Fraction, dims: int, off_diag: tuple[Fraction, ...]) -> None:
    assert BarlowGuard(lambda_, (0,) * dims, off_diag).value >= dims > 0


def test_a_guard_of_iterators_has_the_same_value_twice() -> None:
    guard = BarlowGuard(2, iter([0, 3]), (c for c in (1, -1)))
    assert guard.value == guard.value == 7


@st.composite
def representations(draw: st.DrawFn) -> list[list[Fraction]]:
    dims = draw(st.integers(0, 3))
    return draw(st.lists(st.lists(numbers, min_size=dims, max_size=dims), min_size=1, max_size=4))


Drawn = tuple[list[tuple[int, int]], list[list[Fraction]]]


@st.composite
def graph_fields(draw: st.DrawFn) -> Drawn:
    reps = draw(representations())
    view = st.integers(0, len(reps) - 1)
    return draw(st.lists(st.tuples(view, view), max_size=6)), reps


vectors = st.integers(0, 4).flatmap(
    lambda n: st.tuples(st.lists(numbers, min_size=n, max_size=n), st.lists(numbers, min_size=n, max_size=n))
)


@given(pair=vectors)
def test_sq_dist_nonneg(pair: tuple[list[Fraction], list[Fraction]]) -> None:
    u, v = pair
    assert sq_dist(u, v) >= 0
    assert sq_dist(u, v) == sum(a * a - 2 * a * b + b * b for a, b in zip(u, v, strict=True))
    assert sq_dist(u, v) == sq_dist(v, u)


@given(u=st.lists(numbers))
def test_sq_dist_self(u: list[Fraction]) -> None:
    assert sq_dist(u, u) == 0


@pytest.mark.parametrize(("u", "v"), [([1, 2], [1]), ([1], [1, 2]), (None, [1]), (3, 3)])
def test_vectors_of_two_lengths_have_no_distance(u: Any, v: Any) -> None:
    with pytest.raises(plain.InvalidArgument, match="u and v must be vectors of one length"):
        plain.sq_dist(u, v)


@given(drawn=graph_fields())
def test_graph_alignment_energy_nonneg(drawn: Drawn) -> None:
    graph, reps = SSLViewGraph(drawn[0]), drawn[1]
    energy = graph_alignment_energy(graph, reps)
    assert energy >= 0
    assert energy == sum((a - b) ** 2 for i, k in graph.positive_edges for a, b in zip(reps[i], reps[k], strict=True))


@given(drawn=graph_fields())
def test_graph_alignment_energy_eq_zero_of_collapsed(drawn: Drawn) -> None:
    graph, reps = SSLViewGraph(drawn[0]), drawn[1]
    assert graph_alignment_energy(graph, [reps[0]] * len(reps)) == 0


@given(rep=st.lists(numbers, min_size=1, max_size=3), views=st.integers(1, 5))
def test_coordinate_spread_eq_zero_of_collapsed(rep: list[Fraction], views: int) -> None:
    assert all(coordinate_spread([rep] * views, j) == 0 for j in range(len(rep)))


@given(reps=representations())
def test_coordinate_spread_is_twice_the_count_times_the_squared_deviations(reps: list[list[Fraction]]) -> None:
    for j in range(len(reps[0])):
        values = [Fraction(rep[j]) for rep in reps]
        mean = sum(values) / len(values)
        assert coordinate_spread(reps, j) == 2 * len(values) * sum((v - mean) ** 2 for v in values)


@given(gamma=positive, rep=st.lists(numbers, max_size=4), views=st.integers(1, 4))
def test_real_variance_floor_guard_zero_spread(gamma: Fraction, rep: list[Fraction], views: int) -> None:
    assert real_variance_floor_guard(gamma, [rep] * views) == len(rep) * gamma


@given(gamma=positive, rep=st.lists(numbers, min_size=1, max_size=4), views=st.integers(1, 4))
def test_real_variance_floor_guard_zero_spread_positive(gamma: Fraction, rep: list[Fraction], views: int) -> None:
    assert real_variance_floor_guard(gamma, [rep] * views) > 0


@given(gamma=numbers, drawn=graph_fields())
def test_graph_ssl_objective_eq_guard_of_collapsed(gamma: Fraction, drawn: Drawn) -> None:
    graph, reps = SSLViewGraph(drawn[0]), drawn[1]
    collapsed = [reps[-1]] * len(reps)
    assert graph_ssl_objective(graph, gamma, collapsed) == real_variance_floor_guard(gamma, collapsed)


@given(gamma=positive, drawn=graph_fields())
def test_graph_ssl_objective_collapsed_positive(gamma: Fraction, drawn: Drawn) -> None:
    graph, reps = SSLViewGraph(drawn[0]), drawn[1]
    assume(len(reps[0]) > 0)
    assert graph_ssl_objective(graph, gamma, [reps[0]] * len(reps)) > 0


@given(gamma=numbers, drawn=graph_fields())
def test_graph_ssl_objective_is_alignment_plus_guard(gamma: Fraction, drawn: Drawn) -> None:
    graph, reps = SSLViewGraph(drawn[0]), drawn[1]
    spreads = [sum((a[j] - b[j]) ** 2 for a in reps for b in reps) for j in range(len(reps[0]))]
    expected = graph_alignment_energy(graph, reps) + sum(max(Fraction(0), gamma - spread) for spread in spreads)
    assert graph_ssl_objective(graph, gamma, reps) == expected


@given(drawn=graph_fields(), anchor=st.integers(0, 3), distance=distances)
def test_predictive_loss_eq_view_graph_energy_from_anchor(drawn: Drawn, anchor: int, distance: Distance) -> None:
    reps = drawn[1]
    anchor %= len(reps)
    others = [i for i in range(len(reps)) if i != anchor]
    contract = jepa_as_predictive_view_contract(
        others, reps[anchor], reps.__getitem__, lambda context, i: context, lambda t, p: sq_dist(t, p)
    )
    star = SSLViewGraph([(anchor, i) for i in others])
    assert predictive_loss(contract) == view_graph_energy(star, lambda i, k: sq_dist(reps[k], reps[i]))
    assert predictive_loss(contract) == graph_alignment_energy(star, reps)


def test_an_empty_family_of_views_has_no_guard() -> None:
    assert real_variance_floor_guard(3, []) == 0
    assert graph_ssl_objective(SSLViewGraph([]), 3, []) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.bool])
def test_differences_of_narrow_integers_do_not_wrap(dtype: torch.dtype) -> None:
    reps = torch.tensor([[0, 120], [120, 1]]).to(dtype)
    u, v = reps.tolist()
    assert sq_dist(reps[0], reps[1]) == sq_dist(u, v) == sum((a - b) ** 2 for a, b in zip(u, v, strict=True))
    assert coordinate_spread(reps, 1) == coordinate_spread(reps.tolist(), 1)
    assert variance_floor_penalty(reps[0, 0], reps[0, 1]) == 0 == variance_floor_penalty(torch.tensor(1).to(dtype), 3)
    assert diagonal_redundancy_penalty(reps[0, 0]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: graph_alignment_energy(SSLViewGraph([(0, -1)]), [[1], [2]]), "index=-1 of a view or coordinate"),
        (lambda: coordinate_spread([[1], [2]], -1), "coordinate=-1 must be a non-negative integer"),
        (lambda: real_variance_floor_guard(5, [[], [1, 2]]), r"reps of lengths \[0, 2\] must have one length"),
        (lambda: graph_ssl_objective(SSLViewGraph([]), 5, [[1], [1, 2]]), r"reps of lengths \[1, 2\]"),
    ],
)
def test_views_and_coordinates_neither_wrap_nor_vanish(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call()


@pytest.mark.parametrize("nan", [float("nan"), torch.tensor(float("nan"))])
def test_a_variance_that_is_nan_does_not_look_healthy(nan: Any) -> None:
    for value in (
        variance_floor_penalty(1.0, nan),
        variance_term(1.0, [2.0, nan]),
        real_variance_floor_guard(1.0, [[nan], [0.0]]),
        VICRegGuard(1, 1, 1, 0.0, variance_term(1.0, [nan]), 0.0).value,
    ):
        assert value != value


def test_tensors_are_numbers_too_and_carry_gradients() -> None:
    reps = torch.tensor([[0.0, 9.0], [2.0, 9.0]], requires_grad=True)
    objective = graph_ssl_objective(SSLViewGraph([(0, 1)]), 5.0, reps)
    assert objective.item() == 9.0
    objective.backward()
    assert reps.grad.tolist() == [[-4.0, 0.0], [4.0, 0.0]]


@given(recon_dim=st.integers(0, 30))
def test_image_mae_reconstruction_idxs(recon_dim: int) -> None:
    idxs = image_mae_reconstruction_idxs(recon_dim)
    assert len(idxs) == recon_dim
    assert all(idx == place for place, idx in enumerate(idxs))
