"""How far off a prediction is on hidden coordinates, beside two baselines that need no training."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule, Sample
from viewproof.masks.finite import check_count
from viewproof.progress import progress

BASELINES = ("mean of the training samples", "nearest visible value")
DRAWS = 8
"""Draws that an error is the mean of, at most: in that many a patch hidden half of the time is missed once in 256."""


def nearest_visible_fill(x: Tensor, view: Mask) -> Tensor:
    """``x`` with each hidden value replaced by the nearest visible one of its channel and sample.

    Distances are Euclidean over rows and columns of ``[N, C, H, W]``, and over all axes of other data.

    >>> nearest_visible_fill(torch.tensor([[5.0, 0.0, 0.0, 7.0]]), Mask(torch.tensor([False, True, True, False])))
    tensor([[5., 5., 7., 7.]])
    """
    from scipy.ndimage import distance_transform_edt

    if view.per_sample:
        rows = [nearest_visible_fill(x[n : n + 1], view.row(n)) for n in range(len(x))]
        return torch.cat(rows) if rows else x
    hidden = view.hidden.cpu().numpy()
    nearest = []
    planes = hidden if hidden.ndim == 3 else hidden[None]
    for plane, ids in zip(planes, np.arange(hidden.size).reshape(planes.shape), strict=True):
        if plane.all():
            raise InvalidArgument(f"view made by {view.rule!r} leaves nothing visible to fill from")
        places = distance_transform_edt(plane, return_distances=False, return_indices=True)
        nearest.append(ids[tuple(places)].reshape(-1))
    return x.flatten(1)[:, torch.from_numpy(np.concatenate(nearest)).to(x.device)].reshape(x.shape)


def draws(rule: Rule, most: int = DRAWS) -> list[tuple[Rule, int]]:
    """The different draws of a rule: of steps, or of epochs if it draws one mask a sample.

    A fixed rule has one, a rotating one at most as many as its period.

    >>> from viewproof.masks import PatchMask, RandomPatchMask, Rotating, SharedRandomPatchMask
    >>> rules = (PatchMask(2, 2, 3, 0), Rotating(PatchMask(2, 2, 3, 0)), SharedRandomPatchMask(2, 2, 3))
    >>> [len(draws(rule)) for rule in (*rules, RandomPatchMask(2, 2, 3))]
    [1, 3, 8, 8]
    """
    if rule.per_sample:
        return [(rule.at(step), step) for step in range(most)]
    return [(fixed, 0) for fixed in dict.fromkeys(rule.at(step) for step in range(most))]


@dataclass(frozen=True, eq=False)
class HiddenErrors:
    """Squared errors on hidden values, summed by coordinate over samples and draws.

    ``totals`` are of the model and of each baseline, float64 ``[*sample]`` in squared units of the batches; ``counts``,
    int64 ``[*sample]``, says how often each coordinate was hidden.

    >>> errors = HiddenErrors({"model": torch.tensor([[[6.0, 2.0, 0.0]]])}, torch.tensor([[[2, 2, 0]]]), draws=1)
    >>> errors.means, errors.by_patch(1, 2)
    ({'model': 2.0}, {'model': [[2.0, None]]})
    """

    totals: dict[str, Tensor]
    counts: Tensor
    draws: int

    @property
    def means(self) -> dict[str, float]:
        """The mean over all hidden values."""
        return {name: float(total.sum() / self.counts.sum()) for name, total in self.totals.items()}

    def by_patch(self, patch_h: int, patch_w: int) -> dict[str, list[list[float | None]]]:
        """The mean over each patch's hidden values, as rows of patches; None if it was never hidden.

        Patches are ``patch_h`` x ``patch_w`` pixels of all channels; a ragged last patch is a patch. Samples that are
        not ``[C, H, W]`` raise `InvalidArgument`.
        """
        sizes = [check_count(name, k) for name, k in (("patch_h", patch_h), ("patch_w", patch_w))]
        if self.counts.dim() != 3 or 0 in sizes:
            raise InvalidArgument(
                f"patches of {patch_h} x {patch_w} of samples {tuple(self.counts.shape)}: errors by patch need images "
                "[C, H, W] and a positive patch size; use means"
            )
        counts = _patch_sums(self.counts, *sizes).tolist()
        return {
            name: [
                [total / count if count else None for total, count in zip(*row, strict=True)]
                for row in zip(_patch_sums(totals, *sizes).tolist(), counts, strict=True)
            ]
            for name, totals in self.totals.items()
        }


def _patch_sums(values: Tensor, patch_h: int, patch_w: int) -> Tensor:
    _, height, width = values.shape
    rows, cols = torch.arange(height) // patch_h, torch.arange(width) // patch_w
    by_row = values.new_zeros(-(-height // patch_h), width).index_add(0, rows, values.sum(0))
    return by_row.new_zeros(len(by_row), -(-width // patch_w)).index_add(1, cols, by_row)


def hidden_errors(
    batches: Iterable[tuple[Tensor, Tensor]], rule: Rule, mean_image: Tensor, predict: Callable[[Sample], Tensor]
) -> HiddenErrors:
    """The squared errors on hidden values of a model and of the baselines, over all `draws`.

    A batch is ``(x: [N, *sample], sample_ids: [N])``. ``predict(sample)`` returns ``[N, D]`` in the units of the
    batches. ``mean_image`` is the mean training sample. A rule that hides nothing raises `InvalidArgument`.

    >>> from viewproof.masks import VectorMask
    >>> batch = (torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([0]))
    >>> hidden_errors([batch], VectorMask(3, 2), torch.zeros(3), lambda sample: sample.x).means
    {'model': 16.0, 'mean of the training samples': 16.0, 'nearest visible value': 4.0}
    """
    steps = draws(rule)
    totals = {name: torch.zeros(mean_image.shape, dtype=torch.float64) for name in ("model", *BASELINES)}
    counts = torch.zeros(mean_image.shape, dtype=torch.int64)
    with torch.inference_mode():
        for x, ids in progress(batches, "errors on hidden values"):
            for step_rule, epoch in steps:
                sample = step_rule.sample(x, sample_ids=ids, epoch=epoch)
                assert sample.view is not None
                hidden = sample.mask.hidden.expand(sample.y.shape).reshape(x.shape)
                guesses = (predict(sample), mean_image.to(x).expand_as(x), nearest_visible_fill(sample.x, sample.view))
                for name, guess in zip(totals, guesses, strict=True):
                    error = torch.where(hidden, guess.reshape(x.shape).double() - x.double(), 0.0)
                    totals[name] += error.square().sum(0).cpu()
                counts += hidden.sum(0).cpu()
    if not counts.any():
        raise InvalidArgument(f"rule {rule!r} hides nothing here, so no error can be measured")
    return HiddenErrors(totals, counts, len(steps))
