"""Fine-tuning: what is drawn, what is trained, what is left alone."""

import numpy as np
import pytest
import torch
from torch import nn

import viewproof as vp
import viewproof.evaluation.fine_tune as tuning
from viewproof.data import Split, make_dataset
from viewproof.evaluation.fine_tune import class_balanced, fine_tune
from viewproof.methods.ijepa import JEPANetwork
from viewproof.models.patches import PatchEncoder, PatchPredictor

LABELS = np.array([0] * 50 + [1] * 30 + [2] * 4)


@pytest.mark.parametrize(("count", "shares"), [(9, [3, 3, 3]), (12, [4, 4, 4]), (20, [8, 8, 4]), (84, [50, 30, 4])])
def test_samples_are_drawn_class_balanced(count, shares):
    for seed in range(5):
        chosen = class_balanced(LABELS, count, seed)
        assert np.bincount(LABELS[chosen]).tolist() == shares
        assert (np.diff(chosen) > 0).all()


def test_one_more_goes_to_classes_that_the_seed_draws():
    shares = {tuple(np.bincount(LABELS[class_balanced(LABELS, 4, seed)])) for seed in range(30)}
    assert shares == {(2, 1, 1), (1, 2, 1), (1, 1, 2)}


def test_the_draw_is_a_function_of_the_seed_and_grows():
    assert np.array_equal(class_balanced(LABELS, 10, 3), class_balanced(LABELS, 10, 3))
    assert not np.array_equal(class_balanced(LABELS, 10, 3), class_balanced(LABELS, 10, 4))
    assert set(class_balanced(LABELS, 10, 3)) < set(class_balanced(LABELS, 17, 3))


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (85, "labels=85 is more than the 84 labelled samples"),
        (2, "labels=2 is fewer than the 3 classes"),
        (0, "labels=0 is fewer than the 3 classes"),
        (-1, "labels=-1 must be a non-negative integer"),
    ],
)
def test_impossible_counts_are_refused(count, message):
    with pytest.raises(vp.InvalidArgument, match=message):
        class_balanced(LABELS, count)


def clusters(labels=True):
    """Two classes told apart by the sign of one value in eight."""
    rng = np.random.default_rng(0)
    names = rng.integers(0, 2, 120)
    x = rng.normal(size=(120, 8)).astype(np.float32)
    x[:, 0] = 3 * names - 1.5
    parts = [Split(x[part], names[part] if labels else None) for part in (slice(80), slice(80, None))]
    return make_dataset("clusters", *parts)


class Line(nn.Module):
    """One linear feature, and a part that `encode` does not use."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 1), nn.Linear(1, 8)

    def encode(self, x):
        return self.encoder(x)


def test_the_encoder_is_trained_and_the_given_one_stays_as_it_is(monkeypatch):
    monkeypatch.setattr(tuning, "RATE", 0.03)
    data, model = clusters(), Line()
    with torch.no_grad():
        model.encoder.weight.copy_(torch.eye(8)[1:2])  # blind to what tells the classes apart
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    scores = [fine_tune(model, data, np.arange(80), epochs, seed=1) for epochs in (60, 60)]
    assert scores[0] == scores[1] == 1.0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_only_the_chosen_samples_are_seen(monkeypatch):
    data = clusters()
    chosen = class_balanced(data.train.labels, 6)
    seen = []
    monkeypatch.setattr(Line, "encode", lambda self, x: seen.append(x.detach()) or self.encoder(x))
    fine_tune(Line(), data, chosen, epochs=2)
    known = {tuple(row) for row in data.fetch("train", chosen).tolist()}
    everything = {tuple(row) for row in data.fetch("train", range(80)).tolist()}
    shown = {tuple(row) for x in seen for row in x.tolist()}
    assert shown & everything == known and len(known) == 6


def test_a_target_that_pre_training_gave_no_gradient_is_fine_tuned(monkeypatch):
    made = []
    original = tuning.Classifier
    monkeypatch.setattr(tuning, "Classifier", lambda *given: made.append(original(*given)) or made[-1])
    rng = np.random.default_rng(0)
    parts = [Split(rng.normal(size=(20, 1, 4, 4)).astype(np.float32), np.arange(20) % 2) for _ in range(2)]
    encoder = PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=1, heads=2)
    network = JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=8, width=8, depth=1, heads=2))
    fine_tune(network, make_dataset("noise", *parts), np.arange(20), epochs=12)
    before, after = network.state_dict(), made[0].encoder.state_dict()
    assert not torch.equal(before["target.embed.weight"], after["target.embed.weight"])
    assert torch.equal(before["predictor.project.weight"], after["predictor.project.weight"])
    assert not any(p.requires_grad for p in network.target.parameters())


def test_data_without_labels_and_no_epoch_are_refused():
    with pytest.raises(vp.InvalidArgument, match="needs labels of at least two classes, and clusters has none"):
        fine_tune(Line(), clusters(labels=False), np.arange(4), epochs=1)
    with pytest.raises(vp.InvalidArgument, match="epochs=0 trains nothing"):
        fine_tune(Line(), clusters(), np.arange(4), epochs=0)
