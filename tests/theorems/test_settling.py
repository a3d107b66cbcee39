"""Theorems settled in several processes: the same answers, in order, and no silence when a process ends."""

import multiprocessing
import os
import time
from collections.abc import Sequence
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
    settled = list(workers.settle_all(theorems, 2))
    assert [one.theorem.name for one in settled] == NAMES
    for one in settled:
        assert one.green and one.milliseconds > 0 and one.outcome.goals
        assert {name: answer.verdict for name, answer in one.mutants.items()} == {
            mutant.name: Verdict.REFUTED for mutant in one.theorem.mutants
        }
    [here] = workers.settle_all(theorems[:1], 2)
    assert here.outcome == settled[0].outcome and here.mutants == settled[0].mutants


def ends(names: Sequence[str]) -> list[Any]:
    os._exit(1)


def test_a_process_that_ends_leaves_its_theorems_unknown(
    theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_answers", ends)
    settled = list(workers.settle_all(theorems, 2))
    assert [one.theorem.name for one in settled] == NAMES
    assert all(one.outcome.verdict is Verdict.UNKNOWN and not one.green for one in settled)
    assert "the process that checked it ended" in settled[0].outcome.detail


def interrupted(names: Sequence[str]) -> list[Any]:
    raise KeyboardInterrupt


def test_an_interrupt_in_a_process_is_passed_on(theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(workers.settle_all(theorems, 2))


def answers_once(names: Sequence[str]) -> list[Any]:
    time.sleep(0 if names[0] == NAMES[0] else 600)
    return [(Outcome(Verdict.PROVED), 1.0)]


def test_whoever_takes_no_more_leaves_no_process_behind(
    theorems: list[Theorem], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_answers", answers_once)
    settled = workers.settle_all(theorems, 2)
    assert next(settled).theorem is theorems[0]
    assert multiprocessing.active_children()
    settled.close()
    assert not multiprocessing.active_children()
