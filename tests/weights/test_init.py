"""Weights of other libraries: every tensor is accounted for, and the function is the same, or nothing is loaded."""

import argparse
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import viewproof as vp
from viewproof.cli import main
from viewproof.models.vit import resize_positions
from viewproof.weights import layout
from viewproof.weights.layout import BOUND, difference, from_encoder, from_state, plain_tokens, to_encoder
from viewproof.weights.sources import Source, read_source

TRANSFORMERS = ["ViT", "ViTMAE", "DeiT", "IJepa", "Dinov2", "Dinov2WithRegisters"]


def noisy(model: torch.nn.Module) -> torch.nn.Module:
    """The same model with every parameter away from its first value, so that none can be mixed up."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def mae_checkpoint(dim: int = 16, depth: int = 2, grid: int = 2, channels: int = 3) -> dict[str, Tensor]:
    """A state dict with the names and shapes of the official MAE repository, whose heads are dim / 64 or 1."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim), "pos_embed": (1, grid * grid + 1, dim), "mask_token": (1, 1, 8),
        "patch_embed.proj.weight": (dim, channels, 4, 4), "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,), "norm.bias": (dim,), "decoder_embed.weight": (8, dim), "decoder_pos_embed": (1, 5, 8),
        "decoder_blocks.0.norm1.weight": (8,),
    }  # fmt: skip
    for n in range(depth):
        for part, out, into in (("attn.qkv", 3 * dim, dim), ("attn.proj", dim, dim), ("mlp.fc1", 4 * dim, dim),
                                ("mlp.fc2", dim, 4 * dim)):  # fmt: skip
            shapes |= {f"blocks.{n}.{part}.weight": (out, into), f"blocks.{n}.{part}.bias": (out,)}
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{n}.{norm}.{kind}": (dim,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(1)
    return {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def fresh(vit: layout.VitWeights, kind: type = vp.MaskedAutoencoder, image: tuple[int, ...] | None = None):
    sizes = (vit.kernel.shape[0], vit.depth, vit.heads)
    return kind(image or vit.image_shape, vit.patch_size, *sizes, settings=layout.token_settings(vit))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_model_of_transformers_keeps_its_function(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    more = {"mlp_ratio": 4} if name.startswith("Dinov2") else {"intermediate_size": 64}
    config = getattr(transformers, f"{name}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4, **more
    )
    noisy(getattr(transformers, f"{name}Model")(config)).save_pretrained(tmp_path)
    source = read_source(f"hf:{tmp_path}")
    for kind in (vp.MaskedAutoencoder, vp.PatchEncoder, vp.ViTReconstructor):
        encoder = fresh(source.weights, kind)
        report = source.load_into(encoder)
        assert len(report["differences"]) == 2 and max(report["differences"].values()) < BOUND / 10
        copied = from_encoder(encoder)
        assert all(torch.equal(copied.tensors[key], value) for key, value in source.weights.tensors.items())
    assert str(tmp_path) not in json.dumps(report)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_official_mae_checkpoint_is_accounted_for(suffix: str, tmp_path: Path) -> None:
    state, path = mae_checkpoint(), tmp_path / f"mae{suffix}"
    torch.save({"model": state}, path) if suffix == ".pth" else save_file(state, path)
    source = read_source(str(path))
    report = source.load_into(fresh(source.weights, image=(3, 16, 12)))
    assert {row["source"] for row in report["tensors"]} == set(state)
    what = {row["source"]: row["what"] for row in report["tensors"]}
    assert what["pos_embed"] == "resized bicubically 2 x 2 -> 4 x 3" and what["cls_token"].startswith("loaded")
    assert what["decoder_embed.weight"].startswith("unused") and what["mask_token"].startswith("unused")


@pytest.mark.parametrize("wrong", ["heads", "eps", "order", "position", "query and key", "row and column"])
def test_the_comparison_sees_a_wrong_reading(wrong: str) -> None:
    """Each way in which a reader could go wrong changes the tokens by more than the bound."""
    torch.manual_seed(0)
    vit = from_state(mae_checkpoint(grid=3), "mae", heads=2)
    x = torch.randn(2, *vit.image_shape)
    encoder = fresh(vit)
    to_encoder(vit, encoder, "mae")
    encoder.eval()
    with torch.no_grad():
        assert difference(encoder.all_tokens(x), plain_tokens(vit, x)) < BOUND / 10
        if wrong == "heads":
            encoder.blocks[0].attention.heads = 4
        elif wrong == "eps":
            encoder.norm.eps = 1e-3
        elif wrong == "order":
            encoder.embed.weight.copy_(vit.kernel.permute(0, 2, 3, 1).flatten(1))
        elif wrong == "position":
            encoder.prefix.zero_()
        elif wrong == "query and key":
            weight = encoder.blocks[1].attention.query_key_value.bias
            weight.copy_(weight.roll(16))
        else:
            encoder.positions.copy_(encoder.positions.reshape(3, 3, -1).transpose(0, 1).flatten(0, 1))
        assert difference(encoder.all_tokens(x), plain_tokens(vit, x)) > BOUND
        source = Source("mae", vit, lambda x: encoder.all_tokens(x))
        with pytest.raises(vp.InvalidArgument, match="differ by"):
            source.load_into(fresh(vit))


def test_fixed_positions_are_those_of_the_new_grid() -> None:
    small, large = (vp.PatchEncoder((3, side, 8), (4, 4), dim=16, depth=1, heads=2) for side in (8, 16))
    positions = large.positions.clone()
    used = to_encoder(from_encoder(noisy(small)), large, "small")
    assert (
        next(row.what for row in used.rows if row.target == "pos_embed") == "fixed, those of the grid: 2 x 2 -> 4 x 2"
    )
    assert torch.equal(large.positions, positions) and torch.equal(large.norm.weight, small.norm.weight)
    vit = from_encoder(small)
    vit.tensors["pos_embed"] += 1
    with pytest.raises(vp.InvalidArgument, match="positions of its own; pass positions='learned'"):
        to_encoder(vit, large, "small")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.attn.q_norm.weight": torch.ones(8)}, "nothing explains, such as 'blocks.0.attn.q_norm.weight'"),
        ({"norm.weight": None}, "lacks 'norm.weight'"),
        ({"blocks.1.mlp.fc1.weight": torch.ones(32, 16)}, r"of shape \(32, 16\) must be \(64, 16\)"),
        ({"pos_embed": torch.ones(1, 8, 16)}, "no square grid"),
        ({"patch_embed.proj.weight": None}, "holds no vision transformer"),
    ],
)
def test_what_is_not_explained_is_refused(change: dict[str, Tensor | None], message: str) -> None:
    state = {**mae_checkpoint(), **change}
    with pytest.raises(vp.InvalidArgument, match=message):
        from_state({key: value for key, value in state.items() if value is not None}, "mae")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state, prefixed: {"model": state, "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.95)), "epoch": 3},
        lambda state, prefixed: prefixed("module."),
        lambda state, prefixed: {"state_dict": prefixed("module.backbone.") | {"module.head.0.weight": torch.ones(2)}},
        lambda state, prefixed: {"student": {"backbone": state}, "epoch": 3},
    ],
)
def test_a_checkpoint_is_found_where_recipes_put_it(wrap: Any, tmp_path: Path) -> None:
    state, path = mae_checkpoint(), tmp_path / "mae.pth"
    whole = wrap(state, lambda prefix: {prefix + key: value for key, value in state.items()})
    torch.save(whole, path)
    source, plain = read_source(str(path)).weights, from_state(state, "mae")
    assert all(torch.equal(source.tensors[key], value) for key, value in plain.tensors.items())
    more = {"module.head.0.weight"} if "state_dict" in whole else set()
    assert {row.source for row in source.rows if not row.target} >= more
    assert len(source.rows) == len(plain.rows) + len(more)


