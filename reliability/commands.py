"""Gives every command hostile words and files; it works, or ends with one line and code 2.

    python reliability/commands.py --commands 500 --seed 0

A command line is a valid one with one word, one field of a configuration or one file replaced. Allowed are the exit
codes of docs/reliability.md, one line on the error stream with code 2, and never a traceback.
"""

import argparse
import importlib
import json
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np
from torture import IMPORTED, SMALL, Command

from viewproof.runs.config import PretrainConfig

HUGE = "99999999999999999999"
WORDS = ["-1", "0", "2.5", "1e30", "1e-300", "nan", "-inf", HUGE, "", " ", "abc", "None", "true",
         "[1]", "é", "../x", "a" * 5000, "\0", "--", "~" * 3000, "1,2,3", "x.npz"]  # fmt: skip
VALUES = [None, True, -1, 0, 2.5, 1e30, float("nan"), 10**30, "", "16", "a" * 5000, [], [1], {}, {"a": 1}]
DATA = ["", "digitz", "no.npy", "no.npz", "broken.npz", "nan.npz", "text.npy", "folder", "hf:", "hf:./folder", "wds:",
        "wds:no.tar", "fashion-mnist:folder", "cifar-10:no", "/dev/null", "run", "hf:no/such", "\0",
        "a" * 5000]  # fmt: skip
# What would run for minutes, or wait for other machines, where its value is valid.
LONG = {"compile", "nodes", "devices"}
ENDLESS = ("--steps", "--epochs", "--fine-tune")
# An export that works takes half a minute: it is loaded again in a fresh process.
READERS = [*["evaluate", "doctor", "report", "resume", "resume"] * 4, "export"]
FOREIGN = ["config.json", "metrics.csv", "evaluation.json", "model.safetensors", "encoder.json", "sha256.json",
           "checkpoints/last.ckpt"]  # fmt: skip
JUNK = [
    b"",
    b"{",
    b"\x00" * 100,
    b"\xff\xfe",
    b"null",
    b"[]",
    b'{"a": 1}',
    b'"text"',
    b"step,epoch\n1",
    b"step\nx\n",
    b"9" * 5000,
]


def prepared(folder: Path) -> None:
    """Small data, a finished run, and what is damaged."""
    rng = np.random.default_rng(0)
    x, y = rng.random((48, 1, 8, 8), np.float32), np.arange(48) % 3
    np.savez(folder / "x.npz", x=x, y=y)
    np.savez(folder / "nan.npz", x=x * np.nan)
    (folder / "broken.npz").write_bytes((folder / "x.npz").read_bytes()[:500])
    (folder / "text.npy").write_text("text")
    (folder / "folder").mkdir()
    (folder / "script.py").write_text("print('no step')\n")
    command = Command(["pretrain", "x.npz", *SMALL, "--model", "conv", "--out", "run"], folder)
    assert command.ends(120) and command.returncode == 0, command.said()


def pretrain(folder: Path, rng: random.Random) -> list[str]:
    """One flag of a short run has a hostile value."""
    words = {"--steps": "1", "--batch-size": "8", "--threads": "1", "--dim": "8", "--depth": "1", "--heads": "2",
             "--decoder-dim": "8", "--decoder-depth": "1", "--decoder-heads": "2", "--out": "new"}  # fmt: skip
    name = rng.choice([f.name for f in fields(PretrainConfig) if f.name not in LONG])
    data = rng.choice(DATA) if name == "data" else "x.npz"
    if name in ("epochs", "steps"):
        words.pop("--steps")
    if name != "data":
        words[f"--{name.replace('_', '-')}"] = rng.choice(WORDS)
    return ["pretrain", data, *(word for pair in words.items() for word in pair)]


def configured(folder: Path, rng: random.Random) -> list[str]:
    """One field of a configuration has a hostile value: to start from, or in a run folder."""
    values = json.loads((folder / "run" / "config.json").read_text()) | {"steps": 1, "epochs": None}
    name = rng.choice([*values, "unknown", "_"])
    values[name] = rng.choice([v for v in VALUES if v != 10**30] if name in ("steps", "epochs") else VALUES)
    if rng.random() < 0.5:
        (folder / "c.json").write_text(json.dumps(values))
        return ["pretrain", "--config", "c.json", "--out", "new"]
    (folder / "copy" / "config.json").write_text(json.dumps(values))
    command = rng.choice(READERS)
    if command == "resume":
        (folder / "copy" / "model.safetensors").unlink()
        return ["pretrain", "--resume", "copy"]
    return ["export", "copy", "new", "--to", "torch"] if command == "export" else [command, "copy"]


