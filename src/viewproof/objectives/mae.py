"""Masked reconstruction: the finite loss, and rows of the running pipeline as contracts."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample, hidden_patch_idxs
from viewproof.masks.finite import check_count
from viewproof.masks.sample import Over
from viewproof.objectives.contract import PredictiveViewContract, masked_loss
from viewproof.shapes import Shaped
from viewproof.views import block_mae_sample, image_patch_mae_sample, patchify, vector_mae_sample

Distance = Callable[[Any, Any], Any]
Listing = Callable[..., Sequence[int]]
"""From a mask to the indices that a contract sums over."""
_SELECTED: Listing = attrgetter("selected_idxs")


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


def mae_as_predictive_view_contract(
    masked_idxs: Sequence[Any], target: Callable[[Any], Any], pred: Callable[[Any], Any], patch_loss: Distance
) -> PredictiveViewContract:
    """Unit context, identity target encoder, zero guard.

    Theorems: ``mae_is_predictive_view_loss``, ``mae_is_predictive_view_objective``.
    """
    return PredictiveViewContract(masked_idxs, (), target, lambda _, t: t, lambda _, i: pred(i), patch_loss)


def image_mae_reconstruction_idxs(recon_dim: int) -> list[int]:
    """Every decoder coordinate, ``0 ... recon_dim - 1``: the index set of ``over="all"``.

    >>> image_mae_reconstruction_idxs(3)
    [0, 1, 2]
    """
    return list(range(check_count("recon_dim", recon_dim, "predict nothing")))


def matrix_row_as_patch_batch(x: Shaped[Tensor, "batch *target"], row: int) -> Callable[[int], Tensor]:
    """Row ``row`` of ``x: [N, D]`` (or ``[N, patches, values]``) as a finite function of the index.

    >>> import torch
    >>> matrix_row_as_patch_batch(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)(0)
    tensor(3.)
    """
    if x.dim() < 2 or check_count("row", row, "take the first row") >= x.shape[0]:
        raise InvalidArgument(f"row={row} is not a row of a tensor of shape {tuple(x.shape)}; rows count from 0")
    return x[row].__getitem__


def matrix_row_as_prediction(yhat: Shaped[Tensor, "batch *target"], row: int) -> Callable[[int], Tensor]:
    """Row ``row`` of a model's output as a finite prediction function; see `matrix_row_as_patch_batch`."""
    return matrix_row_as_patch_batch(yhat, row)


def row_predictive_contract(
    sample: Sample,
    yhat: Shaped[Tensor, "batch *target"],
    row: int,
    patch_loss: Distance,
    over: Over = "hidden",
    *,
    listing: Listing = _SELECTED,
) -> PredictiveViewContract:
    """Row ``row`` of any running pipeline with a flat target ``[N, D]``; the target comes from ``sample.y``.

    ``listing`` makes the index list of the row's mask, here and below; proofs pass one of their own.

    >>> import torch
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=2, offset=0)
    >>> row_predictive_contract(sample, torch.zeros(1, 3), 0, lambda t, p: (t - p) ** 2).target_idxs
    [0, 2]
    """
    if yhat.shape != sample.y.shape:
        raise InvalidArgument(f"yhat of shape {tuple(yhat.shape)} must have the target's shape {tuple(sample.y.shape)}")
    target, prediction = matrix_row_as_patch_batch(sample.y, row), matrix_row_as_prediction(yhat, row)
    idxs = listing(sample.selection(over).row(row))
    return mae_as_predictive_view_contract(idxs, target, prediction, patch_loss)


def vector_mae_row_predictive_contract(
    x: Shaped[Tensor, "batch features"],
    yhat: Shaped[Tensor, "batch features"],
    row: int,
    period: int,
    offset: int,
    patch_loss: Distance,
    *,
    listing: Listing = _SELECTED,
) -> PredictiveViewContract:
    """One row of the running vector MAE. Theorem: ``vector_mae_row_predictive_objective_eq_mae_loss``."""
    return row_predictive_contract(vector_mae_sample(x, period, offset), yhat, row, patch_loss, listing=listing)


def image_patch_mae_row_predictive_contract(
    x: Shaped[Tensor, "batch channels height width"],
    yhat: Shaped[Tensor, "batch target"],
    row: int,
    patch_h: int,
    patch_w: int,
    period: int,
    offset: int,
    patch_loss: Distance,
    recon_dim: int | None = None,
    over: Over = "hidden",
    *,
    listing: Listing = _SELECTED,
) -> PredictiveViewContract:
    """One row of the running image MAE. Theorem: ``image_patch_mae_row_predictive_objective_eq_mae_loss``."""
    sample = image_patch_mae_sample(x, patch_h, patch_w, period, offset, recon_dim)
    return row_predictive_contract(sample, yhat, row, patch_loss, over, listing=listing)


def block_mae_row_predictive_contract(
    x: Shaped[Tensor, "batch *source"],
    yhat: Shaped[Tensor, "batch target"],
    row: int,
    blocks: Sequence[int | None],
    period: int,
    offset: int,
    patch_loss: Distance,
    recon_dim: int | None = None,
    over: Over = "hidden",
    *,
    listing: Listing = _SELECTED,
) -> PredictiveViewContract:
    """One row of the running block MAE. Theorem: ``block_mae_row_predictive_objective_eq_mae_loss``."""
    sample = block_mae_sample(x, blocks, period, offset, recon_dim)
    return row_predictive_contract(sample, yhat, row, patch_loss, over, listing=listing)


def image_patch_token_row_predictive_contract(
    x: Shaped[Tensor, "batch channels height width"],
    yhat_tokens: Shaped[Tensor, "batch patches values"],
    row: int,
    patch_h: int,
    patch_w: int,
    period: int,
    offset: int,
    patch_loss: Distance,
    *,
    listing: Listing = hidden_patch_idxs,
) -> PredictiveViewContract:
    """One row of a decoder that predicts patch tokens ``[N, patches, patch_h * patch_w * C]``.

    The index set is the hidden patches, the target their pixels: ``patch_loss`` gets two vectors, in the order
    of `patchify`. Theorem: ``patch_token_objective_eq_hidden_pixel_objective``.

    >>> import torch
    >>> x, tokens = torch.ones(1, 1, 4, 4), torch.zeros(1, 4, 4)
    >>> loss = lambda t, p: (t - p).square().sum()
    >>> image_patch_token_row_predictive_contract(x, tokens, 0, 2, 2, 2, 1, loss).target_idxs
    [1, 3]
    """
    sample = image_patch_mae_sample(x, patch_h, patch_w, period, offset)
    target = patchify(x, patch_h, patch_w)
    if yhat_tokens.shape != target.shape:
        raise InvalidArgument(f"yhat_tokens of shape {tuple(yhat_tokens.shape)} must be {tuple(target.shape)}")
    assert sample.view is not None
    return mae_as_predictive_view_contract(
        listing(sample.view, patch_h, patch_w),
        matrix_row_as_patch_batch(target, row),
        matrix_row_as_prediction(yhat_tokens, row),
        patch_loss,
    )
