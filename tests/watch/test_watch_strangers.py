"""Steps as people write them: no loader, a loss that is printed, a gradient scaler, a compiled model."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import viewproof as vp
from viewproof.watch.report import WatchReport

IMAGES = torch.randn(24, 16, 4, generator=torch.Generator().manual_seed(0))


class Masked(nn.Module):
    """A masked model that mixes its tokens; with ``leak`` it reads what it is asked for."""

    def __init__(self, leak: bool) -> None:
        super().__init__()
        self.leak, self.embed, self.mix, self.head = leak, nn.Linear(4, 8), nn.Linear(16, 16), nn.Linear(8, 4)

    def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x if self.leak else torch.where(hidden[..., None], 0.0, x)
        out: Tensor = self.head(self.mix(x.mT).mT.relu())
        return out


def train(model: nn.Module, batches: Any, scaler: Any = None, log: bool = False) -> None:
    """Three steps; the target is the very tensor that the model takes."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x in batches:
        x = x[0] if isinstance(x, list) else x
        hidden = torch.rand(x.shape[:2]) < 0.5
        loss = ((model(x, hidden) - x).square().mean(-1) * hidden).sum() / hidden.sum()
        if log and not math.isfinite(loss.item()):
            sys.exit(1)
        optimizer.zero_grad()
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()


def leaks(report: WatchReport | None) -> str:
    assert report is not None
    return next(f.verdict for f in report.findings if f.contract.name == "C1")


@pytest.mark.parametrize(("leak", "verdict"), [(False, "PROVED"), (True, "REFUTED")])
@pytest.mark.parametrize("how", ["no loader", "printed", "scaled", "compiled"])
def test_a_loop_is_read_off(how: str, leak: bool, verdict: str) -> None:
    torch.manual_seed(0)
    model: Any = Masked(leak)
    batches = IMAGES.split(8) if how == "no loader" else DataLoader(TensorDataset(IMAGES), 8)
    scaler = torch.amp.GradScaler("cpu") if how == "scaled" else None
    if how == "compiled":
        model = torch.compile(model, backend="eager")
    with vp.watch.recording() as seen:
        train(model, batches, scaler, log=how == "printed")
    assert leaks(seen.report) == verdict, seen.report
    assert seen.report is not None and (how != "no loader" or 'batch["tokens"]' in str(seen.report.sources))


def test_a_loop_without_loader_goes_on_as_if_it_was_not_watched() -> None:
    weights = []
    for watched in (True, False):
        torch.manual_seed(0)
        model = Masked(False)
        if watched:
            with vp.watch.recording():
                train(model, IMAGES.split(8))
        else:
            train(model, IMAGES.split(8))
        weights.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*weights)


@pytest.mark.parametrize(("number", "leak", "verdict"), [
    ("loss", False, "PROVED"), ("loss", True, "REFUTED"), ("scaled", False, "PROVED"), ("mean", False, "UNKNOWN"),
])  # fmt: skip
def test_a_loss_that_is_read_between_micro_batches_is_taken_to_stay(number: str, leak: bool, verdict: str) -> None:
    torch.manual_seed(0)
    model = Masked(leak)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(x: Tensor) -> None:
        total = 0.0
        for part in x.split(4):
            hidden = torch.arange(16).expand(len(part), 16) % 3 == 0
            loss = (model(part, hidden) - part)[hidden].square().mean()
            (loss / 2).backward() if number == "scaled" else loss.backward()
            total += part[hidden].mean().item() if number == "mean" else loss.item()
        optimizer.step()
        optimizer.zero_grad()

    report = vp.watch(step, IMAGES[:8])
    assert leaks(report) == verdict, report
    assert ("staying as it is" in str(report)) == (verdict == "PROVED"), report


