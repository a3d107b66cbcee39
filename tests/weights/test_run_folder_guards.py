"""A changed byte of a run's weights is noticed, two processes cannot write one run, blocks have their own rates."""

import fcntl
import os
from pathlib import Path

import numpy as np
import pytest

import viewproof as vp
from viewproof.cli import main
from viewproof.evaluation.fine_tune import FineTuning
from viewproof.methods.supervised import Classifier
from viewproof.models import PatchEncoder
from viewproof.runs.guarded import check_digest, locked, recorded


def test_one_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    data = bytes(range(40))
    with recorded(tmp_path, "model.safetensors"):
        (tmp_path / "model.safetensors").write_bytes(data)
    check_digest(tmp_path, "model.safetensors")
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(damaged)
        with pytest.raises(vp.InvalidArgument, match=r"model\.safetensors is damaged"):
            check_digest(tmp_path, "model.safetensors")
    (tmp_path / "sha256.json").write_text("[]")
    with pytest.raises(vp.InvalidArgument, match=r"sha256\.json is damaged"):
        check_digest(tmp_path, "model.safetensors")


def test_a_damaged_or_locked_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(30, 6)))
    run = tmp_path / "run"
    words = ["--steps", "1", "--batch-size", "8", "--threads", "1", "--out", str(run)]
    assert main(["pretrain", str(tmp_path / "x.npy"), *words]) == 0
    other = os.open(run, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    capsys.readouterr()
    before = (run / "evaluation.json").read_bytes()
    assert main(["evaluate", str(run)]) == 2
    assert "is being written by another process" in capsys.readouterr().err
    os.close(other)
    with locked(run), pytest.raises(vp.InvalidArgument, match="another process"), locked(run):
        pass
    weights = bytearray((run / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (run / "model.safetensors").write_bytes(weights)
    for command in (["evaluate", str(run)], ["export", str(run), str(tmp_path / "out"), "--to", "torch"]):
        assert main(command) == 2
        assert "model.safetensors is damaged" in capsys.readouterr().err
    assert (run / "evaluation.json").read_bytes() == before and not (tmp_path / "out").exists()


def test_each_block_has_its_share_of_the_rate() -> None:
    encoder = PatchEncoder((1, 4, 4), (2, 2), dim=8, depth=2, heads=2)
    module = FineTuning(Classifier(encoder, 8, 3), [0, 1, 2], learning_rate=1.0)
    module.layer_decay = 0.5
    optimizer = module.configure_optimizers()["optimizer"]
    rates = {p: group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(module.model.parameters()))
    expected = {"embed": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "norm": 1.0}
    for start, rate in expected.items():
        assert {rates[p] for name, p in encoder.named_parameters() if name.startswith(start)} == {rate}
    assert rates[module.model.head.weight] == 1.0
