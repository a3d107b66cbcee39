"""Models of timm and transformers as encoders: hidden pixels do not reach them, and their runs resume and export."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import viewproof as vp
from viewproof.certify import certify_encoder
from viewproof.cli import main
from viewproof.runs import verdicts
from viewproof.runs.export import export
from viewproof.runs.folder import load_run
from viewproof.training.checkpoints import Checkpoints
from viewproof.verdict import Verdict
from viewproof.weights.backbones import library_encoder, load_backbone, make_encoder
from viewproof.weights.layout import BOUND, difference
from viewproof.weights.targets import vit_of

transformers = pytest.importorskip("transformers")
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is of the second environment")
SIZES = {
    "Vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "patch_size": 4},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2, "patch_size": 2},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a family, with configuration and weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    for name, sizes in SIZES.items():
        kind = name.replace("Vit", "ViT")
        config = getattr(transformers, f"{kind}Config")(image_size=16, num_channels=3, **sizes)
        getattr(transformers, f"{kind}Model")(config).save_pretrained(folder / name.lower())
    return folder


@pytest.fixture
def images(tmp_path: Path) -> str:
    x = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(40) % 2)
    return str(tmp_path / "images.npz")


def pretrain(images: str, *words: str) -> int:
    return main(["pretrain", images, "--batch-size", "8", "--steps", "3", "--threads", "1", *words])


@pytest.mark.parametrize("family", ["swin", "convnext"])
@pytest.mark.parametrize("fill", ["learned", "zero"])
def test_hidden_pixels_do_not_reach_the_encoder(family: str, fill: str, models: Path) -> None:
    model = vp.MaskedImageModel(library_encoder(f"transformers:{models / family}", (3, 16, 16)), fill)  # type: ignore[arg-type]
    sample = vp.image_patch_mae_sample(torch.rand(2, 3, 16, 16), 4, 4, period=2, offset=1)
    assert certify_encoder(model.eval(), sample).verdict() is Verdict.PROVED
    assert model(sample.x, sample.view).shape == (2, 3 * 16 * 16)

    class SeesAll(nn.Module):
        """The mutant: the mask comes after the encoder."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return model.encoder.tokens(x)

    assert certify_encoder(SeesAll().eval(), sample).verdict() is Verdict.REFUTED


def test_a_plain_vit_encodes_only_visible_patches(models: Path) -> None:
    encoder = make_encoder(f"transformers:{models / 'vit'}", (3, 16, 16), pretrained=True)
    assert isinstance(encoder, vp.PatchEncoder)
    theirs = transformers.AutoModel.from_pretrained(models / "vit").eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert difference(encoder.all_tokens(x), theirs(pixel_values=x).last_hidden_state) < BOUND
    sample = vp.image_patch_mae_sample(x, 4, 4, period=2, offset=1)
    visible = torch.tensor([[k for k in range(16) if k % 2 == 0]] * 2)
    assert certify_encoder(lambda x: encoder(x, visible), sample).verdict() is Verdict.PROVED


