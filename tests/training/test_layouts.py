"""Two ranks are one: the same masks by sample, the same curve, one set of files; and parts are one batch."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import two_ranks
from torch import Tensor
from two_ranks import watch

from viewproof.cli import main
from viewproof.errors import InvalidArgument
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import prepare

# 54 training samples: 6 steps an epoch, 18 steps; 6 held-out ones.
SMALL = "--batch-size 8 --epochs 3 --dim 16 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2"
SMALL += " --projector-dim 12 --threads 1 --accelerator cpu --learning-rate 3e-4"
METHODS = {
    "mae": "--method mae --mask RandomPatchMask(2,2,10)",
    "mae, guard": "--method mae --mask RandomPatchMask(2,2,10) --guard vicreg --guard-weight 0.1",
    "ijepa": "--method ijepa --patch-size 2 --momentum 0.9",
    "vicreg": "--method vicreg",
    "barlow": "--method barlow",
    "sigreg": "--method sigreg",
    "mae, fsdp": "--method mae --mask RandomPatchMask(2,2,10) --strategy fsdp --clip 1",
    "ijepa, fsdp": "--method ijepa --patch-size 2 --momentum 0.9 --strategy fsdp",
    "parts": "--method ijepa --patch-size 2 --momentum 0.9 --accumulate 2",
}


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def environment() -> dict[str, str]:
    paths = os.pathsep.join(filter(None, sys.path))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def words(folder: Path, method: str, *more: str) -> list[str]:
    return ["pretrain", str(folder / "images.npy"), *SMALL.split(), *METHODS[method].split(), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data, and of every method the run of two ranks and the run of one."""
    folder = tmp_path_factory.mktemp("layouts")
    np.save(folder / "images.npy", np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32))
    *ports, last = free_ports(len(METHODS) + 1)
    outs = [str(folder / f"{method}2") for method in [*METHODS, "middle"]]
    runs_of_two = zip(METHODS, ports, outs[:-1], strict=True)
    jobs = [(words(folder, method, "--devices", "2"), port, out) for method, port, out in runs_of_two]
    jobs.append((words(folder, "mae", "--devices", "2", "--checkpoint-every", "4"), last, outs[-1]))
    started = [sys.executable, two_ranks.__file__, json.dumps(jobs), str(folder)]
    done = subprocess.run(started, env=environment(), stderr=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass
class One:
    """A run of one rank: its folder, and what its training steps were given."""

    folder: Path
    seen: list[tuple[int, Tensor, Tensor | None]]


def run(given: list[str]) -> list[tuple[int, Tensor, Tensor | None]]:
    """Run in this process, every step's loss written down; return what its training steps were given."""
    seen: list[tuple[int, Tensor, Tensor | None]] = []
    with pytest.MonkeyPatch.context() as patch:
        watch(seen, patch.setattr)
        assert main(given) == 0
    return seen


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, One]:
    """The same methods and the same batches on one rank."""
    outs = {method: folder / f"{method}1" for method in METHODS}
    return {method: One(out, run(words(folder, method, "--out", str(out)))) for method, out in outs.items()}


