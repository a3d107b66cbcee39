"""Hostile arguments: every public function is right or says `InvalidArgument`; see reliability/fuzz.py."""

import subprocess
import sys
from functools import wraps
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "reliability" / "fuzz.py"
sys.path.insert(0, str(FUZZ.parent))
import fuzz  # noqa: E402


def test_hostile_calls_are_right_or_refused():
    # A process of its own: these tests check types where a user's program does not.
    command = [sys.executable, str(FUZZ), "--calls", "5000", "--seed", "20"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stdout + process.stderr


def test_mutants_that_tests_once_missed_are_noticed():
    command = [sys.executable, str(FUZZ.with_name("mutants.py")), "--once-missed"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0 and "0 survived" in process.stdout, process.stdout + process.stderr


def test_a_function_that_is_wrong_is_found(monkeypatch):
    wrong = wraps(fuzz.vp.vector_mae_selected_idxs)(lambda data_dim, period, offset: [data_dim])
    monkeypatch.setattr(fuzz.vp, "vector_mae_selected_idxs", wrong)
    failures = fuzz.run(calls=1500, seed=0)[1]
    assert any(f.startswith("vector_mae_selected_idxs({") and ", not [" in f for f in failures)
