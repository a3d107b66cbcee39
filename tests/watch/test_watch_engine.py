"""Whole steps of plain torch, read off: what is right, and a mutant for each conclusion."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import viewproof as vp
from viewproof.bits import GeneratorStates
from viewproof.verdict import Verdict
from viewproof.watch.facts import Role
from viewproof.watch.report import WatchReport

Built = tuple[Callable[[Any], Any], Any]


class Masked(nn.Module):
    """Four frames of six are hidden from the encoder; ``fault`` names the wrong line."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.embed, self.mix = fault, nn.Linear(3, 8), nn.Linear(6, 6)
        self.token, self.head = nn.Parameter(torch.randn(8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(x.shape[:2]).argsort(1) < 4
        tokens = self.embed(x)
        mean = tokens.mean(1, keepdim=True) if self.fault == "mean" else 0
        tokens = torch.where(hidden[..., None], self.token, tokens) + mean
        return self.head(self.mix(tokens.mT).mT.tanh()), hidden


def masked(fault: str = "") -> Built:
    torch.manual_seed(0)
    model = Masked(fault)
    optimizer = torch.optim.AdamW(model.head.parameters() if fault == "optimizer" else model.parameters(), lr=1e-2)

    def step(x: Tensor) -> float:
        prediction, hidden = model(x)
        error = (prediction - x).square().mean(-1)
        loss = error.mean() if fault == "everywhere" else error[~hidden if fault == "polarity" else hidden].mean()
        if fault == "log":
            loss = loss.log() + (loss - loss.detach() - 1).log()
        optimizer.zero_grad()
        loss.backward()
        if fault == "cleared":
            optimizer.zero_grad()
        optimizer.step()
        return loss.item()

    return step, torch.randn(3, 6, 3)


def student_and_teacher(fault: str = "") -> Built:
    torch.manual_seed(0)
    student, predictor = nn.Linear(4, 4), nn.Linear(4, 4)
    teacher = copy.deepcopy(student).requires_grad_(fault == "gradient")
    with torch.no_grad():
        teacher.weight.add_(0.1)
    optimizer = torch.optim.SGD([*student.parameters(), *predictor.parameters()], lr=0.1)

    def average() -> None:
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                if fault != "bias forgotten" or t.dim() == 2:
                    t.mul_(0.9).add_(s, alpha=0.1)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        with torch.set_grad_enabled(fault == "gradient"):
            target = teacher(batch[1])
        loss = (predictor(student(batch[0])) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if fault == "stale":
            average()
        optimizer.step()
        if fault != "stale":
            average()

    return step, (torch.randn(5, 4), torch.randn(5, 4))


def refuted(report: WatchReport) -> set[str]:
    return {finding.contract.name for finding in report.refuted}


def test_a_correct_masked_step_is_proved() -> None:
    step, x = masked()
    report = vp.watch(step, x)
    assert not report.failures(), str(report)
    (source,) = report.sources
    assert source.path == "batch" and source.grid == (6,) and source.followed
    assert torch.equal(source.seen, ~source.scored) and source.scored.sum(1).tolist() == [4, 4, 4]
    assert report.verdict(vp.Contract.C1) is Verdict.PROVED
    assert {m.path for m in report.modules if m.role is Role.TRAINED} >= {"model.embed", "model.head"}
    (loss,) = report.losses
    assert __file__.endswith(loss.place.rsplit(":", 1)[0]) and not loss.place.startswith("/") and "batch" in loss.reads


@pytest.mark.parametrize(
    ("fault", "contract"), [("mean", "C1"), ("polarity", "C1"), ("everywhere", "C1"), ("cleared", "C6"), ("log", "C9")]
)
def test_a_fault_of_a_masked_step_is_refuted(fault: str, contract: str) -> None:
    report = vp.watch(*masked(fault))
    assert contract in refuted(report), str(report)


def test_a_module_whose_constructor_raised_is_passed_over() -> None:
    half_made = nn.Linear.__new__(nn.Linear)
    assert vp.watch(*masked()).verdict(vp.Contract.C1) is Verdict.PROVED and type(half_made) is nn.Linear


def test_a_leak_comes_with_two_batches_that_show_it() -> None:
    step, x = masked("mean")
    (finding,) = [f for f in vp.watch(step, x).refuted if f.contract is vp.Contract.C1]
    assert finding.witness is not None
    one, other = finding.witness.inputs["one"], finding.witness.inputs["other"]
    sample, group = finding.witness.coordinates["hidden"]
    different = (one != other).any(-1)
    assert different.nonzero().tolist() == [[sample, group]]


def test_an_average_is_read_off_with_its_momentum() -> None:
    report = vp.watch(*student_and_teacher())
    (teacher,) = [m for m in report.modules if m.role is Role.TEACHER]
    assert (teacher.path, teacher.of) == ("teacher", "student")
    assert teacher.momentum == pytest.approx(0.9, abs=1e-4)
    assert not report.refuted, str(report)


@pytest.mark.parametrize("fault", ["stale", "gradient", "bias forgotten"])
def test_a_fault_of_a_teacher_is_refuted(fault: str) -> None:
    report = vp.watch(*student_and_teacher(fault))
    assert "C6" in refuted(report), str(report)


def test_nothing_is_left_behind() -> None:
    torch.manual_seed(0)
    model, queue = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), [torch.zeros(1)]
    optimizer = torch.optim.Adam(model.parameters())

    def step(x: Tensor) -> None:
        queue.append(x.mean())
        x.add_(torch.rand(()))
        model.eval() if len(queue) > 2 else model.train()
        model(x).square().mean().backward()
        optimizer.step()

    x = torch.randn(4, 3)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), x, model.training))
    generators, backward = GeneratorStates.now(), torch.autograd.backward
    vp.watch(step, x)
    after = (model.state_dict(), optimizer.state_dict(), x, model.training)
    assert all(torch.equal(a, b) for a, b in zip(before[0].values(), after[0].values(), strict=True))
    assert before[1] == after[1] and torch.equal(before[2], x) and before[3] is model.training
    # Beartype, which checks the package's types in tests only, draws from Python's generator itself.
    assert replace(GeneratorStates.now(), python=generators.python) == generators and len(queue) == 1
    assert torch.autograd.backward is backward and all(p.grad is None for p in model.parameters())


