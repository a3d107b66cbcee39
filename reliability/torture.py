"""Kills, damages and races runs, and checks that nothing is lost, overwritten or silently different.

    python reliability/torture.py --kills 100 --seed 0

Every trial is a real process of the command line on small arrays. Prints for each item how often it was tried and how
often it failed; exit code 1 if anything did.
"""

import argparse
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SMALL = ["--steps", "60", "--batch-size", "16", "--checkpoint-every", "5", "--threads", "1", "--dim", "16",
         "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1",
         "--decoder-heads", "2"]  # fmt: skip
KINDS = {
    "mae": ["--model", "conv"],
    "masked autoencoder, micro-batches, probe": ["--accumulate", "2", "--online-probe"],
    "workers": ["--model", "conv", "--workers", "1"],
    "vicreg": ["--method", "vicreg", "--projector-dim", "16"],
    "ijepa": ["--method", "ijepa"],
    "muon": ["--optimizer", "muon"],
    "two ranks": ["--model", "conv", "--devices", "2", "--accelerator", "cpu"],
}


class Tally:
    """Attempts and failures of each item."""

    def __init__(self) -> None:
        self.counts: dict[str, list[int]] = {}
        self.words: list[str] = []

    def __call__(self, item: str, passed: bool, what: str = "") -> None:
        """Count one attempt."""
        attempts, failures = self.counts.setdefault(item, [0, 0])
        self.counts[item] = [attempts + 1, failures + (not passed)]
        if not passed:
            self.words.append(f"FAILED {item}: {what}")
            print(self.words[-1], flush=True)


