"""Training on clips: tubelets, tubes, what the encoder may read, its teacher, and whole runs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from taught import branch_of, check_resumed
from torch import Tensor

import viewproof as vp
from viewproof.certify import certify_encoder
from viewproof.certify.ranks import certify_ranks
from viewproof.certify.target import certify_target_branch
from viewproof.cli import main
from viewproof.masks.random.draws import Draws
from viewproof.methods.ijepa import IJEPA, JEPANetwork
from viewproof.models.clips import ClipAutoencoder, ClipEncoder, fold_clips, fold_mask
from viewproof.models.patches import PatchPredictor
from viewproof.models.vit import sincos_positions
from viewproof.runs.doctor import read_evidence
from viewproof.runs.encoder import load_encoder
from viewproof.verdict import Verdict

SHAPE, TUBELET = (2, 4, 8, 12), (2, 2, 2)
RULE = vp.MultiBlockMask(2, 2, context=5, target_area=(3, 4), context_area=(22, 24), targets=3)
IDS = torch.arange(4)


def clips() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def module(rule: vp.RandomRule = RULE) -> IJEPA:
    torch.manual_seed(0)
    encoder = ClipEncoder(SHAPE, TUBELET, dim=8, depth=1, heads=2)
    predictor = PatchPredictor(encoder.grid, dim=8, width=8, depth=1, heads=2)
    return IJEPA(JEPANetwork(encoder, predictor), rule, total_steps=10)


def test_a_token_is_that_of_its_tubelet_alone() -> None:
    encoder, x = module().model.encoder, clips()
    assert isinstance(encoder, ClipEncoder) and encoder.grid == (2, 4, 6)
    place = (1 * 4 + 2) * 6 + 5  # the second two frames, rows 4 and 5, columns 10 and 11
    tubelet = torch.zeros(SHAPE, dtype=torch.bool)
    tubelet[:, 2:4, 4:6, 10:12] = True
    index = torch.full((4, 1), place)
    other = torch.where(tubelet, x, torch.randn(x.shape))
    assert torch.equal(encoder(x, index), encoder(other, index))
    for coordinate in tubelet.nonzero().tolist():
        changed = x.clone()
        changed[(slice(None), *coordinate)] += 1
        assert not torch.equal(encoder(x, index), encoder(changed, index))


def test_positions_tell_times_rows_and_columns_apart() -> None:
    encoder = module().model.encoder
    assert isinstance(encoder, ClipEncoder)
    positions = encoder.image_encoder.positions
    assert len({tuple(row.tolist()) for row in positions}) == len(positions) == 48
    split = sincos_positions(4, 6, 8, times=2).reshape(2, 4, 6, 8)
    assert torch.equal(split.flatten(0, 2), positions)
    assert torch.equal(split[0, ..., 4:], split[1, ..., 4:]) and torch.equal(
        split[:, :1, :1, :4].expand(-1, 4, 6, -1), split[..., :4]
    )


def test_blocks_and_context_are_tubes_and_those_of_images() -> None:
    context, targets = RULE.blocks(SHAPE, sample_ids=IDS, epoch=2)
    image_context, image_targets = RULE.blocks((2, 8, 12), sample_ids=IDS, epoch=2)
    for clip, image in zip([context, *targets], [image_context, *image_targets], strict=True):
        assert torch.equal(clip.hidden, image.hidden[:, :, None].expand(-1, -1, 4, -1, -1))
    places = module().places(SHAPE, IDS, 2)
    folded = fold_mask(context, 2)
    assert torch.equal(places[0], vp.split_patches_by_sample(folded, 2, 2)[0])
    assert places[0].shape == (4, 10) and places[1].shape[2] % 2 == 0
    assert torch.equal(places[0][:, :5] + 24, places[0][:, 5:])


LONG = vp.MultiBlockMask(2, 2, context=3, target_area=(14, 17), context_area=(24, 24), targets=2, seed=4)
RANGES = vp.MultiRangeMask(RULE, LONG)


def test_two_ranges_are_drawn_in_each_epoch_and_their_losses_averaged() -> None:
    """V-JEPA's second mask: two blocks of 60 to 70 % through all frames, their union hidden."""
    trained, x = module(RANGES).eval(), clips()
    assert isinstance(trained.model.encoder, ClipEncoder)
    short, long = RULE.blocks(SHAPE, sample_ids=IDS, epoch=6), LONG.blocks(SHAPE, sample_ids=IDS, epoch=7)
    places = trained.places(SHAPE, IDS, 3)
    assert [tuple(p.shape[:-1]) for p in places] == [(4,), (4, 3), (4,), (4, 2)] and places[2].shape == (4, 6)
    for (context, targets), (visible, blocks) in zip((short, long), (places[:2], places[2:]), strict=True):
        assert torch.equal(vp.split_patches_by_sample(fold_mask(context, 2), 2, 2)[0], visible)
        for k, target in enumerate(targets):
            assert torch.equal(target.hidden, target.hidden[:, :, :1].expand_as(target.hidden))
            assert torch.equal(vp.split_patches_by_sample(fold_mask(target, 2), 2, 2)[1], blocks[:, k])
    for n in range(4):
        tubes = [set(block.tolist()) for block in places[3][n]]
        rows, cols = ({place % 24 // 6 for place in tubes[0]}, {place % 6 for place in tubes[0]})
        assert len(tubes[0]) == 2 * len(rows) * len(cols) and 14 <= len(tubes[0]) // 2 <= 18
        assert tubes[0] == {24 * t + 6 * r + c for t in range(2) for r in rows for c in cols}
        assert not (tubes[0] | tubes[1]) & set(places[2][n].tolist())
    each = [module(one).eval() for one in (RULE, LONG)]
    losses = [one.objective(x, IDS, 0, epoch) for one, epoch in zip(each, (6, 7), strict=True)]
    torch.testing.assert_close(trained.objective(x, IDS, 0, 3), torch.stack(losses).mean())
    alone = trained.places(SHAPE, IDS[2:3], 3)
    assert all(torch.equal(one[0], batch[2]) for one, batch in zip(alone, places, strict=True))


def test_the_prediction_of_a_range_cannot_read_what_is_no_context_of_it() -> None:
    trained = module(RANGES)
    model, places = trained.model, trained.places(SHAPE, IDS, 0)
    for k, rule in enumerate((RULE, LONG)):
        sample = rule.sample(clips(), sample_ids=IDS, epoch=k)

        def prediction(x: Tensor, of: int = 2 * k) -> Tensor:
            out: Tensor = model(x, *places)[of]
            return out

        assert certify_encoder(prediction, sample).verdict() is Verdict.PROVED
        assert certify_encoder(lambda x, of=2 - 2 * k: model(x, *places)[of], sample).verdict() is Verdict.REFUTED


def test_the_prediction_cannot_read_what_is_no_context() -> None:
    trained, sample = module(), RULE.sample(clips(), sample_ids=IDS)
    model, places = trained.model, trained.places(SHAPE, IDS, 0)
    assert certify_encoder(lambda x: model(x, *places)[0], sample).verdict() is Verdict.PROVED
    assert certify_encoder(lambda x: model(x, *places)[1], sample).verdict() is Verdict.REFUTED
    # Blocks that are hidden in the first two frames alone, where tubes go through all of them.
    every = torch.cat([places[0], torch.arange(24, 48).expand(4, -1)], 1)
    assert certify_encoder(lambda x: model(x, every, places[1])[0], sample).verdict() is Verdict.REFUTED


@pytest.mark.parametrize(
    ("rule", "share", "verdict"),
    [(RULE, 1.0, Verdict.PROVED), (RULE, 0.5, Verdict.REFUTED), (RANGES, 1.0, Verdict.PROVED)],
)
def test_the_target_branch_is_certified_and_another_average_is_refuted(
    rule: vp.RandomRule, share: float, verdict: Verdict
) -> None:
    trained = module(rule).eval()
    branch = branch_of(trained, IDS, [trained.model.predictor], share)
    assert certify_target_branch(branch, clips()).verdict() is verdict


SMALLEST = (1, 2, 4, 4)


def rows_loss(rows: Tensor) -> Tensor:
    """The objective of clips whose ids are in the last column, of any share of them."""
    torch.manual_seed(0)
    encoder = ClipEncoder(SMALLEST, (2, 2, 2), dim=8, depth=1, heads=2)
    network = JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=8, width=8, depth=1, heads=2))
    trained = IJEPA(network, vp.MultiBlockMask(2, 2, 1, (1, 1), (4, 4), targets=2)).to(rows.dtype)
    return trained.objective(rows[:, :-1].reshape(len(rows), *SMALLEST), rows[:, -1].detach().long(), 0, 0)


