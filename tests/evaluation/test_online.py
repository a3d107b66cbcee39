"""k-NN accuracy and LiDAR over epochs: right numbers, in their own columns, and nothing else changes."""

import csv
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.data import load_dataset
from viewproof.evaluation import encode_all, probe
from viewproof.evaluation.online import OnlineKNN, lidar
from viewproof.runs.folder import load_run
from viewproof.training.trainer import LOGGERS


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng, y = np.random.default_rng(0), np.arange(60) % 3
    x = (rng.normal(size=(60, 1, 8, 8)) + 2 * y[:, None, None, None]).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=y)
    return str(tmp_path / "images.npz")


def pretrain(images: str, out: Path, *words: str) -> list[dict[str, str]]:
    sizes = ["--dim", "16", "--depth", "1", "--heads", "2", "--batch-size", "18", "--epochs", "2", "--threads", "1"]
    assert main(["pretrain", images, *sizes, *words, "--out", str(out)]) == 0
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["mae", "vicreg", "ijepa"])
def test_the_columns_are_there_when_asked_for_and_training_is_the_same(
    method: str, images: str, tmp_path: Path
) -> None:
    plain = pretrain(images, tmp_path / "plain", "--method", method)
    rows = pretrain(images, tmp_path / "run", "--method", method, "--online-knn", "--lidar", "--logger", "csv")
    assert rows[0].keys() - plain[0].keys() == {"val_knn_accuracy", "val_lidar"}
    validations = [row for row in rows if row["val_loss"]]
    assert len(validations) == 2 and [row["val_loss"] for row in plain if row["val_loss"]] == [
        row["val_loss"] for row in validations
    ]
    assert all(1 <= float(row["val_lidar"]) <= 256 for row in validations)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "run")]
    assert weights[0] == weights[1] and (tmp_path / "run" / "csv" / "metrics.csv").exists()
    run = load_run(tmp_path / "run")
    data, encode = run.dataset, run.model.encode
    features = [
        encode_all(encode, lambda i, p=part: data.fetch(p, i), range(len(data.part(part))))
        for part in ("train", "test")
    ]  # type: ignore[arg-type, misc]
    expected = probe(features[0], data.train.labels, features[1], data.test.labels, engine="torch", device="cpu").knn
    assert float(validations[-1]["val_knn_accuracy"]) == pytest.approx(expected)


def test_lidar_counts_the_directions_that_tell_samples_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    within = 0.1 * torch.randn(200, 8, 16, generator=generator)
    between = torch.randn(200, 1, 16, generator=generator)
    assert lidar(between + within) > 15
    between[:, :, 3:] = 0
    # Noise within classes is no rank: here RankMe would be near 16.
    assert lidar(between + within) < 4.5
    assert math.isnan(lidar(torch.full((3, 2, 4), math.nan)))
    for shape in ((3, 4), (1, 2, 4), (3, 1, 4)):
        with pytest.raises(vp.InvalidArgument, match="two samples and draws"):
            lidar(torch.zeros(shape))


def test_lidar_is_that_of_the_symmetric_root() -> None:
    z = torch.randn(30, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    means = z.mean(1)
    within = torch.stack([torch.outer(d, d) for d in (z - means[:, None]).flatten(0, 1)]).mean(0) + 1e-4 * torch.eye(5)
    between = torch.cov(means.T)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    share = torch.linalg.eigvalsh(root @ between @ root)
    share = share / share.sum()
    assert lidar(z) == pytest.approx(float((-share * share.log()).sum().exp()))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--method", "supervised", "--lidar"], "Supervised has no draws"),
        (["--model", "conv", "--lidar"], "MaskedPretraining has no draws"),
    ],
)
def test_lidar_needs_draws(
    words: list[str], complaint: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", images, "--batch-size", "18", *words, "--out", str(tmp_path / "run")]) == 2
    assert complaint in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_knn_needs_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 1, 4, 4)))
    with pytest.raises(vp.InvalidArgument, match="online_knn needs labels"):
        OnlineKNN(load_dataset(str(tmp_path / "x.npy")))
    assert main(["pretrain", str(tmp_path / "x.npy"), "--online-knn", "--out", str(tmp_path / "run")]) == 2
    assert "online_knn needs labels" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "written"), [("wandb", "wandb"), ("mlflow", "mlflow.db")])
def test_a_logger_writes_into_the_run_folder_or_says_what_to_install(
    name: str, written: str, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_MODE", "offline")
    missing = [package for package in LOGGERS[name] if importlib.util.find_spec(package) is None]
    code = main(["pretrain", images, "--steps", "1", "--logger", name, "--out", str(tmp_path / "run")])
    if missing:
        needs = f"logger={name!r} needs {missing[0]}, which is not installed; pip install {name}"
        assert code == 2 and capsys.readouterr().err == f"viewproof: {needs}\n" and not (tmp_path / "run").exists()
    else:
        assert code == 0 and (tmp_path / "run" / written).exists()
