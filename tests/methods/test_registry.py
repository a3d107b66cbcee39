"""A method is one class and one line: what a stranger adds runs, and the built-in ones fit their flags."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from viewproof import methods
from viewproof.cli import main
from viewproof.data import Dataset
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule
from viewproof.methods.base import JointMethod, Method
from viewproof.methods.ijepa import IJEPA
from viewproof.models import PatchEncoder
from viewproof.runs import reading
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import load_run, prepare, read_config
from viewproof.runs.resolved import Resolved
from viewproof.training.base import JointPretraining
from viewproof.training.settings import Count, TrainingSettings

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--threads", "1", "--steps", "2"]


class Halves(JointPretraining):
    """Pulls the embeddings of an image and of its mirror image together."""

    def objective(self, x: Tensor, sample_ids: Tensor, step: int, epoch: int) -> Tensor:
        embeddings: Tensor = self.model.encode(x)  # type: ignore[operator]
        self.embeddings = embeddings.detach()
        loss: Tensor = self.loss(embeddings, self.model.encode(x.flip(3)))  # type: ignore[operator]
        return loss


@dataclass(frozen=True, kw_only=True)
class HalvesMethod(JointMethod):
    """All that a new method must say."""

    name: ClassVar[str] = "halves"
    power: Count = 2

    def network(self, settings: TrainingSettings, shape: tuple[int, ...], classes: int | None) -> PatchEncoder:
        return self.encoder(settings, shape)

    def module(
        self, model: nn.Module, settings: TrainingSettings, rule: Rule | None, dataset: Dataset, **optimization: Any
    ) -> Halves:
        return Halves(model, lambda a, b: (a - b).abs().pow(self.power).mean(), **optimization)


def test_a_registered_method_trains_resumes_its_configuration_and_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = methods.Entry(f"{__name__}:HalvesMethod", "pulls mirror images together")
    monkeypatch.setitem(methods.METHODS, "halves", entry)
    out = tmp_path / "run"
    assert main(["pretrain", "digits", "--method", "halves", *SMALL, "--out", str(out)]) == 0
    assert main(["evaluate", str(out)]) == 0
    run = load_run(out)
    assert isinstance(run.config.method, HalvesMethod) and isinstance(run.model, PatchEncoder)
    assert json.loads((out / "evaluation.json").read_text())["accuracy"].keys() >= {"trained encoder"}
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_has_its_registered_name_and_a_flag_for_each_of_its_fields(name: str) -> None:
    kind = methods.load(name)
    assert issubclass(kind, Method) and kind.name == name
    assert {field.name for field in fields(kind)} < {field.name for field in fields(PretrainConfig)}


def test_every_flag_is_read_by_the_run_or_by_a_method() -> None:
    read = {field.name for kind in (Resolved, *map(methods.load, methods.METHODS)) for field in fields(kind)}
    assert {field.name for field in fields(PretrainConfig)} - read == {"out"}


@pytest.mark.parametrize("name", methods.METHODS)
def test_what_is_written_resolves_to_itself(name: str, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("some words " * 99)
    data = str(tmp_path / "words.txt") if name == "mlm" else "digits"
    resolved = prepare(PretrainConfig(data, method=name), tmp_path).config
    assert prepare(resolved.as_given(), tmp_path).config == resolved


def test_a_recipe_holds_where_the_user_gives_none_of_what_it_asks_for(tmp_path: Path) -> None:
    def chosen(**values: Any) -> tuple[Any, ...]:
        settings = prepare(PretrainConfig("digits", **values), tmp_path).config
        return settings.optimizer, settings.learning_rate, settings.depth, settings.epochs

    before = ("adamw", 2e-3, 4, 80)
    assert chosen()[0] == "muon" and chosen(epochs=3) == (*chosen()[:3], 3)
    assert chosen(optimizer="adamw") == chosen(learning_rate=2e-3) == chosen(depth=4) == before
    assert chosen(method="vicreg") == chosen(strategy="fsdp") == chosen(model="conv") == before
    assert chosen(method="simclr") == ("muon", 5e-3, 2, 100)
    assert chosen(method="simclr", min_area=0.5) == chosen(method="simclr", augment="Flip()") == before


def test_an_unknown_method_is_refused_with_a_hint_before_the_data_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "no-such-data", "--method", "vicregg"]) == 2
    assert "method='vicregg' is unknown; did you mean 'vicreg'?" in capsys.readouterr().err


def test_training_and_report_load_the_data_and_build_the_module_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, modules = [], []
    load, build = reading.load_dataset, IJEPA.__init__

    def counted(self: IJEPA, *arguments: Any, **options: Any) -> None:
        modules.append(self)
        build(self, *arguments, **options)

    monkeypatch.setattr(reading, "load_dataset", lambda **options: loads.append(options) or load(**options))
    monkeypatch.setattr(IJEPA, "__init__", counted)
    out = str(tmp_path / "run")
    assert main(["pretrain", "digits", "--method", "ijepa", *SMALL, "--out", out]) == 0
    assert (len(loads), len(modules)) == (1, 1)
    assert main(["evaluate", out, "--fine-tune", "1", "--labels", "20"]) == 0
    assert (len(loads), len(modules)) == (2, 1)


BEFORE = {
    "data": "digits", "method": "mae", "model": "masked-autoencoder", "decoder": "self-attention",
    "mask": "SharedRandomPatchMask(patch_h=2, patch_w=2, count=8, seed=0, draw=0)", "loss": "mse", "guard": None,
    "guard_weight": 0.01, "norm_pix": False, "patch_size": 2, "dim": 64, "depth": 4, "heads": 4, "decoder_dim": 64,
    "decoder_depth": 1, "decoder_heads": 4, "projector_dim": 256, "momentum": 0.996, "min_area": 0.6, "flip": False,
    "epochs": 3, "steps": None, "batch_size": 64, "accumulate": 1, "learning_rate": 0.002, "weight_decay": 0.05,
    "warmup_epochs": 1.0, "clip": None, "seed": 0, "workers": 0, "threads": 1, "precision": "32-true",
    "compile": False, "checkpoint_every": None, "accelerator": "auto", "devices": 1, "nodes": 1, "strategy": "ddp",
    "online_probe": False, "probe_samples": 10000, "out": None,
}  # fmt: skip


def test_a_configuration_with_the_defaults_of_every_method_still_loads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(BEFORE))
    config = read_config(tmp_path)
    run = prepare(config, tmp_path)
    expected = {**BEFORE, "projector_dim": None, "momentum": None, "min_area": None, "flip": None}
    assert {name: getattr(run.config.as_given(), name) for name in BEFORE} == expected
    # Settings that came later have the values under which such a run was trained.
    later = {
        name: value for name, value in vars(run.config.as_given()).items() if name not in BEFORE and value is not None
    }
    plain = {"optimizer": "adamw", "rate_rule": "fixed", "keep_tokens": 1.0, "class_token": False, "registers": 0}
    assert {name: later.get(name) for name in plain} == plain and later.get("predict") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "huber"}, "loss='huber' must be one of 'mse', 'l1', 'smooth-l1'"),
        ({"strategy": "zero"}, "strategy='zero' must be one of 'ddp', 'fsdp'"),
        ({"compile": "yes"}, "compile='yes' must be one of True, False"),
        ({"dim": 64.5}, "dim=64.5 must be an integer of at least 1"),
        ({"method": "moco"}, "method='moco' is unknown"),
        ({"method": ["mae"]}, "method=['mae'] must be text"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be at most 2**64 - 1"),
    ],
)
def test_a_damaged_configuration_is_refused_by_the_name_of_its_field(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = PretrainConfig("digits")
    for name, value in change.items():
        object.__setattr__(config, name, value)  # as without the tests' check of types
    with pytest.raises(InvalidArgument, match=f"^{re.escape(message)}"):
        prepare(config, tmp_path)
