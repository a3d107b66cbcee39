"""Every method with one encoder and one budget: five training minutes on two cores, three seeds.

    python benchmarks/results.py             train what is missing, two runs side by side, one core each; write the page
    python benchmarks/results.py --calibrate measure how many steps each method's budget holds
    python benchmarks/results.py --page      write the page from what is there

    python benchmarks/results.py --data cifar-10 --seconds 120 --seeds 0 --rows mae mae-muon dino
        a table of its own, of any methods, with AdamW or Muon (NAME-muon), and of any budget in CPU seconds of one core

Every finished run is a row of docs/results.json (of another table: docs/results-DATA-SECONDS.json), so it may be
stopped at any time and goes on where it was. A row's steps are the budget over the measured CPU seconds of a step.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from viewproof.files import whole_file

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
RUNS = ROOT / "runs" / "results"
COMMON = "--patch-size 4 --dim 128 --depth 4 --heads 4 --threads 1 --warmup-epochs 0.1"
METHODS = {
    "mae": "--batch-size 128 --decoder-dim 64 --decoder-depth 1",
    "ijepa": "--batch-size 128 --decoder-dim 64 --decoder-depth 2 --momentum 0.95",
    "vicreg": "--batch-size 128",
    "barlow": "--batch-size 128",
    "sigreg": "--batch-size 128",
    "supervised": "--batch-size 128",
    "simclr": "--batch-size 128",
    "lejepa": "--batch-size 128",
    "dino": "--batch-size 128",
    "data2vec": "--batch-size 128",
}
"""The flags of every method; a row NAME-muon is that method with Muon."""
FIRST = ("mae", "ijepa", "vicreg", "barlow", "sigreg", "supervised")
"""The rows of the page's first table."""
LONGER = {"mae-x4": ("mae", 4)}
"""Runs beyond the budget, of one seed: the method, and how many budgets."""
NAMES = {
    "supervised": "supervised (uses the labels)",
    "mae": "MAE",
    "mae-x4": "MAE, four times the budget",
    "ijepa": "I-JEPA",
    "vicreg": "VICReg",
    "barlow": "Barlow Twins",
    "sigreg": "SIGReg, two views",
    "simclr": "SimCLR",
    "lejepa": "LeJEPA",
    "dino": "DINO with iBOT",
    "data2vec": "data2vec",
    "untrained": "the same encoder, untrained",
    "raw": "raw pixels",
}
BATCH = 128


@dataclass(frozen=True)
class Table:
    """What is trained, for how many CPU seconds of one core, and where its rows are kept."""

    data: str = "fashion-mnist"
    seconds: int = 600
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = FIRST

    @property
    def first(self) -> bool:
        """Whether it is the page's first table."""
        return (self.data, self.seconds) == ("fashion-mnist", 600)

    @property
    def label(self) -> str:
        """What its files and its marks in the page have in their names."""
        return "" if self.first else f"-{self.data.partition(':')[0]}-{self.seconds}"

    @property
    def store(self) -> Path:
        """The file of its finished rows."""
        return ROOT / "docs" / f"results{self.label}.json"

    @property
    def longer(self) -> dict[str, tuple[str, int]]:
        """Its runs beyond the budget."""
        return LONGER if self.first else {}


def plan(row: str, store: dict[str, Any]) -> tuple[str, int]:
    """The row whose flags are used, and the steps."""
    method, budgets = LONGER.get(row, (row, 1))
    return method, budgets * store["steps"][method]


def command(data: str, row: str, seed: int, steps: int) -> list[str]:
    """What makes one run, as it is typed."""
    method = row.removesuffix("-muon")
    words = f"pretrain {data} --method {method} --steps {steps} --seed {seed} {METHODS[method]} {COMMON}"
    return ["viewproof", *words.split(), *(["--optimizer", "muon"] if row != method else [])]


def train(data: str, row: str, seed: int, steps: int, out: Path) -> None:
    """Train one run, or go on with it."""
    if (out / "model.safetensors").exists():
        return
    words = [*command(data, row, seed, steps), "--probe-samples", "1000", "--out", str(out)]
    if (out / "checkpoints" / "last.ckpt").exists():
        words = ["viewproof", "pretrain", "--resume", str(out)]
    elif out.exists():
        shutil.rmtree(out)
    words[0] = str(Path(sys.executable).with_name("viewproof"))
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")


def score(data_name: str, method: str, seed: int, out: Path) -> dict[str, float]:
    """k-NN(20) and linear probe on all training images, in percent."""
    import torch

    from viewproof.evaluation import encode_all, probe
    from viewproof.runs.config import PretrainConfig
    from viewproof.runs.folder import load_run, prepare

    if method in ("raw", "untrained"):
        words = f"{COMMON}".split()
        sizes = {words[k][2:].replace("-", "_"): int(words[k + 1]) for k in range(0, 8, 2)}
        run = prepare(PretrainConfig(data_name, method="vicreg", threads=1, seed=seed, **sizes), out)
    else:
        run = load_run(out)
    data, encode = run.dataset, run.model.eval().encode
    assert data.train.labels is not None and data.test.labels is not None
    if method == "raw":
        encode = torch.nn.Flatten()
    parts = [
        encode_all(encode, lambda i, part=part: data.fetch(part, i), range(len(data.part(part))))
        for part in ("train", "test")
    ]
    scores = probe(parts[0], data.train.labels, parts[1], data.test.labels)
    return {"knn": 100 * scores.knn, "linear": 100 * scores.linear}


