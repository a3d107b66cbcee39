"""Where a fork is not safe: the step runs in this process, says the same, and everything is put back.

With torch's builds for CUDA a process of its own: what runs backward here leaves threads, after which no fork can.
"""

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_watch_engine import masked, refuted, student_and_teacher
from test_watch_trained import test_a_step_that_saves_and_removes_files_leaves_them as test_files_are_left  # noqa: F401 - a test here as there
from test_watch_trained import (
    test_modules_without_values_that_live_beside_it_do_not_matter as test_modules_without_values,  # noqa: F401
)
from torch import Tensor, nn

import viewproof as vp
from viewproof.verdict import Verdict

pytestmark = pytest.mark.usefixtures("no_fork")


@pytest.fixture(autouse=True, scope="module")
def few_objects() -> Iterator[None]:
    """Each run here collects and walks the objects of the process: those of the imported libraries are set apart."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def no_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("viewproof.watch.session.cannot_fork", lambda: "no fork here")


@pytest.mark.parametrize(("fault", "contract"), [("mean", "C1"), ("polarity", "C1"), ("cleared", "C6"), ("log", "C9")])
def test_a_fault_of_a_masked_step_is_refuted(fault: str, contract: str) -> None:
    step, x = masked(fault)
    before = x.clone()
    report = vp.watch(step, x)
    assert contract in refuted(report), str(report)
    assert torch.equal(x, before)


def test_a_correct_step_is_proved_and_says_where_it_ran() -> None:
    report = vp.watch(*masked())
    assert report.verdict(vp.Contract.C1) is Verdict.PROVED and not report.failures(), str(report)
    assert "in this process" in str(report.ledger["how"])


@pytest.mark.parametrize("fault", ["", "stale", "gradient"])
def test_a_teacher_is_judged(fault: str) -> None:
    assert ("C6" in refuted(vp.watch(*student_and_teacher(fault)))) is bool(fault)


class Counter:
    """A user's class with an attribute of its own, changed by a method."""

    calls = 0
    names: list[str] = []  # noqa: RUF012 - shared on purpose

    def count(self) -> None:
        Counter.calls += 1
        self.names.append("called")
        TOTAL.append(1)


TOTAL: list[int] = []


def test_everything_is_put_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model, counter = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)), Counter()
    optimizer, queue = torch.optim.Adam(model.parameters()), torch.zeros(4)

    def step(batch: dict[str, Tensor]) -> None:
        counter.count()
        print("a step")
        (tmp_path / "log.txt").write_text("a step")
        queue.add_(1)
        batch["x"] = batch["x"].mul_(2)
        model(batch["x"]).square().mean().backward()
        optimizer.step()

    batch = {"x": torch.randn(4, 3)}
    x, values = batch["x"], batch["x"].clone()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), model.training))
    generator = torch.get_rng_state()
    report = vp.watch(step, batch)
    assert report.losses, str(report)
    after = (model.state_dict(), optimizer.state_dict(), model.training)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert batch["x"] is x and torch.equal(x, values) and not queue.any()
    assert torch.equal(torch.get_rng_state(), generator)
    assert (Counter.calls, Counter.names, TOTAL) == (0, [], []) and capsys.readouterr().out == ""
    assert not (tmp_path / "log.txt").exists() and all(p.grad is None for p in model.parameters())


class Slots:
    """State that no copy reaches."""

    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0


@pytest.mark.parametrize(("state", "name"), [(iter(range(99)), "state"), (Slots(), "state")])
def test_what_cannot_be_put_back_is_named_and_nothing_runs(state: Any, name: str) -> None:
    step, x = masked()
    calls: list[int] = []

    def wrapped(batch: Any) -> None:
        calls.append(1)
        assert state is not None
        step(batch)

    report = vp.watch(wrapped, x)
    assert f"{name} moves on with each run" in str(report) and report.verdict() is Verdict.UNKNOWN and not calls


def test_a_step_that_raises_leaves_no_hook() -> None:
    def step(x: Tensor) -> None:
        raise ValueError("no such layer")

    backward: Callable[..., Any] = torch.autograd.backward
    report = vp.watch(step, torch.ones(2, 2))
    assert "ValueError: no such layer" in str(report) and torch.autograd.backward is backward


def test_what_was_under_way_goes_on() -> None:
    model = nn.Linear(3, 3)
    optimizer, shape = torch.optim.SGD(model.parameters(), lr=0.1), torch.arange(3).expand(4, 3)
    pending = model(torch.ones(2, 3)).square().mean()

    def step(batch: dict[str, Any]) -> None:
        loss = batch["model"](batch["x"]).gather(1, shape).square().mean()
        loss.backward()
        optimizer.step()

    report = vp.watch(step, {"model": model, "x": torch.randn(4, 3)})
    assert report.losses and not report.failures(allow_unknown=True), str(report)
    pending.backward()
    assert model.weight.grad is not None