def test_two_encoders_in_a_checkpoint_are_named(tmp_path: Path) -> None:
    torch.save({"student": mae_checkpoint(), "teacher": mae_checkpoint()}, tmp_path / "dino.pth")
    with pytest.raises(vp.InvalidArgument, match=r"several encoders, at 'student\.', 'teacher\.'; save .* one"):
        read_source(str(tmp_path / "dino.pth"))


@pytest.fixture
def images(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.normal(size=(60, 3, 8, 12)).astype(np.float32) + labels[:, None, None, None]
    np.savez(tmp_path / "images.npz", x=x, y=labels)
    return str(tmp_path / "images.npz")


STEPS = ["--steps", "1", "--batch-size", "20", "--threads", "1", "--decoder-dim", "8", "--decoder-depth", "1"]
STEPS += ["--decoder-heads", "2", "--projector-dim", "8"]


@pytest.mark.parametrize("method", ["mae", "ijepa", "barlow"])
def test_a_run_starts_from_a_checkpoint_and_another_from_the_run(
    method: str, images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mae.pth"
    torch.save({"model": mae_checkpoint()}, path)
    first, second = tmp_path / "first", tmp_path / "second"
    words = [*STEPS, "--method", method]
    assert main(["pretrain", images, *words, "--init", str(path), "--out", str(first)]) == 0
    said = capsys.readouterr().out
    assert "weights from mae.pth" in said and "(bound 0.0001)" in said
    config = json.loads((first / "config.json").read_text())
    assert (config["dim"], config["depth"], config["class_token"], config["positions"]) == (16, 2, True, "learned")
    assert json.loads((first / "init.json").read_text())["bound"] == BOUND
    assert main(["pretrain", images, *words, "--init", str(first), "--out", str(second)]) == 0
    assert main(["evaluate", str(second)]) == 0


def test_a_file_does_not_say_its_heads_and_the_user_does(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(mae_checkpoint(), tmp_path / "mae.pth")
    words = ["pretrain", images, *STEPS, "--init", str(tmp_path / "mae.pth")]
    assert main([*words, "--heads", "4", "--norm-eps", "1e-5", "--out", str(tmp_path / "a")]) == 0
    assert "heads: 4, which the file does not say" in capsys.readouterr().out
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert (config["heads"], config["norm_eps"]) == (4, 1e-5)
    assert main([*words, "--out", str(tmp_path / "b")]) == 0
    assert "heads: 1, which the file does not say; pass --heads if it has others" in capsys.readouterr().out
    assert main([*words, "--heads", "3", "--out", str(tmp_path / "c")]) == 2


def test_bad_weights_are_one_line_and_leave_nothing(
    images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": mae_checkpoint()}, tmp_path / "mae.pth")
    torch.save({"model": mae_checkpoint(), "args": Fraction(1)}, tmp_path / "args.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "mae.pth").read_bytes()[:999])
    save_file(mae_checkpoint(channels=1), tmp_path / "grey.safetensors")
    save_file({**mae_checkpoint(), "norm.bias": torch.full((16,), torch.nan)}, tmp_path / "nan.safetensors")
    tries = {
        "no file, run folder": [str(tmp_path / "none.pth")],
        "has dim=16, and this encoder dim=32": [str(tmp_path / "mae.pth"), "--dim", "32"],
        "cannot be read": [str(tmp_path / "cut.pth")],
        "holds fractions.Fraction beside tensors": [str(tmp_path / "args.pth")],
        "has dim=16, and vit-tiny dim=192; leave the latter out": [str(tmp_path / "mae.pth"), "--backbone", "vit-tiny"],
        "norm.bias holds NaN or infinite values": [str(tmp_path / "nan.safetensors")],
        "has channels=1": [str(tmp_path / "grey.safetensors")],
        "is unknown; pass one of vit-tiny": [str(tmp_path / "mae.pth"), "--backbone", "vit-huge"],
        "is a vision transformer, and": [str(tmp_path / "mae.pth"), "--model", "conv"],
    }
    for message, words in tries.items():
        assert main(["pretrain", images, *STEPS, "--out", str(tmp_path / "run"), "--init", *words]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not (tmp_path / "run").exists()


def test_named_backbones_have_their_published_sizes(images: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--backbone", "vit-tiny", "--depth", "1", "--class-token", "--registers", "2", "--features", "class"]
    assert main(["pretrain", images, *STEPS, *words, "--out", str(out)]) == 0
    config = json.loads((out / "config.json").read_text())
    assert (config["dim"], config["depth"], config["heads"], config["registers"]) == (192, 1, 3, 2)
    assert vp.load_encoder(out)(torch.zeros(2, 3, 8, 12)).shape == (2, 192)


def test_positions_of_a_plane_stay_a_plane() -> None:
    rows, cols = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    plane = torch.stack([rows.flatten(), cols.flatten()], 1)
    assert torch.equal(resize_positions(plane, (5, 4), (5, 4)), plane)
    larger = resize_positions(plane, (5, 4), (10, 8)).reshape(10, 8, 2)
    inner = larger[3:7, 3:5]
    assert torch.allclose(inner[1:, :, 0] - inner[:-1, :, 0], torch.tensor(0.5), atol=0.02)
    assert torch.allclose(larger[:, :, 1], larger[:1, :, 1].expand(10, 8), atol=1e-5)
