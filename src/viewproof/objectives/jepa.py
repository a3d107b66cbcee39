"""Prediction in representation space (JEPA, Assran et al. 2023), as a finite loss."""

from collections.abc import Callable, Sequence
from typing import Any

from viewproof.objectives.contract import PredictiveViewContract, masked_loss


def jepa_loss(
    target_idxs: Sequence[Any],
    context: Any,
    target: Callable[[Any], Any],
    predict: Callable[[Any, Any], Any],
    rep_loss: Callable[[Any, Any], Any],
) -> Any:
    """`masked_loss` of ``rep_loss(target(i), predict(context, i))``; the target already is a representation.

    Theorems: ``jepa_loss_nil``, ``jepa_loss_append``, ``jepa_loss_reverse``, ``jepa_loss_target_ext``.

    >>> jepa_loss([0, 1], 5, lambda i: i, lambda c, i: c, lambda t, p: abs(t - p))
    9
    """
    return masked_loss(target_idxs, lambda i: rep_loss(target(i), predict(context, i)))


def jepa_as_predictive_view_contract(
    target_idxs: Sequence[Any],
    context: Any,
    target: Callable[[Any], Any],
    predict: Callable[[Any, Any], Any],
    rep_loss: Callable[[Any, Any], Any],
) -> PredictiveViewContract:
    """Identity target encoder, zero guard.

    Theorems: ``jepa_is_predictive_view_loss``, ``jepa_is_predictive_view_objective``.
    """
    return PredictiveViewContract(target_idxs, context, target, lambda _, t: t, predict, rep_loss)
