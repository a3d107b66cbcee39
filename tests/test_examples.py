"""The examples of trainers, run as a reader runs them: what they certify is proved, and the planted bug is refuted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(script, *flags, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "ignore", str(ROOT / "examples" / script), *flags]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True)
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
    code, text = run(script, cwd=tmp_path)
    assert code == 0 and certified in text and "REFUTED" not in text and "UNKNOWN" not in text, text
    code, text = run(script, "--bug", cwd=tmp_path)
    assert code == 1 and certified in text and "REFUTED  C1" in text, text


def test_accelerate_on_two_processes_draws_the_masks_of_one(tmp_path):
    pytest.importorskip("accelerate")
    words = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = str(ROOT / "examples/accelerate_mae.py")
    done = subprocess.run([sys.executable, *words, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("epoch 0: loss") == 1, done.stdout + done.stderr
