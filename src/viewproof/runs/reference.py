"""Reference curves: what untuned runs of a method and size do on a named data set, and where a run is behind."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pytorch_lightning as pl

from viewproof.runs.config import PretrainConfig
from viewproof.training.callbacks import Monitor

Curve = Sequence[tuple[int, float]]
OPERATION = {
    "epochs", "steps", "seed", "workers", "threads", "compile", "checkpoint_every", "accelerator", "devices", "nodes",
    "strategy", "online_probe", "online_knn", "lidar", "logger", "probe_samples", "out", "skip_unreadable",
    "max_pixels", "pretrained", "backbone",
}  # fmt: skip
"""Settings in which a run may differ from its reference without a word; curves are compared step by step."""
OPTIMIZATION = {
    "optimizer", "learning_rate", "rate_rule", "weight_decay", "warmup_epochs", "clip", "ema", "precision", "init"
}  # fmt: skip
"""Settings in which a run may differ and that are named when it does; all others must be equal."""
UNTUNED = "untuned: runs with the defaults of this data, method and sizes, whose curves come with viewproof"
SLACK = 0.1
"""How far behind the worst reference run counts: so much accuracy, or so much of the loss."""


@dataclass(frozen=True)
class Reference:
    """Curves of untuned runs: at each of ``steps`` the least and the most over ``seeds``, by column of metrics.csv."""

    settings: Mapping[str, Any]
    seeds: Sequence[int]
    steps: Sequence[int]
    curves: Mapping[str, Sequence[tuple[float, float]]]


class ReferenceCurve(Monitor):
    """Puts the reference's values at the same step beside a run's in ``metrics.csv``; it changes nothing else.

    ``val_reference_loss`` and ``val_reference_knn_accuracy`` are the middle of the reference's least and most at the
    step of the validation, linear between its steps, and empty before its first and after its last one.
    """

    values: dict[str, Any]

    def __init__(self, reference: Reference) -> None:
        columns = {"val_reference_loss": "val_loss", "val_reference_knn_accuracy": "val_knn_accuracy"}
        self.steps = reference.steps
        self.curves = {
            name: [(least + most) / 2 for least, most in reference.curves[column]]
            for name, column in columns.items()
            if column in reference.curves
        }
        self.values = dict.fromkeys(self.curves)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The values at this step, before they are written."""
        step = trainer.global_step
        inside = self.steps[0] <= step <= self.steps[-1]
        for name, curve in self.curves.items():
            self.values[name] = float(np.interp(step, self.steps, curve)) if inside else None


@dataclass(frozen=True)
class Comparison:
    """A run beside its reference: a line for each quantity, whether it is ``behind``, and the settings that differ."""

    lines: tuple[str, ...]
    behind: bool
    differences: tuple[str, ...]


def comparable(config: PretrainConfig) -> dict[str, Any]:
    """The settings that a reference holds: all but those of operation; seeds of masks are left out."""
    values = {name: value for name, value in asdict(config).items() if name not in OPERATION}
    if values["target_layers"] == 2:
        values["target_layers"] = None  # which means two, where there are two
    if values["mask"] is not None:
        values["mask"] = re.sub(r",? ?(seed|draw)=\d+", "", values["mask"])
    return values


@cache
def shipped() -> tuple[Reference, ...]:
    """The references that come with the package, which ``benchmarks/reference.py`` makes."""
    entries = json.loads(files("viewproof.runs").joinpath("reference.json").read_text())
    return tuple(Reference(**entry) for entry in entries)


def find_reference(config: PretrainConfig, references: Sequence[Reference] | None = None) -> Reference | None:
    """The reference of a run's data, method and sizes, whatever its optimization; None if there is none.

    >>> find_reference(PretrainConfig("no-such-data")) is None
    True
    """
    own = comparable(config)
    # A setting that is younger than a reference had its default there.
    plain = {field.name: field.default for field in fields(PretrainConfig)}
    for reference in shipped() if references is None else references:
        settings = plain | dict(reference.settings)
        if all(own[name] == settings[name] for name in own.keys() - OPTIMIZATION):
            return reference
    return None


def compare(reference: Reference, config: PretrainConfig, curves: Mapping[str, Curve]) -> Comparison:
    """The last values of a run beside the reference's at the same step, or at its last one if the run is longer.

    Behind is a held-out loss more than `SLACK` of it above the worst reference run and without half of the fall since
    the reference's first value, which is asked only where the reference falls; a k-NN accuracy `SLACK` below the worst;
    and a RankMe below half of the worst. RankMe, and the loss where an EMA teacher moves the target, are compared in
    runs of at most twice the reference's steps.
    """
    lines, behind = [], False
    for column, name in (("val_loss", "held-out loss"), ("val_knn_accuracy", "k-NN accuracy"), ("rank", "RankMe")):
        curve, band = curves.get(column), reference.curves.get(column)
        if not curve or not band:
            continue
        step, value = curve[-1]
        place = max((k for k, at in enumerate(reference.steps) if at <= step), default=None)
        # A loss on a moving target may rise again, and a rank fall, in a run that goes on.
        drifts = column == "rank" or (column == "val_loss" and reference.settings.get("momentum") is not None)
        if place is None or (drifts and step > 2 * reference.steps[-1]):
            continue
        least, most = band[place]
        if column == "val_loss":
            fall = band[0][1] - most
            late = fall >= 0 and place > 0 and not value <= most + max(SLACK * abs(most), fall / 2)
        else:
            late = not value >= (least - SLACK if column == "val_knn_accuracy" else least / 2)
        behind |= late
        at = f"step {step}" if reference.steps[place] == step else f"step {step}, reference {reference.steps[place]}"
        lines.append(f"{name} {value:.4g}, untuned {least:.4g} to {most:.4g} ({at}){': behind' if late else ''}")
    own = comparable(config)
    differences = tuple(
        f"{name}={own.get(name)!r}, untuned {reference.settings.get(name)!r}"
        for name in sorted(OPTIMIZATION)
        if own.get(name) != reference.settings.get(name)
    )
    return Comparison(tuple(lines), behind, differences)
