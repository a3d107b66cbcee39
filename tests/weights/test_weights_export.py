"""Exported folders load in their library, in a fresh process without this package, and give the same features."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import viewproof as vp
from viewproof.cli import main
from viewproof.files import whole_file
from viewproof.runs import verdicts
from viewproof.runs.encoder import load_encoder
from viewproof.runs.export import NEEDS, export
from viewproof.runs.guarded import locked
from viewproof.weights import targets
from viewproof.weights.layout import BOUND, difference

SMALL = ["--dim", "16", "--depth", "2", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1", "--steps", "2"]
SMALL += ["--decoder-heads", "2", "--batch-size", "20", "--threads", "1", "--projector-dim", "8", "--patch-size", "4"]
KINDS = {
    "plain": [],
    "class": ["--class-token", "--features", "both", "--positions", "learned"],
    "registers": ["--class-token", "--registers", "3", "--features", "class", "--method", "sigreg"],
}


@pytest.fixture(autouse=True)
def one_theorem(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card proves all of them; one is enough to see that they stand in it."""
    monkeypatch.setattr(verdicts, "THEOREMS", ("training_loss_gradient_support",))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    for name, shape in (("wide", (3, 8, 12)), ("square", (3, 8, 8))):
        x = rng.normal(size=(60, *shape)).astype(np.float32) + labels[:, None, None, None]
        np.savez(folder / f"{name}.npz", x=x, y=labels)
    for name, words in KINDS.items():
        data = folder / ("wide.npz" if name != "registers" else "square.npz")
        assert main(["pretrain", str(data), *SMALL, *words, "--out", str(folder / name)]) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_folder_loads_in_transformers(kind: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    out = runs / f"{kind}-transformers"
    assert main(["export", str(runs / kind), str(out), "--to", "transformers", "--licence", "mit"]) == 0
    assert "features in a fresh process differ by" in capsys.readouterr().out
    from transformers import AutoModel

    model = AutoModel.from_pretrained(out).eval()
    encoder = load_encoder(runs / kind)
    x = torch.randn(3, *encoder.facts["sample_shape"])
    with torch.inference_mode():
        tokens = model(pixel_values=x).last_hidden_state
        ours = encoder.encoder.all_tokens(x)
    assert difference(tokens, ours) < BOUND
    card = (out / "README.md").read_text()
    for words in ("license: mit", "## Load", "| mask |", "PROVED", "## Evaluation", "trained encoder", "torch 2"):
        assert words in card or (kind == "registers" and words == "PROVED")
    assert str(runs) not in card
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert not list(runs.glob(".*.part"))


@pytest.mark.parametrize("kind", ["plain", "class"])
def test_an_exported_program_runs_without_this_package(kind: str, runs: Path) -> None:
    result = export(runs / kind, "torch", runs / f"{kind}-torch", say=lambda line: None)
    assert result["difference"] <= BOUND


def test_a_wrong_export_is_not_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses a bias is caught by the check, and leaves nothing behind."""

    def forgetful(encoder: torch.nn.Module, folder: Path, facts: targets.Facts) -> str:
        lines = targets.to_transformers(encoder, folder, facts)
        state = load_file(folder / "model.safetensors")
        state["layernorm.bias"] = state["layernorm.bias"] + 1e-2
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return lines

    monkeypatch.setitem(targets.TARGETS, "transformers", forgetful)
    with pytest.raises(vp.InvalidArgument, match="the exported features differ by"):
        export(runs / "plain", "transformers", runs / "wrong")
    assert not (runs / "wrong").exists() and not list(runs.glob(".*.part"))


def ended(encoder: torch.nn.Module, folder: Path, facts: targets.Facts) -> str:
    """A writer that is asked to end before it has written all."""
    (folder / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGTERM)
    return ""


def test_an_export_that_is_asked_to_end_leaves_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.TARGETS, "torch", ended)
    deaf = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, deaf)
    try:
        with pytest.raises(SystemExit) as exit:
            main(["export", str(runs / "plain"), str(runs / "ended"), "--to", "torch"])
        assert signal.getsignal(signal.SIGTERM) is deaf
    finally:
        signal.signal(signal.SIGTERM, before)
    assert exit.value.code == 143 and not (runs / "ended").exists() and not list(runs.glob(".*.part"))


def test_the_next_export_clears_what_a_killed_one_left_and_nothing_else(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    names: list[str] = []

    def refused(encoder: torch.nn.Module, folder: Path, facts: targets.Facts) -> str:
        names.append(folder.name)
        raise vp.InvalidArgument("no")

    monkeypatch.setitem(targets.TARGETS, "torch", refused)

    def refuse() -> None:
        with pytest.raises(vp.InvalidArgument, match="no"):
            export(runs / "plain", "torch", tmp_path / "out", say=lambda line: None)

    refuse()
    killed = tmp_path / names[0]
    others = [
        tmp_path / name for name in (names[0].replace("out", "out.2"), ".0123456789abcdef.part", ".out.mine.part")
    ]
    for path in (killed, *others):
        path.mkdir()
        (path / "model.safetensors").write_bytes(b"half")
    with locked(killed):
        refuse()
        assert killed.exists()
    refuse()
    assert sorted(tmp_path.iterdir()) == sorted(others)


@contextmanager
def full_disk() -> Iterator[None]:
    """Inside, no file grows beyond a few thousand bytes: writing fails as on a full disk, whatever code writes."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("to", ["transformers", "timm", "torch"])
def test_a_full_disk_is_one_line_and_leaves_nothing(to: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "timm", ())
    with full_disk(), pytest.raises(vp.InvalidArgument, match=r"out='full' cannot be written: .*File too large"):
        export(runs / "plain", to, runs / "full", say=lambda line: None)
    assert not (runs / "full").exists() and not list(runs.glob(".*.part"))


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with full_disk(), pytest.raises(OSError, match="File too large") as error, whole_file(tmp_path / "a.txt") as file:
        file.write("a" * 10_000)
    assert error.value.filename == str(tmp_path / "a.txt") and not list(tmp_path.iterdir())
    with pytest.raises(NotADirectoryError) as other, whole_file(Path(__file__, "a.txt")):
        pass
    assert other.value.filename == str(Path(__file__, "a.txt"))


def test_bad_targets_are_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    for words, message in (
        ([str(runs / "plain"), str(tmp_path / "there"), "--to", "torch"], "out='there' exists"),
        ([str(runs / "plain"), str(tmp_path / "no" / "there"), "--to", "torch"], "lies in no folder"),
        ([str(tmp_path), str(tmp_path / "new"), "--to", "torch"], "is not a run folder"),
    ):
        assert main(["export", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_an_encoder_without_its_data_gives_the_same_features(runs: Path) -> None:
    encoder = vp.load_encoder(runs / "plain")
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(encoder(x), encoder.encode(encoder.standardize(x)))
    assert encoder(x).shape == (2, 16) and not encoder.training
    larger = vp.load_encoder(runs / "class", image_size=(16, 12))
    assert larger(torch.randn(2, 3, 16, 12)).shape == (2, 32)
    with pytest.raises(vp.InvalidArgument, match="patch_size="):
        vp.load_encoder(runs / "class", image_size=(15, 12))


@pytest.mark.parametrize("run", ["", "none", "a" * 5000, "none/" * 999, "\0", __file__, "/dev/null", b"x", None, 3])
def test_what_is_no_path_of_a_run_is_refused(run: Any) -> None:
    with pytest.raises(vp.InvalidArgument, match=r"run folder|run="):
        vp.load_encoder(run)


def test_an_image_size_that_is_none_is_refused() -> None:
    with pytest.raises(vp.InvalidArgument, match="image_size"):
        vp.load_encoder(".", image_size=(None, 2))  # type: ignore[arg-type]


def test_onnx_says_what_to_install(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = subprocess.run([sys.executable, "-c", "import onnx, onnxscript, onnxruntime"], capture_output=True)
    code = main(["export", str(runs / "plain"), str(tmp_path / "onnx"), "--to", "onnx"])
    if missing.returncode:
        assert code == 2 and "pip install onnx" in capsys.readouterr().err and not list(tmp_path.iterdir())
    else:
        assert code == 0 and (tmp_path / "onnx" / "encoder.onnx").exists()


def test_the_facts_of_a_run_are_those_of_its_data(runs: Path) -> None:
    facts = json.loads((runs / "plain" / "encoder.json").read_text())
    assert facts["sample_shape"] == [3, 8, 12] and facts["class_names"] == ["0", "1", "2"]
