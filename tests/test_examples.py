"""The examples of trainers, run as a reader runs them: what they certify is proved, and the planted bug is refuted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


# A reader's two commands in one process: what a script imports takes most of its time.
BOTH = """
import runpy, sys
sys.path[0] = FOLDER
for words in [], ["--bug"]:
    sys.argv = [sys.argv[0], *words]
    try:
        runpy.run_path(SCRIPT, run_name="__main__")
    except SystemExit as end:
        print("exit", int(end.code))
"""


@pytest.mark.parametrize(
    ("script", "certified"),
    [
        ("lightning_mae.py", "PROVED   C4  the mask selects exactly"),
        ("accelerate_mae.py", "PROVED   C4  the mask selects exactly"),
        ("trainer_bert.py", "PROVED   C8  a sample alone has the mask that it has in a batch"),
    ],
)
def test_a_trainer_with_keyed_masks_certify_and_watch(tmp_path, script, certified):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    folder = ROOT / "examples"
    code = BOTH.replace("FOLDER", repr(str(folder))).replace("SCRIPT", repr(str(folder / script)))
    command = [sys.executable, "-u", "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    right, found, wrong = done.stdout.partition("exit 0\n")
    assert done.returncode == 0 and found, done.stdout
    assert certified in right and "REFUTED" not in right and "UNKNOWN" not in right, right
    assert certified in wrong and "REFUTED  C1" in wrong and wrong.endswith("exit 1\n"), wrong
