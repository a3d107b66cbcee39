"""What a report writes about a run."""

import json

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof import reports, runs
from viewproof.cli import main
from viewproof.config import PretrainConfig
from viewproof.evaluation import drawn

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--batch-size", "32", "--threads", "1"]


@pytest.fixture
def images(tmp_path):
    """Ninety images of 2 x 8 x 12, their labels seen in their brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(size=(90, 2, 8, 12)).astype(np.float32) + labels[:, None, None, None]
    np.savez(tmp_path / "images.npz", x=x, y=labels)
    return str(tmp_path / "images.npz")


@pytest.mark.parametrize(
    ("mask", "draws"),
    [
        ("SharedRandomPatchMask(4, 4, 3)", 8),
        ("RandomPatchMask(4, 4, 3) --norm-pix", 8),
        ("PatchMask(4, 4, 2, 0)", 1),
        ("Rotating(PatchMask(4, 4, 2, 0))", 2),
    ],
)
def test_the_table_by_patch_agrees_with_the_headline(images, tmp_path, capsys, mask, draws):
    out, (rule, *more) = tmp_path / "run", mask.split(" --")
    words = ["--epochs", "1", "--patch-size", "4", "--mask", rule, *(f"--{word}" for word in more)]
    assert main(["pretrain", images, *SMALL, *words, "--out", str(out)]) == 0
    result = json.loads((out / "evaluation.json").read_text())
    assert result["hidden_error_draws"] == draws
    said = "one draw of the mask" if draws == 1 else f"mean over {draws} draws of the mask"
    assert said in capsys.readouterr().out
    tables = result["hidden_error_by_patch"]
    assert tables.pop("patch_size") == 4 and tables.keys() == result["hidden_error"].keys()
    for name, table in tables.items():
        known = [error for row in table for error in row if error is not None]
        assert [len(row) for row in table] == [3, 3]  # two rows of three patches
        assert len(known) == (3 if draws == 1 else 6)
        assert min(known) <= result["hidden_error"][name] <= max(known)
        if draws < 8:
            assert np.mean(known) == pytest.approx(result["hidden_error"][name])
    assert (out / "patch-errors.png").read_bytes().startswith(b"\x89PNG")


def test_masks_by_sample_are_denormalised_with_each_samples_visible_patches(images, tmp_path):
    config = PretrainConfig(images, mask="RandomPatchMask(4, 4, 3)", norm_pix=True, threads=1, depth=1)
    run = runs.prepare(config, tmp_path / "none")
    ids = torch.arange(4)
    sample = drawn(run.rule, run.dataset.fetch("test", ids), ids)
    with torch.inference_mode():
        together = reports.restore_prediction(run, sample)
        for n in range(4):
            row = vp.MaskOfSample(run.rule, sample_id=n).sample(run.dataset.fetch("test", [n]))
            alone = reports.restore_prediction(run, row)
            torch.testing.assert_close(together[n : n + 1], alone)
    clean = sample.y.clone()
    clean[sample.view.hidden.flatten(1)] = 1e6
    with torch.inference_mode():
        poisoned = reports.restore_prediction(run, vp.Sample(sample.x, clean, sample.mask, sample.view))
    assert torch.equal(together, poisoned)
