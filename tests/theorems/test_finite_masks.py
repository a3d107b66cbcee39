"""The theorems about `Mask` itself are proved, and their mutants refuted."""

import subprocess
import sys

import pytest

pytest.importorskip("z3")


def test_proved_and_every_mutant_refuted():
    """In a process of its own: torch captures with symbolic extents, which this run's shape checks would refuse."""
    code = (
        "from viewproof.theorems.tensors.finite_masks import THEOREMS\n"
        "from viewproof.theorems.registry import settle\n"
        "for one in map(settle, THEOREMS): print(one.theorem.name, one.outcome.verdict, one.green, *one.complaints)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    names = ["all_mask_selected", "complement_selected_iff", "empty_mask_not_selected"]
    assert sorted(done.stdout.splitlines()) == [f"{name} PROVED True" for name in names], done.stderr
