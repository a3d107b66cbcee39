"""What a finished run is worth: held-out errors, probes, pictures, one table."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from viewproof import plots
from viewproof.data import Dataset
from viewproof.evaluation import encode_all, hidden_errors, probe
from viewproof.masks import Sample
from viewproof.masks.random.rule import one_for_all
from viewproof.runs import Run, prepare, write_text
from viewproof.training import predict


def report(run: Run, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the trained model on held-out data, draw reconstructions (of mae), print and write the table."""
    data = run.dataset
    run.model.eval().cpu()
    lines: list[str] = []
    result: dict[str, Any] = {}
    if run.config.method == "mae":
        result["hidden_error"] = errors = reconstruction_errors(run)
        lines += ["", "held-out error on hidden values (mean squared, in training standard deviations)"]
        lines += [f"  {name:<34} {error:8.4f}" for name, error in errors.items()]
        if len(data.sample_shape) == 3:
            draw_reconstructions(run, run.folder / "reconstruction.png")
    result["accuracy"] = scores = {}
    if data.classes and data.train.labels is not None and data.test.labels is not None:
        result["accuracy"] = scores = probe_table(run)
        used = min(run.config.probe_samples, len(data.train))
        lines += ["", f"held-out accuracy, probes fit on {used} samples {'k-NN':>12} {'linear':>9}"]
        lines += [f"  {name:<44} {100 * s['knn']:8.1f} % {100 * s['linear']:6.1f} %" for name, s in scores.items()]
    write_text(run.folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    say("\n".join([*lines, "", f"written to {run.folder}"]))
    return result


def reconstruction_errors(run: Run) -> dict[str, float]:
    """The error on hidden values of held-out samples, of the model and of plain baselines."""
    data = run.dataset
    assert run.rule is not None
    held_out = [data.fetch("test", part) for part in torch.split(torch.arange(len(data.test)), 256)]
    return hidden_errors(held_out, one_for_all(run.rule.at(0)), mean_sample(data), partial(restore_prediction, run))


def probe_table(run: Run) -> dict[str, dict[str, float]]:
    """Probe accuracy of the trained encoder, the same encoder untrained, and raw values."""
    data, untrained = run.dataset, prepare(run.config, run.folder).model.eval()
    train = torch.arange(len(data.train))
    if len(train) > run.config.probe_samples:
        train = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: run.config.probe_samples]
    test = torch.arange(len(data.test))
    assert data.train.labels is not None and data.test.labels is not None
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "trained encoder": run.model.encode,  # type: ignore[dict-item]
        "the same encoder, untrained": untrained.encode,  # type: ignore[dict-item]
        "raw values": partial(torch.flatten, start_dim=1),
    }
    table = {}
    for name, encode in encoders.items():
        features = [encode_all(encode, partial(data.fetch, p), i) for p, i in (("train", train), ("test", test))]
        table[name] = asdict(probe(features[0], data.train.labels[train.numpy()], features[1], data.test.labels))
    return table


def restore_prediction(run: Run, sample: Sample) -> Tensor:
    """The model's prediction in the sample's units; de-normalised with what is visible, never with what is hidden."""
    prediction = predict(run.model, sample)
    if run.normalization is None:
        return prediction
    return run.normalization.inverse(prediction, *run.normalization.visible_statistics(sample))


def mean_sample(data: Dataset) -> Tensor:
    """The mean training sample, standardised, in one chunked pass."""
    order = torch.arange(len(data.train))
    total = torch.zeros(data.sample_shape, dtype=torch.float64)
    for part in torch.split(order, 1024):
        total += data.fetch("train", part).double().sum(0)
    return (total / len(order)).float()


def draw_reconstructions(run: Run, path: Path, count: int = 6) -> None:
    """Held-out images spread over the test part: original, seen, reconstruction with visible pixels copied, error."""
    data = run.dataset
    assert run.rule is not None
    chosen = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).long()
    sample = one_for_all(run.rule.at(0)).sample(data.fetch("test", chosen))
    assert sample.view is not None
    with torch.inference_mode():
        predicted = restore_prediction(run, sample).reshape(sample.x.shape)
    original = sample.y.reshape(sample.x.shape)
    filled = torch.where(sample.view.hidden, predicted, original)
    pictures = [data.restore(x) for x in (original, sample.x, filled)]
    title = f"{run.config.data}, held out\n{run.config.mask}, step 0"
    figure = plots.reconstruction_figure(pictures[0], pictures[1], sample.view.hidden, pictures[2], title)
    plots.save_figure(figure, path)
