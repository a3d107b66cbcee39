"""Cross-entropy over the selected tokens of a batch, and the same objective over plain numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.errors import InvalidArgument
from viewproof.masks import Sample
from viewproof.objectives.contracts import PredictiveViewContract, mae_as_predictive_view_contract
from viewproof.shapes import Bool, Float, Int, check_kind, check_tensor


def masked_cross_entropy(prediction: Float[Tensor, "batch tokens vocabulary"], sample: Sample) -> Float[Tensor, ""]:
    """The mean cross-entropy of logits to the ids ``sample.y`` over exactly the sample's mask, in float32 at least.

    Logits off the mask, ``NaN`` included, change neither the value nor the gradient. Shapes that differ, ids outside
    the vocabulary and an empty mask raise `InvalidArgument`. It is the objective of `masked_token_contract`. Theorems:
    ``masked_cross_entropy_eq_mean_over_selected_tokens``, ``masked_cross_entropy_gradient_support``.

    >>> from viewproof.masks import TokenMask
    >>> rule = TokenMask(masked=1, replaced=0, kept=0, mask_id=4, vocabulary=4)
    >>> sample = rule.sample(torch.tensor([[2, 2]]), sample_ids=torch.arange(1))
    >>> masked_cross_entropy(torch.zeros(1, 2, 4), sample)
    tensor(1.3863)
    """
    _check(prediction, sample)
    places = selected_places(sample.mask.hidden.expand(sample.y.shape))
    ids = sample.y.flatten()
    if len(places) == 0:
        raise InvalidArgument(
            f"mask made by {sample.mask.rule!r} selects nothing in a batch of {len(prediction)}: a mean over it has no "
            "value; select a token at least"
        )
    if ids.is_cpu:
        least, most = (int(bound) for bound in ids[places].aminmax())
        if not 0 <= least <= most < prediction.shape[2]:
            raise InvalidArgument(
                f"ids from {least} to {most} must lie in 0 to {prediction.shape[2] - 1}, the vocabulary"
            )
    return listed_cross_entropy(prediction.flatten(0, 1), ids, places)


def selected_places(selected: Bool[Tensor, "batch tokens"]) -> Int[Tensor, "places"]:
    """The flat indices of what is selected, ascending.

    >>> selected_places(torch.tensor([[True, False], [False, True]]))
    tensor([0, 3])
    """
    return selected.flatten().nonzero().squeeze(1)


def listed_cross_entropy(
    logits: Float[Tensor, "tokens vocabulary"],
    ids: Int[Tensor, "tokens"],
    places: Int[Tensor, "places"],
    distance: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the tokens in ``places``, in float32 at least: what `masked_cross_entropy` trains."""
    rows = logits.index_select(0, places)
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    return distance(wide, ids.index_select(0, places).long())


def _check(prediction: Tensor, sample: Sample) -> None:
    """Refuse what is not logits of a sample of token ids."""
    check_kind("sample", sample, Sample)
    check_tensor("prediction", prediction)
    if prediction.dim() != 3 or prediction.shape[:2] != sample.y.shape or sample.y.is_floating_point():
        raise InvalidArgument(
            f"prediction of shape {tuple(prediction.shape)} must be logits [N, T, vocabulary] for token ids of shape "
            f"{tuple(sample.y.shape)} and dtype {sample.y.dtype}"
        )


def masked_token_contract(
    sample: Sample, prediction: Float[Tensor, "batch tokens vocabulary"]
) -> PredictiveViewContract:
    """`masked_cross_entropy` of a whole batch as a contract over its logits.

    The indices are the selected pairs (row, token), the target is the id, the distance is the cross-entropy.

    >>> from viewproof.masks import TokenMask
    >>> from viewproof.objectives.contracts import predictive_view_objective
    >>> rule = TokenMask(masked=1, replaced=0, kept=0, mask_id=4, vocabulary=4)
    >>> sample = rule.sample(torch.tensor([[2, 2]]), sample_ids=torch.arange(1))
    >>> round(float(predictive_view_objective(masked_token_contract(sample, torch.zeros(1, 2, 4)))), 4)
    1.3863
    """
    _check(prediction, sample)
    places = [(row, i) for row in range(len(sample.y)) for i in sample.mask.row(row).selected_idxs]
    if not places:
        raise InvalidArgument(f"mask made by {sample.mask.rule!r} selects nothing: a mean over it has no value")

    def cross_entropy(target: int, logits: Any) -> Any:
        wide = logits.double()
        return (wide.logsumexp(0) - wide[target]) / len(places)

    return mae_as_predictive_view_contract(
        places, lambda place: int(sample.y[place]), lambda place: prediction[place], cross_entropy
    )
