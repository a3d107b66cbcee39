"""A run that is killed (SIGKILL, no clean-up) and resumed is the straight run: weights, optimizer, order, metrics."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from viewproof.cli import main
from viewproof.methods.mae import MaskedPretraining
from viewproof.runs import train
from viewproof.training.base import JointPretraining

# 45 training samples: 5 steps an epoch, 20 steps.
SMALL = "--batch-size 8 --epochs 4 --dim 16 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2"
SMALL += " --projector-dim 12 --threads 1 --accelerator cpu"
METHODS = {
    "mae": "--method mae --mask RandomPatchMask(2,2,10)",
    "ijepa": "--method ijepa --patch-size 2 --momentum 0.9",
    "vicreg": "--method vicreg",
    "parts": "--method ijepa --patch-size 2 --momentum 0.9 --accumulate 2",
    "steps": "--method mae --mask RandomPatchMask(2,2,10) --epochs-in-place --steps 13",
}
# Where it dies: after a step, or amid the writing of its n-th checkpoint; and the step that it is resumed from.
CASES = {
    "mae, epoch's end": ("mae", "", "step 7", 5),
    "mae, epoch's end, 2 workers": ("mae", "--workers 2", "step 7", 5),
    "mae, mid-epoch": ("mae", "--checkpoint-every 2", "step 9", 8),
    "mae, mid-epoch, 2 workers": ("mae", "--checkpoint-every 2 --workers 2", "step 9", 8),
    "mae, amid a write": ("mae", "--checkpoint-every 4", "write 4", 8),
    "mae, amid the write at an epoch's end": ("mae", "", "write 3", 10),
    "mae, ends mid-epoch": ("steps", "--checkpoint-every 3", "step 13", 12),
    "ijepa, mid-epoch": ("ijepa", "--checkpoint-every 2", "step 9", 8),
    "ijepa, mid-epoch, 2 workers": ("ijepa", "--checkpoint-every 2 --workers 2", "step 9", 8),
    "ijepa, epoch's end, 2 workers": ("ijepa", "--workers 2", "step 12", 10),
    "ijepa, in parts": ("parts", "--checkpoint-every 3", "step 13", 12),
    "vicreg, mid-epoch": ("vicreg", "--checkpoint-every 3", "step 13", 12),
    "vicreg, mid-epoch, 2 workers": ("vicreg", "--checkpoint-every 3 --workers 2", "step 13", 12),
}
# One interpreter forks a process a run, and sees each of them die.
KILLED = """
import json, os, signal, sys, torch
from viewproof.cli import main
from viewproof.training.callbacks import MetricsFile

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def run(words, kind, number):
    if kind == "step":
        row = MetricsFile.on_train_batch_end
        def then_die(self, trainer, *rest):
            row(self, trainer, *rest)
            if trainer.global_step == number:
                die()
        MetricsFile.on_train_batch_end = then_die
    else:
        whole, written = torch.save, []
        def half(checkpoint, file):
            written.append(0)
            whole(checkpoint, file)
            if len(written) == number:
                file.file.truncate(file.file.tell() // 2)
                file.flush()
                die()
        torch.save = half
    main(words)

for words, kind, number in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        run(words, kind, number)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (words, status)
"""


def words(data: Path, method: str, *more: str) -> list[str]:
    given = f"{SMALL} {METHODS[method]}".split()
    if "--epochs-in-place" in given:
        given.remove("--epochs-in-place")
        at = given.index("--epochs")
        del given[at : at + 2]
    return ["pretrain", str(data), *given, *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and every killed run's folder."""
    folder = tmp_path_factory.mktemp("resume")
    data = folder / "images.npy"
    np.save(data, np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32))
    jobs = []
    for number, (method, options, death, _) in enumerate(CASES.values()):
        kind, at = death.split()
        jobs.append((words(data, method, *options.split(), "--out", str(folder / f"killed{number}")), kind, int(at)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(jobs)], env=environment, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


class Seen:
    """What the training steps of this process were given: the ids of each batch, and what was hidden."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[int, list[int], Tensor | None]] = []
        for kind in (JointPretraining, MaskedPretraining):
            monkeypatch.setattr(kind, "training_step", self.watched(kind.training_step))
        monkeypatch.setattr(train, "finish", lambda run, say: 0)

    def watched(self, step: Any) -> Any:
        def training_step(module: Any, batch: Any, batch_idx: int) -> Tensor:
            hidden = None
            if isinstance(module, MaskedPretraining):
                view = module.sample(batch, module.global_step, module.current_epoch).view
                hidden = None if view is None else view.hidden
            self.steps.append((module.global_step, batch[1].tolist(), hidden))
            loss: Tensor = step(module, batch, batch_idx)
            return loss

        return training_step


def same(a: Any, b: Any) -> bool:
    """Equal, tensors bit for bit."""
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def checkpoint(run: Path) -> Any:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def metrics(run: Path) -> list[dict[str, str]]:
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return [{name: value for name, value in zip(header, row, strict=True) if "per_second" not in name} for row in rows]


@pytest.fixture(scope="module")
def straight(folder: Path) -> Iterator[dict[str, Any]]:
    """The straight run of each method, made when it is first asked for."""
    known: dict[str, Any] = {}

    def of(method: str) -> Any:
        if method not in known:
            with pytest.MonkeyPatch.context() as patch:
                seen = Seen(patch)
                assert main(words(folder / "images.npy", method, "--out", str(folder / method))) == 0
            known[method] = seen.steps
        return known[method]

    yield {"of": of}


@pytest.mark.parametrize("number", range(len(CASES)), ids=list(CASES))
def test_a_killed_run_resumes_to_the_straight_run(
    number: int, folder: Path, straight: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, _, death, step = list(CASES.values())[number]
    run = folder / f"killed{number}"
    expected = straight["of"](method)
    assert checkpoint(run)["global_step"] == step and not (run / "model.safetensors").exists()
    assert any((run / "checkpoints").glob(".*.part")) == death.startswith("write")
    seen = Seen(monkeypatch)
    assert main(["pretrain", "--resume", str(run)]) == 0
    assert same(seen.steps, [given for given in expected if given[0] >= step]) and seen.steps
    assert not any(run.rglob("*.part"))
    ours, theirs = checkpoint(run), checkpoint(folder / method)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(ours[part], theirs[part]), part
    assert metrics(run) == metrics(folder / method)


def test_the_straight_runs_are_what_they_should_be(folder: Path, straight: Any) -> None:
    """Steps, epochs and masks differ from one another, so that another order would be seen."""
    steps = straight["of"]("mae")
    assert [step for step, *_ in steps] == list(range(20))
    epochs = [[i for _, ids, _ in steps[5 * e : 5 * e + 5] for i in ids] for e in range(4)]
    assert all(len(set(ids)) == 40 for ids in epochs) and len({tuple(ids) for ids in epochs}) == 4
    assert [step for step, *_ in straight["of"]("parts")] == [k // 2 for k in range(40)]
    assert [step for step, *_ in straight["of"]("steps")] == list(range(13))
    rows = [int(row["step"]) for row in metrics(folder / "mae")]
    assert rows == [2, 4, 5, 6, 8, 10, 10, 12, 14, 15, 16, 18, 20, 20]  # every second step, and after each epoch


def test_a_run_killed_before_its_first_checkpoint_says_so(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(folder / "killed0" / "config.json", tmp_path / "config.json")
    assert main(["pretrain", "--resume", str(tmp_path)]) == 2
    assert "stopped before its first one" in capsys.readouterr().err
