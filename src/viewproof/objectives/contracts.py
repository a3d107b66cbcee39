"""The finite objective of every method: a predictive loss plus a regularizer.

The regularizer is the field ``geometry_guard``. Everything here is generic over the number: Python ``int``,
``Fraction``, ``float`` or a 0-d tensor. With exact numbers in, the result is exact. No claim is made that any objective
learns good representations.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from viewproof.objectives.sums import Distance, masked_loss
from viewproof.shapes import check_kind


@dataclass(frozen=True)
class PredictiveViewContract:
    """What is predicted, from what, how far off, and the regularizer ``geometry_guard``.

    For each target index ``i`` the loss is ``distance(target_encoder(i, target(i)), predict(context, i))``.

    >>> contract = PredictiveViewContract(
    ...     [0, 1], 10, lambda i: i, lambda i, t: 2 * t, lambda c, i: c, lambda t, p: p - t, geometry_guard=1)
    >>> predictive_loss(contract), predictive_view_objective(contract)
    (18, 19)
    """

    target_idxs: Sequence[Any]
    context: Any
    target: Callable[[Any], Any]
    target_encoder: Callable[[Any, Any], Any]
    predict: Callable[[Any, Any], Any]
    distance: Callable[[Any, Any], Any]
    geometry_guard: Any = 0


def predictive_loss(contract: PredictiveViewContract) -> Any:
    """The distances of predictions to encoded targets, summed over the target indices.

    `masked_loss` of ``distance(target_encoder(i, target(i)), predict(context, i))``.
    """
    check_kind("contract", contract, PredictiveViewContract)
    c = contract
    return masked_loss(c.target_idxs, lambda i: c.distance(c.target_encoder(i, c.target(i)), c.predict(c.context, i)))


def predictive_view_objective(contract: PredictiveViewContract) -> Any:
    """``predictive_loss(contract) + geometry_guard``.

    Theorems: ``predictive_view_objective_decomposes``, ``predictive_view_objective_zero_geometry``.
    """
    return predictive_loss(contract) + contract.geometry_guard


def with_geometry_guard(contract: PredictiveViewContract, guard: Any) -> PredictiveViewContract:
    """The contract with its regularizer replaced.

    Theorems: ``predictive_loss_with_geometry_guard``, ``predictive_view_objective_with_geometry_guard``.
    """
    check_kind("contract", contract, PredictiveViewContract)
    return replace(contract, geometry_guard=guard)


def encoded_target_predictive_view_contract(
    target_idxs: Sequence[Any],
    context: Any,
    target: Callable[[Any], Any],
    target_encoder: Callable[[Any, Any], Any],
    predict: Callable[[Any, Any], Any],
    distance: Callable[[Any, Any], Any],
    geometry_guard: Any = 0,
) -> PredictiveViewContract:
    """A contract with any target encoder and regularizer.

    Theorem: ``encoded_target_predictive_view_contract_loss_eq_masked_loss``.
    """
    return PredictiveViewContract(target_idxs, context, target, target_encoder, predict, distance, geometry_guard)


def mae_as_predictive_view_contract(
    masked_idxs: Sequence[Any], target: Callable[[Any], Any], pred: Callable[[Any], Any], patch_loss: Distance
) -> PredictiveViewContract:
    """Unit context, identity target encoder, zero regularizer.

    Theorems: ``mae_is_predictive_view_loss``, ``mae_is_predictive_view_objective``.
    """
    return PredictiveViewContract(masked_idxs, (), target, lambda _, t: t, lambda _, i: pred(i), patch_loss)


def jepa_as_predictive_view_contract(
    target_idxs: Sequence[Any],
    context: Any,
    target: Callable[[Any], Any],
    predict: Callable[[Any, Any], Any],
    rep_loss: Distance,
) -> PredictiveViewContract:
    """Identity target encoder, zero regularizer.

    Theorems: ``jepa_is_predictive_view_loss``, ``jepa_is_predictive_view_objective``.
    """
    return PredictiveViewContract(target_idxs, context, target, lambda _, t: t, predict, rep_loss)
