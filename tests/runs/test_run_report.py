"""What a report writes about a run."""

import json

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.runs import report
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import load_run, prepare

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
    shown = capsys.readouterr().out
    assert said in shown
    page = (out / "report.html").read_text()
    assert ("stand in for them" in shown, "stand in for them" in page) == ("norm-pix" in mask,) * 2
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
    run = prepare(config, tmp_path / "none")
    ids = torch.arange(4)
    sample = run.rule.sample(run.dataset.fetch("test", ids), sample_ids=ids)
    with torch.inference_mode():
        together = report.restore_prediction(run, sample)
        for n in range(4):
            row = vp.MaskOfSample(run.rule, sample_id=n).sample(run.dataset.fetch("test", [n]))
            alone = report.restore_prediction(run, row)
            torch.testing.assert_close(together[n : n + 1], alone)
    clean = sample.y.clone()
    clean[sample.view.hidden.flatten(1)] = 1e6
    with torch.inference_mode():
        poisoned = report.restore_prediction(run, vp.Sample(sample.x, clean, sample.mask, sample.view))
    assert torch.equal(together, poisoned)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two finished runs of the same images: with labels, and without."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(size=(90, 1, 4, 4)).astype(np.float32) + labels[:, None, None, None]
    np.savez(folder / "labelled.npz", x=x, y=labels)
    np.save(folder / "bare.npy", x)
    for name in ("labelled.npz", "bare.npy"):
        out = str(folder / name.partition(".")[0])
        assert main(["pretrain", str(folder / name), *SMALL, "--patch-size", "2", "--epochs", "1", "--out", out]) == 0
    return folder


def evaluate(*words):
    return main(["evaluate", *map(str, words)])


def test_fine_tuning_stands_beside_the_same_from_scratch(finished, capsys):
    files = {path.name for path in (finished / "labelled").iterdir()} | {"fine-tune.json"}
    assert evaluate(finished / "labelled", "--fine-tune", 40, "--labels", 30, "--seed", 1) == 0
    shown = capsys.readouterr().out
    assert "trained on 30 labels for 40 epochs" in shown
    result = json.loads((finished / "labelled" / "fine-tune.json").read_text())
    assert {name: result[name] for name in ("labels", "epochs", "seed")} == {"labels": 30, "epochs": 40, "seed": 1}
    assert result["accuracy"].keys() == {"from the trained encoder", "from scratch"}
    assert all(score > 0.6 and f"{100 * score:.1f} %" in shown for score in result["accuracy"].values())
    assert {path.name for path in (finished / "labelled").iterdir()} == files
    assert evaluate(finished / "labelled", "--fine-tune", 40, "--labels", 30, "--seed", 1) == 0
    assert json.loads((finished / "labelled" / "fine-tune.json").read_text()) == result


def test_embeddings_come_with_their_ids_splits_and_labels(finished, tmp_path):
    for name in ("labelled", "bare"):
        assert evaluate(finished / name, "--export", tmp_path / f"{name}.npz") == 0
        run = load_run(finished / name)
        table = np.load(tmp_path / f"{name}.npz", allow_pickle=False)
        assert table["embeddings"].shape == (90, 16) and table["embeddings"].dtype == np.float32
        assert ("labels" in table) == (name == "labelled")
        for n in (0, 50, 80, 81, 89):
            part, index = str(table["split"][n]), int(table["sample_ids"][n])
            with torch.inference_mode():
                wanted = run.model.eval().encode(run.dataset.fetch(part, [index]))[0]
            torch.testing.assert_close(torch.from_numpy(table["embeddings"][n]), wanted)
            if name == "labelled":
                assert table["labels"][n] == run.dataset.part(part).labels[index]
        assert sorted(zip(table["split"], table["sample_ids"], strict=True)) == [
            (split, index) for split, size in (("test", 9), ("train", 81)) for index in range(size)
        ]


BAD = [
    ("labelled", "--fine-tune 2 --labels 82", "labels=82 is more than the 81 labelled samples"),
    ("labelled", "--fine-tune 2 --labels 2", "labels=2 is fewer than the 3 classes"),
    ("labelled", "--fine-tune 0 --labels 9", "fine_tune=0 must be positive"),
    ("labelled", "--fine-tune 1.5", "fine-tune"),
    ("labelled", "--labels 9", "pass --fine-tune EPOCHS too"),
    ("labelled", "--fine-tune 1 --seed -1", "seed=-1 must be from 0"),
    ("bare", "--fine-tune 1", "needs labels of at least two classes"),
    ("labelled", "--export TMP/x.csv", "must end in .npz or .parquet"),
    ("labelled", "--export TMP/there.npz", "exists; choose another name"),
    ("labelled", "--export TMP/no/x.npz", "lies in no folder"),
    ("labelled", "--fine-tune 1 --export TMP/x.csv", "must end in .npz or .parquet"),
    ("nowhere", "--export TMP/x.npz", "is not a run folder"),
]


@pytest.mark.parametrize(("name", "words", "message"), BAD, ids=lambda value: str(value).replace("/", "-"))
def test_bad_input_is_one_line_and_touches_nothing(finished, tmp_path, capsys, name, words, message):
    (tmp_path / "there.npz").write_text("mine")
    before = {path: path.stat().st_mtime_ns for folder in (finished, tmp_path) for path in folder.rglob("*")}
    assert evaluate(finished / name, *words.replace("TMP", str(tmp_path)).split()) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("viewproof: ") and error.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for folder in (finished, tmp_path) for path in folder.rglob("*")} == before