@pytest.mark.parametrize("method", ["mae", "vicreg"])
def test_a_run_of_another_librarys_model_starts_from_weights_resumes_and_leaves(
    method: str, models: Path, images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "THEOREMS", ())
    name = f"transformers:{models / 'swin'}"
    words = ["--method", method, "--model", name, "--pretrained", "--checkpoint-every", "1"]
    assert pretrain(images, *words, "--out", str(tmp_path / "whole")) == 0
    run = tmp_path / "again"
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["init"] == name and not config["pretrained"]
    report = json.loads((tmp_path / "whole" / "init.json").read_text())
    assert report["differences"]["this encoder and the source"] < BOUND and str(models) not in json.dumps(report)
    # Stopped after its second step, as by a crash, and resumed.
    saves = Checkpoints.on_train_batch_end

    def crash(self: Checkpoints, trainer: object, *rest: object) -> None:
        saves(self, trainer, *rest)  # type: ignore[arg-type]
        if trainer.global_step == 2:  # type: ignore[attr-defined]
            raise MemoryError

    monkeypatch.setattr(Checkpoints, "on_train_batch_end", crash)
    with pytest.raises(MemoryError):
        pretrain(images, *words, "--out", str(run))
    monkeypatch.setattr(Checkpoints, "on_train_batch_end", saves)
    assert main(["pretrain", "--resume", str(run)]) == 0
    ends = [load_run(folder).model.state_dict() for folder in (tmp_path / "whole", run)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
    measured = export(tmp_path / "whole", "transformers", tmp_path / "out", say=lambda line: None)
    assert measured["difference"] < BOUND
    with pytest.raises(vp.InvalidArgument, match="is transformers:swin; pass --to transformers, --to torch or"):
        vit_of(load_run(run).model.encoder, "timm")  # type: ignore[arg-type]
    assert "transformers:swin" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(vp.InvalidArgument, match="out holds a model of transformers, not a run"):
        vp.load_encoder(tmp_path / "out")
    # A run starts from a folder of that library as from a run.
    words = ["--method", method, "--model", name, "--init"]
    for n, start in enumerate((str(tmp_path / "out"), f"hf:{tmp_path}/out", str(run))):
        assert pretrain(images, *words, start, "--out", str(tmp_path / f"from-{n}")) == 0
        report = json.loads((tmp_path / f"from-{n}" / "init.json").read_text())
        assert {row["what"] for row in report["tensors"]} == {"loaded"} and len(report["tensors"]) > 9


def test_a_plain_vit_of_transformers_is_a_masked_autoencoder(models: Path, images: str, tmp_path: Path) -> None:
    words = ["--model", f"transformers:{models / 'vit'}", "--pretrained", "--features", "both"]
    assert pretrain(images, *words, "--out", str(tmp_path / "run")) == 0
    model = load_run(tmp_path / "run").model
    assert isinstance(model, vp.MaskedAutoencoder) and model.dim == 16 and model.feature_dim == 32


BAD = [
    (["--model", "transformers:./nothing"], "cannot be made"),
    (["--model", "timm:"], "model='timm:' must be one of"),
    (["--pretrained"], "pretrained is of a model of another library"),
    (["--model", "transformers:MODELS/swin", "--method", "ijepa"], "encodes chosen patches"),
    (["--model", "transformers:MODELS/swin", "--method", "barlow", "--keep-tokens", "0.5"], "keep_tokens=0.5"),
    (["--model", "transformers:MODELS/swin", "--features", "class"], "needs a class token"),
    (["--model", "transformers:MODELS/swin", "--init", "transformers:MODELS/convnext"], "pass weights of it"),
    (["--model", "transformers:MODELS/swin", "--init", "nowhere"], "is no file"),
]


@pytest.mark.parametrize(("words", "complaint"), BAD)
def test_bad_input_is_one_line(
    words: list[str], complaint: str, models: Path, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("MODELS", str(models)) for word in words]
    assert pretrain(images, *words, "--out", str(tmp_path / "run")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and complaint in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is here")
def test_without_timm_one_line_says_what_to_install(images: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretrain(images, "--model", "timm:resnet18") == 2
    assert "timm:resnet18 needs timm, which is not installed; pip install timm" in capsys.readouterr().err


@needs_timm
@pytest.mark.parametrize(
    ("name", "method"),
    [("convnext_atto", "mae"), ("resnet18", "vicreg"), ("swin_tiny_patch4_window7_224", "supervised")],
)
def test_a_run_of_timm_leaves_to_timm(name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "THEOREMS", ())
    # ConvNeXt halves an image five times.
    x = np.random.default_rng(0).normal(size=(40, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(40) % 2)
    words = ["--model", f"timm:{name}", "--method", method, "--out", str(tmp_path / "run")]
    assert pretrain(str(tmp_path / "images.npz"), *words) == 0
    assert export(tmp_path / "run", "timm", tmp_path / "out", say=lambda line: None)["difference"] < BOUND


@needs_timm
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_timm_encoders_in_python(name: str) -> None:
    encoder = make_encoder(f"timm:{name}", (3, 32, 32))
    sample = vp.image_patch_mae_sample(torch.rand(2, 3, 32, 32), 16, 16, period=2, offset=1)
    if isinstance(encoder, vp.Backbone):
        subject: object = vp.MaskedImageModel(encoder).eval()
    else:
        subject = lambda x: encoder(x, torch.tensor([[0, 2]] * 2))  # noqa: E731
    assert certify_encoder(subject, sample).verdict() is Verdict.PROVED  # type: ignore[arg-type]


def test_a_prefix_and_a_classifier_are_left_out() -> None:
    encoder, source = (vp.Backbone(nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)), (3, 8, 8)) for _ in "ab")
    own = source.model.state_dict()
    state = {f"module.{key}": value for key, value in own.items()} | {"module.fc.weight": torch.ones(2, 8)}
    report = load_backbone(encoder, {**state, "queue": torch.ones(3)}, "file", source)
    assert all(torch.equal(encoder.model.state_dict()[key], value) for key, value in own.items())
    what = {row["source"]: row["what"] for row in report["tensors"]}
    assert what["queue"] == "unused: not of the encoder module"
    assert what["module.fc.weight"] == "unused: of a classifier"
    twice = {**state, **{f"momentum.{key}": value for key, value in own.items()}}
    with pytest.raises(vp.InvalidArgument, match=r"several encoders, at 'module\.', 'momentum\.'"):
        load_backbone(encoder, twice, "file", source)


def test_weights_of_another_shape_are_refused() -> None:
    encoder = vp.Backbone(nn.Conv2d(3, 8, 4, 4), (3, 8, 8))
    with pytest.raises(vp.InvalidArgument, match=r"weight has the shape \(8, 3, 2, 2\), in model \(8, 3, 4, 4\)"):
        load_backbone(encoder, nn.Conv2d(3, 8, 2, 2).state_dict(), "file", encoder)
    with pytest.raises(vp.InvalidArgument, match="no grid"):
        vp.Backbone(nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (72, 3)), nn.ZeroPad2d((0, 0, 0, 9))), (3, 8, 9))
