"""The callbacks of Lightning and of Hugging Face, and the pytest plugin, on tiny models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks as post_hooks
from torch.optim.optimizer import _global_optimizer_pre_hooks as pre_hooks
from torch.utils.data import DataLoader, Dataset

from viewproof.watch.lightning_callback import LightningCallback

ROOT = Path(__file__).parents[2]
ITERATE = DataLoader.__iter__


class Broken(Exception):
    """Raised by a model at a chosen step."""


class Autoencoder(pytorch_lightning.LightningModule):
    def __init__(self, breaks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.breaks, self.losses = nn.Linear(4, 4), breaks, []

    def training_step(self, batch, index):
        if index == self.breaks:
            raise Broken
        loss = (self.layer(batch) - batch).square().mean() + 0 * torch.rand(())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.1)


def fit(callbacks, breaks, folder):
    model = Autoencoder(breaks)
    loader = DataLoader(torch.rand(12, 4), batch_size=2, shuffle=True)
    trainer = pytorch_lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=folder,
    )
    if 0 <= breaks < 6:
        with pytest.raises(Broken):
            trainer.fit(model, loader)
    else:
        trainer.fit(model, loader)
    return [*model.losses, torch.rand(()).item()], [*model.parameters()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("breaks", [0, 4, 9])
def test_a_lightning_run_is_reported_on_and_not_changed(breaks, tmp_path, capsys):
    watcher, reports = LightningCallback(json=tmp_path / "out.json"), []
    later = pytorch_lightning.callbacks.LambdaCallback(on_train_batch_end=lambda *_: reports.append(watcher.report))
    torch.manual_seed(1)
    plain = fit([], breaks, tmp_path)
    torch.manual_seed(1)
    watched = fit([watcher, later], breaks, tmp_path)
    assert plain[0] == watched[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], watched[1], strict=True))
    assert not post_hooks and not pre_hooks and DataLoader.__iter__ is ITERATE
    out, err = capsys.readouterr()
    assert "C1" not in out
    if breaks == 0:
        assert watcher.report is None
        return
    assert reports[0] is None and reports[1] is watcher.report and (tmp_path / "out.json").exists()
    assert watcher.report.subject == "Autoencoder in trainer.fit" and str(watcher.report) in err
    assert "no DataLoader gave a batch" not in err


class Rows(Dataset):
    def __init__(self) -> None:
        self.rows = torch.rand(12, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"rows": self.rows[index]}


class Model(nn.Module):
    def __init__(self, breaks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.breaks, self.losses = nn.Linear(4, 4), breaks, []

    def forward(self, rows):
        if len(self.losses) == self.breaks:
            raise Broken
        prediction = self.layer(rows)
        loss = (prediction - rows).square().mean()
        self.losses.append(loss.item())
        return {"loss": loss, "prediction": prediction}


def train(callbacks, breaks, folder):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = Model(breaks)
    settings = transformers.TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    trainer = transformers.Trainer(model=model, args=settings, train_dataset=Rows(), callbacks=callbacks)
    if 0 <= breaks < 6:
        with pytest.raises(Broken):
            trainer.train()
    else:
        trainer.train()
    return [*model.losses, torch.rand(()).item()], [*model.parameters()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("breaks", [0, 4, 9])
def test_a_hugging_face_run_is_reported_on_and_not_changed(breaks, tmp_path, capsys):
    pytest.importorskip("accelerate")
    from viewproof.watch.trainer_callback import TrainerCallback

    watcher = TrainerCallback(json=tmp_path / "out.json")
    plain, watched = train([], breaks, tmp_path), train([watcher], breaks, tmp_path)
    assert plain[0] == watched[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], watched[1], strict=True))
    if breaks == 0:
        watcher.stop()
    assert not post_hooks and not pre_hooks and DataLoader.__iter__ is ITERATE
    if breaks == 0:
        assert watcher.report is None
        return
    assert watcher.report.subject == "Model in Trainer.train" and (tmp_path / "out.json").exists()
    assert str(watcher.report) in capsys.readouterr().err


PLUGIN_TEST = """
import pytest, torch
from torch import nn
import viewproof as vp

def steps(slope):
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step(batch):
        visible = torch.tensor([1.0, 1.0, 0.0, 0.0])
        prediction = model(batch * (visible + slope))
        loss = (prediction - batch)[:, 2:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return step

def test_correct(watch):
    assert watch(steps(0.0), torch.rand(3, 4)).findings

def test_leak(watch):
    watch(steps(1.0), torch.rand(3, 4))

def test_waived(watch):
    watch(steps(1.0), torch.rand(3, 4), allow={"C1": "an autoencoder is meant"})

RULE = vp.PatchMask(4, 4, period=3, offset=1)
IMAGES = torch.rand(2, 3, 8, 12)

def leaking(x):
    return x, x, RULE.mask((3, 8, 12))

def test_view(certify):
    assert certify(RULE.sample, IMAGES, RULE).findings

def test_leaking_view(certify):
    certify(leaking, IMAGES, RULE)

def test_overflow(certify, monkeypatch):
    from viewproof.certify.check import Check
    check = Check(vp.Contract.C9, "float16 does not overflow")
    findings = Check(vp.Contract.C4, "right").proved(), check.refuted("inf", {}, severity=vp.Severity.ROBUSTNESS)
    monkeypatch.setattr("viewproof.certify.pipeline.certify", lambda *_, **__: vp.Report("a loss", findings))
    certify(RULE.sample, IMAGES)
"""


def run_plugin(folder, *words):
    (folder / "test_mine.py").write_text(PLUGIN_TEST)
    command = [sys.executable, "-m", "pytest", "-p", "pytest_viewproof", "-p", "no:cacheprovider", "-rA", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line.split() for line in process.stdout.splitlines()]
    outcomes = {line[1].split("::test_")[1]: line[0] for line in lines if "test_mine.py::" in "".join(line[1:2])}
    return process, outcomes


def test_the_plugin_fails_what_leaks_and_counts(tmp_path):
    process, outcomes = run_plugin(tmp_path)
    failed = {name for name, outcome in outcomes.items() if outcome == "FAILED"}
    assert failed == {"leak", "leaking_view"} and len(outcomes) == 6, process.stdout + process.stderr
    assert process.returncode == 1 and "REFUTED  C1" in process.stdout and "viewproof: 6 reports: " in process.stdout


def test_what_is_not_robust_fails_with_strict(tmp_path):
    process, outcomes = run_plugin(tmp_path, "--viewproof-strict", "-k", "view or overflow")
    assert outcomes == {"view": "PASSED", "leaking_view": "FAILED", "overflow": "FAILED"}, process.stdout
    # What is not a test of an objective gets no line.
    process, outcomes = run_plugin(tmp_path, "-k", "nothing")
    assert not outcomes and "viewproof:" not in process.stdout.replace(str(tmp_path), "")
