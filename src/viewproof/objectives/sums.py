"""The finite losses: sums over a list of indices, exact with exact numbers in.

A number is a Python ``int``, ``Fraction``, ``float`` or a 0-d tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

Distance = Callable[[Any, Any], Any]


def widened(number: Any) -> Any:
    """The number itself, or as int64 if it is an integer tensor, whose differences could wrap.

    >>> import torch
    >>> widened(torch.tensor(0, dtype=torch.uint8)) - 200
    tensor(-200)
    """
    integer = isinstance(number, Tensor) and not number.is_floating_point() and not number.is_complex()
    return number.long() if integer else number


def masked_loss(idxs: Sequence[Any], per_index_loss: Callable[[Any], Any]) -> Any:
    """The sum of ``per_index_loss(i)`` over the list; 0 for the empty list.

    Theorems: ``masked_loss_nil``, ``masked_loss_cons``, ``masked_loss_append``, ``masked_loss_reverse``,
    ``masked_loss_eq_zero_of_all_zero``.

    >>> masked_loss([0, 2, 3], lambda i: i * i)
    13
    """
    return sum(per_index_loss(i) for i in idxs)


def mae_loss(
    masked_idxs: Sequence[Any], target: Callable[[Any], Any], pred: Callable[[Any], Any], patch_loss: Distance
) -> Any:
    """`masked_loss` of ``patch_loss(target(i), pred(i))``.

    Theorems: ``mae_loss_nil``, ``mae_loss_append``, ``mae_loss_reverse``,
    ``mae_loss_eq_zero_of_patch_losses_zero``, ``exact_reconstruction_identity``.

    >>> mae_loss([1, 2], lambda i: i, lambda i: 0, lambda t, p: (t - p) ** 2)
    5
    """
    return masked_loss(masked_idxs, lambda i: patch_loss(target(i), pred(i)))


def jepa_loss(
    target_idxs: Sequence[Any],
    context: Any,
    target: Callable[[Any], Any],
    predict: Callable[[Any, Any], Any],
    rep_loss: Distance,
) -> Any:
    """`masked_loss` of ``rep_loss(target(i), predict(context, i))``.

    The target already is a representation.

    Theorems: ``jepa_loss_nil``, ``jepa_loss_append``, ``jepa_loss_reverse``, ``jepa_loss_target_ext``.

    >>> jepa_loss([0, 1], 5, lambda i: i, lambda c, i: c, lambda t, p: abs(t - p))
    9
    """
    return masked_loss(target_idxs, lambda i: rep_loss(target(i), predict(context, i)))