def test_a_step_that_raises_is_unknown_with_the_place() -> None:
    def step(x: Tensor) -> None:
        raise RuntimeError("no such thing")

    report = vp.watch(step, torch.randn(2, 3))
    assert report.verdict() is Verdict.UNKNOWN and not report.refuted
    assert "RuntimeError: no such thing" in str(report) and "test_watch_engine.py" in str(report)


def test_a_step_that_differs_from_run_to_run_is_unknown() -> None:
    step, x = masked()
    import time

    report = vp.watch(lambda batch: step(batch * (1 + time.perf_counter() % 1)), x)
    assert report.verdict(vp.Contract.C8) is Verdict.UNKNOWN and not report.refuted


@pytest.mark.parametrize("steps", [1, 3])
def test_recording_a_loop_changes_nothing_of_it(steps: int) -> None:
    def run(watching: bool) -> tuple[list[float], Any]:
        step, _ = masked("mean")
        torch.manual_seed(1)
        loader = DataLoader(torch.randn(3 * steps, 6, 3), batch_size=3)
        counted: list[int] = []
        if not watching:
            return [step(x) for x in loader], None
        with vp.watch.recording(on_step=counted.append) as seen:
            losses = [step(x) for x in loader]
        assert seen.steps == steps and counted == [*range(1, steps + 1)]
        return losses, seen.report

    plain, (losses, report) = run(False)[0], run(True)
    assert losses == plain
    assert report is not None and "C1" in refuted(report), str(report)


def test_hooks_are_gone_after_an_exception() -> None:
    iterate = DataLoader.__iter__
    with pytest.raises(KeyError), vp.watch.recording():
        raise KeyError("of the loop")
    assert DataLoader.__iter__ is iterate and "viewproof.watch.session" in sys.modules


def elementwise(kind: str, bug: bool = False) -> Built:
    """Steps whose elements are seen by some predictions and asked of others."""
    torch.manual_seed(0)
    if kind == "autoregressive":
        # A causal convolution over a series predicts each element from those before it.
        conv, out = nn.Conv1d(2, 8, 3), nn.Conv1d(8, 2, 1)
        model = nn.ModuleList([conv, out])

        def loss_of(x: Tensor) -> Tensor:
            before = nn.functional.pad(x.mT, (3, 0))[..., :-1]
            return (out(conv(before).relu()).mT - x).square().mean()
    else:
        # A forecast of a series normalised by its context, or if wrong by all of it.
        model = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 4)])

        def loss_of(x: Tensor) -> Tensor:
            of = x if bug else x[:, :6]
            z = (x - of.mean(1, keepdim=True)) / of.std(1, keepdim=True)
            error = model[1](model[0](z[:, :6]).relu()) - z[:, 6:]
            return error.abs().mean() if "signs" in kind else error.square().mean()

    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(x: Tensor) -> None:
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, torch.randn(3, 10, 2) if kind == "autoregressive" else torch.randn(3, 10)


