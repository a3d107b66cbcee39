"""Runs on a user's own files: mixed images, series, recordings; crops that a resumed run repeats; bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from viewproof.cli import main
from viewproof.metrics import read_metrics
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import load_run, prepare
from viewproof.training.transforms import Flip, RandomResizedCrop

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--batch-size", "4", "--threads", "1", "--patch-size", "8"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    modes = ("RGB", "L", "RGBA", "P", "CMYK")
    for k in range(20):
        pixels = rng.integers(0, 256, (20 + k, 40 - k, 3), np.uint8)
        path = (
            tmp_path
            / "own"
            / ("train" if k < 14 else "test")
            / f"class{k % 2}"
            / f"{k:02}.{'jpg' if k % 5 == 4 else 'png'}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert(modes[k % 5]).save(path)
    return tmp_path / "own"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_folder_of_any_sizes_trains_with_workers_resumes_and_evaluates(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "train" / "class0" / "broken.png").write_bytes(b"")
    words = ["pretrain", str(pictures), "--size", "24,16", *SMALL, "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "1 of 21 files cannot be read" in capsys.readouterr().err and not (tmp_path / "a").exists()
    words.append("--skip-unreadable")
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert "broken.png" in (tmp_path / "a" / "skipped.txt").read_text()
    assert "1 unreadable files skipped" in capsys.readouterr().out
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["size"], config["augment"]) == ("24,16", "RandomResizedCrop(0.2), Flip()")
    rows = read_metrics(tmp_path / "a" / "metrics.csv")
    assert [int(row["step"]) for row in rows if row["loss"]] == [1, 2, 3, 4, 5, 6]  # a short run has a curve too
    assert main([*words, "--workers", "1", "--out", str(tmp_path / "b")]) == 0
    for name, value in weights(tmp_path / "a").items():
        assert torch.equal(value, weights(tmp_path / "b")[name]), name
    run = load_run(tmp_path / "a")
    assert run.crop_when_read == (0.2, 0.5) and run.module().augment.first == 2  # type: ignore[union-attr]
    assert run.dataset.sample_shape == (3, 24, 16) and len(run.dataset.test) == 6


def test_photographs_are_cropped_and_flipped_by_default_and_digits_are_not(tmp_path: Path) -> None:
    photos = prepare(PretrainConfig("photos"), tmp_path)
    augment = photos.module().augment
    assert augment == photos.augment and augment.transforms == (RandomResizedCrop(0.2), Flip())  # type: ignore[union-attr]
    for config in (
        PretrainConfig("digits"),
        PretrainConfig("photos", augment="none"),
        PretrainConfig("photos", method="vicreg"),
        PretrainConfig("photos", method="ijepa"),
    ):
        assert prepare(config, tmp_path).module().augment is None


def test_the_sample_of_a_step_is_that_of_the_augmented_image(tmp_path: Path) -> None:
    run = prepare(PretrainConfig("photos"), tmp_path)
    module, ids = run.module(), torch.arange(3)
    x, samples = run.dataset.fetch("train", ids), []
    module.observer = lambda sample, prediction: samples.append(sample)  # type: ignore[assignment]
    module.training_step((x, ids), 0)
    expected = run.rule.at(0).sample(run.augment(x, ids, 0), sample_ids=ids, epoch=0)  # type: ignore[union-attr]
    assert torch.equal(samples[0].x, expected.x) and torch.equal(samples[0].y, expected.y)
    assert torch.equal(samples[0].mask.hidden, expected.mask.hidden) and not torch.equal(samples[0].y, x.flatten(1))


@pytest.mark.parametrize("method", ["vicreg", "ijepa", "supervised"])
def test_joint_methods_take_transforms(method: str, pictures: Path, tmp_path: Path) -> None:
    words = ["pretrain", str(pictures), "--size", "16", *SMALL, "--steps", "2", "--method", method]
    words += ["--augment", "RandomResizedCrop(0.5), Flip(), ColourJitter(0.2), Grey()", "--out", str(tmp_path / "a")]
    assert main(words) == 0


def test_a_series_by_patches_of_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "series.npz", x=rng.normal(size=(30, 32, 3)).astype(np.float32), y=np.arange(30) % 2)
    words = ["pretrain", str(tmp_path / "series.npz"), "--model", "masked-autoencoder", *SMALL[:-2], "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["patch_size"] == 4 and config["mask"] == "RandomBlockMask((4, None), 6, seed=0)"
    run = load_run(tmp_path / "a")
    assert run.model.encode(run.dataset.fetch("test", [0])).shape == (1, 16)  # type: ignore[operator]


def test_recordings_train_as_images_of_frequency_and_time(tmp_path: Path) -> None:
    sound = pytest.importorskip("soundfile")
    for k in range(20):
        path = tmp_path / "own" / str(k % 2) / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        sound.write(path, np.sin(0.1 * (1 + k % 2) * np.arange(2000)) * 0.5, 8000)
    words = ["pretrain", str(tmp_path / "own"), "--size", "32,16", *SMALL, "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["augment"] == "none"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "a,b"], "size='a,b' must be H,W in pixels"),
        (["--size", "1,2,3"], "size='1,2,3' must be H,W"),
        (["--size", "0,8"], "size[0]=0 must be an integer of at least 1"),
        (["--mean", "0.5"], "pass both mean and std"),
        (["--mean", "x", "--std", "1"], "mean='x' must be numbers"),
        (["--mean", "0.5", "--std", "0"], "must be positive"),
        (["--augment", "Flop()"], "did you mean Flip?"),
        (["--max-pixels", "0"], "max_pixels=0 must be an integer of at least 1"),
        (["--image-column", "x"], "are of hf: data sets"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(
    words: list[str], message: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(pictures), *words, "--out", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1 and not (tmp_path / "a").exists()


def test_transforms_need_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 6)))
    assert main(["pretrain", str(tmp_path / "x.npy"), "--augment", "Flip()", "--out", str(tmp_path / "a")]) == 2
    assert "augment='Flip()' needs images" in capsys.readouterr().err


def test_imagenets_statistics(pictures: Path, tmp_path: Path) -> None:
    run = prepare(PretrainConfig(str(pictures), size="16", mean="imagenet", patch_size=8), tmp_path)
    assert run.dataset.mean.flatten().tolist() == pytest.approx([0.485 * 255, 0.456 * 255, 0.406 * 255])
