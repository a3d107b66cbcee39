"""What a finished run is worth: held-out errors, probes, pictures, one table."""

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof import plots
from viewproof.data import Dataset, batches
from viewproof.data.dataset import FEW
from viewproof.errors import InvalidArgument
from viewproof.evaluation import encode_all, hidden_errors, probe
from viewproof.evaluation.export import write_table
from viewproof.evaluation.fine_tune import check_labels, class_balanced, fine_tune
from viewproof.evaluation.probes import encode_many, probe_indices, raw_values
from viewproof.masks import Mask, Sample
from viewproof.metrics import read_metrics
from viewproof.progress import progress
from viewproof.runs.folder import EVALUATION, METRICS, Run, initial_network, read_json, write_json
from viewproof.runs.guarded import check_digest, recorded
from viewproof.runs.page import NORM_PIX, PAGE, write_page
from viewproof.training import predict

DIVERGED = 3
"""The exit code of a run whose weights are no longer finite."""


def report(run: Run, say: Callable[[str], None] = print) -> int:
    """Measure the trained model on held-out data; print, write and draw the results; return the exit code.

    A model with weights that are not finite is not measured: the report says so, and when it was first seen.
    """
    data = run.dataset
    if not all(bool(weight.isfinite().all()) for weight in run.model.state_dict().values()):
        check_digest(run.folder, METRICS)
        rows = [(int(row["step"]), row["loss"] or "0") for row in read_metrics(run.folder / METRICS)]
        step = next((step for step, loss in rows if not math.isfinite(float(loss))), rows[-1][0] if rows else None)
        with recorded(run.folder, EVALUATION):
            write_json(run.folder / EVALUATION, {"diverged": True, "step": step})
        say(f"\ndiverged by step {step}: the weights are not finite; lower the learning rate or pass clip")
        return DIVERGED
    run.model.eval().to(device())
    result, lines = reconstruction_report(run) if run.config.method.reconstructs else ({}, [])
    result["accuracy"] = scores = probe_table(run) if (data.classes or 0) > 1 else {}
    if scores:
        used = min(run.config.probe_samples, len(data.train))
        lines += ["", f"held-out accuracy, probes fit on {used} samples {'k-NN':>12} {'linear':>9}"]
        lines += [f"  {name:<44} {100 * s['knn']:8.1f} % {100 * s['linear']:6.1f} %" for name, s in scores.items()]
    with recorded(run.folder, EVALUATION):
        write_json(run.folder / EVALUATION, result)
    write_page(run)
    say("\n".join([*lines, "", f"written to {run.folder}; see {PAGE} there"]))
    return 0


