"""Features of a coarse grid: where an encoder's tokens lie is kept, whatever the encoder."""

from pathlib import Path

import pytest
import torch
from torch import nn

import viewproof as vp
from viewproof.cli import main
from viewproof.models import Backbone, MaskedAutoencoder, TokenSettings
from viewproof.models.clips import ClipAutoencoder, ClipEncoder
from viewproof.models.patches import PatchEncoder
from viewproof.runs.export import export
from viewproof.weights.targets import Features

GRID = TokenSettings(class_token=True, registers=1, features="grid")


def test_features_are_the_mean_tokens_of_areas() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 24)
    for encoder in (
        PatchEncoder((1, 8, 24), (2, 3), 8, 1, 2, GRID),
        MaskedAutoencoder((1, 8, 24), (2, 3), 8, 1, 2, 8, 1, 2, settings=GRID),
    ):
        tokens = encoder.tokens(x).reshape(3, 4, 8, 8)  # 4 x 8 patches
        expected = tokens.reshape(3, 4, 4, 2, 8).mean(3).permute(0, 3, 1, 2).flatten(1)
        assert torch.allclose(encoder.encode(x), expected, atol=1e-6)
        assert encoder.feature_dim == expected.shape[1] == 8 * 16
        moved = encoder.pooled(torch.cat([encoder.all_tokens(x)[:, :2], tokens.flip(2).flatten(1, 2)], 1))
        assert torch.allclose(moved.unflatten(1, (8, 4, 4)), expected.unflatten(1, (8, 4, 4)).flip(3), atol=1e-6)
        assert not torch.allclose(moved, expected, atol=1e-2)  # the mean token alone could not tell the two apart


def test_a_grid_of_fewer_places_keeps_each() -> None:
    encoder = PatchEncoder((1, 12, 4), (2, 4), 8, 1, 2, TokenSettings(features="grid"))
    x = torch.randn(2, 1, 12, 4)
    assert encoder.encode(x).shape == (2, encoder.feature_dim) == (2, 8 * 4)
    backbone = Backbone(nn.Conv2d(1, 8, 4, stride=4), (1, 8, 12), features="grid")
    y = torch.randn(2, 1, 8, 12)
    assert backbone.feature_dim == 8 * 2 * 3 and torch.equal(backbone.encode(y), backbone.feature_map(y).flatten(1))


@pytest.mark.parametrize("kind", [ClipEncoder, ClipAutoencoder])
def test_clips_have_no_such_features(kind: type[nn.Module]) -> None:
    with pytest.raises(vp.InvalidArgument, match="features='grid' is of images, not of clips"):
        kind((1, 4, 8, 8), (2, 4, 4), dim=16, depth=1, heads=2, settings=TokenSettings(features="grid"))


def test_a_run_with_them_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["pretrain", "digits", "--features", "grid", "--dim", "16", "--depth", "1", "--heads", "2", "--steps", "1"]
    words += ["--probe-samples", "50", "--out", str(tmp_path / "run"), "--method"]
    for more, message in (
        (["dino"], "features='grid' is wider than a patch"),
        (["lejepa"], "features='grid' is wider of large views than of small ones"),
        (["simclr", "--keep-tokens", "0.5"], "keep_tokens=0.5 trains the mean of the patches that are kept"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert main([*words, "simclr", "--augment", "none"]) == 0
    assert vp.load_encoder(tmp_path / "run")(torch.zeros(2, 1, 8, 8)).shape == (2, 16 * 16)
    monkeypatch.setattr("viewproof.runs.export.need", lambda package, what: None)
    with pytest.raises(vp.InvalidArgument, match="to='timm' has no features='grid'; pass to='torch'"):
        export(tmp_path / "run", "timm", tmp_path / "timm")
    program = torch.export.export(Features(vp.load_encoder(tmp_path / "run")), (torch.zeros(3, 1, 8, 8),))
    assert program.module()(torch.zeros(3, 1, 8, 8)).shape == (3, 16 * 16)