def test_an_average_in_the_wrong_direction_for_evaluation_is_asked_about() -> None:
    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        (model(x) - x).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for e, p in zip(average.parameters(), model.parameters(), strict=True):
                _ = p.lerp_(e, 0.01) if exchanged else e.lerp_(p, 0.01)

    for exchanged in (True, False):
        torch.manual_seed(0)
        model, average = nn.Linear(4, 4), nn.Linear(4, 4).requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        report = vp.watch(step, torch.randn(6, 4))
        assert not report.refuted and ("exchanged?" in str(report)) == exchanged, report


def test_what_leaves_torch_before_a_prediction_is_not_followed() -> None:
    class Scaled(Masked):
        def forward(self, tokens: Tensor, hidden: Tensor) -> Tensor:
            return super().forward(tokens, hidden) * tokens[hidden].mean().item()

    torch.manual_seed(0)
    with vp.watch.recording() as seen:
        train(Scaled(False), DataLoader(TensorDataset(IMAGES), 8))
    assert leaks(seen.report) in ("UNKNOWN", "REFUTED")


def test_parts_that_were_made_before_the_first_module_may_hold_each_other() -> None:
    class Two(Masked):
        def forward(self, masked: Tensor, tokens: Tensor) -> Tensor:
            out: Tensor = self.head(self.mix(self.embed(masked).mT).mT.relu()) + 0 * tokens
            return out

    torch.manual_seed(0)
    model, optimizer = Two(True), None
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with vp.watch.recording() as seen:
        for x in IMAGES.split(8):
            hidden = torch.rand(x.shape[:2]) < 0.5
            # The copy hides nothing: a leak that no dependence on ``tokens`` shows.
            loss = ((model(x.clone(), x) - x).square().mean(-1) * hidden).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert leaks(seen.report) in ("UNKNOWN", "REFUTED")


@pytest.mark.parametrize(("hides", "verdict"), [(True, "PROVED"), (False, "UNKNOWN")])
def test_a_collator_that_hands_out_a_masked_copy_and_the_original(hides: bool, verdict: str) -> None:
    def collate(images: list[Tensor]) -> dict[str, Tensor]:
        x = torch.stack(images)
        hidden = torch.rand(x.shape[:2]) < 0.5
        return {"masked": torch.where(hidden[..., None], 0.0, x) if hides else x.clone(), "image": x, "hidden": hidden}

    torch.manual_seed(0)
    model = Masked(True)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with vp.watch.recording() as seen:
        for batch in DataLoader(IMAGES, 8, collate_fn=collate):
            out = model(batch["masked"], batch["hidden"])
            loss = ((out - batch["image"]).square().mean(-1) * batch["hidden"]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert leaks(seen.report) == verdict, seen.report


@pytest.mark.parametrize("way", ["a number a sample", "added afterwards"])
def test_what_was_made_of_the_data_before_the_first_module_leaves_it_open(way: str) -> None:
    class Told(Masked):
        def forward(self, tokens: Tensor, hidden: Tensor, mean: Tensor) -> Tensor:
            out: Tensor = super().forward(tokens, hidden)
            return out + mean[:, None, None] if way == "a number a sample" else out

    torch.manual_seed(0)
    model = Told(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with vp.watch.recording() as seen:
        for x in IMAGES.split(8):
            hidden, mean = torch.rand(x.shape[:2]) < 0.5, x.mean((1, 2))
            told = mean if way == "a number a sample" else torch.zeros(8)
            out = model(x, hidden, told)
            out = out if way == "a number a sample" else out + mean[:, None, None]
            loss = ((out - x).square().mean(-1) * hidden).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert leaks(seen.report) in ("UNKNOWN", "REFUTED"), seen.report


def test_a_program_without_modules_is_told_so() -> None:
    weight = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.1)
    with vp.watch.recording() as seen:
        for _ in range(3):
            optimizer.zero_grad()
            (weight - 1).square().sum().backward()
            optimizer.step()
    assert seen.report is not None and "no module was called" in seen.report.findings[0].detail
