"""The command line as a user types it: processes for what is about processes, calls for the rest."""

import csv
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from viewproof.cli import main
from viewproof.errors import InvalidArgument
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import make_folder, new_folder

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--batch-size", "32", "--threads", "1"]
COMMAND = [sys.executable, "-m", "viewproof"]


@pytest.fixture
def images(tmp_path):
    """Ninety images of 2 x 8 x 12, their labels seen in their brightness."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(size=(90, 2, 8, 12)).astype(np.float32) + labels[:, None, None, None]
    np.savez(tmp_path / "images.npz", x=x, y=labels)
    return str(tmp_path / "images.npz")


def pretrain(*words):
    return main(["pretrain", *words])


def test_a_run_folder_is_complete_and_evaluates_to_the_same_numbers(images, tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain(images, *SMALL, "--epochs", "2", "--out", str(out)) == 0
    files = {path.name for path in out.iterdir()}
    wanted = {"config.json", "metrics.csv", "model.safetensors", "loss.png", "reconstruction.png", "evaluation.json"}
    wanted |= {"encoder.json", "sha256.json", "report.html"}
    assert wanted | {"checkpoints", "tensorboard", "patch-errors.png"} == files
    table = capsys.readouterr().out
    for line in ("model", "mean of the training samples", "nearest visible value", "trained encoder", "raw values"):
        assert line in table
    first = json.loads((out / "evaluation.json").read_text())
    assert main(["evaluate", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text()) == first
    assert not list(out.rglob("*.part"))


VARIANTS = ["--model vit", "--model conv --loss l1", "--model resnet", "--model vector"]
VARIANTS += ["--decoder cross-attention --norm-pix", "--loss smooth-l1 --precision bf16-mixed"]


@pytest.mark.parametrize("words", VARIANTS)
def test_every_model_and_loss_runs(images, tmp_path, words):
    assert pretrain(images, *SMALL, "--epochs", "1", "--out", str(tmp_path / "run"), *words.split()) == 0


@pytest.mark.parametrize("shape", [(40, 6), (40, 5, 7), (40, 2, 3, 4, 4)])
def test_tables_signals_and_volumes_train(tmp_path, shape, capsys):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=shape))
    out = str(tmp_path / "run")
    assert pretrain(str(tmp_path / "data.npy"), "--epochs", "1", "--batch-size", "16", "--out", out) == 0
    assert "nearest visible value" in capsys.readouterr().out
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["hidden_error_draws"] == 2 and "hidden_error_by_patch" not in result
    assert not (tmp_path / "run" / "patch-errors.png").exists()


def test_a_config_repeats_a_run_bit_for_bit_and_flags_override_it(images, tmp_path):
    first, second, third = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert pretrain(images, *SMALL, "--epochs", "2", "--out", str(first)) == 0
    assert pretrain("--config", str(first / "config.json"), "--out", str(second)) == 0
    a, b = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert pretrain("--config", str(first / "config.json"), "--seed", "7", "--out", str(third)) == 0
    assert json.loads((third / "config.json").read_text())["seed"] == 7


def test_the_untrained_encoder_is_the_one_that_training_started_from(images, tmp_path):
    from viewproof.runs.folder import initial_network, load_run

    out = tmp_path / "run"
    assert pretrain(images, *SMALL, "--epochs", "1", "--learning-rate", "1e-30", "--out", str(out)) == 0
    run = load_run(out)
    untrained = initial_network(run.config, run.dataset).state_dict()
    for name, value in run.model.state_dict().items():
        torch.testing.assert_close(value, untrained[name])


def test_a_mask_is_drawn_and_counted(tmp_path, capsys):
    picture = tmp_path / "mask.png"
    assert main(["masks", "~PatchMask(2, 3, 2, 0)", "3,4,6", "--out", str(picture)]) == 0
    assert "36 of 72 hidden (50.0%)" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_resumes_to_the_straight_run(images, tmp_path):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    epochs = ["--epochs", "30", *SMALL]
    assert pretrain(images, *epochs, "--out", str(straight)) == 0
    process = subprocess.Popen([*COMMAND, "pretrain", images, *epochs, "--out", str(stopped)], stdout=subprocess.PIPE)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    message = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 130 and f"viewproof pretrain --resume {stopped}" in message
    assert not (stopped / "model.safetensors").exists()
    assert main(["pretrain", "--resume", str(stopped)]) == 0
    ours, theirs = (load_file(run / "model.safetensors") for run in (stopped, straight))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rows = [list(csv.DictReader((run / "metrics.csv").open())) for run in (stopped, straight)]
    for row in (*rows[0], *rows[1]):
        row.pop("images_per_second")
    assert rows[0] == rows[1]


BAD = [
    (["pretrain"], "needs DATA"),
    (["pretrain", "digitz"], "did you mean 'digits'"),
    (["pretrain", "IMAGES", "--epochs", "2.5"], "epochs"),
    (["pretrain", "IMAGES", "--epochs", "0"], "epochs=0 must be an integer of at least 1"),
    (["pretrain", "IMAGES", "--batch-size", "-1"], "batch_size=-1 must be an integer of at least 1"),
    (["pretrain", "IMAGES", "--batch-size", "1000"], "batch_size=1000 is larger than the training part"),
    (["pretrain", "IMAGES", "--learning-rate", "nan"], "learning_rate=nan must be positive"),
    (["pretrain", "IMAGES", "--weight-decay", "-0.1"], "weight_decay=-0.1 must be at least 0"),
    (["pretrain", "IMAGES", "--patch-size", "5"], "must divide the image"),
    (["pretrain", "IMAGES", "--mask", "PatchMusk(2, 2, 3, 0)"], "did you mean PatchMask"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(2, 2, 0, 0)"], "hides nothing"),
    (["pretrain", "IMAGES", "--mask", "~PatchMask(2, 2, 0, 0)"], "hides everything"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(2, 2, -3, 0)"], "period=-3 must be a non-negative integer"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(2, 2, True, 0)"], "period=True must be a non-negative integer"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(2, 2, 3)"], "offset"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(2, 2,"], "is not an expression"),
    (["pretrain", "IMAGES", "--mask", "print(1)"], "no rule is called 'print'"),
    (["pretrain", "IMAGES", "--mask", "os.system('true')"], "no rule is called 'os.system'"),
    (["pretrain", "IMAGES", "--mask", "VectorMask(2, 0)"], "masks data of 1 axes"),
    (["pretrain", "IMAGES", "--mask", "PatchMask(3, 3, 2, 0)"], "only a part of patch"),
    (["pretrain", "IMAGES", "--mask", "SharedRandomPatchMask(4, 4, 7)"], "count=7 is more than the 6 patches"),
    (["pretrain", "IMAGES", "--model", "resnext"], "resnext"),
    (["pretrain", "IMAGES", "--frobnicate"], "frobnicate"),
    (["pretrain", "IMAGES", "--out", "EXISTING"], "exists"),
    (["pretrain", "--config", "/no/such/file.json"], "/no/such/file.json"),
    (["pretrain", "--resume", "EXISTING"], "is not a run folder"),
    (["evaluate", "EXISTING"], "is not a run folder"),
    (["masks", "PatchMask(2, 2, 3, 0)", "3,x,4"], "shape='3,x,4'"),
    (["masks", "PatchMask(2, 2, 3, 0)", "3,4,4", "--out", "EXISTING"], "exists"),
    (["frobnicate"], "frobnicate"),
    (["prove", "vector_*", "image_*"], "'image_*' is an argument too many"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_bad_input_is_one_line_and_touches_nothing(images, tmp_path, monkeypatch, capsys, words, message):
    work = tmp_path / "work"
    existing = work / "existing"
    existing.mkdir(parents=True)
    monkeypatch.chdir(work)
    assert main([{"IMAGES": images, "EXISTING": str(existing)}.get(word, word) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("viewproof: ") and error.count("\n") == 1
    assert list(work.rglob("*")) == [existing]


def test_a_config_that_does_not_match_its_weights(images, tmp_path, capsys):
    out = tmp_path / "run"
    assert pretrain(images, *SMALL, "--epochs", "1", "--out", str(out)) == 0
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"dim": 32}))
    assert main(["evaluate", str(out)]) == 2
    assert "config.json does not match model.safetensors" in capsys.readouterr().err
    (out / "config.json").write_text(json.dumps(config))
    weights = load_file(out / "model.safetensors")
    save_file({name: value for name, value in weights.items() if name != "mask_token"}, out / "model.safetensors")
    assert main(["evaluate", str(out)]) == 2
    (out / "model.safetensors").write_bytes(b"half")
    assert main(["evaluate", str(out)]) == 2
    (out / "config.json").write_text("{")
    assert main(["evaluate", str(out)]) == 2
    assert "is not a whole configuration" in capsys.readouterr().err
    for name in ("mean", "size", "data"):
        (out / "config.json").write_text(json.dumps(config | {name: [1]}))
        assert main(["evaluate", str(out)]) == 2
        assert f"{name}=[1] must be text" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from viewproof.cli import app; app([{!r}, '--help'], result_action='return_value'); "
        "heavy = {{'torch', 'numpy', 'pytorch_lightning', 'z3', 'sklearn', 'matplotlib'}} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    for command in ("pretrain", "evaluate", "masks", "prove"):
        shown = subprocess.run([sys.executable, "-c", code.format(command)], check=True, capture_output=True, text=True)
        assert f"Usage: viewproof {command}" in shown.stdout


def test_without_its_packages_the_command_says_how_to_get_them():
    code = "import sys; sys.modules['cyclopts'] = None; from viewproof.__main__ import main; sys.exit(main())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert shown.stderr == "viewproof: cyclopts is not installed; pip install 'viewproof[all]'\n"


def test_the_next_free_folder_is_taken(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert pretrain(images, *SMALL, "--epochs", "1") == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["images-mae", "images-mae-2"]


def test_a_rule_of_ones_own_is_imported_at_the_users_word_and_not_at_a_files(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownrule.py").write_text(
        "from dataclasses import dataclass\n"
        "import viewproof as vp\n"
        "@dataclass(frozen=True)\n"
        "class Top(vp.Rule):\n"
        "    rows: int\n"
        "    def hidden(self, channel, row, col):\n"
        "        return row < self.rows\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    words = [images, *SMALL, "--steps", "2", "--model", "conv", "--mask", "ownrule.Top(4)", "--out", "run"]
    assert pretrain(*words) == 0
    # From here on the module is a trap: only --allow-import may spring it.
    (tmp_path / "ownrule.py").write_text("raise SystemError('sprung')")
    sys.modules.pop("ownrule")
    for command in (["evaluate", "run"], ["pretrain", "--config", "run/config.json", "--out", "again"]):
        assert main(command) == 2 and "--allow-import" in capsys.readouterr().err
        assert main([*command, "--allow-import"]) == 2 and "sprung" in capsys.readouterr().err
    assert not Path("again").exists()


def test_a_files_word_does_not_choose_the_folder_that_is_written(images, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("config.json").write_text(json.dumps({"data": images, "steps": 1, "batch_size": 8, "out": "../outside"}))
    assert main(["pretrain", "--config", "config.json"]) == 0
    assert not (tmp_path / "outside").exists() and Path("runs/images-mae").is_dir()


@pytest.mark.parametrize(
    "text", ["~" * 5000 + "PatchMask(1, 1, 1, 0)", "~" * 900 + "PatchMask(1, 1, 1, 0)", "(" * 400, "RandomRule()",
             "Complement(1)", "MaskOfSample(PatchMask(1, 1, 1, 0), 0)", "PatchMask(*[1, 2])", "\0", ""]
)  # fmt: skip
def test_a_text_that_is_no_rule_is_refused_in_one_line(text, tmp_path, capsys):
    assert main(["masks", text, "1,4,4", "--out", str(tmp_path / "m.png")]) in (0, 2)
    assert len(capsys.readouterr().err.splitlines()) <= 1


def test_a_rule_that_draws_one_mask_a_sample_is_drawn_and_trains(images, tmp_path, capsys):
    assert main(["masks", "RandomPatchMask(4, 4, count=3)", "2,8,12", "--out", str(tmp_path / "mask.png")]) == 0
    assert "96 of 192 hidden (50.0%)" in capsys.readouterr().out
    words = [images, *SMALL, "--epochs", "1", "--mask", "RandomPatchMask(4, 4, count=3)"]
    assert pretrain(*words, "--out", str(tmp_path / "run")) == 0
    assert (tmp_path / "run" / "reconstruction.png").stat().st_size > 0


def test_a_run_that_diverges_says_so_with_an_exit_code_of_its_own(images, tmp_path, capsys):
    words = [images, *SMALL, "--steps", "12", "--model", "conv", "--learning-rate", "1e30", "--clip", "1e30"]
    assert pretrain(*words, "--out", str(tmp_path / "run")) == 3
    assert "diverged by step" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["diverged"] is True
    assert main(["evaluate", str(tmp_path / "run")]) == 3


@pytest.mark.parametrize("flag", ["--workers", "--threads", "--devices"])
def test_numbers_that_would_exhaust_the_machine_are_refused(flag, images, tmp_path, capsys):
    assert pretrain(images, flag, "100000", "--out", str(tmp_path / "run")) == 2
    assert "must be at most" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_probes_that_could_not_be_fit_are_refused_before_training(tmp_path, capsys):
    path = tmp_path / "labelled.npz"
    np.savez(path, x=np.random.rand(64, 1, 8, 8).astype("float32"), y=np.arange(64) % 2)
    assert pretrain(str(path), *SMALL, "--probe-samples", "1", "--out", str(tmp_path / "run")) == 2
    assert "probe_samples=1 must draw" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_folder_that_another_run_has_just_taken_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = PretrainConfig("digits")
    first, second = new_folder(config), new_folder(config)
    assert [make_folder(folder, config).name for folder in (first, second)] == ["digits-mae", "digits-mae-2"]
    with pytest.raises(InvalidArgument, match="exists"):
        make_folder(tmp_path, replace(config, out=str(tmp_path)))


def test_a_disk_error_is_one_line(images, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert pretrain(images, *SMALL, "--steps", "1", "--out", str(tmp_path / "file" / "run")) == 2
    assert capsys.readouterr().err.count("\n") == 1
