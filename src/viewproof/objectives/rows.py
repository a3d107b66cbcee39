"""Rows, and whole batches, of a running masked reconstruction as contracts."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample, hidden_patch_idxs
from viewproof.masks.finite import check_count
from viewproof.masks.sample import Over
from viewproof.objectives.contracts import PredictiveViewContract, mae_as_predictive_view_contract, with_geometry_guard
from viewproof.objectives.sums import Distance
from viewproof.shapes import LARGEST, Float, Shaped, check_kind, check_tensor
from viewproof.views import block_mae_sample, image_patch_mae_sample, patchify, vector_mae_sample

Listing = Callable[..., Sequence[int]]
"""From a mask to the indices that a contract sums over."""
_SELECTED: Listing = attrgetter("selected_idxs")


def image_mae_reconstruction_idxs(recon_dim: int) -> list[int]:
    """Every decoder coordinate, ``0 ... recon_dim - 1``: the index set of ``over="all"``.

    >>> image_mae_reconstruction_idxs(3)
    [0, 1, 2]
    """
    if check_count("recon_dim", recon_dim, "predict nothing") > LARGEST:
        raise InvalidArgument(f"recon_dim={recon_dim} is longer than a list should be; pass at most {LARGEST}")
    return list(range(recon_dim))


def matrix_row_as_patch_batch(x: Shaped[Tensor, "batch *target"], row: int) -> Callable[[int], Tensor]:
    """Row ``row`` of ``x: [N, D]`` (or ``[N, patches, values]``) as a finite function of the index.

    >>> import torch
    >>> matrix_row_as_patch_batch(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)(0)
    tensor(3.)
    """
    check_tensor("x", x)
    if x.dim() < 2 or check_count("row", row, "take the first row") >= x.shape[0]:
        raise InvalidArgument(f"row={row} is not a row of a tensor of shape {tuple(x.shape)}; rows count from 0")
    return x[row].__getitem__


def matrix_row_as_prediction(yhat: Shaped[Tensor, "batch *target"], row: int) -> Callable[[int], Tensor]:
    """Row ``row`` of a model's output as a function of the index, as `matrix_row_as_patch_batch`."""
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
    """Row ``row`` of a running pipeline with the flat target ``sample.y: [N, D]``, as a contract.

    ``listing`` makes the index list of the row's mask, here and below; proofs pass one of their own.

    >>> import torch
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=2, offset=0)
    >>> row_predictive_contract(sample, torch.zeros(1, 3), 0, lambda t, p: (t - p) ** 2).target_idxs
    [0, 2]
    """
    check_kind("sample", sample, Sample)
    check_tensor("yhat", yhat)
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
    """One row of the running vector MAE: ``vector_mae_row_predictive_objective_eq_mae_loss``."""
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
    """One row of the running image MAE: ``image_patch_mae_row_predictive_objective_eq_mae_loss``."""
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
    """One row of the running block MAE: ``block_mae_row_predictive_objective_eq_mae_loss``."""
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
    check_tensor("yhat_tokens", yhat_tokens)
    if yhat_tokens.shape != target.shape:
        raise InvalidArgument(f"yhat_tokens of shape {tuple(yhat_tokens.shape)} must be {tuple(target.shape)}")
    assert sample.view is not None
    return mae_as_predictive_view_contract(
        listing(sample.view, patch_h, patch_w),
        matrix_row_as_patch_batch(target, row),
        matrix_row_as_prediction(yhat_tokens, row),
        patch_loss,
    )


def mae_batch_predictive_contract(
    sample: Sample, yhat: Float[Tensor, "batch target"], guard: Any = 0
) -> PredictiveViewContract:
    """`masked_mse` of a whole batch plus ``guard``, as one contract.

    Its indices are the pairs (row, coordinate) that the mask selects. ``guard`` is any number, for instance
    ``VICRegLoss().guard(embeddings)`` of the encoder's embeddings, added to the running loss as well. An empty mask
    raises `InvalidArgument`, as it does in `masked_mse`.

    >>> import torch
    >>> from viewproof.objectives import predictive_view_objective
    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.tensor([[1.0, 2.0, 3.0]]), period=2, offset=0)
    >>> predictive_view_objective(mae_batch_predictive_contract(sample, torch.zeros(1, 3), guard=2))
    tensor(7.)
    """
    if yhat.shape != sample.y.shape:
        raise InvalidArgument(f"yhat of shape {tuple(yhat.shape)} must have the target's shape {tuple(sample.y.shape)}")
    places = [(row, i) for row in range(len(yhat)) for i in sample.mask.row(row).selected_idxs]
    if not places:
        raise InvalidArgument(f"mask made by {sample.mask.rule!r} selects nothing: a mean over it has no value")
    contract = mae_as_predictive_view_contract(
        places, sample.y.__getitem__, yhat.__getitem__, lambda t, p: (t - p) * (t - p) / len(places)
    )
    return with_geometry_guard(contract, guard)