def device() -> torch.device:
    """Where a report computes: the first GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def reconstruction_report(run: Run) -> tuple[dict[str, Any], list[str]]:
    """Errors on hidden values of held-out samples, beside plain baselines; of images, pictures too."""
    data, patch = run.dataset, run.config.patch_size
    assert run.rule is not None
    held_out = ((x.to(device()), ids.to(device())) for x, ids in batches(data, "test", min(256, len(data.test))))
    errors = hidden_errors(held_out, run.rule, mean_sample(data), partial(restore_prediction, run))
    result: dict[str, Any] = {"hidden_error": errors.means, "hidden_error_draws": errors.draws}
    over = "one draw" if errors.draws == 1 else f"mean over {errors.draws} draws"
    lines = ["", f"held-out error on hidden values (mean squared, in training standard deviations; {over} of the mask)"]
    lines += [f"  {name:<34} {error:8.4f}" for name, error in errors.means.items()]
    if len(data.sample_shape) == 3:
        tables = errors.by_patch(patch, patch)
        result["hidden_error_by_patch"] = {"patch_size": patch, **tables}
        measured = [error for row in tables["model"] for error in row if error is not None]
        never = sum(row.count(None) for row in tables["model"])
        spread = f"{min(measured):.4f} to {max(measured):.4f}" + (f", {never} never hidden" if never else "")
        lines.append(f"  the model's by patch of {patch} x {patch}: {spread}; see patch-errors.png")
        if run.config.method.normalization(run.config) is not None:
            lines.append(f"  {NORM_PIX}")
        title = f"{data.name}, held-out squared error on hidden values\n{run.config.mask}, {over}"
        with recorded(run.folder, "patch-errors.png", "reconstruction.png"):
            plots.save_figure(plots.patch_error_figure(tables, title), run.folder / "patch-errors.png")
            draw_reconstructions(run, run.folder / "reconstruction.png")
    return result, lines


def probe_table(run: Run) -> dict[str, dict[str, float]]:
    """Probe accuracy of the trained encoder, the same encoder untrained, and raw values."""
    data, untrained = run.dataset, initial_network(run.config, run.dataset).eval().to(device())
    parts = {"train": probe_indices(len(data.train), run.config.probe_samples), "test": torch.arange(len(data.test))}
    assert data.train.labels is not None
    encoders: dict[str, Callable[[Tensor], Tensor]] = {
        "trained encoder": run.model.encode,  # type: ignore[dict-item]
        "the same encoder, untrained": untrained.encode,  # type: ignore[dict-item]
        **raw_values(data.sample_shape),
    }
    features = {name: encode_many(encoders.values(), partial(fetch, data, name), ids) for name, ids in parts.items()}
    table = {}
    for k, name in enumerate(progress(encoders, "probing", "encoder", slow=True)):
        train, test = features["train"][k], features["test"][k]
        table[name] = asdict(probe(train, data.train.labels[parts["train"].numpy()], test, data.test.labels))
    return table


def fine_tune_report(run: Run, epochs: int, labels: int | None, seed: int, layer_decay: float = 1.0) -> None:
    """Fine-tune the trained encoder on ``labels`` samples (None: all), and one from scratch.

    Both start with the same head, see the same samples in the same order, and from scratch means the weights that
    pre-training started from. A run that learned all labels already raises `InvalidArgument`.
    """
    data = run.dataset
    check_labels(data)
    if run.config.method.learns_labels:
        raise InvalidArgument(f"{run.folder} was trained on all labels, a few show nothing; fine-tune another run")
    chosen = class_balanced(data.train.labels, len(data.train) if labels is None else labels, seed)
    starts = {"from the trained encoder": run.model, "from scratch": initial_network(run.config, data)}
    settings: dict[str, float] = {"labels": len(chosen), "epochs": epochs, "seed": seed}
    if layer_decay != 1:
        settings["layer_decay"] = layer_decay
    path = run.folder / "fine-tune.json"
    old = read_json(path)
    if old and settings != {name: value for name, value in old.items() if name != "accuracy"}:
        raise InvalidArgument(f"{path} exists, of another fine-tuning; move it away, nothing is overwritten")
    scores = {name: fine_tune(model, data, chosen, epochs, seed, layer_decay) for name, model in starts.items()}
    with recorded(run.folder, path.name):
        write_json(path, {**settings, "accuracy": scores})
    lines = ["", f"held-out accuracy, encoder and linear head trained on {len(chosen)} labels for {epochs} epochs"]
    lines += [f"  {name:<44} {100 * score:8.1f} %" for name, score in scores.items()]
    print("\n".join([*lines, "", f"written to {path}"]))


def export_embeddings(run: Run, path: Path) -> None:
    """Write the embeddings of all samples with their ids and labels.

    Columns: embeddings ``[N, D]`` float32, sample_ids int64, split ("train" or "test"), and labels int64 if there are
    any. A file that exists, a suffix other than .npz and .parquet, and a missing pyarrow raise `InvalidArgument`.
    """
    data, model = run.dataset, run.model.eval().to(device())
    parts = {name: np.arange(len(data.part(name))) for name in ("train", "test")}
    encode: Callable[[Tensor], Tensor] = model.encode  # type: ignore[assignment]
    columns = {
        "embeddings": np.concatenate([encode_all(encode, partial(fetch, data, p), ids) for p, ids in parts.items()]),
        "sample_ids": np.concatenate(list(parts.values())),
        "split": np.repeat(list(parts), [len(ids) for ids in parts.values()]),
    }
    if data.classes:
        columns["labels"] = np.concatenate([data.train.labels, data.test.labels])
    write_table(path, columns)
    count, dim = columns["embeddings"].shape
    print(f"{count} embeddings of {dim} values written to {path}")


def fetch(data: Dataset, part: str, indices: Tensor) -> Tensor:
    """The samples, where the report computes."""
    return data.fetch(part, indices).to(device())


def restore_prediction(run: Run, sample: Sample) -> Tensor:
    """The model's prediction in the sample's units, de-normalised by visible values only."""
    prediction, view = predict(run.model, sample), sample.view
    normalization = run.config.method.normalization(run.config)
    if normalization is None:
        return prediction
    assert view is not None
    rows = [slice(n, n + 1) for n in range(len(sample.x))] if view.per_sample else [slice(None)]
    restored = []
    for n, row in enumerate(rows):
        hidden = (view.row(n) if view.per_sample else view).hidden
        statistics = normalization.visible_statistics(
            Sample(sample.x[row], sample.y[row], Mask(hidden.flatten(), rule=view.rule))
        )
        restored.append(normalization.inverse(prediction[row], *statistics))
    return torch.cat(restored)


def mean_sample(data: Dataset) -> Tensor:
    """The mean training sample, standardised, in one chunked pass; of samples that are decoded, that of 10,000."""
    size, total = len(data.train), torch.zeros(data.sample_shape, dtype=torch.float64)
    chosen = probe_indices(size, FEW if getattr(data.train.values, "costly", False) else size)
    for part in progress(torch.split(chosen, 1024), "mean sample"):
        total += data.fetch("train", part).double().sum(0)
    return (total / len(chosen)).float()


def draw_reconstructions(run: Run, path: Path, count: int = 6) -> None:
    """Draw reconstructions of held-out images that are spread over the test part."""
    data = run.dataset
    assert run.rule is not None
    chosen = torch.linspace(0, len(data.test) - 1, min(count, len(data.test))).long()
    x = data.fetch("test", chosen).to(device())
    sample = run.rule.at(0).sample(x, sample_ids=chosen.to(x.device))
    assert sample.view is not None
    with torch.inference_mode():
        predicted = restore_prediction(run, sample).reshape(x.shape)
    hidden = sample.view.hidden.expand(x.shape)
    pictures = [data.restore(part).cpu() for part in (x, torch.where(hidden, predicted, x))]
    title = f"{data.name}, held out\n{run.config.mask}, step 0"
    plots.save_figure(plots.reconstruction_figure(pictures[0], hidden.cpu(), pictures[1], title), path)
