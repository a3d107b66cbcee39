"""Gradients between backward and the optimizer's step: erased, changed, left over from earlier steps, lost."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import viewproof as vp
from viewproof.certify.report import Finding
from viewproof.verdict import Verdict


class Stepper:
    """A model of two layers that fills in halves of rows; ``mode`` says how its step treats gradients."""

    def __init__(self, mode: str) -> None:
        torch.manual_seed(0)
        self.mode, self.count = mode, 0
        self.encoder, self.decoder = nn.Linear(3, 6), nn.Linear(6, 3)
        self.model = nn.Sequential(self.encoder, nn.Tanh(), self.decoder)
        parameters = list(self.model.parameters())
        self.optimizer: Any = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        if mode == "closure":
            self.optimizer = torch.optim.LBFGS(parameters, max_iter=3, line_search_fn="strong_wolfe")
        elif mode == "critic":
            self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=0.1)
        self.scaler = torch.amp.GradScaler("cpu", enabled=mode == "scaler")
        self.slow = torch.optim.SGD(self.decoder.parameters(), lr=0.1)

    def loss(self, x: Tensor) -> Tensor:
        return (self.model(x[:, :3]) - x[:, 3:]).square().mean()

    def __call__(self, x: Tensor) -> None:
        getattr(self, f"_{self.mode.replace(' ', '_')}", self._plain)(x)
        self.count += 1

    def _plain(self, x: Tensor) -> None:
        if not self.mode.startswith("never"):
            self.optimizer.zero_grad(set_to_none=self.mode != "to zeros")
        self.scaler.scale(self.loss(x)).backward()
        self.scaler.unscale_(self.optimizer)
        weight = self.encoder.weight
        if self.mode == "erased":
            weight.grad.zero_()
        elif self.mode == "erased in data":
            weight.grad.data.mul_(0)
        elif self.mode == "exchanged":
            weight.grad = torch.randn_like(weight)
        elif self.mode == "clipped":
            nn.utils.clip_grad_norm_(self.model.parameters(), 1e-3)
            nn.utils.clip_grad_value_(self.model.parameters(), 1e-5)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.mode == "after":
            self.model.zero_grad()

    def _by_hand(self, x: Tensor) -> None:
        for p in self.model.parameters():
            p.grad = None if p.grad is None else p.grad * 0
        self.loss(x).backward()
        self.optimizer.step()

    def _parts(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        for part in x.chunk(2):
            (self.loss(part) / 2).backward()
        self.optimizer.step()

    def _lost(self, x: Tensor) -> None:
        self.loss(x[:2]).backward()
        self.optimizer.zero_grad()
        self.loss(x).backward()
        self.optimizer.step()

    def _closure(self, x: Tensor) -> None:
        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.loss(x)
            loss.backward()
            return loss

        self.optimizer.step(closure)

    def _critic(self, x: Tensor) -> None:
        """The encoder steps first; the decoder's loss then adds to gradients that the next step clears."""
        self.encoder.zero_grad()
        self.loss(x).backward()
        self.optimizer.step()
        self.decoder.zero_grad()
        self.loss(x).backward()
        self.slow.step()

    def _in_turns(self, x: Tensor) -> None:
        """The decoder's own optimizer steps each second time with the gradients of two."""
        self.encoder.zero_grad()
        self.loss(x).backward()
        (torch.optim.SGD(self.encoder.parameters(), lr=0.1) if not self.count else self.fast).step()
        self.fast = getattr(self, "fast", None) or torch.optim.SGD(self.encoder.parameters(), lr=0.1)
        if self.count % 2:
            self.slow.step()
            self.slow.zero_grad()


def finding(report: Any) -> Finding:
    (found,) = [f for f in report.findings if f.claim.startswith("what is trained")]
    return found


def recorded(step: Callable[[Tensor], None]) -> Finding:
    with vp.watch.recording() as seen:
        for x in DataLoader(torch.randn(12, 6), batch_size=4):
            step(x)
    return finding(seen.report)


CORRECT = ["plain", "to zeros", "after", "by hand", "parts", "closure", "scaler", "clipped", "critic"]
ALONE = ["to zeros", "by hand", "closure", "clipped"]


@pytest.mark.parametrize("mode", CORRECT)
def test_what_clears_and_scales_gradients_is_right(mode: str) -> None:
    found = finding(vp.watch(Stepper(mode), torch.randn(4, 6))) if mode in ALONE else recorded(Stepper(mode))
    assert found.verdict is Verdict.PROVED, found


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("erased", "are erased at test_watch_gradients.py:"),
        ("erased in data", "are erased at test_watch_gradients.py:"),
        ("exchanged", "are changed other than by a scale at test_watch_gradients.py:"),
        ("lost", "of the backward at test_watch_gradients.py:"),
    ],
)
def test_what_happens_to_gradients_is_asked_about(mode: str, reason: str) -> None:
    found = finding(vp.watch(Stepper(mode), torch.randn(4, 6)))
    assert found.verdict is Verdict.UNKNOWN and reason in found.detail.replace("tests/watch/", ""), found
    assert ("encoder.weight)" in found.detail) is (mode != "lost"), found


def test_a_rate_of_0_is_asked_about() -> None:
    step = Stepper("plain")
    step.optimizer.param_groups[0]["lr"] = 0.0
    found = finding(vp.watch(step, torch.randn(4, 6)))
    assert found.verdict is Verdict.UNKNOWN and "no parameter moved" in found.detail


def test_gradients_that_nothing_clears_are_refuted_in_a_loop_and_asked_about_in_a_step() -> None:
    found = recorded(Stepper("never"))
    assert found.verdict is Verdict.REFUTED and found.witness and "nothing clears" in found.witness.what
    step, x = Stepper("never"), torch.randn(4, 6)
    for _ in range(2):
        found = finding(vp.watch(step, x))
        assert found.verdict is Verdict.UNKNOWN and "does not clear gradients" in found.detail, found
        step(x)


def test_gradients_that_are_gathered_for_a_slower_optimizer_are_not_refuted() -> None:
    assert recorded(Stepper("in turns")).verdict is not Verdict.REFUTED


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_a_hook_that_turns_a_gradient_is_asked_about(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(x: Tensor) -> None:
        hidden = torch.rand(len(x), 6) < 0.5
        loss = ((model(torch.where(hidden, 0.0, x)) - x).square() * hidden).sum() / hidden.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def turned(value: Tensor) -> Tensor | None:
        if kind == "register_hook":
            return -value
        assert value.grad is not None
        value.grad.neg_()
        return None

    def trained() -> Verdict:
        return next(f.verdict for f in vp.watch(step, torch.randn(4, 6)).findings if f.claim.startswith("what is trai"))

    assert trained() is Verdict.PROVED
    getattr(model.weight, kind)(turned)
    assert trained() is Verdict.UNKNOWN