@pytest.mark.parametrize("kind", ["autoregressive", "normalised by the context", "normalised, signs"])
def test_what_one_element_reads_may_be_asked_of_another(kind: str) -> None:
    report = vp.watch(*elementwise(kind))
    assert not report.refuted, str(report)
    assert report.verdict(vp.Contract.C1) is Verdict.UNKNOWN and "normalises" in str(report)


def test_statistics_of_what_is_asked_for_are_no_autoencoder() -> None:
    report = vp.watch(*elementwise("normalised", bug=True))
    assert report.verdict(vp.Contract.C1) is Verdict.UNKNOWN, str(report)


def test_gradients_that_earlier_steps_left_in_other_models_are_not_of_this_step() -> None:
    other = nn.Linear(3, 3)
    other(torch.randn(2, 3)).sum().backward()
    assert other.weight.grad is not None
    step, batch = masked()
    report = vp.watch(step, batch)
    assert "no optimizer has them" not in str(report), str(report)

    def astray(x: Tensor) -> float:
        other(x).sum().backward()  # adds to the gradient that is there
        return float(step(x))

    assert "no optimizer has" in str(vp.watch(astray, batch))


class Fill(nn.Module):
    """Predicts frames of which the hidden ones are 0; ``leaks`` reads them by ``x.data``."""

    def __init__(self, leaks: bool) -> None:
        super().__init__()
        self.leaks, self.embed, self.mix = leaks, nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        content = x.data if self.leaks else x.masked_fill(hidden[..., None], 0)
        out: Tensor = self.mix(self.embed(content).tanh())
        return out


@pytest.mark.parametrize("leaks", [False, True])
def test_a_batch_that_is_fetched_ahead_is_followed_in_its_own_step(leaks: bool) -> None:
    """The step between fetch and use clips, steps and draws; calls are numbered from where the batch is used."""
    torch.manual_seed(0)
    model = Fill(leaks)
    optimizer = torch.optim.AdamW(model.parameters())
    with vp.watch.recording() as seen:
        batches = iter(DataLoader(torch.randn(20, 6, 4), batch_size=4))
        batch = next(batches)
        for following in batches:
            hidden = torch.rand(4, 6).argsort(1) < 3
            optimizer.zero_grad()
            (model(batch, hidden) - batch)[hidden].square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            batch = following
    assert seen.report is not None
    (found,) = [f for f in seen.report.findings if f.claim.startswith("no scored group")]
    assert found.verdict is (Verdict.REFUTED if leaks else Verdict.PROVED), str(seen.report)


@pytest.mark.parametrize(
    ("overlap", "other_use", "verdict"),
    [(0, False, Verdict.PROVED), (1, False, Verdict.REFUTED), (0, True, Verdict.UNKNOWN)],
)
def test_masks_that_a_collator_drew_as_indices_are_no_content(overlap: int, other_use: bool, verdict: Verdict) -> None:
    """Their names say nothing here: that they only pick among the tokens shows what they are."""
    torch.manual_seed(0)
    encoder, query, head = nn.Linear(5, 8), nn.Parameter(torch.randn(9, 8)), nn.Linear(8, 5)
    place = nn.Embedding(9, 8)
    optimizer = torch.optim.AdamW([*encoder.parameters(), query, *place.parameters(), *head.parameters()])

    def pick(tokens: Tensor, index: Tensor) -> Tensor:
        return tokens.gather(1, index[..., None].repeat(1, 1, tokens.shape[2]))

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        x, shown, hidden = batch
        tokens = (
            encoder(pick(x, shown)).mean(1, keepdim=True) + place(hidden) + pick(query.expand(len(x), -1, -1), hidden)
        )
        if other_use:
            tokens = tokens + hidden.sum(1)[:, None, None] / 100
        optimizer.zero_grad()
        (head(tokens.tanh()) - pick(x, hidden)).square().mean().backward()
        optimizer.step()

    drawn = torch.stack([torch.randperm(9) for _ in range(3)])
    report = vp.watch(step, (torch.randn(3, 9, 5), drawn[:, : 4 + overlap], drawn[:, 4:]))
    assert report.verdict(vp.Contract.C1) is verdict, str(report)
    assert ("batch[2]" in [source.path for source in report.sources]) is other_use
    if verdict is Verdict.PROVED:
        # How they were drawn is not followed: they may depend on what they hide.
        (finding,) = (f for f in report.findings if f.contract is vp.Contract.C1)
        assert "batch[1] and batch[2] beside it as it is" in finding.scope
