"""Six kinds of trouble, each planted in a real run and told apart from its healthy twin."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.losses import VICRegLoss
from viewproof.methods.vicreg import VICRegMethod
from viewproof.runs import doctor, train
from viewproof.runs.doctor import Evidence, diagnose, read_evidence

SMALL = "--dim 16 --depth 1 --heads 2 --decoder-dim 16 --decoder-depth 1 --decoder-heads 2 --projector-dim 12"
SMALL += " --batch-size 40 --threads 1 --patch-size 2 --learning-rate 0.005 --warmup-epochs 0.2"


@dataclass(frozen=True)
class Halves(vp.Rule):
    """Hides the right half of the images; with ``leak`` the view shows one hidden pixel."""

    leak: bool = False

    def hidden(self, channel: torch.Tensor, row: torch.Tensor, col: torch.Tensor) -> torch.Tensor:
        return col >= col.numel() // 2

    def sample(self, x: torch.Tensor, *rest: Any, **options: Any) -> vp.Sample:
        sample = super().sample(x, *rest, **options)
        shown = sample.x.clone()
        shown[:, :, 0, -1] = x[:, :, 0, -1]
        return vp.Sample(shown, sample.y, sample.mask, sample.view) if self.leak else sample


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Images of rank 3, which can be predicted from a part of each."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("doctor") / "images.npy"
    patterns = rng.normal(size=(3, 16))
    x = rng.normal(size=(1600, 3)) @ patterns + 0.02 * rng.normal(size=(1600, 16))
    np.save(path, x.reshape(1600, 1, 4, 4).astype(np.float32))
    return str(path)


def run(images: str, out: Path, *words: str, report: bool = False) -> Path:
    flags = SMALL.split()
    chosen = {**dict(zip(flags[::2], flags[1::2], strict=True)), **dict(zip(words[::2], words[1::2], strict=True))}
    with pytest.MonkeyPatch.context() as patch:
        if not report:
            patch.setattr(train, "report", lambda run, say: 0)
            patch.setattr(train.plots, "save_figure", lambda figure, path: None)
        assert main(["pretrain", images, *(word for flag in chosen.items() for word in flag), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def healthy(images: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(images, tmp_path_factory.mktemp("healthy") / "run", "--steps", "200", report=True)


def test_a_healthy_run_is_as_expected(healthy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evidence = read_evidence(healthy)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "certify_run", lambda run: evidence.contracts)
        assert main(["doctor", str(healthy)]) == 0
    text = capsys.readouterr().out
    assert "evidence supports: as expected" in text and "cannot tell:" in text
    assert evidence.contracts is not None and not evidence.contracts.refuted
    assert min(value for _, value in evidence.curves["gradient_norm"]) > 0


def test_normalised_patches_are_not_judged_by_their_error(healthy: Path, tmp_path: Path) -> None:
    assert read(healthy).hidden_error
    shutil.copytree(healthy, tmp_path / "run")
    config = json.loads((healthy / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, "norm_pix": True}))
    assert not read(tmp_path / "run").hidden_error


def test_a_view_that_leaks_is_a_bug_and_its_twin_is_none(images: str, tmp_path: Path) -> None:
    leaky = run(images, tmp_path / "leaky", "--steps", "60", "--mask", "test_run_doctor.Halves(leak=True)")
    sound = run(images, tmp_path / "sound", "--steps", "60", "--mask", "test_run_doctor.Halves()")
    found = diagnose(read_evidence(leaky, allow_import=True))
    assert found.answer == "bug" and any(line.startswith("C1, ") for line in found.because)
    assert diagnose(read(sound)).answer in ("as expected", "too short")


def read(folder: Path) -> Evidence:
    """The evidence but for contracts, which takes longest and which these runs keep."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doctor, "certify_run", lambda run: None)
        return read_evidence(folder, allow_import=True)


def test_numbers_that_overflow_are_a_bug(images: str, tmp_path: Path) -> None:
    out = run(images, tmp_path / "run", "--steps", "40", "--learning-rate", "1e30")
    found = diagnose(read(out))
    assert found.answer == "bug" and "is not a finite number" in found.because[0]


def test_weights_that_stay_are_a_bug(images: str, tmp_path: Path) -> None:
    out = run(images, tmp_path / "run", "--steps", "40", "--learning-rate", "1e-12")
    found = diagnose(read(out))
    assert found.answer == "bug" and "no weight moved" in found.because[0] and "learning rate is 9" in found.because[0]


def test_a_collapse_is_told_from_a_run_that_keeps_its_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(1600, 1, 8, 8)).astype(np.float32))
    images, words = str(tmp_path / "x.npy"), ["--method", "vicreg", "--steps", "150", "--learning-rate", "0.002"]
    sound = run(images, tmp_path / "sound", *words)
    with monkeypatch.context() as patch:
        patch.setattr(VICRegMethod, "pair_loss", staticmethod(lambda seed: VICRegLoss(mu=0.0, nu=0.0)))
        collapsed = run(images, tmp_path / "collapsed", *words)
    found = diagnose(read(collapsed))
    assert found.answer == "collapse" and "RankMe" in found.because[0]
    assert diagnose(read(sound)).answer in ("as expected", "too short")
    with monkeypatch.context() as patch:
        patch.setattr(doctor, "certify_run", lambda run: None)
        assert main(["doctor", str(collapsed)]) == 1


