"""Every method with one encoder and one budget: five training minutes on two cores, three seeds.

    python benchmarks/results.py             train what is missing, two runs side by side, one core each; write the page
    python benchmarks/results.py --page      write the page from what is there

    python benchmarks/results.py --data FOLDER --seconds 300 --seeds 0 --rows mae-muon simclr-muon lightly-mae
        a table of its own, of any rows and any budget in CPU seconds of one core; a row is one of METHODS, one of them
        with Muon (NAME-muon), or a peer of peers.py, which needs a folder of images and the peers' environment;
        --encoder tiny takes ViT-Tiny, --few fine-tunes every trained encoder with 1 % and 10 % of the labels

Every finished run is a row of docs/results.json (of another table: docs/results-DATA-SECONDS.json), so it may be
stopped at any time and goes on where it was. Each run has a process of its own, in which a row's steps are the budget
over the CPU seconds of steps 5 to 15, measured beside the other rows. Every row is trained on the CPU; a GPU, where
there is one, encodes and fits the probes.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import peers

from viewproof.files import whole_file

if TYPE_CHECKING:
    from viewproof.runs.config import PretrainConfig

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
RUNS = ROOT / "runs" / "results"
COMMON = "--patch-size 4 --dim {dim} --depth {depth} --heads {heads} --threads 1 --warmup-epochs 0.1"
ENCODER = "encoder.pt"
"""The file of a peer's trained encoder, in its run's folder."""
FEW = {500: 60, 5000: 12}
"""Labels that an encoder is fine-tuned with, and for how many epochs: 1 % and 10 % of 50,000."""
METHODS = {
    "mae": "--batch-size 128 --decoder-dim 64 --decoder-depth 1",
    "ijepa": "--batch-size 128 --decoder-dim 64 --decoder-depth 2 --momentum 0.95",
    "vicreg": "--batch-size 128",
    "barlow": "--batch-size 128",
    "sigreg": "--batch-size 128",
    "supervised": "--batch-size 128",
    "simclr": "--batch-size 128",
    "lejepa": "--batch-size 128 --precision auto",
    "dino": "--batch-size 128 --precision auto",
    "data2vec": "--batch-size 128 --precision auto",
    "ijepa-auto": "--method ijepa --batch-size 128 --decoder-dim 64 --decoder-depth 2 --momentum 0.95 --precision auto",
    "supervised-auto": "--method supervised --batch-size 128 --precision auto",
    "crossmae": "--method mae --decoder cross-attention --predict 0.25 --batch-size 128 --decoder-dim 64"
    " --decoder-depth 1",
    "crossmae-fast": "--method mae --decoder cross-attention --predict 0.25 --batch-size 128 --decoder-dim 64"
    " --decoder-depth 1 --learning-rate 3e-3 --precision auto",
    "crossmae-norm": "--method mae --decoder cross-attention --predict 0.25 --batch-size 128 --decoder-dim 64"
    " --decoder-depth 1 --learning-rate 3e-3 --norm-pix --precision auto",
    "simclr-half": "--method simclr --batch-size 128 --keep-tokens 0.5 --precision auto",
    "vicreg-half": "--method vicreg --batch-size 128 --keep-tokens 0.5 --precision auto",
    "barlow-half": "--method barlow --batch-size 128 --keep-tokens 0.5 --precision auto",
}
"""The flags of every row, whose name is its method's if none is named; a row NAME-muon is that row with Muon."""
FIRST = ("mae", "ijepa", "vicreg", "barlow", "sigreg", "supervised")
"""The rows of the page's first table."""
LONGER = {"mae-x4": ("mae", 4)}
"""Runs beyond the budget, of one seed: the method, and how many budgets."""
NAMES = {
    "supervised": "supervised (uses the labels)",
    "supervised-auto": "supervised (uses the labels)",
    "mae": "MAE",
    "mae-x4": "MAE, four times the budget",
    "ijepa": "I-JEPA",
    "ijepa-auto": "I-JEPA",
    "vicreg": "VICReg",
    "barlow": "Barlow Twins",
    "sigreg": "SIGReg, two views",
    "simclr": "SimCLR",
    "lejepa": "LeJEPA",
    "dino": "DINO with iBOT",
    "data2vec": "data2vec",
    "crossmae": "MAE, a quarter predicted",
    "crossmae-fast": "MAE, a quarter predicted, rate 3e-3",
    "crossmae-norm": "MAE, a quarter predicted, normalised",
    "simclr-half": "SimCLR on half of the tokens",
    "vicreg-half": "VICReg on half of the tokens",
    "barlow-half": "Barlow Twins on half of the tokens",
    "transformers-mae": "transformers ViTMAE, run_mae's settings",
    "transformers-mae-1e-3": "transformers ViTMAE, rate 1e-3",
    "lightly-mae": "lightly MAE, its example's rate",
    "lightly-mae-1e-3": "lightly MAE, rate 1e-3",
    "lightly-simclr": "lightly SimCLR",
    "lightly-vicreg": "lightly VICReg",
    "lightly-dino": "lightly DINO",
    "untrained": "the same encoder, untrained",
    "timm-untrained": "lightly's encoder (timm), untrained",
    "raw": "raw pixels",
}
BASELINES = ("raw", "untrained", "timm-untrained")
"""Rows that nothing is trained for."""
BATCH = 128


