"""What the tests of several methods share: a run that is stopped and resumed, and the branch of an EMA teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from viewproof.certify.target import TargetBranch
from viewproof.cli import main
from viewproof.runs import train
from viewproof.training.base import JointPretraining
from viewproof.training.ema import move_target
from viewproof.training.taught import TaughtPretraining


def check_resumed(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Run ``a`` goes through; run ``b`` is interrupted at this epoch, and ends with the same weights."""
    assert main([*words, "--out", str(folder / "a")]) == 0
    with monkeypatch.context() as patch:

        def stop(module: JointPretraining) -> None:
            if module.current_epoch == epoch:
                raise KeyboardInterrupt

        patch.setattr(JointPretraining, "on_train_epoch_start", stop)
        assert main([*words, "--out", str(folder / "b")]) == 130
    with monkeypatch.context() as patch:
        # What the weights are worth is measured in run a; they are the same.
        patch.setattr(train, "report", lambda run, say: 0)
        assert main(["pretrain", "--resume", str(folder / "b")]) == 0
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def branch_of(trained: TaughtPretraining, ids: Tensor, also: Sequence[Any], share: float = 1.0) -> TargetBranch:
    """The branch of a teacher; ``also`` is trained beside the student, and the momentum is off by ``share``."""
    student, teacher = trained.student(), trained.teacher()
    assert isinstance(teacher, nn.Module)
    optimizer = torch.optim.SGD([p for p in trained.model.parameters() if p.requires_grad], lr=0.1)

    def update(at: int) -> None:
        move_target(teacher, student, share * trained.momentum(at))

    def step(batches: Sequence[Tensor]) -> None:
        optimizer.zero_grad()
        for x in batches:
            (trained.objective(x, ids, 0, 0) / len(batches)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        update(0)

    return TargetBranch(
        lambda x: trained.objective(x, ids, 0, 0),
        student,
        teacher,
        update=update,
        momentum=trained.momentum,
        step=step,
        trained=[student, *also],
        frozen=[teacher],
        stateful=[optimizer],
    )
