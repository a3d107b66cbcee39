"""What an optimizer has and does not train is asked about, part by part; a watched step leaves files alone."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.verdict import Verdict

Built = tuple[Callable[[Any], Any], Any]


class Pair(nn.Module):
    """An encoder and a decoder of frames in one class; ``detached`` cuts the gradient between them."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.detached, self.encoder, self.decoder = detached, nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.encoder(x).tanh()
        out: Tensor = self.decoder(hidden.detach() if self.detached else hidden)
        return out


def pair(fault: str) -> Built:
    torch.manual_seed(0)
    model = Pair(fault == "detached")
    rate = 0.0 if fault == "rate" else 0.1
    groups: list[Any] = [
        {"params": model.encoder.parameters(), "lr": rate}, {"params": model.decoder.parameters()}
    ]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.1)

    def step(x: Tensor) -> None:
        loss = (model(x[:, :3]) - x[:, 3:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        if fault == "erased":
            model.encoder.zero_grad()
        optimizer.step()
        if fault == "written back":
            model.encoder.load_state_dict(before)

    return step, torch.randn(5, 6, 4)


@pytest.mark.parametrize("fault", ["", "detached", "erased", "rate", "written back"])
def test_a_part_that_is_not_trained_is_named(fault: str) -> None:
    report = vp.watch(*pair(fault))
    (found,) = [f for f in report.findings if f.claim.startswith("what is trained")]
    assert found.verdict is (Verdict.UNKNOWN if fault else Verdict.PROVED), str(report)
    assert ("`model.encoder`" in str(report)) is bool(fault), str(report)


def test_modules_without_values_that_live_beside_it_do_not_matter() -> None:
    beside = nn.Linear(2, 2, device="meta")
    report = vp.watch(*pair(""))
    assert beside and report.losses and not report.failures(), str(report)


def test_a_teacher_in_the_optimizer_is_asked_about() -> None:
    torch.manual_seed(0)
    student, teacher, predictor = (nn.Linear(4, 4) for _ in range(3))
    optimizer = torch.optim.SGD([*student.parameters(), *predictor.parameters(), *teacher.parameters()], lr=0.1)

    def step(batch: tuple[Tensor, Tensor]) -> None:
        loss = (predictor(student(batch[0])) - teacher(batch[1])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.lerp_(s, 0.1)

    report = vp.watch(step, (torch.randn(5, 4), torch.randn(5, 4)))
    assert "`teacher` is trained by an optimizer and written to after its step" in str(report)


def test_a_step_that_saves_and_removes_files_leaves_them(tmp_path: Path) -> None:
    weights, notes = tmp_path / "weights.pt", tmp_path / "notes.txt"
    weights.write_bytes(b"w" * 5000)
    notes.write_text("kept")
    step, x = pair("")

    def saving(x: Tensor) -> None:
        step(x)
        torch.save(x, weights)
        notes.write_text("overwritten")
        notes.unlink()
        weights.rename(tmp_path / "moved.pt")
        os.close(os.open(tmp_path / "new", os.O_CREAT | os.O_WRONLY))

    report = vp.watch(saving, x)
    assert report.losses and not report.refuted, str(report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "weights.pt"]
    assert weights.read_bytes() == b"w" * 5000 and notes.read_text() == "kept"


def test_a_layer_that_is_frozen_at_first_and_normalised_is_no_teacher() -> None:
    torch.manual_seed(0)
    body, prototypes = nn.Linear(6, 8), nn.Linear(8, 5, bias=False)
    optimizer = torch.optim.SGD([*body.parameters(), *prototypes.parameters()], lr=0.1)

    def step(x: Tensor) -> None:
        with torch.no_grad():
            prototypes.weight.copy_(nn.functional.normalize(prototypes.weight, dim=1))
        loss = prototypes(body(x)).logsumexp(1).mean()
        optimizer.zero_grad()
        loss.backward()
        prototypes.weight.grad = None
        optimizer.step()

    found = {f.claim: f.verdict.name for f in vp.watch(step, torch.randn(4, 6)).findings}
    assert "the target encoder averages its student" not in found
    assert found["what is trained takes gradients and is moved by them"] == "UNKNOWN"