@dataclass(frozen=True)
class Table:
    """What is trained, for how many CPU seconds of one core, and where its rows are kept."""

    data: str = "fashion-mnist"
    seconds: int = 600
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = FIRST
    encoder: str = "small"

    @property
    def first(self) -> bool:
        """Whether it is the page's first table."""
        return (self.data, self.seconds) == ("fashion-mnist", 600)

    @property
    def title(self) -> str:
        """The data's name without the folder that it lies in."""
        return Path(self.data.partition(":")[0]).name

    @property
    def label(self) -> str:
        """What its files and its marks in the page have in their names."""
        of = "" if self.encoder == "small" else f"-{self.encoder}"
        return "" if self.first else f"-{self.title}-{self.seconds}{of}"

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
    flags = METHODS[method] if "--method" in METHODS[method] else f"--method {method} {METHODS[method]}"
    sizes = COMMON.format(dim=peers.DIM, depth=peers.DEPTH, heads=peers.HEADS)
    words = f"pretrain {data} {flags} --steps {steps} --seed {seed} {sizes}"
    return ["viewproof", *words.split(), *(["--optimizer", "muon"] if row != method else [])]


def train(data: str, row: str, seed: int, steps: int, out: Path) -> None:
    """Train one run on the CPU, or go on with it."""
    if (out / "model.safetensors").exists():
        return
    words = [*command(data, row, seed, steps)[1:], "--probe-samples", "1000", "--out", str(out)]
    if (out / "checkpoints" / "last.ckpt").exists():
        words = ["pretrain", "--resume", str(out)]
    elif out.exists():
        shutil.rmtree(out)
    done = subprocess.run(
        [sys.executable, "-m", "viewproof", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")


def measured_steps(table: Table, row: str) -> tuple[float, int]:
    """The CPU seconds of a step, from steps 5 to 15, and the steps that the budget holds."""
    if row in peers.RATES:
        _, times = peers.train(row, Path(table.data), 0, 15)
    else:
        times = step_times(table.data, row)
    each = (times[-1] - times[4]) / (len(times) - 5)
    return round(each, 4), int(table.seconds / each)


def step_times(data: str, row: str) -> list[float]:
    """This process's CPU seconds after each of 15 steps."""
    import pytorch_lightning as pl

    from viewproof.cli import app
    from viewproof.data import batches
    from viewproof.runs.folder import prepare
    from viewproof.training.trainer import build_trainer, silence_lightning

    times: list[float] = []

    class Clock(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            times.append(time.process_time())

    silence_lightning()
    _, bound, _ = app.parse_args([*command(data, row, 0, 15)[1:], "--accelerator", "cpu"])
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(bound.arguments["run"], Path(folder))
        trainer = build_trainer(run.config, Path(folder), run.steps_per_epoch)
        trainer.callbacks.append(Clock())  # type: ignore[attr-defined]
        trainer.fit(run.module(), batches(run.dataset, "train", BATCH))
    return times


def one(table: Table, row: str, seed: int, steps: int | None) -> dict[str, float]:
    """Train and score one row: steps, CPU seconds a step, both kinds of probes in percent."""
    import numpy as np
    import torch

    from viewproof.evaluation import encode_all, probe
    from viewproof.runs.folder import load_run, prepare
    from viewproof.weights.layout import encoder_of

    torch.set_num_threads(1)
    found: dict[str, float] = {}
    method, budgets = LONGER.get(row, (row, 1))
    if row in BASELINES:
        steps = 0
    elif steps is None:
        found["seconds"], steps = measured_steps(table, method)
    found["steps"] = budgets * steps
    out = RUNS / f"{row}-{seed}{table.label}"
    if row in peers.RATES:
        encoder, _ = peers.train(row, Path(table.data), seed, steps)
        out.mkdir(parents=True, exist_ok=True)
        torch.save(encoder, out / ENCODER)
        (train_x, train_y), (test_x, test_y) = (
            peers.features(encoder, Path(table.data), part) for part in ("train", "test")
        )
    else:
        if row in ("raw", "untrained"):
            run = prepare(untrained(table, seed), out)
        else:
            train(table.data, method, seed, budgets * steps, out)
            run = load_run(out)
        data, encoder = run.dataset, encoder_of(run.model.eval()).to(peers.DEVICE)
        encode = torch.nn.Flatten() if row == "raw" else lambda x: peers.pooled(encoder.tokens(x.to(peers.DEVICE)))
        train_x, test_x = (
            encode_all(encode, lambda i, part=part: data.fetch(part, i), range(len(data.part(part))))
            for part in ("train", "test")
        )
        train_y, test_y = data.train.labels, data.test.labels
        assert train_y is not None and test_y is not None
    mean, areas = np.s_[:, : peers.DIM], np.s_[:, peers.DIM :]
    if row == "raw":
        mean = np.s_[:]
    scores = probe(train_x[mean], train_y, test_x[mean], test_y)
    # Recipes are compared by this one: fit on four fifths of the training part, scored on the fifth.
    fifth = np.arange(len(train_x)) % 5 == 0
    x, y = train_x[mean], np.asarray(train_y)
    inner = probe(x[~fifth], y[~fifth], x[fifth], y[fifth])
    shares = {"knn": scores.knn, "linear": scores.linear, "inner_knn": inner.knn, "inner_linear": inner.linear}
    if row != "raw":
        grid = probe(train_x[areas], train_y, test_x[areas], test_y)
        shares |= {"grid_knn": grid.knn, "grid_linear": grid.linear}
    return found | {name: round(100 * share, 2) for name, share in shares.items()}


def few(table: Table, row: str, seed: int) -> dict[str, float]:
    """What a row's encoder reaches after fine-tuning with few labels, in percent."""
    import torch

    from viewproof.evaluation.fine_tune import class_balanced, fine_tune
    from viewproof.runs.folder import load_run, prepare

    torch.set_num_threads(1)
    out = RUNS / f"{row}-{seed}{table.label}"
    if row in peers.RATES:
        model = torch.load(out / ENCODER, weights_only=False)
        data = prepare(replace(untrained(table, seed), mean="imagenet"), out).dataset
    else:
        run = prepare(untrained(table, seed), out) if row == "untrained" else load_run(out)
        model, data = run.model, run.dataset
    return {
        f"few_{count}": round(100 * fine_tune(model, data, class_balanced(data.train.labels, count), epochs), 2)
        for count, epochs in FEW.items()
    }


def untrained(table: Table, seed: int) -> "PretrainConfig":
    """The run that has this encoder before its first step."""
    from viewproof.runs.config import PretrainConfig

    return PretrainConfig(
        table.data, method="vicreg", threads=1, seed=seed, patch_size=peers.PATCH, dim=peers.DIM, depth=peers.DEPTH,
        heads=peers.HEADS,
    )  # fmt: skip


def save(table: Table, store: dict[str, Any]) -> None:
    """Whole or not at all."""
    with whole_file(table.store) as file:
        file.write(json.dumps(store, indent=1) + "\n")


def fill(table: Table, store: dict[str, Any], workers: int, few_labels: bool) -> None:
    """Train and score what has no row yet, then fine-tune; each in a process of its own."""
    lock, seeds = Lock(), table.seeds
    jobs = [*((m, seed) for seed in seeds for m in table.rows), ("raw", 0), *(("untrained", seed) for seed in seeds)]
    jobs += [(row, 0) for row in table.longer]

    def job(name: str, seed: int, task: str = "--one") -> None:
        words = ["--data", table.data, "--seconds", str(table.seconds), "--encoder", table.encoder]
        steps = store.setdefault("steps", {}).get(LONGER.get(name, (name, 1))[0])
        words += [task, name, str(seed), *([str(steps)] if steps and task == "--one" else [])]
        environment = {**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # fine-tuning is deterministic
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"{name}-{seed} failed\n{done.stderr[-2000:]}", flush=True)
            return
        scores = json.loads(done.stdout.splitlines()[-1])
        with lock:
            if "seconds" in scores:
                store["seconds"].setdefault(name, scores.pop("seconds"))
                store["steps"].setdefault(name, scores["steps"])
            store["rows"].setdefault(f"{name}-{seed}", {}).update(scores)
            save(table, store)
            print(f"{name}-{seed}", scores, flush=True)
        if few_labels and task == "--one" and name not in ("raw", "supervised", "supervised-auto"):
            job(name, seed, "--few-of")

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda words: job(*words), [j for j in jobs if "{}-{}".format(*j) not in store["rows"]]))


def page(table: Table, store: dict[str, Any]) -> str:
    """The table, as Markdown."""
    kinds = {"knn": "k-NN", "linear": "linear"}
    if not table.first:
        kinds |= {"grid_knn": "k-NN, areas", "grid_linear": "linear, areas"}
    if any("few_500" in found for found in store["rows"].values()):
        kinds |= {"few_500": "1 % of labels", "few_5000": "10 %"}
    lines = [f"| | {' | '.join(kinds.values())} | images seen | seeds |", "| --- |" + " --- |" * (len(kinds) + 2)]
    trained = [row for row in store["steps"] if f"{row}-{table.seeds[0]}" in store["rows"]]
    names = {row: f"{NAMES[row.removesuffix('-muon')]}, Muon" for row in trained if row not in NAMES} | NAMES
    for row, name in names.items():
        scores = [found for key, found in store["rows"].items() if key.rsplit("-", 1)[0] == row]
        if scores:
            cells = [spread([found[kind] for found in scores if kind in found]) for kind in kinds]
            planned = 0 if row in BASELINES else plan(row, store)[1]
            seen = BATCH * statistics.mean(found.get("steps", planned) for found in scores)
            lines.append(f"| {name} | {' | '.join(cells)} | {seen:,.0f} | {len(scores)} |")
    lines += ["", "The commands, for seed 0:" if table.first else "The whole table, and its runs alone:", "", "```bash"]
    if not table.first:
        seeds = " ".join(map(str, table.seeds))
        lines.append(f"python benchmarks/results.py --data {table.title} --seconds {table.seconds} --seeds {seeds} \\")
        more = [f"--encoder {table.encoder}"] * (table.encoder != "small") + ["--few"] * ("few_500" in kinds)
        lines.append("    " + " ".join([*more, "--rows", *trained]))
    own = [row for row in trained if row not in peers.RATES]
    lines += [" ".join(command(table.title, row, 0, store["steps"][row])) for row in own]
    return "\n".join([*lines, "```"])


def spread(values: list[float]) -> str:
    """Mean, and over several seeds the standard deviation; empty where nothing was measured."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write_page(table: Table, store: dict[str, Any]) -> None:
    """Replace what stands between the table's marks of docs/results.md; a new table comes last."""
    start, end = f"<!-- table{table.label} -->", f"<!-- end{table.label} -->"
    text = PAGE.read_text()
    if start not in text:
        seeds = "one seed" if len(table.seeds) == 1 else f"{len(table.seeds)} seeds"
        of = "" if table.encoder == "small" else f", ViT-{table.encoder.capitalize()}"
        text += f"\n## {table.title}, {table.seconds} CPU seconds of one core, {seeds}{of}\n\n{start}\n{end}\n"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{start}\n{page(table, store)}\n{end}{after}")


def main() -> None:
    """Fill the table, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=Table.data)
    parser.add_argument("--seconds", type=int, default=Table.seconds)
    parser.add_argument("--seeds", type=int, nargs="+", default=Table.seeds)
    parser.add_argument("--rows", nargs="+", default=FIRST)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, one core each")
    parser.add_argument("--encoder", default=Table.encoder, choices=peers.ENCODERS)
    parser.add_argument("--few", action="store_true", help="fine-tune with 1 %% and 10 %% of the labels too")
    parser.add_argument("--page", action="store_true", help="only write the page from what is there")
    parser.add_argument("--one", nargs="+", help="ROW SEED [STEPS]: train and score one row, and print it as JSON")
    parser.add_argument("--few-of", nargs=2, help="ROW SEED: fine-tune a trained row, and print it as JSON")
    words = parser.parse_args()
    unknown = {row.removesuffix("-muon") for row in words.rows} - METHODS.keys() - peers.RATES.keys()
    if unknown:
        parser.error(f"rows {sorted(unknown)} must be of {', '.join([*METHODS, *peers.RATES])}, or a method with -muon")
    peers.DIM, peers.DEPTH, peers.HEADS = peers.ENCODERS[words.encoder]
    table = Table(words.data, words.seconds, tuple(words.seeds), tuple(words.rows), words.encoder)
    if words.few_of:
        print(json.dumps(few(table, words.few_of[0], int(words.few_of[1]))))
        return
    if words.one:
        row, seed, *steps = words.one
        print(json.dumps(one(table, row, int(seed), int(steps[0]) if steps else None)))
        return
    store = json.loads(table.store.read_text()) if table.store.exists() else {"rows": {}, "seconds": {}, "steps": {}}
    if not words.page:
        fill(table, store, words.workers, words.few)
    write_page(table, store)


if __name__ == "__main__":
    main()
