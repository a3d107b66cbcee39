"""Probes and held-out errors, against computations by hand."""

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.evaluation import encode_all, hidden_errors, nearest_visible_fill, probe


def nearest_values(x, hidden):
    """Each coordinate with the values of the visible coordinates of its channel that are nearest to it."""
    channels, height, width = hidden.shape
    for c in range(channels):
        seen = [(i, j) for i in range(height) for j in range(width) if not hidden[c, i, j]]
        for i in range(height):
            for j in range(width):
                nearest = min((i - a) ** 2 + (j - b) ** 2 for a, b in seen)
                yield (c, i, j), {float(x[0, c, a, b]) for a, b in seen if (i - a) ** 2 + (j - b) ** 2 == nearest}


def test_each_hidden_pixel_gets_a_nearest_visible_value_of_its_channel():
    mask = vp.PatchMask(2, 3, period=2, offset=0).mask((2, 5, 7))
    x = torch.arange(70.0).reshape(1, 2, 5, 7)
    filled = nearest_visible_fill(mask.apply(x), mask)
    assert torch.equal(filled[:, ~mask.hidden], x[:, ~mask.hidden])
    for (c, i, j), values in nearest_values(x, mask.hidden):
        assert float(filled[0, c, i, j]) in values


def test_nothing_visible_to_fill_from():
    with pytest.raises(vp.InvalidArgument, match="leaves nothing visible"):
        nearest_visible_fill(torch.zeros(1, 1, 2, 2), vp.Mask.all((1, 2, 2)))


def test_hidden_errors_are_means_over_hidden_coordinates_of_all_batches():
    rule, mean = vp.VectorMask(period=2, offset=0), torch.tensor([1.0, 5.0, 1.0])
    parts = [torch.tensor([[0.0, 9.0, 3.0]]), torch.tensor([[2.0, 9.0, 2.0], [1.0, 9.0, 1.0]])]
    batches = [(parts[0], torch.tensor([0])), (parts[1], torch.tensor([1, 2]))]
    errors = hidden_errors(batches, rule, mean, lambda sample: torch.full_like(sample.y, 2.0)).means
    assert errors["model"] == pytest.approx((4 + 1 + 0 + 0 + 1 + 1) / 6)
    assert errors["mean of the training samples"] == pytest.approx((1 + 4 + 1 + 1 + 0 + 0) / 6)
    assert errors["nearest visible value"] == pytest.approx((81 + 36 + 49 + 49 + 64 + 64) / 6)


def test_an_empty_rule_has_no_error():
    with pytest.raises(vp.InvalidArgument, match="hides nothing"):
        hidden_errors(
            [(torch.zeros(1, 3), torch.tensor([0]))], vp.VectorMask(0, 0), torch.zeros(3), lambda sample: sample.y
        )


def test_features_come_in_the_order_of_the_indices():
    x = torch.arange(10.0).reshape(5, 2)
    features = encode_all(lambda batch: 2 * batch, lambda i: x[i], [4, 0, 3], batch_size=2)
    assert features.tolist() == [[16, 18], [0, 2], [12, 14]]


def test_probes_tell_separable_classes_apart_and_noise_not():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    good = labels[:, None] + 0.1 * rng.normal(size=(400, 3))
    noise = rng.normal(size=(400, 3))
    scores = probe(good[:300], labels[:300], good[300:], labels[300:])
    assert scores.knn == scores.linear == 1.0
    scores = probe(noise[:300], labels[:300], noise[300:], labels[300:])
    assert scores.knn < 0.7 and scores.linear < 0.7


def test_one_class_cannot_be_probed():
    with pytest.raises(vp.InvalidArgument, match="at least two classes"):
        probe(np.zeros((3, 1)), [1, 1, 1], np.zeros((1, 1)), [1])