def start(words: list[str], folder: Path, limit: int | None = None) -> subprocess.Popen[str]:
    """The command line as a process group of its own; ``limit`` is the size in bytes that a file may reach."""

    def before() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "viewproof", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, start_new_session=True, preexec_fn=before,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def finish(words: list[str], folder: Path, limit: int | None = None) -> tuple[int, str]:
    """Exit code and error stream of a command that is left alone."""
    process = start(words, folder, limit)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def outcome(run: Path) -> tuple[str, list[dict[str, str]]]:
    """A digest of the weights, and the metrics without the speed."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(), rows


def killed(kinds: list[str], kills: int, folder: Path, rng: random.Random, tally: Tally) -> None:
    """Runs that are killed at random moments and resumed end as those that were left alone."""
    left_alone, seconds = {}, {}
    for kind in kinds:
        begin = time.monotonic()
        code, errors = finish(["pretrain", "x.npz", *SMALL, *KINDS[kind], "--out", f"whole-{kind}"], folder)
        if code == 2 and "unknown" in errors.lower():
            continue
        seconds[kind] = time.monotonic() - begin
        left_alone[kind] = outcome(folder / f"whole-{kind}")
    for n in range(kills):
        kind, run = rng.choice(sorted(left_alone)), folder / f"killed-{n}"
        words = ["pretrain", "x.npz", *SMALL, *KINDS[kind], "--out", run.name]
        for _ in range(8):
            process = start(words, folder)
            try:
                _, errors = process.communicate(timeout=rng.uniform(0, 1.3 * seconds[kind]))
                tally(
                    f"finished or refused in one line: {kind}",
                    process.returncode == 0 and "Trace" not in errors,
                    errors,
                )
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if (run / "model.safetensors").exists():
                break
            if (run / "checkpoints" / "last.ckpt").exists():
                words = ["pretrain", "--resume", run.name]
            elif run.exists():
                # Killed before the first checkpoint: it says so, and is started again.
                code, errors = finish(["pretrain", "--resume", run.name], folder)
                tally("no checkpoint yet is said in one line", code == 2 and errors.count("\n") == 1, errors)
                shutil.rmtree(run)
        else:
            finish(words, folder)
        same = outcome(run) == left_alone[kind]
        tally(f"killed and resumed, bit for bit: {kind}", same, f"{run} differs from whole-{kind}")
        litter = [path.name for path in run.rglob("*.part")]
        tally("evaluated after a kill", finish(["evaluate", run.name], folder)[0] == 0, f"{run}: {litter}")
        shutil.rmtree(run)


def damaged(folder: Path, rng: random.Random, tally: Tally, trials: int) -> None:
    """A flipped byte in what a run wrote is noticed, and nothing else is overwritten."""
    for _ in range(trials):
        run = folder / "damaged"
        shutil.copytree(folder / "whole-mae", run)
        target = rng.choice([run / "model.safetensors", run / "checkpoints" / "last.ckpt"])
        content = bytearray(target.read_bytes())
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        target.write_bytes(content)
        before = (run / "evaluation.json").read_bytes()
        words = ["evaluate", run.name]
        if target.suffix == ".ckpt":
            (run / "model.safetensors").unlink()
            words = ["pretrain", "--resume", run.name]
        code, errors = finish(words, folder)
        noticed = code == 2 and errors.count("\n") == 1 and target.name in errors
        kept = (run / "evaluation.json").read_bytes() == before
        tally(f"a flipped bit is noticed: {target.name}", noticed and kept, f"byte {at}: {code} {errors[-200:]}")
        shutil.rmtree(run)


def linked(folder: Path, tally: Tally) -> None:
    """A link in a run folder does not lead to a file outside it."""
    for name in ("evaluation.json", "reconstruction.png", "patch-errors.png", "fine-tune.json"):
        run, outside = folder / "linked", folder / "precious.txt"
        shutil.copytree(folder / "whole-mae", run)
        outside.write_text("precious")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside)
        finish(["evaluate", run.name, *(["--fine-tune", "1"] if name.startswith("fine") else [])], folder)
        tally("a planted link is not followed", outside.read_text() == "precious", name)
        shutil.rmtree(run)


def full_disks(folder: Path, rng: random.Random, tally: Tally, trials: int) -> None:
    """A disk that takes no more ends in one line, and the files that were whole stay whole."""
    for _ in range(trials):
        limit = int(2 ** rng.uniform(4, 17))
        code, errors = finish(["pretrain", "x.npz", *SMALL, "--model", "conv", "--out", "full"], folder, limit)
        tally("a full disk ends in one line", code in (0, 2) and "Traceback" not in errors, f"{limit}: {errors[-300:]}")
        for path in (folder / "full").rglob("*.json"):
            json.loads(path.read_text())
        shutil.rmtree(folder / "full", ignore_errors=True)


def raced(folder: Path, tally: Tally, trials: int) -> None:
    """Runs that start at the same moment take folders of their own; one run is resumed by one process."""
    for _ in range(trials):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        processes = [start(["pretrain", "x.npz", *SMALL, "--model", "conv"], folder) for _ in range(3)]
        codes = [(p.communicate(timeout=300), p.returncode)[1] for p in processes]
        names = sorted(path.name for path in (folder / "runs").iterdir())
        tally("three runs at once have three folders", codes == [0, 0, 0] and len(names) == 3, f"{codes} {names}")
        run = folder / "twice"
        shutil.copytree(folder / "whole-mae", run)
        (run / "model.safetensors").unlink()
        processes = [start(["pretrain", "--resume", run.name], folder) for _ in range(2)]
        codes = sorted((p.communicate(timeout=300), p.returncode)[1] for p in processes)
        same = outcome(run) == outcome(folder / "whole-mae")
        tally("two that resume one run write once", same and codes in ([0, 2], [0, 0]), f"{codes}")
        shutil.rmtree(run)


def main(kills: int, seed: int, kinds: list[str]) -> int:
    """All trials in a temporary folder; print the table."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).random((96, 1, 8, 8), np.float32)
        np.savez(folder / "x.npz", x=pixels, y=np.arange(96) % 3)
        few = max(1, kills // 10)
        trials: list[tuple[str, Callable[[], None]]] = [
            ("kills", lambda: killed(kinds, kills, folder, rng, tally)),
            ("damage", lambda: damaged(folder, rng, tally, few)),
            ("links", lambda: linked(folder, tally)),
            ("disks", lambda: full_disks(folder, rng, tally, few)),
            ("races", lambda: raced(folder, tally, max(1, few // 3))),
        ]
        for what, trial in trials:
            print(f"{what} ...", flush=True)
            trial()
    width = max(map(len, tally.counts))
    print(f"\n{'item':<{width}}  attempts  failures   (seed {seed})")
    for item, (attempts, failures) in sorted(tally.counts.items()):
        print(f"{item:<{width}}  {attempts:8}  {failures:8}")
    return 1 if tally.words else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill, damage and race runs; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[k for k in KINDS if k != "two ranks" or os.name == "posix"])
    chosen = parser.parse_args()
    sys.exit(main(chosen.kills, chosen.seed, ["mae", *(k for k in chosen.kinds if k != "mae")]))
