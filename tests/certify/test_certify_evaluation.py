"""An evaluation that changes nothing is PROVED; each kind of change is REFUTED and put back."""

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from viewproof import certify_evaluation
from viewproof.certify.state import PYTHON, ReachedState
from viewproof.verdict import Verdict

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def parts() -> tuple[nn.Module, "deque[Tensor]", list[int], dict[str, Tensor]]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), deque(maxlen=3), [0], {"center": torch.zeros(4)}


def step_of(kind: str) -> Callable[[Tensor], object]:
    model, queue, counter, state = parts()

    def step(x: Tensor) -> object:
        training = model.training
        model.train(kind == "buffer")
        with torch.set_grad_enabled(kind == "gradient"):
            out = model(x)
        if kind == "gradient":
            out.sum().backward()
        if kind == "queue":
            queue.append(out)
        if kind == "counter":
            counter[0] += 1
        if kind == "center":
            state["center"].mul_(0.9).add_(out.mean(0) + 1)
        if kind == "parameter":
            model[0].weight.data.mul_(0.9)
        if kind == "generator":
            torch.rand(1)
        model.train(training if kind != "flag" else False)
        return out

    return step


CLAIMS = {
    "parameter": "no parameter", "gradient": "no parameter", "buffer": "no buffer", "flag": "modes",
    "queue": "no queue", "counter": "no queue", "center": "no queue", "generator": "no random generator",
}  # fmt: skip


@pytest.mark.parametrize("kind", CLAIMS)
def test_a_change_is_refuted_and_put_back(kind: str) -> None:
    step = step_of(kind)
    state = ReachedState(step)
    report = certify_evaluation(step, X)
    assert [CLAIMS[kind] in f.claim for f in report.refuted] == [True], report
    # Run-time type checks draw from Python's generator.
    assert {path for path, _ in state.changes()} <= {PYTHON}


def test_a_clean_evaluation_is_proved() -> None:
    assert certify_evaluation(step_of(""), X).verdict(strict=True).value == "PROVED"


def test_what_may_change_is_declared() -> None:
    assert certify_evaluation(step_of("queue"), X, may_change=["queue*"]).verdict().value == "PROVED"


def test_a_step_that_raises_is_unknown() -> None:
    assert certify_evaluation(lambda x: x @ x, X).verdict().value == "UNKNOWN"


def test_tensors_without_storage_anywhere_do_not_matter() -> None:
    """Half-made modules and values that a vmap left behind live in many processes."""
    batched: list[Tensor] = []
    torch.vmap(lambda x: batched.append(x) or x)(X)
    elsewhere = nn.LazyLinear(3)
    model = parts()[0].eval()
    assert certify_evaluation(lambda x: model(x), X).verdict() == "PROVED", (batched, elsewhere)


def gradients_off(x: Tensor) -> None:
    torch.set_grad_enabled(False)


def default_dtype(x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)


def autocast(x: Tensor) -> None:
    torch.set_autocast_enabled("cpu", True)


def deterministic(x: Tensor) -> None:
    torch.use_deterministic_algorithms(True)


@pytest.mark.parametrize("setting", [gradients_off, default_dtype, autocast, deterministic])
def test_settings_of_the_process(setting: Any) -> None:
    report = certify_evaluation(setting, torch.zeros(2, 3))
    assert [f.claim for f in report.refuted] == ["an evaluation leaves the settings of the process as they were"]
    assert torch.is_grad_enabled() and torch.get_default_dtype() is torch.float32
    assert not torch.is_autocast_enabled("cpu")

    def and_back(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x.T

    assert not certify_evaluation(and_back, torch.zeros(2, 3)).refuted


def test_a_hook_that_stays() -> None:
    model = nn.Linear(3, 2)

    def evaluate(x: Tensor, leave: bool) -> None:
        handle = model.register_forward_hook(lambda *_: None)
        model(x)
        if not leave:
            handle.remove()

    for leave, verdict in ((True, Verdict.REFUTED), (False, Verdict.PROVED)):
        report = certify_evaluation(lambda x, leave=leave: evaluate(x, leave), torch.zeros(2, 3))
        assert report.verdict() is verdict, str(report)
    assert not model._forward_hooks