def test_two_unequal_ranks_have_the_value_and_gradient_of_one() -> None:
    rows = torch.cat([clips().flatten(1)[:, :32], IDS[:, None].float()], 1)
    assert certify_ranks(rows_loss, rows, (1, 3)).verdict() is Verdict.PROVED


def test_a_masked_autoencoder_of_clips_reads_no_hidden_tubelet() -> None:
    torch.manual_seed(0)
    model = ClipAutoencoder(SHAPE, TUBELET, 8, 1, 2, 8, 1, 2)
    sample = vp.TubeMask(2, 2, count=20).sample(clips(), sample_ids=IDS)
    assert sample.view is not None
    assert certify_encoder(model, sample).verdict() is Verdict.PROVED
    prediction = model(sample.x, sample.view)
    assert torch.equal(prediction == 0, ~sample.mask.hidden)
    loose = RandomFrames(vp.TubeMask(2, 2, count=20))
    with pytest.raises(vp.InvalidArgument, match="hides only a part of a patch"):
        model(sample.x, loose.mask(SHAPE, sample_ids=IDS))


@dataclass(frozen=True)
class RandomFrames(vp.RandomRule):
    """A tube that begins in the second frame, in the middle of a tubelet."""

    rule: vp.TubeMask
    seed: int = 0

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Tensor:
        hidden = self.rule.draw(shape, draws, lengths).expand(-1, *shape).clone()
        hidden[:, :, :1] = False
        return hidden


