"""How far off a prediction is on hidden coordinates, beside two baselines that need no training."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule, Sample
from viewproof.objectives import masked_mse


def nearest_visible_fill(x: Tensor, view: Mask) -> Tensor:
    """``x`` with each hidden coordinate replaced by the nearest visible one of the same channel.

    Distances are Euclidean over rows and columns of ``[N, C, H, W]``, and over all axes of other data.

    >>> nearest_visible_fill(torch.tensor([[5.0, 0.0, 0.0, 7.0]]), Mask(torch.tensor([False, True, True, False])))
    tensor([[5., 5., 7., 7.]])
    """
    from scipy.ndimage import distance_transform_edt

    hidden = view.hidden.cpu().numpy()
    per_channel = hidden.ndim == 3
    for channel in hidden if per_channel else [hidden]:
        if channel.all():
            raise InvalidArgument(f"view made by {view.rule!r} leaves nothing visible to fill from")
    flat = np.arange(hidden.size).reshape(hidden.shape)
    parts = [
        ids[tuple(distance_transform_edt(part, return_distances=False, return_indices=True))]
        for part, ids in (zip(hidden, flat, strict=True) if per_channel else [(hidden, flat)])
    ]
    nearest = torch.from_numpy(np.concatenate([part.reshape(-1) for part in parts])).to(x.device)
    return x.flatten(1)[:, nearest].reshape(x.shape)


def hidden_errors(
    batches: Iterable[Tensor], rule: Rule, mean_image: Tensor, predict: Callable[[Sample], Tensor]
) -> dict[str, float]:
    """The mean squared error over hidden coordinates of a model and of the baselines, over all batches.

    ``predict(sample)`` returns ``[N, D]`` in the units of the batches. ``mean_image`` is the mean training sample.

    >>> from viewproof.masks import VectorMask
    >>> x = torch.tensor([[1.0, 2.0, 4.0]])
    >>> hidden_errors([x], VectorMask(3, 2), torch.zeros(3), lambda sample: sample.x)
    {'model': 16.0, 'mean of the training samples': 16.0, 'nearest visible value': 4.0}
    """
    totals = dict.fromkeys(("model", "mean of the training samples", "nearest visible value"), 0.0)
    count = 0
    with torch.inference_mode():
        for x in batches:
            sample = rule.sample(x)
            assert sample.view is not None
            guesses = (predict(sample), mean_image.expand_as(x), nearest_visible_fill(sample.x, sample.view))
            for name, guess in zip(totals, guesses, strict=True):
                totals[name] += float(masked_mse(guess.reshape(sample.y.shape), sample, reduction="sum"))
            count += sample.mask.count * len(x)
    if not count:
        raise InvalidArgument(f"rule {rule!r} hides nothing here, so no error can be measured")
    return {name: total / count for name, total in totals.items()}
