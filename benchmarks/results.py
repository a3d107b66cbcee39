"""Every method on Fashion-MNIST with one encoder and one budget: five training minutes on two cores, three seeds.

    python benchmarks/results.py             train what is missing, two runs side by side, one core each; write the page
    python benchmarks/results.py --calibrate measure how many steps each method's budget holds
    python benchmarks/results.py --page      write the page from what is there

Every finished run is a row of docs/results.json, so it may be stopped at any time and goes on where it was.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from viewproof.files import whole_file

ROOT = Path(__file__).parents[1]
STORE = ROOT / "docs" / "results.json"
PAGE = ROOT / "docs" / "results.md"
RUNS = ROOT / "runs" / "results"
SECONDS = 600  # of one core: five minutes of two
SEEDS = (0, 1, 2)
COMMON = "--patch-size 4 --dim 128 --depth 4 --heads 4 --threads 1 --warmup-epochs 0.1"
METHODS = {
    "mae": "--batch-size 128 --decoder-dim 64 --decoder-depth 1",
    "ijepa": "--batch-size 128 --decoder-dim 64 --decoder-depth 2 --momentum 0.95",
    "vicreg": "--batch-size 128",
    "barlow": "--batch-size 128",
    "sigreg": "--batch-size 128",
    "supervised": "--batch-size 128",
}
LONGER = {"mae-x4": ("mae", 4)}
"""Runs beyond the budget, of one seed: the method, and how many budgets."""
NAMES = {
    "supervised": "supervised (uses the labels)",
    "mae": "MAE",
    "mae-x4": "MAE, four times the budget",
    "ijepa": "I-JEPA",
    "vicreg": "VICReg",
    "barlow": "Barlow Twins",
    "sigreg": "SIGReg (LeJEPA)",
    "untrained": "the same encoder, untrained",
    "raw": "raw pixels",
}
BATCH = 128


def plan(row: str, store: dict[str, Any]) -> tuple[str, int]:
    """Method and steps of a row."""
    method, budgets = LONGER.get(row, (row, 1))
    return method, budgets * store["steps"][method]


def command(method: str, seed: int, steps: int) -> list[str]:
    """What makes one run, as it is typed."""
    words = f"pretrain fashion-mnist --method {method} --steps {steps} --seed {seed} {METHODS[method]} {COMMON}"
    return ["viewproof", *words.split()]


def train(method: str, seed: int, steps: int, out: Path) -> None:
    """Train one run, or go on with it."""
    if (out / "model.safetensors").exists():
        return
    words = [*command(method, seed, steps), "--probe-samples", "1000", "--out", str(out)]
    if (out / "checkpoints" / "last.ckpt").exists():
        words = ["viewproof", "pretrain", "--resume", str(out)]
    elif out.exists():
        shutil.rmtree(out)
    words[0] = str(Path(sys.executable).with_name("viewproof"))
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")


def score(method: str, seed: int, out: Path) -> dict[str, float]:
    """k-NN(20) and linear probe on all 60,000 training images, in percent."""
    import torch

    from viewproof.evaluation import encode_all, probe
    from viewproof.runs.config import PretrainConfig
    from viewproof.runs.folder import load_run, prepare

    if method in ("raw", "untrained"):
        words = f"{COMMON}".split()
        sizes = {words[k][2:].replace("-", "_"): int(words[k + 1]) for k in range(0, 8, 2)}
        run = prepare(PretrainConfig("fashion-mnist", method="vicreg", threads=1, seed=seed, **sizes), out)
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


def save(store: dict[str, Any]) -> None:
    """Whole or not at all."""
    with whole_file(STORE) as file:
        file.write(json.dumps(store, indent=1) + "\n")


def calibrate(store: dict[str, Any]) -> None:
    """Steps that the budget holds, from the CPU seconds of steps 5 to 25 of each method."""
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
    store["seconds"], store["steps"] = {}, {}
    for method in METHODS:
        _, bound, _ = app.parse_args(command(method, 0, 25)[1:])
        folder = RUNS / "calibrate"
        run = prepare(bound.arguments["run"], folder)
        folder.mkdir(parents=True)
        trainer, clock = build_trainer(run.config, folder, run.steps_per_epoch), Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        trainer.fit(run.module(), batches(run.dataset, "train", BATCH))
        shutil.rmtree(folder)
        each = (clock.times[-1] - clock.times[4]) / (len(clock.times) - 5)
        store["seconds"][method], store["steps"][method] = round(each, 4), int(SECONDS / each)
        print(method, f"{each:.3f} s a step", flush=True)
    save(store)


def fill(store: dict[str, Any]) -> None:
    """Train and score what has no row yet."""
    lock = Lock()
    jobs = [("raw", 0), *(("untrained", seed) for seed in SEEDS), *((m, seed) for seed in SEEDS for m in METHODS)]
    jobs += [(row, 0) for row in LONGER]

    def one(job: tuple[str, int]) -> None:
        name, seed = job
        out, key = RUNS / f"{name}-{seed}", f"{name}-{seed}"
        if name not in ("raw", "untrained"):
            method, steps = plan(name, store)
            train(method, seed, steps, out)
        row = score(name, seed, out)
        with lock:
            store["rows"][key] = row
            save(store)
            print(key, row, flush=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, [job for job in jobs if "{}-{}".format(*job) not in store["rows"]]))


def page(store: dict[str, Any]) -> str:
    """The table, as Markdown."""
    lines = ["| | k-NN(20) % | linear probe % | images seen | seeds |", "| --- | --- | --- | --- | --- |"]
    for row, name in NAMES.items():
        scores = [found for key, found in store["rows"].items() if key.rsplit("-", 1)[0] == row]
        if scores:
            cells = [spread([found[kind] for found in scores]) for kind in ("knn", "linear")]
            seen = "0" if row in ("raw", "untrained") else f"{BATCH * plan(row, store)[1]:,}"
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {seen} | {len(scores)} |")
    lines += ["", "The commands, for seed 0:", "", "```bash"]
    lines += [" ".join(command(method, 0, store["steps"][method])) for method in METHODS]
    return "\n".join([*lines, "```"])


def spread(values: list[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write_page(store: dict[str, Any]) -> None:
    """Replace what stands between the marks of docs/results.md."""
    before, _, rest = PAGE.read_text().partition("<!-- table -->")
    _, _, after = rest.partition("<!-- end -->")
    PAGE.write_text(f"{before}<!-- table -->\n{page(store)}\n<!-- end -->{after}")


def main() -> None:
    """Calibrate once, then fill the table."""
    store = json.loads(STORE.read_text()) if STORE.exists() else {"rows": {}}
    if "steps" not in store or "--calibrate" in sys.argv:
        calibrate(store)
    if not {"--calibrate", "--page"} & set(sys.argv):
        fill(store)
    write_page(store)


if __name__ == "__main__":
    main()
