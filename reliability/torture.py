"""Kills, damages and races runs; nothing may be lost, overwritten or silently different.

    python reliability/torture.py --kills 100 --seed 0

Every trial is a real process of the command line on small arrays. Prints for each item how often it was tried and how
often it failed; exit code 1 if anything did.
"""

import argparse
import csv
import hashlib
import importlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from viewproof import cli

SMALL = ["--steps", "40", "--batch-size", "16", "--checkpoint-every", "4", "--threads", "1", "--dim", "16",
         "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1",
         "--decoder-heads", "2"]  # fmt: skip
IMPORTED = ("viewproof.runs.train", "viewproof.runs.export", "viewproof.evaluation.export", "viewproof.certify",
            "sklearn.linear_model", "sklearn.neighbors", "torch.utils.tensorboard", "matplotlib.pyplot")  # fmt: skip
KINDS = {
    "mae": ["--model", "conv"],
    "masked autoencoder": ["--accumulate", "2", "--online-probe"],
    "simclr": ["--method", "simclr", "--projector-dim", "16"],
    "workers": ["--model", "conv", "--workers", "1"],
    "vicreg": ["--method", "vicreg", "--projector-dim", "16"],
    "ijepa": ["--method", "ijepa"],
    "dino": ["--method", "dino"],
    "lejepa": ["--method", "lejepa"],
    "data2vec": ["--method", "data2vec"],
    "mlm": ["--method", "mlm"],
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


class Command:
    """A command line in a process group of its own.

    ``limit`` is the size in bytes that a file may reach.

    It is forked from this process, which has imported what it needs and computed nothing: a trial does not wait for
    imports. Two ranks start further processes as this one was started, so they take a ``fresh`` interpreter.
    """

    def __init__(self, words: list[str], folder: Path, limit: int | None = None, fresh: bool = False) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            os.setsid()
            # A shell lets what it starts in the background ignore Ctrl+C, and so would a command started from here.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(self.errors.fileno(), 2)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if fresh:
                os.execv(sys.executable, [sys.executable, "-m", "viewproof", *words])
            sys.argv = ["viewproof", *words]
            code = cli.main(words)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def ends(self, seconds: float) -> bool:
        """Whether the command ends by itself within so many seconds; then `returncode` is known."""
        until = time.monotonic() + seconds
        while self.returncode is None and time.monotonic() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        return self.returncode is not None

    def kill(self) -> None:
        """End the command and what it started by SIGKILL."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def said(self) -> str:
        """The error stream."""
        self.errors.seek(0)
        return self.errors.read()


def finish(words: list[str], folder: Path, limit: int | None = None, fresh: bool = False) -> tuple[int, str]:
    """Exit code and error stream of a command that is left alone."""
    command = Command(words, folder, limit, fresh)
    if not command.ends(300):
        command.kill()
        return -1, f"{words} did not end within 300 seconds"
    assert command.returncode is not None
    return command.returncode, command.said()


def outcome(run: Path) -> tuple[str, list[dict[str, str]]]:
    """A digest of the weights, and the metrics without the speed."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "images_per_second"} for row in csv.DictReader(file)]
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(), rows


def begin_words(kind: str) -> list[str]:
    """The command line that begins a run, but for its folder."""
    return ["pretrain", "x.txt" if kind == "mlm" else "x.npz", *SMALL, *KINDS[kind]]


def killed(kinds: list[str], kills: int, folder: Path, rng: random.Random, tally: Tally) -> None:
    """Runs that are killed at random moments and resumed end as those that were left alone."""
    left_alone, seconds = {}, {}
    for kind in dict.fromkeys(kinds):
        begin = time.monotonic()
        words = [*begin_words(kind), "--out", f"whole-{kind}"]
        code, errors = finish(words, folder, fresh="--devices" in KINDS[kind])
        tally("left alone", code == 0, errors)
        seconds[kind] = time.monotonic() - begin
        left_alone[kind] = outcome(folder / f"whole-{kind}")
    done = 0
    turns = itertools.cycle(sorted(left_alone))
    while done < kills:
        print(f"{done} of {kills} kills", file=sys.stderr, flush=True)
        kind, run = next(turns), folder / f"killed-{done}"
        begun = [*begin_words(kind), "--out", run.name]
        words, code, errors = begun, -1, ""
        for at_most in (0.6, 0.6, 0.6, 0.6, 0.6, 10.0):
            command = Command(words, folder, fresh="--devices" in KINDS[kind])
            if command.ends(rng.uniform(0, at_most * seconds[kind])) or (at_most > 1 and command.ends(300)):
                code, errors = command.returncode or 0, command.said()
                break
            command.kill()
            done += 1
            if (run / "model.safetensors").exists():
                words = ["evaluate", run.name]
            elif (run / "checkpoints" / "last.ckpt").exists():
                words = ["pretrain", "--resume", run.name]
            elif run.exists():
                # Killed before the first checkpoint: it says so, and is started again.
                said = finish(["pretrain", "--resume", run.name], folder)
                tally("without a checkpoint, one line", said[0] == 2 and said[1].count("\n") == 1, str(said))
                shutil.rmtree(run)
                words = begun
        tally(f"ended after its kills: {kind}", code == 0 and "Traceback" not in errors, f"{words}: {code} {errors}")
        same = run.exists() and outcome(run) == left_alone[kind]
        tally(f"killed and resumed, bit for bit: {kind}", same, f"{run} differs from whole-{kind}")
        shutil.rmtree(run, ignore_errors=True)


def interrupted(folder: Path, rng: random.Random, tally: Tally, trials: int) -> None:
    """Ctrl+C after the first checkpoint ends with code 130 and no traceback; the run goes on."""
    for _ in range(trials):
        run = folder / "interrupted"
        command = Command(["pretrain", "x.npz", *SMALL, "--model", "conv", "--out", run.name], folder)
        while not (run / "checkpoints" / "last.ckpt").exists() and not command.ends(0.01):
            pass
        command.ends(rng.uniform(0, 0.5))
        ended = command.returncode is not None
        if not ended:
            os.kill(command.pid, signal.SIGINT)
        stopped = command.ends(60)
        right = stopped and command.returncode == (0 if ended else 130) and "Traceback" not in command.said()
        command.kill()
        tally("Ctrl+C ends with code 130", right, f"{command.returncode} {command.said()[-300:]}")
        if not (run / "model.safetensors").exists():
            finish(["pretrain", "--resume", run.name], folder)
        tally("interrupted and resumed, bit for bit", outcome(run) == outcome(folder / "whole-mae"), "differs")
        shutil.rmtree(run)


def killed_while_reading(kills: int, folder: Path, rng: random.Random, tally: Tally) -> None:
    """A killed evaluation, export or page leaves nothing half done and works the next time."""
    jobs = {
        "evaluate": ["evaluate", "read"],
        "embeddings": ["evaluate", "read", "--export", "table.npz"],
        "fine-tuning": ["evaluate", "read", "--fine-tune", "3"],
        "export": ["export", "read", "exported", "--to", "torch"],
        "report": ["report", "read"],
    }
    seconds: dict[str, float] = {}
    done = 0
    turns = itertools.cycle(sorted(jobs))
    while done < kills:
        name = next(turns)
        for product in ("read", "table.npz", "exported"):
            path = folder / product
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.copytree(folder / "whole-masked autoencoder", folder / "read")
        if name not in seconds:
            begin = time.monotonic()
            code, errors = finish(jobs[name], folder)
            tally(f"left alone: {name}", code == 0, errors)
            seconds[name] = time.monotonic() - begin
            continue
        command, moment = Command(jobs[name], folder), rng.uniform(0, seconds[name])
        if command.ends(moment):
            # The first one took longer than those after it, which find what it read in memory.
            seconds[name] = moment
            continue
        command.kill()
        done += 1
        if (folder / "table.npz").exists():
            tally("a killed table is whole or absent", len(np.load(folder / "table.npz")["embeddings"]) == 96)
            (folder / "table.npz").unlink()
        if (folder / "exported").exists():
            tally("a killed export is whole or absent", (folder / "exported" / "README.md").exists())
            shutil.rmtree(folder / "exported")
        code, errors = finish(jobs[name], folder)
        before, after = (
            (folder / run / "evaluation.json").read_bytes() for run in ("whole-masked autoencoder", "read")
        )
        tally(f"killed, and done the next time: {name}", code == 0 and before == after, f"{code} {errors[-300:]}")


def damaged(folder: Path, rng: random.Random, tally: Tally, trials: int) -> None:
    """A flipped byte in what a run wrote is noticed, and nothing else is overwritten."""
    for _ in range(trials):
        run = folder / "damaged"
        shutil.copytree(folder / "whole-mae", run)
        name = rng.choice(["model.safetensors", "checkpoints/last.ckpt", "metrics.csv", "evaluation.json", "loss.png"])
        target = run / name
        content = bytearray(target.read_bytes())
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
        target.write_bytes(content)
        before = (run / "evaluation.json").read_bytes()
        words = ["evaluate" if target.suffix == ".safetensors" else "report", run.name]
        if target.suffix in (".ckpt", ".csv"):
            (run / "model.safetensors").unlink()
            words = ["pretrain", "--resume", run.name]
        code, errors = finish(words, folder)
        noticed = code == 2 and errors.count("\n") == 1 and target.name in errors
        unchanged = (run / "evaluation.json").read_bytes() == before
        tally(f"a flipped bit is noticed: {target.name}", noticed and unchanged, f"byte {at}: {code} {errors[-200:]}")
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
        # The error stream is a file under the same limit, and its line must fit.
        limit = int(2 ** rng.uniform(9, 22))
        code, errors = finish(["pretrain", "x.npz", *SMALL, "--model", "conv", "--out", "full"], folder, limit)
        ended = code in (0, 2) and "Traceback" not in errors
        tally("a full disk ends in one line", ended, f"{limit}: {code} {errors[-300:]}")
        for path in (folder / "full").rglob("*.json"):
            json.loads(path.read_text())
        shutil.rmtree(folder / "full", ignore_errors=True)


def raced(folder: Path, tally: Tally, trials: int) -> None:
    """Runs that start together take folders of their own; one process resumes a run."""
    for _ in range(trials):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        commands = [Command(["pretrain", "x.npz", *SMALL, "--model", "conv"], folder) for _ in range(3)]
        codes = [c.returncode for c in commands if c.ends(300)]
        names = sorted(path.name for path in (folder / "runs").iterdir())
        tally("three runs at once have three folders", codes == [0, 0, 0] and len(names) == 3, f"{codes} {names}")
        run = folder / "twice"
        shutil.copytree(folder / "whole-mae", run)
        (run / "model.safetensors").unlink()
        commands = [Command(["pretrain", "--resume", run.name], folder) for _ in range(2)]
        codes = sorted(c.returncode or 0 for c in commands if c.ends(300))
        same = outcome(run) == outcome(folder / "whole-mae")
        tally("two that resume one run write once", same and codes == [0, 2], f"{codes}")
        shutil.rmtree(run)


def main(kills: int, trials: int, seed: int, kinds: list[str]) -> int:
    """All trials in a temporary folder; print the table."""
    rng, tally = random.Random(seed), Tally()
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).random((96, 1, 8, 8), np.float32)
        np.savez(folder / "x.npz", x=pixels, y=np.arange(96) % 3)
        (folder / "x.txt").write_bytes(pixels.tobytes())
        steps: list[tuple[str, Callable[[], None]]] = [
            ("kills of training", lambda: killed(kinds, kills - kills // 4, folder, rng, tally)),
            ("kills of what reads a run", lambda: killed_while_reading(kills // 4, folder, rng, tally)),
            ("interrupts", lambda: interrupted(folder, rng, tally, 2 * trials)),
            ("damage", lambda: damaged(folder, rng, tally, 3 * trials)),
            ("links", lambda: linked(folder, tally)),
            ("disks", lambda: full_disks(folder, rng, tally, trials)),
            ("races", lambda: raced(folder, tally, max(1, trials // 3))),
        ]
        for what, step in steps:
            begin = time.monotonic()
            step()
            print(f"{what}: {time.monotonic() - begin:.0f} s", flush=True)
    width = max(map(len, tally.counts))
    print(f"\n{'item':<{width}}  attempts  failures   (seed {seed})")
    for item, (attempts, failures) in sorted(tally.counts.items()):
        print(f"{item:<{width}}  {attempts:8}  {failures:8}")
    return 1 if tally.words else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Kill, damage and race runs; nothing may be lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=10, help="full disks; thrice so many flipped bits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=[k for k in KINDS if k != "two ranks" or os.name == "posix"])
    chosen = parser.parse_args()
    sys.exit(main(chosen.kills, chosen.trials, chosen.seed, ["mae", "masked autoencoder", *chosen.kinds]))