def damaged(folder: Path, rng: random.Random) -> list[str]:
    """One file of a run folder is junk, cut short, a folder, or not there."""
    path = folder / "copy" / rng.choice(FOREIGN)
    if rng.random() < 0.3:
        # As a run of an older version, which wrote no digests.
        (folder / "copy" / "sha256.json").unlink()
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    how = rng.choice(["junk", "cut", "folder", "gone"])
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        path.write_bytes(rng.choice(JUNK) if how == "junk" else content[: rng.randrange(1 + len(content))])
    command = rng.choice(READERS)
    if command == "resume":
        weights = folder / "copy" / "model.safetensors"
        shutil.rmtree(weights) if weights.is_dir() else weights.unlink(missing_ok=True)
        return ["pretrain", "--resume", "copy"]
    return ["export", "copy", "new", "--to", "torch"] if command == "export" else [command, "copy"]


def others(folder: Path, rng: random.Random) -> list[str]:
    """The other commands, one of whose words is hostile."""
    whole = rng.choice(
        [
            ["evaluate", "copy", "--fine-tune", "1", "--labels", "6", "--layer-decay", "0.5", "--seed", "0"],
            ["evaluate", "copy", "--export", "new.npz"],
            ["export", "copy", "new", "--to", "torch", "--licence", "mit"],
            ["masks", "~PatchMask(2, 2, 3, 0)", "1,4,4", "--out", "new.png"],
            ["masks", "RandomPatchMask(2, 2, count=2)", "1,4,4", "--out", "new.png"],
            ["certify", "script:object", "--shape", "2,1,4,4", "--rule", "PatchMask(2, 2, 2, 0)"],
            ["prove", "--only", "vector_mae_nothing", "--show", "nothing", "--solver", "z3"],
            ["watch", "--every", "0", "script.py"],
            ["doctor", "copy"],
            ["report", "copy"],
            ["zoo", "--json", "folder"],
            ["pretrain", "--resume", "copy"],
            ["pretrain", "--config", "c.json"],
        ]
    )
    at = rng.randrange(1 if whole[0] == "zoo" else 0, len(whole))
    # The zoo with a valid word would run for minutes.
    whole[at] = "folder/no/such" if whole[0] == "zoo" and at == 2 else rng.choice(WORDS)
    return whole


def endless(words: list[str]) -> bool:
    """Whether a command is valid and works for hours: so many steps, or all theorems."""
    counts = any(flag in ENDLESS and word == HUGE for flag, word in pairwise(words))
    return counts or (words[0] == "prove" and "vector_mae_nothing" not in words)


def run(commands: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How the commands ended, and the failures in words."""
    rng, outcomes, failures = random.Random(seed), Counter[str](), dict[str, str]()
    kinds: list[Callable[[Path, random.Random], list[str]]] = [pretrain, configured, damaged, others]
    for module in IMPORTED:
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="commands-") as name:
        folder = Path(name)
        prepared(folder)
        before = {path.name for path in folder.iterdir()}
        begin = time.monotonic()
        for number in range(commands):
            if number % 50 == 0:
                print(f"{number} of {commands}, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)
            words = ["prove"]
            while endless(words):
                shutil.rmtree(folder / "copy", ignore_errors=True)
                shutil.copytree(folder / "run", folder / "copy")
                words = kinds[number % len(kinds)](folder, rng)
            command, started = Command(words, folder), time.monotonic()
            ended = command.ends(90)
            if (seconds := time.monotonic() - started) > 10:
                print(f"{seconds:.0f} s: {[word[:40] for word in words]}", file=sys.stderr, flush=True)
            command.kill()
            text, code = command.said(), command.returncode
            right = ended and code in (0, 1, 2, 3) and "Traceback" not in text
            if code == 2:
                right = right and text.startswith("viewproof: ") and text.count("\n") == 1
            outcomes[f"code {code}"] += 1
            if not right:
                last = (text.splitlines() or ["did not end" if not ended else f"code {code}"])[-1][:100]
                where = [line.strip() for line in text.splitlines() if line.lstrip().startswith("File ")][-1:]
                kind = f"{kinds[number % 4].__name__}: {last}"
                if kind not in failures:
                    failures[kind] = f"{[w[:80] for w in words]}: {last} {where}"
                    print(failures[kind], flush=True)
            for path in folder.iterdir():
                if path.name not in before:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    return outcomes, list(failures.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Give every command hostile words and files.")
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    # What asks for more memory than this fails here, and does not take the machine down.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    counts, wrong = run(chosen.commands, chosen.seed)
    print(
        f"{chosen.commands} commands, seed {chosen.seed}: " + ", ".join(f"{n} {k}" for k, n in sorted(counts.items()))
    )
    print(f"{len(wrong)} kinds of failure")
    sys.exit(1 if wrong else 0)
