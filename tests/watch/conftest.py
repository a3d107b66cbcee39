import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Watched = Callable[..., "subprocess.CompletedProcess[str]"]

# One interpreter forks a process a script: to import torch takes most of what a small script takes.
WATCH = """
import json, os, sys
import sklearn.datasets, torch._dynamo
import viewproof.watch.script_session
from viewproof.cli import main

for line in sys.stdin:
    folder, words = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        for number, name in enumerate((os.devnull, "stdout.txt", "stderr.txt")):
            os.dup2(os.open(name, os.O_CREAT | os.O_TRUNC | os.O_RDWR), number)
        sys.exit(main(["watch", *words]))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    """``watched(folder, *words)``: what ``viewproof watch`` with these words prints in this folder, and its code."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WATCH]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as interpreter:
        given, answers = interpreter.stdin, interpreter.stdout
        assert given is not None and answers is not None

        def run(folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
            print(json.dumps([str(folder), [str(word) for word in words]]), file=given, flush=True)
            code = int(answers.readline())
            out, err = ((folder / f"{name}.txt").read_text() for name in ("stdout", "stderr"))
            return subprocess.CompletedProcess(words, code, out, err)

        yield run
