"""Makes the curves of short untuned runs that `viewproof doctor` compares with.

``python benchmarks/reference.py digits 10 2 mae vicreg`` trains each method with all defaults but for ``--epochs 10``
on two seeds and writes the curves into the package's ``runs/reference.json``; entries of the same settings are
replaced.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from viewproof import runs
from viewproof.metrics import read_metrics
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import METRICS, prepare
from viewproof.runs.reference import comparable
from viewproof.runs.train import train
from viewproof.training.trainer import silence_lightning

PATH = Path(runs.__path__[0]) / "reference.json"
COLUMNS = ("val_loss", "val_knn_accuracy", "rank")


def curves_of(config: PretrainConfig) -> tuple[PretrainConfig, list[int], dict[str, list[float]]]:
    """A run's resolved configuration, the last step of each epoch, and the values there by column."""
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(config, Path(folder))
        train(run, run.module(), None, print)
        rows = read_metrics(Path(folder) / METRICS)
    steps = [int(row["step"]) for row in rows if row["val_loss"]]
    curves = {}
    for name in COLUMNS:
        last = {int(row["step"]): float(row[name]) for row in rows if row.get(name)}
        # RankMe is measured every tenth step: the last one before an epoch's end.
        known = [max((at for at in last if at <= step), default=None) for step in steps]
        if None not in known:
            curves[name] = [last[at] for at in known if at is not None]
    return run.config.as_given(), steps, curves


def entry(data: str, method: str, epochs: int, seeds: Sequence[int]) -> dict[str, object]:
    """One reference: the band of several seeds, in four digits."""
    results = [curves_of(PretrainConfig(data, method=method, epochs=epochs, online_knn=True, seed=s)) for s in seeds]
    config, steps, first = results[0]
    bands = {}
    for name in first:
        pairs = zip(*(curves[name] for _, _, curves in results), strict=True)
        bands[name] = [[float(f"{end(values):.4g}") for end in (min, max)] for values in pairs]
    return {"settings": comparable(config), "seeds": list(seeds), "steps": steps, "curves": bands}


def write(entries: list[dict[str, object]]) -> None:
    """Write the file, one curve a line."""
    text = ",\n".join(json.dumps(one).replace('"curves": ', '\n  "curves": ') for one in entries)
    PATH.write_text(f"[\n{text}\n]\n")


def main(data: str, epochs: str, seeds: str, *methods: str) -> None:
    silence_lightning()
    for method in methods:
        new = entry(data, method, int(epochs), range(int(seeds)))
        old = json.loads(PATH.read_text()) if PATH.exists() else []
        write(sorted([e for e in old if e["settings"] != new["settings"]] + [new], key=lambda e: str(e["settings"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
