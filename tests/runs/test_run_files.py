"""What a run writes stays what it was: damage is noticed, nothing foreign is overwritten, Ctrl+C is not an error."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from viewproof.cli import main
from viewproof.metrics import read_metrics
from viewproof.runs import train
from viewproof.runs.config import PretrainConfig
from viewproof.training.checkpoints import Sealed, WholeFiles

WORDS = ["--steps", "12", "--batch-size", "16", "--threads", "1", "--model", "conv", "--dim", "8", "--patch-size", "4"]
WORDS += ["--checkpoint-every", "4"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    x = np.random.default_rng(0).normal(size=(60, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "x.npz", x=x, y=np.arange(60) % 2)
    assert main(["pretrain", str(folder / "x.npz"), *WORDS, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def flip(path: Path, share: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)


READERS = {
    "model.safetensors": "evaluate", "encoder.json": "export", "metrics.csv": "doctor", "evaluation.json": "report",
    "loss.png": "report", "reconstruction.png": "report", "patch-errors.png": "report", "sha256.json": "evaluate",
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_one_flipped_bit_is_noticed_when_the_file_is_read(name: str, run: Path, capsys: Any) -> None:
    flip(run / name, 0.0 if name == "sha256.json" else 0.5)
    out = [str(run.parent / "out"), "--to", "torch"] if READERS[name] == "export" else []
    assert main([READERS[name], str(run), *out]) == 2
    error = capsys.readouterr().err
    assert f"{name} is damaged" in error and error.count("\n") == 1


def test_a_run_whose_words_are_damaged_or_lost_says_so(run: Path, capsys: Any) -> None:
    config = (run / "config.json").read_bytes()
    for damaged in (config + b"\xff", config.replace(b'"seed": ', b'"seed": ' + 5000 * b"9"), b"7"):
        (run / "config.json").write_bytes(damaged)
        assert main(["evaluate", str(run)]) == 2 and "is not a whole configuration" in capsys.readouterr().err
    (run / "config.json").write_text(json.dumps(json.loads(config) | dict.fromkeys(("compile", "devices", "logger"))))
    assert main(["report", str(run)]) == 0
    (run / "config.json").write_bytes(config)
    (run / "sha256.json").unlink()
    facts = json.loads((run / "encoder.json").read_text())
    (run / "encoder.json").write_text(json.dumps({**facts, "mean": "x"}))
    assert main(["export", str(run), str(run.parent / "out"), "--to", "torch"]) == 2
    assert "encoder.json is damaged" in capsys.readouterr().err
    (run / "encoder.json").unlink()
    assert main(["export", str(run), str(run.parent / "out"), "--to", "torch"]) == 2
    assert "has no encoder.json; restore a copy, or train again" in capsys.readouterr().err


def test_every_file_of_a_run_has_a_digest_or_a_seal_or_is_the_users(finished: Path) -> None:
    names = {path.name for path in finished.iterdir() if path.is_file()}
    assert names - set((finished / "sha256.json").read_text().split('"')) == {"config.json", "sha256.json"}


def test_what_a_run_resumes_with_is_what_it_wrote(run: Path, finished: Path, capsys: Any) -> None:
    (run / "model.safetensors").unlink()
    flip(run / "metrics.csv", 0.3)
    assert main(["pretrain", "--resume", str(run)]) == 2
    assert "metrics.csv is damaged" in capsys.readouterr().err
    # Rows that came after the checkpoint are not the run's; without the file the run goes on.
    shutil.copy(finished / "metrics.csv", run)
    with (run / "metrics.csv").open("a") as file:
        file.write("99,9,junk")
    assert main(["pretrain", "--resume", str(run)]) == 0
    assert len(read_metrics(run / "metrics.csv")) == len(read_metrics(finished / "metrics.csv"))
    (run / "model.safetensors").unlink()
    (run / "metrics.csv").unlink()
    assert main(["pretrain", "--resume", str(run)]) == 0


@pytest.mark.parametrize(
    "text", ["step,loss\n1", "step,loss\n1,x\n", "loss\n1\n", "step\n1,2\n", "\0", "step,loss\n1\n2,3\n"]
)
def test_a_table_of_metrics_that_is_none_is_one_line(text: str, run: Path, capsys: Any) -> None:
    (run / "sha256.json").unlink()
    (run / "metrics.csv").write_text(text)
    assert main(["doctor", str(run)]) in (0, 1, 2)
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize("name", ["checkpoints", "tensorboard"])
def test_a_folder_that_is_a_link_is_not_written_through(name: str, run: Path, capsys: Any) -> None:
    outside = Path(shutil.move(run / name, run.parent / "outside"))
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    (run / name).symlink_to(outside)
    (run / "model.safetensors").unlink()
    assert main(["pretrain", "--resume", str(run)]) == 2
    assert f"{name} must not be a link" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_another_fine_tuning_is_not_overwritten(run: Path, capsys: Any) -> None:
    words = ["evaluate", str(run), "--fine-tune", "1", "--labels"]
    assert main([*words, "10"]) == main([*words, "10"]) == 0
    before = (run / "fine-tune.json").read_bytes()
    assert main([*words, "12"]) == 2 and "of another fine-tuning" in capsys.readouterr().err
    assert (run / "fine-tune.json").read_bytes() == before


EXISTING = [
    "prove --json FILE", "zoo --json FILE", "zoo --steps --json FILE", "watch --json FILE x.py",
    "watch --html FILE x.py", "watch --picture FILE x.py", "masks VectorMask(2,0) 4 --out FILE",
    "certify a:b --shape 2,3 --json FILE", "certify a:b --shape 2,3 --html FILE", "evaluate RUN --export FILE",
]  # fmt: skip


@pytest.mark.parametrize("command", EXISTING)
def test_no_command_overwrites_a_file(command: str, finished: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "mine.npz"
    for make in (lambda: path.write_text("mine"), lambda: path.symlink_to(tmp_path / "nothing")):
        path.unlink(missing_ok=True)
        make()
        assert main(command.replace("FILE", str(path)).replace("RUN", str(finished)).split()) == 2
        assert "exists; choose another" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"])
@pytest.mark.parametrize("writes", range(1, 30, 4))
def test_what_ends_the_writing_of_a_checkpoint_is_not_hidden(
    error: BaseException, writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, write = [writes], Sealed.write

    def failing(self: Sealed, part: Any) -> int:
        left[0] -= 1
        if left[0] == 0:
            raise error
        return write(self, part)

    monkeypatch.setattr(Sealed, "write", failing)
    (tmp_path / "last.ckpt").write_text("the last one")
    with pytest.raises(type(error)):
        WholeFiles().save_checkpoint({"w": [torch.arange(100.0) for _ in range(3)]}, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_text() == "the last one"


@pytest.mark.parametrize("place", ["report", "save", "train"])
def test_whenever_a_run_is_interrupted_it_says_how_it_goes_on(
    place: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, place, interrupted)
    config = PretrainConfig(str(finished.parent / "x.npz"), steps=2, model="conv", dim=8, batch_size=16, threads=1,
                            out=str(tmp_path / "run"))  # fmt: skip
    assert train.pretrain(config, lines.append) == 130
    ends = {"report": "viewproof evaluate", "save": "pretrain --resume", "train": "no checkpoint"}
    assert ends[place] in lines[-1]


def test_a_run_whose_checkpoint_lies_behind_its_end_is_not_resumed(run: Path, capsys: Any) -> None:
    (run / "model.safetensors").unlink()
    values = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(values | {"steps": None, "epochs": 1}))
    assert main(["pretrain", "--resume", str(run)]) == 2
    error = capsys.readouterr().err
    assert "lies behind the last epoch" in error and error.count("\n") == 1
