"""The running masked loss of a whole batch as one contract, with or without a guard."""

from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.objectives.contract import PredictiveViewContract, with_geometry_guard
from viewproof.objectives.mae import mae_as_predictive_view_contract
from viewproof.shapes import Float


def mae_batch_predictive_contract(
    sample: Sample, yhat: Float[Tensor, "batch target"], guard: Any = 0
) -> PredictiveViewContract:
    """`masked_mse` of a whole batch plus ``guard``: over the pairs (row, coordinate) that the mask selects.

    ``guard`` is any number, for instance ``VICRegLoss().guard(embeddings)`` of the encoder's embeddings, added to the
    running loss as well. An empty mask raises `InvalidArgument`, as it does in `masked_mse`.

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
