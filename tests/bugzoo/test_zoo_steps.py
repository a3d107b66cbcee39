"""Bugs as whole steps: builders repeat, sources stand as in the zoo, the runner counts, and some are watched."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map

from viewproof.bugzoo.steps import run
from viewproof.bugzoo.steps.page import steps_page
from viewproof.bugzoo.steps.run import examine_step, record, run_steps, step_specimens
from viewproof.bugzoo.steps.step import StepSpecimen
from viewproof.certify.report import Report
from viewproof.cli import main

SPECIMENS = {s.name: s for s in step_specimens()}


def test_at_least_forty_bugs_that_one_step_shows() -> None:
    assert len(SPECIMENS) == len(step_specimens())
    bugs = [s for s in SPECIMENS.values() if s.standing != "false alarm"]
    assert sum(not s.needs for s in bugs) >= 40
    assert all(s.contracts and s.mechanism for s in bugs)
    assert all((s.standing == "synthetic") == (not s.source) for s in bugs)
    assert sum(s.standing == "false alarm" for s in SPECIMENS.values()) >= 10


@pytest.mark.parametrize("name", SPECIMENS)
def test_a_step_runs_twice_and_is_built_alike_each_time(name: str) -> None:
    def values(bug: bool) -> list[str]:
        torch.manual_seed(1)
        step, batch = SPECIMENS[name].build(bug)
        return [str(step(tree_map(lambda t: t.clone() if isinstance(t, torch.Tensor) else t, batch))) for _ in range(2)]

    assert values(False) == values(False)
    if SPECIMENS[name].standing != "false alarm":
        values(True)


@pytest.mark.parametrize("name", ["MAE: polarity", "EMA: before the optimizer's step"])
def test_a_bug_is_caught_and_its_correct_twin_spared(name: str) -> None:
    one = examine_step(SPECIMENS[name])
    assert one.buggy == "caught" and not one.alarms and not one.errors


def raises() -> None:
    raise RuntimeError("no step")


def exchanged(specimen: StepSpecimen) -> StepSpecimen:
    return replace(specimen, function=lambda bug: specimen.function(not bug))


def test_the_runner_counts_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = SPECIMENS["EMA: before the optimizer's step"]
    chosen = [exchanged(early), replace(early, function=lambda bug: raises())]
    assert run_steps(chosen, json=tmp_path / "steps.json") == 1
    counts = json.loads((tmp_path / "steps.json").read_text())
    assert [counts[key] for key in ("visible", "caught", "missed", "false_alarms", "errors")] == [2, 0, 2, 1, 1]
    printed = capsys.readouterr().out
    assert "correct twin: RuntimeError: no step" in printed and "1 false alarms" in printed
    assert run_steps([]) == 1


def test_what_needs_more_than_a_step_is_not_counted_as_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "watch", lambda step, batch: Report("", ()))
    one = examine_step(SPECIMENS["MAE: off by the class token"])
    assert one.buggy == "needs a declaration" and record([one])["visible"] == 0
    assert "needs a declaration" in steps_page([one])


def test_the_command_runs_the_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "step_specimens", lambda: [SPECIMENS["EMA: before the optimizer's step"]])
    assert main(["zoo", "--steps"]) == 0
    assert "1 bugs that one step can show: 1 caught" in capsys.readouterr().out
