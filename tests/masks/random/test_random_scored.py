"""Partial prediction: which patches are scored, what trains on them, and what is still measured over all."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.cli import main
from viewproof.methods.mae import MaskedPretraining
from viewproof.models import MaskedAutoencoder
from viewproof.runs.folder import load_run

RULES = [vp.RandomPatchMask(2, 2, 9), vp.SharedRandomPatchMask(2, 2, 9), ~vp.PatchMask(2, 2, 4, 1)]
IMAGE = (3, 6, 8)


def patches(hidden: Tensor) -> list[set[int]]:
    """The patches of which each sample of a flat mask selects a pixel, by a plain loop."""
    _, height, width = IMAGE
    found = []
    for row in hidden.reshape(-1, *IMAGE):
        places = row.nonzero().tolist()
        found.append({y // 2 * (width // 2) + x // 2 for _, y, x in places})
        assert len(places) == len(found[-1]) * 12 and height == 6
    return found


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_exactly_count_hidden_patches_are_scored_by_seed_epoch_and_id(rule: vp.Rule) -> None:
    partial, ids, x = vp.ScoredPatches(rule, 2, 2, 4), torch.tensor([7, 3, 7]), torch.rand(3, *IMAGE)
    sample = partial.sample(x, sample_ids=ids)
    assert sample.view is not None and torch.equal(sample.x, rule.sample(x, sample_ids=ids).x)
    scored, hidden = patches(sample.mask.hidden), patches(sample.view.hidden.expand(3, *IMAGE).flatten(1))
    assert all(len(a) == 4 and a < b for a, b in zip(scored, hidden, strict=True))
    assert scored[0] == scored[2] != scored[1]
    alone = partial.sample(x[1:2], sample_ids=ids[1:2])
    assert patches(alone.mask.hidden) == scored[1:2]
    for other in (vp.ScoredPatches(rule, 2, 2, 4, seed=1).sample(x, sample_ids=ids),
                  partial.sample(x, sample_ids=ids, epoch=1)):  # fmt: skip
        assert patches(other.mask.hidden) != scored
    assert sample.mask.rule is partial and partial.per_sample == rule.per_sample


@pytest.mark.parametrize("decoder", ["self-attention", "cross-attention"])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_what_is_computed_is_what_all_would_have_been_and_trains_alike(rule: vp.Rule, decoder: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(IMAGE, (2, 2), 16, 1, 2, 8, 2, 2, decoder=decoder).double()
    sample = vp.ScoredPatches(rule, 2, 2, 4).sample(
        torch.rand(3, *IMAGE, dtype=torch.float64), sample_ids=torch.arange(3)
    )
    part, whole = model(sample.x, sample.view, scored=sample.mask), model(sample.x, sample.view)
    scored = sample.mask.hidden
    torch.testing.assert_close(part[scored], whole[scored])
    assert not part[~scored].any() and whole[~scored].any()
    gradients = [torch.autograd.grad(vp.masked_mse(y, sample), list(model.parameters())) for y in (part, whole)]
    torch.testing.assert_close(*gradients)
    contract = vp.row_predictive_contract(sample, part, 1, lambda t, p: (t - p) ** 2)
    assert len(contract.target_idxs) == 4 * 12
    torch.testing.assert_close(vp.predictive_view_objective(contract), vp.masked_mse(part, sample, reduction="rows")[1])


def test_training_scores_a_part_and_validation_all() -> None:
    class Watched(MaskedAutoencoder):
        asked: int | None = None

        def decode(self, tokens: Tensor, view: vp.Mask, scored: vp.Mask | None = None) -> Tensor:
            self.asked = None if scored is None else int(scored.row(0).count)
            return super().decode(tokens, view, scored)

    model = Watched(IMAGE, (2, 2), 16, 1, 2, 8, 1, 2)
    module = MaskedPretraining(model, vp.ScoredPatches(RULES[1], 2, 2, 4))
    batch = (torch.rand(3, *IMAGE), torch.arange(3))
    assert math.isfinite(float(module.training_step(batch, 0).detach())) and model.asked == 48
    full = MaskedPretraining(model, RULES[1])
    assert torch.equal(module.validation_step(batch, 0), full.validation_step(batch, 0)) and model.asked is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vp.ScoredPatches(RULES[0], 2, 2, 10).sample(torch.rand(2, *IMAGE), sample_ids=torch.arange(2)),
         "count=10 patches are scored and .* hides 9; pass at most that many"),
        (lambda: vp.ScoredPatches(RULES[1], 2, 2, 4).sample(torch.rand(2, *IMAGE)), "sample_ids=None: .* in each"),
        (lambda: vp.ScoredPatches(vp.PatchMask(1, 2, 3, 0), 2, 2, 1).sample(torch.rand(2, *IMAGE),
                                                                           sample_ids=torch.arange(2)),
         "hides only a part of a patch"),
        (lambda: vp.ScoredPatches(RULES[1], 4, 2, 1).sample(torch.rand(2, *IMAGE), sample_ids=torch.arange(2)),
         "patch_h=4, patch_w=2 must divide images"),
        (lambda: vp.ScoredPatches(RULES[0], 2, 2, 0), "count=0 must be at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(make: object, message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=message):
        make()  # type: ignore[operator]


def test_a_run_predicts_a_quarter_and_is_measured_over_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["pretrain", "digits", "--steps", "2", "--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8"]
    words += ["--decoder", "cross-attention", "--threads", "1"]
    assert main([*words, "--predict", "0.25", "--out", str(out)]) == 0
    run = load_run(out)
    module = run.module()
    assert isinstance(module, MaskedPretraining) and isinstance(module.rule, vp.ScoredPatches)
    assert (module.rule.count, module.rule.seed) == (4, 0) and isinstance(run.rule, vp.SharedRandomPatchMask)
    capsys.readouterr()
    for flags, message in ((["--predict", "0.75"], "predict=0.75 is 12 of 16 patches, and mask="),
                           (["--predict", "0.25", "--model", "conv"], "is for images and model='masked-autoencoder'"),
                           (["--predict", "0"], "predict=0.0 must be positive")):  # fmt: skip
        assert main([*words, *flags, "--out", str(tmp_path / "bad")]) == 2
        assert message in capsys.readouterr().err