def save(table: Table, store: dict[str, Any]) -> None:
    """Whole or not at all."""
    with whole_file(table.store) as file:
        file.write(json.dumps(store, indent=1) + "\n")


def calibrate(table: Table, rows: tuple[str, ...], store: dict[str, Any]) -> None:
    """Steps that the budget holds, from the CPU seconds of steps 5 to 25 of each row."""
    import pytorch_lightning as pl

    from viewproof.cli import app
    from viewproof.data import batches
    from viewproof.runs.folder import prepare
    from viewproof.training.trainer import build_trainer, silence_lightning

    class Clock(pl.Callback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_train_batch_end(self, *_: Any) -> None:
            self.times.append(time.process_time())

    silence_lightning()
    for part in ("seconds", "steps"):
        store.setdefault(part, {})
    for row in rows:
        _, bound, _ = app.parse_args(command(table.data, row, 0, 25)[1:])
        folder = RUNS / "calibrate"
        shutil.rmtree(folder, ignore_errors=True)
        run = prepare(bound.arguments["run"], folder)
        folder.mkdir(parents=True)
        trainer, clock = build_trainer(run.config, folder, run.steps_per_epoch), Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.fit(run.module(), batches(run.dataset, "train", BATCH))
        shutil.rmtree(folder)
        each = (clock.times[-1] - clock.times[4]) / (len(clock.times) - 5)
        store["seconds"][row], store["steps"][row] = round(each, 4), int(table.seconds / each)
        print(row, f"{each:.3f} s a step", flush=True)
        save(table, store)


def fill(table: Table, store: dict[str, Any], workers: int) -> None:
    """Train and score what has no row yet."""
    lock, seeds = Lock(), table.seeds
    jobs = [("raw", 0), *(("untrained", seed) for seed in seeds), *((m, seed) for seed in seeds for m in table.rows)]
    jobs += [(row, 0) for row in table.longer]

    def one(job: tuple[str, int]) -> None:
        name, seed = job
        key = f"{name}-{seed}"
        out = RUNS / f"{key}{table.label}"
        if name not in ("raw", "untrained"):
            row, steps = plan(name, store)
            train(table.data, row, seed, steps, out)
        scores = score(table.data, name, seed, out)
        with lock:
            store["rows"][key] = scores
            save(table, store)
            print(key, scores, flush=True)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [job for job in jobs if "{}-{}".format(*job) not in store["rows"]]))


def page(table: Table, store: dict[str, Any]) -> str:
    """The table, as Markdown."""
    lines = ["| | k-NN(20) % | linear probe % | images seen | seeds |", "| --- | --- | --- | --- | --- |"]
    names, trained = dict(NAMES), [row for row in store["steps"] if f"{row}-{table.seeds[0]}" in store["rows"]]
    for row in trained:
        names.setdefault(row, f"{NAMES[row.removesuffix('-muon')]}, Muon")
    for row, name in names.items():
        scores = [found for key, found in store["rows"].items() if key.rsplit("-", 1)[0] == row]
        if scores:
            cells = [spread([found[kind] for found in scores]) for kind in ("knn", "linear")]
            seen = "0" if row in ("raw", "untrained") else f"{BATCH * plan(row, store)[1]:,}"
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {seen} | {len(scores)} |")
    lines += ["", "The commands, for seed 0:", "", "```bash"]
    lines += [" ".join(command(table.data, row, 0, store["steps"][row])) for row in trained]
    return "\n".join([*lines, "```"])


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write_page(table: Table, store: dict[str, Any]) -> None:
    """Replace what stands between the table's marks of docs/results.md; a new table comes last."""
    start, end = f"<!-- table{table.label} -->", f"<!-- end{table.label} -->"
    text = PAGE.read_text()
    if start not in text:
        seeds = "one seed" if len(table.seeds) == 1 else f"{len(table.seeds)} seeds"
        text += f"\n## {table.data}, {table.seconds} CPU seconds of one core, {seeds}\n\n{start}\n{end}\n"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{start}\n{page(table, store)}\n{end}{after}")


def main() -> None:
    """Calibrate what is new, then fill the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=Table.data)
    parser.add_argument("--seconds", type=int, default=Table.seconds)
    parser.add_argument("--seeds", type=int, nargs="+", default=Table.seeds)
    parser.add_argument("--rows", nargs="+", default=FIRST)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one core each")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--page", action="store_true")
    words = parser.parse_args()
    unknown = {row.removesuffix("-muon") for row in words.rows} - METHODS.keys()
    if unknown:
        parser.error(f"rows {sorted(unknown)} must be of {', '.join(METHODS)}, or one of them with -muon")
    table = Table(words.data, words.seconds, tuple(words.seeds), tuple(words.rows))
    store = json.loads(table.store.read_text()) if table.store.exists() else {"rows": {}}
    new = tuple(row for row in table.rows if words.calibrate or row not in store.get("steps", {}))
    if new and not words.page:
        calibrate(table, new, store)
    if not words.calibrate and not words.page:
        fill(table, store, words.workers)
    write_page(table, store)


if __name__ == "__main__":
    main()
