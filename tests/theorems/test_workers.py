"""Theorems proved in several processes: the same answers, in order, and no silence when a process ends."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("z3")

from viewproof.theorems import registered, workers
from viewproof.theorems.registry import Outcome, Theorem
from viewproof.verdict import Verdict

NAMES = ["sq_dist_self", "empty_mask_not_selected", "vector_mae_hidden_mask_selected_iff"]


@pytest.fixture
def theorems() -> list[Theorem]:
    return [registered()[name] for name in NAMES]


def test_other_processes_answer_in_order(theorems: list[Theorem]) -> None:
    settled = list(workers.check_all(theorems, 2))
    assert [one.theorem.name for one in settled] == NAMES
    for one in settled:
        assert one.green and one.milliseconds > 0 and one.outcome.goals
        assert {name: answer.verdict for name, answer in one.mutants.items()} == {
            mutant.name: Verdict.REFUTED for mutant in one.theorem.mutants
        }
    [here] = workers.check_all(theorems[:1], 2)
    assert here.outcome == settled[0].outcome and here.mutants == settled[0].mutants


def second_ends(names: Sequence[str], solver: str) -> list[Any]:
    if names[0] == NAMES[1]:
        os._exit(1)
    return [(Outcome(Verdict.PROVED), 1.0)] * len(names)


def test_a_process_that_ends_leaves_its_theorems_unknown_and_no_others(
    theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_answers", second_ends)
    settled = list(workers.check_all(theorems, 2))
    assert [one.theorem.name for one in settled] == NAMES
    assert [one.outcome.verdict for one in settled] == [Verdict.PROVED, Verdict.UNKNOWN, Verdict.PROVED]
    assert "the process that checked it ended" in settled[1].outcome.detail and not settled[1].green


def interrupted(names: Sequence[str], solver: str) -> list[Any]:
    raise KeyboardInterrupt


def test_an_interrupt_in_a_process_is_passed_on(theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(workers.check_all(theorems, 2))


def answers_once(names: Sequence[str], solver: str) -> list[Any]:
    time.sleep(0 if names[0] == NAMES[0] else 600)
    return [(Outcome(Verdict.PROVED), 1.0)]


def test_whoever_takes_no_more_leaves_no_process_behind(
    theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_answers", answers_once)
    settled = workers.check_all(theorems, 2)
    assert next(settled).theorem is theorems[0]
    assert multiprocessing.active_children()
    settled.close()
    assert not multiprocessing.active_children()


ENDLESS = """
import sys, time
from pathlib import Path
from viewproof.theorems import report, workers

def endless(names, solver):
    Path(sys.argv[1], str(workers.os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    workers._answers = endless
    sys.exit(report.run(processes=2))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupt_and_death_of_the_parent_end_all_processes(tmp_path: Path, number: int, code: int) -> None:
    script, running = tmp_path / "endless.py", tmp_path / "running"
    script.write_text(ENDLESS)
    running.mkdir()
    parent = subprocess.Popen(
        [sys.executable, script, running], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        _wait(lambda: len(list(running.iterdir())) == 2)
        # A terminal sends Ctrl-C to the whole group.
        os.killpg(parent.pid, number) if number == signal.SIGINT else parent.kill()
        out, err = parent.communicate(timeout=60)
        assert parent.returncode == code
        if number == signal.SIGINT:
            assert err == b"" and b"interrupted: 0 of" in out
        _wait(lambda: not any(Path("/proc", process.name).exists() for process in running.iterdir()))
    finally:
        os.killpg(parent.pid, signal.SIGKILL) if parent.poll() is None else None


def _wait(condition: Any) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
