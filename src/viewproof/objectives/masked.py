"""The losses that train: sums of distances over exactly the sample's mask.

Rounding. Let ``u`` be the unit roundoff of the accumulating type (2**-24 for float32, 2**-53 for float64), ``n``
the number of selected coordinates, and ``g(m) = m * u / (1 - m * u)``. A distance of a pair that the type holds
exactly is rounded at most ``k`` times: ``mse`` 3 (the subtraction, counted twice by the square, and the product);
``l1`` 1; ``smooth_l1`` 5: as a function of ``|d|`` and ``beta`` it is continuous, on both branches of elasticity 1
to 2 in ``|d|`` and -1 to 0 in ``beta``, so that whichever branch the rounded values take the subtraction counts
twice and the rounding of ``beta`` once, and then come a product and a quotient (or one subtraction). All terms are
non-negative, so a sum of n of them in any order adds at most ``n - 1`` factors ``1 + d, |d| <= u``; unselected terms
are exact zeros. The mean divides once more, by a count that is exact up to ``1 / u`` and rounded once above it. A
product that underflows is off by at most half of ``tiny``, the smallest subnormal, before ``smooth_l1`` divides it by
``beta``, and the quotient by half of ``tiny`` again. Hence, without overflow and with ``m = n + k + 1``,

    |computed - exact| <= g(m) * exact + (1 + g(m)) * n * tiny * max(1, 1 / beta)       (Higham 2002, lemma 3.1)

which `rounding_bound` returns. float16 and bfloat16 predictions are accumulated in float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.masks.sample import Over
from viewproof.shapes import Float, check_kind, check_tensor
from viewproof.torch_internals import assert_in_graph

Reduction = Literal["mean", "sum", "rows"]


def masked_mse(
    prediction: Float[Tensor, "batch *target"], sample: Sample, reduction: Reduction = "mean", over: Over = "hidden"
) -> Float[Tensor, "*rows"]:
    """The mean squared error over exactly the sample's mask.

    The sum over the mask is divided by the number of selected coordinates in the batch. ``reduction="sum"`` does not
    divide; ``"rows"`` returns ``[N]``, the sum of each row: its `predictive_view_objective`. ``over="all"`` sums over
    every target coordinate. Values off the mask, ``NaN`` included, change neither the value nor the gradient. The mean
    over an empty mask is an `InvalidArgument`, and so are shapes that differ. Theorems:
    ``training_loss_eq_row_objectives``, ``training_loss_gradient_support``.

    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), period=2, offset=0)
    >>> masked_mse(torch.zeros(2, 3), sample), masked_mse(torch.zeros(2, 3), sample, reduction="rows")
    (tensor(15.5000), tensor([10., 52.]))
    """
    return masked_distance(F.mse_loss, prediction, sample, reduction, over)


def masked_l1(
    prediction: Float[Tensor, "batch *target"], sample: Sample, reduction: Reduction = "mean", over: Over = "hidden"
) -> Float[Tensor, "*rows"]:
    """The absolute error over the mask; see `masked_mse`.

    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=2, offset=0)
    >>> masked_l1(torch.zeros(1, 3), sample)
    tensor(2.)
    """
    return masked_distance(F.l1_loss, prediction, sample, reduction, over)


def masked_smooth_l1(
    prediction: Float[Tensor, "batch *target"],
    sample: Sample,
    reduction: Reduction = "mean",
    over: Over = "hidden",
    beta: float = 1.0,
) -> Float[Tensor, "*rows"]:
    """The mean smooth-L1 error over exactly the sample's mask; see `masked_mse`.

    ``d**2 / (2 * beta)`` where ``|d| < beta``, else ``|d| - beta / 2`` (Girshick 2015).

    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=2, offset=0)
    >>> masked_smooth_l1(torch.full((1, 3), 2.5), sample, reduction="sum")
    tensor(1.1250)
    """
    check_beta(beta)
    return masked_distance(partial(F.smooth_l1_loss, beta=beta), prediction, sample, reduction, over)


def check_beta(beta: object) -> None:
    """Refuse anything but a positive finite number."""
    # A tuple: torch 2.9 compiles no isinstance of a union.
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 < beta < math.inf:
        raise InvalidArgument(f"beta={beta!r} must be a positive number; use masked_l1 for its limit at 0")


def masked_distance(
    distance: Callable[..., Tensor],
    prediction: Tensor,
    sample: Sample,
    reduction: Reduction,
    over: Over,
    count: int | None = None,
) -> Tensor:
    """The loss that all three share: select the error, take its distance from 0, sum.

    ``count`` is that of the mask, if the caller knows it. The distances are torch's own, with one pass forward and one
    back.
    """
    check_kind("sample", sample, Sample)
    check_tensor("prediction", prediction)
    if prediction.shape != sample.y.shape:
        raise InvalidArgument(
            f"prediction of shape {tuple(prediction.shape)} must have the target's shape {tuple(sample.y.shape)}; "
            "shapes never broadcast here, reshape the prediction"
        )
    if not prediction.is_floating_point() or sample.y.is_complex():
        raise InvalidArgument(
            f"prediction of {prediction.dtype} and target of {sample.y.dtype}: a loss that trains needs a real "
            "floating-point prediction; convert it, and split a complex target"
        )
    if reduction not in ("mean", "sum", "rows"):
        raise InvalidArgument(f"reduction={reduction!r} must be 'mean', 'sum' or 'rows'")
    selection = sample.selection(over)
    wide = torch.promote_types(torch.promote_types(prediction.dtype, sample.y.dtype), torch.float32)
    error = prediction.to(wide) - sample.y.to(wide)
    zero = error.new_zeros(())
    error = torch.where(selection.hidden, error, zero)
    terms = distance(error, zero.expand_as(error), reduction="none")
    if reduction == "rows":
        return terms.reshape(terms.shape[0], math.prod(terms.shape[1:])).sum(1)
    if reduction == "sum":
        return terms.sum()
    rows = 1 if selection.per_sample else prediction.shape[0]
    if count is None and torch.compiler.is_compiling():
        total = selection.hidden.sum() * rows
        assert_in_graph(total > 0, "the mean loss of an empty mask has no value")
        return terms.sum() / total
    if count is None:
        count = selection.count
    if count * rows == 0:
        raise InvalidArgument(
            f"mask made by {selection.rule!r} selects nothing in a batch of {prediction.shape[0]}: a mean over it has "
            "no value; check period and offset, or use reduction='sum'"
        )
    return terms.sum() / (count * rows)


def rounding_bound(
    roundings: int, count: int, exact: float, dtype: torch.dtype = torch.float32, beta: float = 1.0
) -> float:
    """The largest rounding error ``|computed - exact|`` of a loss over ``count`` coordinates.

    See this module's docstring. ``roundings`` is ``k``: 3 for `masked_mse`, 1 for `masked_l1`, 5 for
    `masked_smooth_l1`, whose ``beta`` counts too.

    >>> 0 < rounding_bound(3, count=100, exact=1.0) < 1e-5
    True
    """
    for name, value, kinds in (("roundings", roundings, int), ("count", count, int), ("exact", exact, (int, float))):
        if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < math.inf:
            raise InvalidArgument(f"{name}={value!r} must be a number of at least 0; pass the loss's own")
    check_beta(beta)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InvalidArgument(f"dtype={dtype!r} must be a floating-point type, such as torch.float32")
    info = torch.finfo(dtype)
    mu = (count + roundings + 1) * info.eps / 2
    if mu >= 1:
        return math.inf
    g = mu / (1 - mu)
    return g * exact + (1 + g) * count * info.smallest_normal * info.eps * max(1.0, 1 / beta)