def by_step(seen: list[tuple[int, Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor | None]]:
    """The ids and masks of each optimizer step, the parts one after the other."""
    steps = []
    for step in range(seen[-1][0] + 1):
        ids, hidden = zip(*((i, h) for at, i, h in seen if at == step), strict=True)
        steps.append((torch.cat(ids), None if hidden[0] is None else torch.cat(hidden)))
    return steps


def losses(run: Path, column: str) -> list[float]:
    header, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    return [float(row[header.index(column)]) for row in rows if row[header.index(column)] not in ("", "nan")]


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_are_given_the_batches_and_masks_of_one(method: str, folder: Path, alone: dict[str, One]) -> None:
    ranks = [torch.load(folder / f"{method}2.rank{rank}.pt") for rank in (0, 1)]
    assert all(first[0] == second[0] for first, second in zip(*ranks, strict=True))
    together = [part for pair in zip(*ranks, strict=True) for part in pair]
    for (ids, hidden), (wanted, mask) in zip(by_step(together), by_step(alone[method].seen), strict=True):
        assert torch.equal(ids, wanted)
        assert (hidden is None) == (mask is None) == ("mae" not in method)
        assert hidden is None or (mask is not None and torch.equal(hidden, mask))


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_have_the_curve_of_one(method: str, folder: Path, alone: dict[str, One]) -> None:
    """Within rounding: sums of float32 in another order, carried on through 18 steps of Adam."""
    worst = {}
    for column in ("loss", "val_loss"):
        ours, theirs = losses(folder / f"{method}2", column), losses(alone[method].folder, column)
        assert len(ours) == len(theirs) == (18 if column == "loss" else 3)
        worst[column] = max(abs(a / b - 1) for a, b in zip(ours, theirs, strict=True))
    assert max(worst.values()) < 2e-5, worst


@pytest.mark.parametrize("method", [method for method in METHODS if "mae" not in method])
def test_collapse_is_measured_on_the_rows_of_all_ranks(method: str, folder: Path, alone: dict[str, One]) -> None:
    for column in ("std_mean", "rank"):
        assert losses(folder / f"{method}2", column) == pytest.approx(losses(alone[method].folder, column), rel=1e-3)


@pytest.mark.parametrize(("method", "parts"), [("mae", 4), ("ijepa", 2)])
def test_the_parts_of_a_batch_are_the_batch(
    method: str, parts: int, folder: Path, alone: dict[str, One], tmp_path: Path
) -> None:
    """Equal parts with equally many hidden coordinates: the mean of their means is the mean, but for rounding."""
    seen = run([*words(folder, method), "--accumulate", str(parts), "--out", str(tmp_path / "run")])
    assert len(seen) == parts * len(alone[method].seen)
    for (ids, hidden), (wanted, mask) in zip(by_step(seen), by_step(alone[method].seen), strict=True):
        assert torch.equal(ids, wanted)
        assert hidden is None or (mask is not None and torch.equal(hidden, mask))
    for column in ("loss", "val_loss", "learning_rate"):
        assert losses(tmp_path / "run", column) == pytest.approx(losses(alone[method].folder, column), rel=2e-5)
    ours, theirs = (
        torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
        for out in (tmp_path / "run", alone[method].folder)
    )
    assert ours["global_step"] == theirs["global_step"] == 18
    left, right = (
        [state["exp_avg"] for state in kept["optimizer_states"][0]["state"].values()] for kept in (ours, theirs)
    )
    size = max(float(mean.abs().max()) for mean in right)
    assert all((a - b).abs().max() < 1e-5 * size for a, b in zip(left, right, strict=True))


def test_only_the_first_rank_writes_and_speaks(folder: Path) -> None:
    assert (folder / "said1").read_text() == ""
    assert (folder / "said0").read_text().count("finished") == len(METHODS)
    for method in METHODS:
        files = {str(path.relative_to(folder / f"{method}2")) for path in (folder / f"{method}2").rglob("*")}
        assert {name for name in files if not name.startswith("tensorboard")} == {
            "config.json",
            "encoder.json",
            "metrics.csv",
            "model.safetensors",
            "sha256.json",
            "checkpoints",
            "checkpoints/last.ckpt",
        }
        assert len([name for name in files if "events" in name]) == 1


def test_a_run_of_two_ranks_goes_on_with_one(folder: Path, alone: dict[str, One]) -> None:
    """What a checkpoint says of the data holds for every layout with the same batch."""
    shutil.copytree(folder / "middle2", folder / "middle1")
    config = json.loads((folder / "middle1" / "config.json").read_text())
    assert (config["devices"], config["epochs"]) == (2, 3)
    (folder / "middle1" / "config.json").write_text(json.dumps({**config, "devices": 1}))
    seen = run(["pretrain", "--resume", str(folder / "middle1")])
    assert [(at, ids.tolist()) for at, ids, _ in seen] == [(at, ids.tolist()) for at, ids, _ in alone["mae"].seen[8:]]
    assert losses(folder / "middle1", "loss") == pytest.approx(losses(folder / "mae1", "loss"), rel=2e-5)


@pytest.mark.parametrize(("name", "equal"), [("training_step", True), ("mean of means", False)])
def test_unequal_ranks_with_unequal_masks_have_the_gradient_of_one(name: str, equal: bool, folder: Path) -> None:
    """What `certify_ranks` shows of the other losses, of the masked ones: 3 samples here, 5 there, other masks each."""
    values, gradients = zip(*(torch.load(folder / f"uneven{rank}.pt")[name] for rank in (0, 1)), strict=True)
    value, gradient = torch.load(folder / "uneven.pt")
    together = torch.cat(gradients) / 2
    assert torch.allclose(together, gradient, rtol=1e-12, atol=0.0) == equal
    assert (abs(float(sum(values)) / 2 / float(value) - 1) < 1e-12) == equal


def test_the_command_starts_its_own_ranks(folder: Path, tmp_path: Path) -> None:
    """Without a launcher: one process is started by the other, and one of them writes and prints."""
    given = [*words(folder, "vicreg"), "--epochs", "1", "--devices", "2", "--out", str(tmp_path / "run")]
    given.remove("--epochs"), given.remove("3")
    done = subprocess.run(
        [sys.executable, "-m", "viewproof", *given], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ProjectedEncoder") == done.stdout.count("written to") == 1
    assert (tmp_path / "run" / "model.safetensors").exists()


BAD = [
    ("--devices 3", "batch_size=8 must be a multiple of devices=3 times nodes=1 times accumulate=1"),
    ("--devices 2 --nodes 2 --accumulate 4", "nodes=2 times accumulate=4, so that every share is equal; pass 16"),
    ("--devices 8", "6 held-out samples are too few for 8 ranks; pass fewer devices"),
    ("--devices 0", "devices=0 must be an integer of at least 1"),
    ("--devices -2", "devices=-2 must be an integer of at least 1"),
    ("--devices 1.5", "devices"),
    ("--nodes 0", "nodes=0 must be an integer of at least 1"),
    ("--accumulate 0", "accumulate=0 must be an integer of at least 1"),
    ("--accumulate 3", "batch_size=8 must be a multiple of devices=1 times nodes=1 times accumulate=3"),
    ("--accumulate 0.5", "accumulate"),
    ("--checkpoint-every 0", "checkpoint_every=0 must be an integer of at least 1"),
    ("--checkpoint-every 2.5", "checkpoint-every"),
    ("--strategy zero", "zero"),
    ("--method vicreg --accumulate 8", "accumulate=8 micro-batches of 1 sample: vicreg has statistics"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_refused_before_anything_is_written(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(60) % 3)
    given = ["pretrain", str(tmp_path / "images.npz"), *SMALL.split(), *words.split(), "--out", str(tmp_path / "run")]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("viewproof: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_configuration_made_in_python_is_checked_too() -> None:
    for name, value in (("devices", 1.5), ("accumulate", True), ("checkpoint_every", 2.0)):
        config = PretrainConfig("digits")
        object.__setattr__(config, name, value)  # as without the tests' check of types
        with pytest.raises(InvalidArgument, match=f"^{name}=.* must be an integer of at least 1"):
            prepare(config, Path("nowhere"))
