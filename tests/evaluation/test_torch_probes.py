"""The probes in torch agree with scikit-learn's, chunk by chunk, and with computations by hand."""

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.data import load_dataset
from viewproof.evaluation import predict_labels, probe, probes, torch_probes

BOTH = ("scikit-learn", "torch")


@pytest.fixture(scope="module")
def digits():
    data = load_dataset("digits")
    parts = {"train": data.train, "test": data.test}
    return [(data.fetch(name, range(len(part))).flatten(1).numpy(), part.labels) for name, part in parts.items()]


def features(part, kind):
    """Raw values, or random features with their many constant and correlated columns."""
    x, labels = part
    if kind == "random":
        weights = torch.randn(64, 96, generator=torch.Generator().manual_seed(0)).numpy()
        x = np.maximum(x @ weights - 12, 0)
    return x, labels


@pytest.mark.parametrize("kind", ["raw", "random"])
@pytest.mark.parametrize("chunk", [100, 8192])
def test_both_engines_label_digits_alike(digits, monkeypatch, kind, chunk):
    """All but one sample or one in a thousand, fitted on the large part and on the small one.

    Equal distances are ordered by rounding, and both regressions stop where the gradient is below 1e-4.
    """
    monkeypatch.setattr(torch_probes, "CHUNK", chunk)
    monkeypatch.setattr(probes, "CHUNK", chunk)
    large, small = (features(part, kind) for part in digits)
    for (x, labels), (queries, _) in ((large, small), (small, large)):
        found = [predict_labels(x, labels, queries, engine=engine) for engine in BOTH]
        for ours, theirs in zip(*found, strict=True):
            assert (ours != theirs).sum() <= max(1, len(queries) / 1000)


def test_both_engines_tell_two_classes_apart_alike(digits):
    (x, _), (few, labels) = digits
    found = [predict_labels(few, labels % 2, x, engine=engine) for engine in BOTH]
    for ours, theirs in zip(*found, strict=True):
        assert (ours != theirs).sum() <= 1


def test_torch_is_chosen_for_large_sets(digits, monkeypatch):
    (x, labels), (queries, wanted) = digits
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    calls = []
    original = probes._with_torch
    monkeypatch.setattr(probes, "_with_torch", lambda *given: calls.append(given[-1]) or original(*given))
    probe(x, labels, queries, wanted)
    assert calls == []
    monkeypatch.setattr(probes, "LARGE", 1000)
    probe(x, labels, queries, wanted)
    assert calls == ["cpu"]


def test_neighbours_are_the_nearest_of_all_chunks(monkeypatch):
    monkeypatch.setattr(torch_probes, "CHUNK", 7)
    monkeypatch.setattr(torch_probes, "QUERIES", 4)
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.randn(50, 3, generator=generator), torch.randn(11, 3, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    predicted = torch_probes.knn_predict(x, labels, queries, neighbours=9)
    for n, query in enumerate(queries):
        nearest = sorted(range(50), key=lambda i: float((x[i] - query).double().square().sum()))[:9]
        assert predicted[n] == torch.bincount(labels[nearest]).argmax()


def test_the_regression_is_at_the_minimum():
    """The gradient, written by hand, is 0 within the tolerance, and the penalty leaves the bias free."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(40, 3, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    weights, bias = torch_probes.logistic_regression(x, labels, tolerance=1e-8)
    error = (x.double() @ weights.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    assert float((error.T @ x.double() / 40 + weights / 40).abs().max()) <= 1e-8
    assert float(error.mean(0).abs().max()) <= 1e-8


def test_labels_of_any_name_and_few_samples():
    x = np.array([[0.0, 1.0], [0.2, 1.0], [3.0, 1.0]])
    for engine in BOTH:
        knn, linear = predict_labels(x, ["a", "a", "z"], x, neighbours=1, engine=engine)
        assert knn.tolist() == linear.tolist() == ["a", "a", "z"]


def test_what_does_not_fit_is_refused():
    x = np.zeros((4, 2))
    for engine in BOTH:
        with pytest.raises(vp.InvalidArgument, match="at least two classes"):
            predict_labels(x, [1, 1, 1, 1], x, engine=engine)
    with pytest.raises(vp.InvalidArgument, match=r"train_features \(4, 2\), train_labels \(3,\)"):
        predict_labels(x, [0, 1, 0], x)
    with pytest.raises(vp.InvalidArgument, match=r"test_features \(4, 3\)"):
        predict_labels(x, [0, 1, 0, 1], np.zeros((4, 3)))
    with pytest.raises(vp.InvalidArgument, match="engine='jax' must be"):
        predict_labels(x, [0, 1, 0, 1], x, engine="jax")
    with pytest.raises(vp.InvalidArgument, match="test_labels of shape"):
        probe(x, [0, 1, 0, 1], x, [0])