SMALL = "--dim 16 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2 --batch-size 20 --threads 1"


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Forty-four labelled clips in which a bright square moves to the right or downwards."""
    rng = np.random.default_rng(0)
    labels, x = np.arange(44) % 2, 0.1 * rng.normal(size=(44, 1, 4, 8, 8)).astype(np.float32)
    for n, label in enumerate(labels):
        for t in range(4):
            row, col = (t, n % 5) if label else (n % 5, t)
            x[n, 0, t, row : row + 3, col : col + 3] += 1
    np.savez(tmp_path / "clips.npz", x=x, y=labels)
    return str(tmp_path / "clips.npz")


def test_one_command_trains_on_clips_and_resumes_bit_for_bit(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges = (
        "MultiRangeMask(MultiBlockMask(2, 2, 2, (2, 2), (16, 16), 8), MultiBlockMask(2, 2, 2, (11, 11), (16, 16), 2))"
    )
    words = ["pretrain", file, "--method", "ijepa", "--mask", ranges, *SMALL.split(), "--epochs", "3"]
    check_resumed(words, tmp_path, monkeypatch, epoch=2)
    assert "trained encoder" in capsys.readouterr().out
    encoder = load_encoder(tmp_path / "a")
    assert isinstance(encoder.encoder, ClipEncoder) and encoder.encoder.tubelet == (2, 2, 2)
    assert encoder(torch.rand(3, 1, 4, 8, 8)).shape == (3, 16)
    contracts = read_evidence(tmp_path / "a").contracts
    assert contracts is not None and not contracts.refuted


def test_clips_are_reconstructed_and_what_does_not_fit_is_refused(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["pretrain", file, "--model", "masked-autoencoder", *SMALL.split(), "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "mae")]) == 0
    assert "held-out error on hidden values" in capsys.readouterr().out
    for extra, message in (
        (["--tubelet", "3"], "tubelet=3 must divide the 4 frames"),
        (["--patch-size", "3"], "must divide the image"),
        (["--method", "ijepa", "--mask", "RandomPatchMask(2, 2, 3)"], "must be a MultiBlockMask"),
        (
            [
                "--method",
                "ijepa",
                "--mask",
                "MultiRangeMask(MultiBlockMask(2, 2, 2, (2, 2), (16, 16)), MultiBlockMask(4, 4, 1, (1, 1), (4, 4)))",
            ],
            "short has patches of (2, 2) and long of (4, 4); pass one size to both",
        ),
        (["--method", "vicreg"], "needs images [C, H, W]"),
        (["--norm-pix"], "norm_pix needs images"),
    ):
        chosen = [w for w in words if "--method" not in extra or w not in ("--model", "masked-autoencoder")]
        assert main([*chosen, *extra, "--out", str(tmp_path / "bad")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "bad").exists()
    assert main(["export", str(tmp_path / "mae"), str(tmp_path / "e"), "--to", "transformers"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_tubelet_of_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "digits", "--tubelet", "2", "--out", str(tmp_path / "run")]) == 2
    assert "tubelet=2 must be left out: it is the frames of a patch of clips" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(vp.InvalidArgument, match="tubelet=3 must divide the 4 frames"):
        ClipEncoder(SHAPE, (3, 2, 2))
    with pytest.raises(vp.InvalidArgument, match="at least 8 for positions in time"):
        sincos_positions(2, 2, 4, times=2)
    with pytest.raises(vp.InvalidArgument, match="must be \\[N, 2, 4, 8, 12\\]"):
        module().model.encoder(torch.zeros(1, 2, 4, 8, 8))
    assert fold_clips(clips(), 2).shape == (4, 4, 16, 12)
