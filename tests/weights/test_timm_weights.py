"""timm's vision transformers in, and ours out to timm."""

from pathlib import Path

import numpy as np
import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.runs.export import export
from viewproof.weights.layout import BOUND, difference, token_settings
from viewproof.weights.sources import from_timm

timm = pytest.importorskip("timm")
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("vit_tiny_patch16_224", {}),
        ("deit_tiny_patch16_224", {}),
        ("vit_small_patch14_dinov2", {"init_values": 0.3}),
        ("vit_small_patch14_reg4_dinov2", {"init_values": 0.3}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
        ("vit_tiny_patch16_224", {"qkv_bias": False}),
    ],
)
def test_a_vit_of_timm_keeps_its_function(name: str, more: dict[str, object]) -> None:
    torch.manual_seed(0)
    source = from_timm(name, f"timm:{name}", pretrained=False, **SIZES, **more)
    vit = source.weights
    encoder = vp.MaskedAutoencoder(vit.image_shape, (8, 8), 16, 2, 2, settings=token_settings(vit))
    assert max(source.load_into(encoder)["differences"].values()) < BOUND / 10


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_nothing"])
def test_another_architecture_is_refused(name: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=r"not a plain ViT|cannot be made"):
        from_timm(name, f"timm:{name}", pretrained=False)


@pytest.mark.parametrize("words", [[], ["--class-token", "--registers", "2", "--features", "both"]])
def test_an_exported_folder_loads_in_timm(words: list[str], tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).normal(size=(40, 3, 8, 12)).astype(np.float32))
    run = ["pretrain", str(tmp_path / "images.npy"), "--dim", "16", "--depth", "2", "--heads", "2", "--steps", "1"]
    assert main([*run, "--patch-size", "4", "--batch-size", "20", *words, "--out", str(tmp_path / "run")]) == 0
    assert export(tmp_path / "run", "timm", tmp_path / "timm", say=lambda line: None)["difference"] < BOUND
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    encoder = vp.load_encoder(tmp_path / "run").encoder
    x = torch.randn(2, 3, 8, 12)
    with torch.inference_mode():
        assert difference(model.forward_features(x), encoder.all_tokens(x)) < BOUND