def test_a_run_of_few_steps_is_too_short_and_so_is_one_that_was_stopped(
    healthy: Path, images: str, tmp_path: Path
) -> None:
    few = run(images, tmp_path / "few", "--steps", "20")
    assert diagnose(read(few)).answer == "too short"
    (few / "model.safetensors").unlink()
    assert read(few).moved is not None and not read(few).finished
    assert diagnose(read(healthy)).answer == "as expected"

    # Digests are checked elsewhere; without them a file that is cut short is still one line.
    (few / "sha256.json").unlink()
    (few / "model.safetensors").write_bytes(b"{")
    with pytest.raises(vp.InvalidArgument, match="does not match model"):
        read(few)


LOSS = [(10 * k, 0.1 + 1 / (1 + k) ** 2) for k in range(20)]
BETTER = {"trained encoder": {"knn": 0.7, "linear": 0.8}, "the same encoder, untrained": {"knn": 0.6, "linear": 0.8}}
WORSE = {"trained encoder": {"knn": 0.5, "linear": 0.8}, "the same encoder, untrained": {"knn": 0.6, "linear": 0.8}}

SURE = {name: {"knn": share, "linear": share} for name, share in zip(BETTER, (1.0, 0.0), strict=True)}


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({}, "as expected"),
        ({"accuracy": WORSE}, "undecided"),
        ({"accuracy": BETTER, "held_out": 100}, "undecided"),
        ({"accuracy": BETTER, "held_out": 200}, "as expected"),
        ({"accuracy": SURE, "held_out": 2}, "undecided"),
        ({"accuracy": SURE, "held_out": 3}, "as expected"),
        ({"accuracy": BETTER, "curves": {"loss": [(10 * k, 1 - k / 40) for k in range(40)]}}, "as expected"),
        ({"accuracy": WORSE, "curves": {"loss": [(10 * k, 1 - k / 40) for k in range(40)]}}, "too short"),
        ({"curves": {"loss": LOSS, "gradient_norm": [(10, 0.0), (20, 0.0)]}}, "bug"),
        ({"curves": {"loss": LOSS, "rank": [(10 * k, 1.0) for k in range(9)],
                     "spread": [(10 * k, 0.5) for k in range(9)]}}, "collapse"),
        ({"curves": {"loss": LOSS, "rank": [(80, 1.0), (90, 5.0), (100, 5.0)],
                     "spread": [(10 * k, 0.5) for k in (8, 9, 10)]}}, "as expected"),
        ({"curves": {"loss": LOSS, "rank": [(k, 1.0) for k in range(9)], "spread": [(k, 0.5) for k in range(9)]}},
         "as expected"),
        ({"curves": {"loss": [(k, 1 - k / 40) for k in range(40)]}}, "too short"),
        ({"finished": False, "planned_steps": 400}, "too short"),
        ({"moved": 1e-7}, "bug"),
        ({"encoder_moved": False}, "bug"),
        ({"curves": {"loss": [(10 * k, -1.0 - k) for k in range(20)]}}, "too short"),
        ({"curves": {"loss": [(10 * k, 1.0 + k) for k in range(20)], "learning_rate": [(9, 3.0)]}}, "bug"),
        ({"curves": {"loss": [(10 * k, 1.0 + k / 20) for k in range(20)]}}, "undecided"),
        ({"curves": {"loss": [(10 * k, 1.0) for k in range(20)]}}, "undecided"),
        ({"accuracy": BETTER, "curves": {"loss": [(10 * k, 1.0 + k / 20) for k in range(20)]}}, "as expected"),
        ({"hidden_error": {"model": 0.5, "nearest visible value": 0.4}}, "undecided"),
    ],
)  # fmt: skip
def test_evidence_and_what_it_supports(change: dict[str, Any], answer: str) -> None:
    whole: dict[str, Any] = {"curves": {"loss": LOSS}, "planned_steps": 200, "finished": True, "moved": 0.3, **change}
    found = diagnose(Evidence(**whole))
    assert found.answer == answer, str(found)
    assert found.because and found.cannot_tell


def test_a_teacher_that_never_moves_is_a_bug_and_one_that_does_is_none(images: str, tmp_path: Path) -> None:
    words = ["--method", "ijepa", "--steps", "20", "--mask", "MultiBlockMask(2, 2, 1, (1, 1), (4, 4), 1)"]
    stuck, sound = (run(images, tmp_path / m, *words, "--momentum", m) for m in ("1", "0.996"))
    found = diagnose(read(stuck))
    assert found.answer == "bug" and "features of its first weights" in found.because[0]
    assert diagnose(read(sound)).answer == "too short"


def test_two_classes_are_no_collapse(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(400) % 2
    x = rng.normal(size=(400, 1, 8, 8)) + 2.0 * labels[:, None, None, None]
    np.savez(tmp_path / "x.npz", x=x.astype(np.float32), y=labels)
    out = run(str(tmp_path / "x.npz"), tmp_path / "run", "--method", "supervised", "--steps", "60")
    assert diagnose(read(out)).answer != "collapse"


@pytest.mark.parametrize("method", ["ijepa", "simclr", "supervised"])
def test_other_methods_are_read_too(method: str, tmp_path: Path) -> None:
    if method == "supervised":
        assert read_evidence(run("digits", tmp_path / "run", "--method", method, "--steps", "2")).contracts is None
        return
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32))
    contracts = read_evidence(
        run(str(tmp_path / "x.npy"), tmp_path / "run", "--method", method, "--steps", "2")
    ).contracts
    assert contracts is not None and not contracts.refuted


def test_a_folder_without_a_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
