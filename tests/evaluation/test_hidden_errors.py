"""Held-out errors by draw, sample and patch, against loops over single values."""

import math

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof import plots
from viewproof.evaluation import HiddenErrors, draws, hidden_errors, nearest_visible_fill
from viewproof.evaluation.reconstruction import DRAWS

SHAPE, PATCH = (2, 5, 7), (2, 3)
IDS = torch.tensor([4, 0, 9])
X = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
MEAN = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
RULES = [
    vp.PatchMask(*PATCH, period=3, offset=1),
    vp.Rotating(vp.PatchMask(*PATCH, period=3, offset=1)),
    vp.SharedRandomPatchMask(*PATCH, count=4),
    vp.RandomPatchMask(*PATCH, count=4),
    ~vp.RandomPatchMask(*PATCH, count=4),
]


def masks(rule):
    """The mask of every draw and sample of the batch."""
    if rule.per_sample:
        return [rule.mask(SHAPE, sample_ids=IDS, epoch=epoch).hidden for epoch in range(DRAWS)]
    unlike = []
    for step in range(DRAWS):
        hidden = rule.at(step).mask(SHAPE).hidden.expand(X.shape)
        if not any(rule.at(step) == rule.at(earlier) for earlier in range(step)):
            unlike.append(hidden)
    return unlike


def by_loops(rule):
    """Sums and counts of the baseline "mean" by patch, value by value."""
    sums, counts = np.zeros((3, 3)), np.zeros((3, 3))
    for hidden in masks(rule):
        for n, c, i, j in hidden.nonzero().tolist():
            sums[i // 2, j // 3] += float(X[n, c, i, j].double() - MEAN[c, i, j].double()) ** 2
            counts[i // 2, j // 3] += 1
    return sums, counts


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("size", [1, 3])
def test_every_draw_and_sample_is_counted_with_its_own_mask(rule, size):
    batches = zip(torch.split(X, size), torch.split(IDS, size), strict=True)
    errors = hidden_errors(batches, rule, MEAN, lambda sample: MEAN.expand(sample.x.shape).flatten(1))
    sums, counts = by_loops(rule)
    assert errors.draws == len(masks(rule)) == len(draws(rule))
    assert errors.means["model"] == errors.means["mean of the training samples"]
    assert errors.means["model"] == pytest.approx(sums.sum() / counts.sum(), rel=1e-12)
    table = errors.by_patch(*PATCH)["model"]
    for (row, col), count in np.ndenumerate(counts):
        if count:
            assert table[row][col] == pytest.approx(sums[row, col] / count, rel=1e-12)
        else:
            assert table[row][col] is None


def test_some_patch_of_the_fixed_rule_is_never_hidden_and_one_draw_is_not_the_mean_of_several():
    """The cases that the test above is for do occur."""
    assert (by_loops(RULES[0])[1] == 0).any()
    first = masks(RULES[3])[0]
    one = float((X - MEAN)[first].double().square().mean())
    sums, counts = by_loops(RULES[3])
    assert abs(one - sums.sum() / counts.sum()) > 0.01


def test_a_value_that_is_no_number_off_the_mask_does_not_count():
    x = torch.tensor([[math.nan, 1.0, math.inf]])
    errors = hidden_errors([(x, torch.tensor([0]))], vp.VectorMask(3, 1), torch.zeros(3), lambda sample: sample.x)
    assert errors.means["model"] == 1.0


def test_each_sample_is_filled_from_its_own_visible_values():
    view = vp.RandomPatchMask(*PATCH, count=4).mask(SHAPE, sample_ids=IDS)
    filled = nearest_visible_fill(view.apply(X), view)
    for n in range(3):
        alone = nearest_visible_fill(view.row(n).apply(X[n : n + 1]), view.row(n))
        assert torch.equal(filled[n : n + 1], alone)
    assert nearest_visible_fill(X[:0], vp.RandomPatchMask(*PATCH, 4).mask(SHAPE, sample_ids=IDS[:0])).shape[0] == 0


@pytest.mark.parametrize(("shape", "patch"), [((4, 6), (2, 2)), ((1, 2, 4, 4), (2, 2)), ((1, 4, 4), (0, 2))])
def test_only_images_have_errors_by_patch(shape, patch):
    errors = HiddenErrors({"model": torch.ones(shape)}, torch.ones(shape, dtype=torch.int64), draws=1)
    with pytest.raises(vp.InvalidArgument, match="errors by patch need images"):
        errors.by_patch(*patch)


@pytest.mark.parametrize(("cols", "numbers"), [(3, 5), (13, 0)])
def test_numbers_stand_where_they_fit(cols, numbers, tmp_path):
    table = [[0.5] * cols, [None, *[2.0] * (cols - 1)]]
    figure = plots.patch_error_figure({"model": table, "nearest": table}, "title")
    axes = figure.axes[0]
    assert sum(bool(text.get_text()) for text in axes.texts) == numbers
    assert np.isnan(np.ma.filled(axes.images[0].get_array(), np.nan)[1, 0])
    assert axes.images[0].get_clim() == figure.axes[1].images[0].get_clim() == (0, 2)
    plots.save_figure(figure, tmp_path / "map.png")


def test_a_table_of_zeros_is_drawn(tmp_path):
    plots.save_figure(plots.patch_error_figure({"model": [[0.0, None]]}, "title"), tmp_path / "map.png")
