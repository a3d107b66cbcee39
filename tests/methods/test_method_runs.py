"""Every joint-embedding method from the command line: run folder, evaluation, resume, bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import viewproof as vp
from viewproof.cli import main
from viewproof.expressions import parse_rule
from viewproof.methods.ijepa import IJEPAMethod
from viewproof.runs.folder import load_run, prepare, read_config
from viewproof.training.base import JointPretraining
from viewproof.training.callbacks import ClipGradient
from viewproof.training.settings import TrainingSettings
from viewproof.training.trainer import build_trainer

METHODS = ["ijepa", "vicreg", "barlow", "sigreg", "simclr", "lejepa", "dino", "data2vec", "supervised"]
SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--projector-dim", "12", "--batch-size", "20", "--threads", "1"]


@pytest.fixture
def images(tmp_path: Path) -> str:
    """Ninety images of 2 x 8 x 12, their labels seen in their brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(size=(90, 2, 8, 12)).astype(np.float32) + labels[:, None, None, None]
    np.savez(tmp_path / "images.npz", x=x, y=labels)
    return str(tmp_path / "images.npz")


def pretrain(method: str, *words: str) -> int:
    return main(["pretrain", *words, "--method", method, *SMALL])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_folder_is_complete_and_evaluates_to_the_same_numbers(
    method: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert pretrain(method, images, "--epochs", "3", "--out", str(out)) == 0
    wanted = {"config.json", "metrics.csv", "model.safetensors", "loss.png", "evaluation.json", "checkpoints"}
    wanted |= {"encoder.json", "sha256.json", "report.html"}
    assert {path.name for path in out.iterdir()} == wanted | {"tensorboard"}
    table = capsys.readouterr().out
    for line in ("trained encoder", "the same encoder, untrained", "raw values"):
        assert line in table
    assert "hidden values" not in table
    header, *rows = (out / "metrics.csv").read_text().splitlines()
    geometry = [] if method == "supervised" else ["std_mean", "std_least", "spread", "rank"]
    columns = ["images_per_second", *geometry, "gradient_norm"]
    assert header.endswith(",".join(columns))
    measured = [row.split(",")[-len(columns) :] for row in rows if row.split(",")[2]]
    assert measured and all(float(value) > 0 for row in measured for value in row)
    first = json.loads((out / "evaluation.json").read_text())
    assert main(["evaluate", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text()) == first == {"accuracy": first["accuracy"]}


@pytest.mark.parametrize("method", ["ijepa", "sigreg", "data2vec"])
def test_an_interrupted_run_resumes_to_the_straight_run(
    method: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert pretrain(method, images, "--epochs", "6", "--out", str(straight)) == 0

    def stop(module: JointPretraining) -> None:
        if module.current_epoch == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(JointPretraining, "on_train_epoch_start", stop)
        assert pretrain(method, images, "--epochs", "6", "--out", str(stopped)) == 130
    assert f"resume with: viewproof pretrain --resume {stopped}" in capsys.readouterr().out
    assert main(["pretrain", "--resume", str(stopped)]) == 0
    ours, theirs = (load_file(run / "model.safetensors") for run in (stopped, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    def rows(run: Path) -> list[list[str]]:
        lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
        return [line[:5] + line[6:] for line in lines]

    assert rows(stopped) == rows(straight)


@pytest.mark.parametrize(("ours", "other"), [("vicreg", "barlow"), ("ijepa", "vicreg"), ("mae", "ijepa")])
def test_another_methods_checkpoint_and_weights_are_refused(
    ours: str, other: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in (ours, other):
        assert pretrain(method, images, "--epochs", "1", "--out", str(tmp_path / method)) == 0
    for name in ("model.safetensors", "checkpoints/last.ckpt"):
        shutil.copy(tmp_path / other / name, tmp_path / ours / name)
    assert main(["evaluate", str(tmp_path / ours)]) == 2
    assert "model.safetensors is damaged" in capsys.readouterr().err
    # Without the digests it is the shapes that tell.
    (tmp_path / ours / "sha256.json").unlink()
    if (ours, other) != ("vicreg", "barlow"):
        assert main(["evaluate", str(tmp_path / ours)]) == 2
        assert "config.json does not match model.safetensors" in capsys.readouterr().err
    (tmp_path / ours / "model.safetensors").unlink()
    before = (tmp_path / ours / "metrics.csv").read_text()
    assert main(["pretrain", "--resume", str(tmp_path / ours)]) == 2
    error = capsys.readouterr().err
    assert "was written by" in error or "another method wrote it" in error
    assert (tmp_path / ours / "metrics.csv").read_text() == before


def test_a_config_repeats_a_run_bit_for_bit_and_its_seed_is_that_of_the_draws(images: str, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert pretrain("sigreg", images, "--epochs", "1", "--out", str(first)) == 0
    assert main(["pretrain", "--config", str(first / "config.json"), "--out", str(second)]) == 0
    a, b = (load_file(run / "model.safetensors") for run in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    module = prepare(replace(read_config(first), seed=7), second).module()
    assert module.loss.seed == 7 and module.pair.seed == 7  # type: ignore[union-attr]


def test_options_of_the_engine_reach_it(images: str, tmp_path: Path) -> None:
    words = ["--clip", "0.5", "--precision", "bf16-mixed", "--min-area", "0.5", "--no-flip"]
    assert pretrain("vicreg", images, "--epochs", "1", "--out", str(tmp_path / "run"), *words) == 0
    run = load_run(tmp_path / "run")
    trainer = build_trainer(run.config, run.folder, 4)
    norms = [callback.norm for callback in trainer.callbacks if isinstance(callback, ClipGradient)]  # type: ignore[attr-defined]
    assert norms == [0.5] and trainer.precision == "bf16-mixed"
    module = run.module()
    assert (module.pair.min_area, module.pair.flip) == (0.5, False)  # type: ignore[union-attr]


def test_steps_end_a_run_within_an_epoch_and_resolve_to_themselves(images: str, tmp_path: Path) -> None:
    assert pretrain("supervised", images, "--steps", "6", "--out", str(tmp_path / "run")) == 0
    config = read_config(tmp_path / "run")
    assert (config.steps, config.epochs) == (6, None)
    assert prepare(config, tmp_path / "run").module().total_steps == 6
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_labels_are_those_of_the_samples_and_must_exist(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.load(images)["x"]
    np.save(tmp_path / "bare.npy", x)
    assert pretrain("supervised", str(tmp_path / "bare.npy"), "--out", str(tmp_path / "run")) == 2
    assert "needs labels" in capsys.readouterr().err
    assert (
        pretrain("supervised", images, "--epochs", "20", "--learning-rate", "0.01", "--out", str(tmp_path / "b")) == 0
    )
    run = load_run(tmp_path / "b")
    logits = run.model(run.dataset.fetch("test", np.arange(len(run.dataset.test))))
    assert (logits.argmax(1).numpy() == run.dataset.test.labels).mean() > 0.9


def test_ijepa_is_evaluated_by_its_target_encoder(images: str, tmp_path: Path) -> None:
    assert pretrain("ijepa", images, "--epochs", "2", "--momentum", "0.5", "--out", str(tmp_path / "run")) == 0
    run, x = load_run(tmp_path / "run"), torch.randn(3, 2, 8, 12)
    encoded = run.model.encode(x)  # type: ignore[operator]
    assert torch.equal(encoded, run.model.target.encode(x))  # type: ignore[operator, union-attr]
    assert not torch.equal(encoded, run.model.encoder.encode(x))  # type: ignore[operator, union-attr]


def test_default_blocks_fit_every_grid() -> None:
    settings = Mock(spec=TrainingSettings, patch_size=3, seed=0)
    for rows in range(2, 17):
        for cols in range(rows, 17):
            rule = parse_rule(IJEPAMethod().default_mask(settings, (1, 3 * rows, 3 * cols)))
            assert isinstance(rule, vp.MultiBlockMask)
            for epoch in range(3):
                rule.sizes(rows, cols, epoch)


BAD = [
    ("ijepa", ["--momentum", "1.5"], "momentum start=1.5 must lie in [0, 1]"),
    ("ijepa", ["--momentum", "-0.1"], "momentum=-0.1 must be at least 0"),
    ("ijepa", ["--mask", "RandomPatchMask(4, 4, 3)"], "must be a MultiBlockMask"),
    ("ijepa", ["--mask", "MultiBlockMask(4, 4, 1, (1, 1), (6, 6))"], "of the encoder's patches"),
    ("ijepa", ["--patch-size", "2", "--mask", "MultiBlockMask(2, 2, 0, (2, 3), (20, 24))"], "context=0"),
    ("ijepa", ["--patch-size", "2", "--mask", "MultiBlockMask(2, 2, 30, (2, 3), (20, 24))"], "context=30"),
    (
        "ijepa",
        ["--patch-size", "2", "--mask", "MultiBlockMask(2, 2, 5, (2, 3), (20, 25))"],
        "does not fit a 4 x 6 grid",
    ),
    ("vicreg", ["--mask", "PatchMask(4, 4, 2, 0)"], "mask='PatchMask(4, 4, 2, 0)' does not apply to method='vicreg'"),
    ("barlow", ["--model", "resnet"], "model='resnet' must be one of 'vit'"),
    ("barlow", ["--batch-size", "1"], "barlow has statistics over a batch, of at least 2 samples"),
    ("sigreg", ["--min-area", "1.5"], "min_area=1.5 must lie above 0"),
    ("vicreg", ["--clip", "0"], "clip=0.0 must be positive"),
    ("moco", [], "moco"),
    ("vicreg", ["--keep-tokens", "0"], "keep_tokens=0.0 must lie above 0"),
    ("mae", ["--epochs", "2", "--steps", "3"], "epochs=2 and steps=3 both end the run; pass one of them"),
    ("mae", ["--steps", "0"], "steps=0 must be an integer of at least 1"),
    ("simclr", ["--predict", "0.25"], "predict=0.25 does not apply to method='simclr'; leave predict out"),
    ("dino", ["--keep-tokens", "0.5"], "keep_tokens=0.5 does not apply to method='dino'; leave keep_tokens out"),
    ("supervised", ["--mask", "PatchMask(4, 4, 2, 0)"], "does not apply to method='supervised'; leave mask out"),
]


@pytest.mark.parametrize(("method", "words", "message"), BAD, ids=[message for *_, message in BAD])
def test_bad_input_is_one_line_and_touches_nothing(
    method: str, words: list[str], message: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [w for w in SMALL if "--batch-size" not in words or w not in ("--batch-size", "20")]
    assert main(["pretrain", images, "--method", method, *options, *words, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("viewproof: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_that_only_other_methods_have_are_named(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", images, "--steps", "1", "--dim", "16", "--depth", "1", "--heads", "2", "--threads", "1"]
    words += ["--momentum", "0.9", "--koleo", "0.1", "--norm-pix"]
    assert main([*words, "--method", "simclr", "--projector-dim", "8", "--out", str(tmp_path / "a")]) == 0
    assert "method='simclr' does not use norm_pix=True, momentum=0.9, koleo=0.1\n" in capsys.readouterr().out
    assert main(["pretrain", "--config", str(tmp_path / "a" / "config.json"), "--out", str(tmp_path / "b")]) == 0
    assert "does not use" not in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS)
def test_tables_are_refused(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "table.npy", np.random.default_rng(0).normal(size=(40, 6)))
    assert main(["pretrain", str(tmp_path / "table.npy"), "--method", method, "--out", str(tmp_path / "run")]) == 2
    assert f"method='{method}' needs images [C, H, W]" in capsys.readouterr().err


def test_a_run_that_learned_all_labels_is_not_fine_tuned_on_a_few(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pretrain("supervised", images, "--steps", "2", "--out", str(tmp_path / "run")) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), "--fine-tune", "1", "--labels", "6"]) == 2
    assert "was trained on all labels" in capsys.readouterr().err
    assert not (tmp_path / "run" / "fine-tune.json").exists()


def test_a_compiled_run_says_what_the_first_batch_cost(
    images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    assert pretrain("vicreg", images, "--steps", "12", "--compile", "--out", str(tmp_path / "run")) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("compiled: ")]
    assert len(compiled) == len(lines) == 1 and lines[0].endswith(" ms for later ones")
