"""The examples of trainers, run as a reader runs them: what they certify is proved, and the planted bug is refuted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


def run(*words, cwd):
    command = [sys.executable, "-W", "ignore", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


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
    code, text = run(ROOT / "examples" / script, cwd=tmp_path)
    assert code == 0 and certified in text and "REFUTED" not in text and "UNKNOWN" not in text, text
    code, text = run(ROOT / "examples" / script, "--bug", cwd=tmp_path)
    assert code == 1 and certified in text and "REFUTED  C1" in text, text
