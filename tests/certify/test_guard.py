"""check_batch and ContractGuard: right batches pass, each way of being wrong stops with its contract."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.guard import check_batch
from viewproof.masks import Mask, Sample
from viewproof.methods.mae import MaskedPretraining
from viewproof.training.guard import ContractGuard

RULE = vp.PatchMask(2, 2, period=3, offset=1)


def images() -> Tensor:
    x = torch.randn(4, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    x[0, 0, 0, 0], x[1, 1, 3, 5] = math.nan, -0.0
    return x


@pytest.mark.parametrize("length", [None, 11])
def test_right_batches_pass(length: int | None) -> None:
    sample = RULE.sample(images(), length)
    check_batch(images(), sample, torch.zeros_like(sample.y), vp.masked_mse)
    vectors = images().flatten(1)
    check_batch(images(), vp.tensor_prefix_mae_sample(images(), 7, 2, 0))
    check_batch(vectors, vp.VectorMask(5, 2).sample(vectors), vectors, vp.masked_l1)
    normalise = vp.PatchNormalization(2, 2)
    whole = torch.rand(2, 2, 4, 6)
    check_batch(whole, normalise(RULE.sample(whole)), target=normalise)


def leaking(sample: Sample) -> Sample:
    x = sample.x.clone()
    x[2, 1, 0, 2] = -0.0
    return replace(sample, x=x)


def changed(sample: Sample) -> Sample:
    x = sample.x.clone()
    x[1, 1, 3, 5] = 0.0
    return replace(sample, x=x)


def other_target(sample: Sample) -> Sample:
    return replace(sample, y=sample.y.roll(1, 1))


def other_mask(sample: Sample) -> Sample:
    return replace(sample, mask=Mask(sample.mask.hidden.roll(1)))


def fewer(sample: Sample) -> Sample:
    hidden = sample.mask.hidden.clone()
    hidden[hidden.nonzero()[0]] = False
    return replace(sample, mask=replace(sample.mask, hidden=hidden))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (leaking, r"C1, .*: x at \(2, 1, 0, 2\) is -0.0, not \+0.0; 1 of 192 are off"),
        (changed, r"C2, .*: x at \(1, 1, 3, 5\) is 0.0, the source holds -0.0"),
        (other_target, r"C3, .*: y at \(0, 0\)"),
        (other_mask, r"C4, .*: the mask \w+ the target at"),
        (fewer, r"C4, .*: the mask shows the target at"),
    ],
)
def test_wrong_samples(wrong: Callable[[Sample], Sample], message: str) -> None:
    with pytest.raises(vp.ContractViolation, match=message):
        check_batch(images(), wrong(RULE.sample(images())))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda p, s: (p - s.y).nan_to_num().square().mean(), "C4, .*: the visible prediction at"),
        (lambda p, s: p.sum() * 0, "C4, .*: no hidden prediction has a gradient"),
        (lambda p, s: ((p - s.y.nan_to_num()).square() * s.mask.hidden).sum(), "C9, .*: NaN in the prediction"),
    ],
)
def test_wrong_losses(wrong: Callable[..., Tensor], message: str) -> None:
    sample = RULE.sample(images())
    with pytest.raises(vp.ContractViolation, match=message):
        check_batch(images(), sample, torch.zeros_like(sample.y), wrong)


def test_what_cannot_be_checked_is_refused() -> None:
    sample = RULE.sample(images())
    with pytest.raises(vp.InvalidArgument, match=r"sample\.view is None"):
        check_batch(images(), replace(sample, view=None))
    with pytest.raises(vp.InvalidArgument, match="is not what x of shape"):
        check_batch(images()[:, :1], sample)


def run(tmp_path: Path, guard: ContractGuard, module: MaskedPretraining, epochs: int = 5) -> None:
    x = torch.randn(8, 9, generator=torch.Generator().manual_seed(0))
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=[guard], default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(x, batch_size=4))


def module(**options: Any) -> MaskedPretraining:
    return MaskedPretraining(vp.VectorAutoencoder(9), vp.Rotating(vp.VectorMask(3, 0)), **options)


def test_the_callback_checks_the_first_step_and_every_kth(tmp_path: Path) -> None:
    guard, trained = ContractGuard(every=4), module()
    run(tmp_path, guard, trained)
    assert guard.checked == 3 and trained.observer is None  # steps 0, 4 and 8 of 10


class Broken(MaskedPretraining):
    """From step 6 on the source is masked in place."""

    def sample(self, batch: Any, step: int, *rest: Any) -> Sample:
        sample = super().sample(batch, step, *rest)
        if step < 6:
            return sample
        batch.zero_()
        return sample


def test_the_callback_stops_training(tmp_path: Path) -> None:
    guard = ContractGuard(every=2)
    trained = Broken(vp.VectorAutoencoder(9), vp.VectorMask(3, 0))
    with pytest.raises(vp.ContractViolation, match=r"C3, the target is the declared, unmasked source: y at \(0, 0\)"):
        run(tmp_path, guard, trained)
    assert guard.checked == 3 and trained.global_step == 6 and trained.observer is None


def test_the_callback_and_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(vp.InvalidArgument, match="every=0 checks nothing"):
        ContractGuard(every=0)
    with pytest.raises(vp.InvalidArgument, match="watches MaskedPretraining, not LightningModule"):
        ContractGuard().on_train_start(pl.Trainer(logger=False, accelerator="cpu"), pl.LightningModule())


def test_a_loss_that_draws_passes_and_moves_no_generator() -> None:
    x = images()
    sample, state = RULE.sample(x), torch.get_rng_state()

    def noisy(prediction: Tensor, sample: Sample) -> Tensor:
        return vp.masked_mse(prediction, sample) * torch.rand(())

    check_batch(x, sample, torch.randn(sample.y.shape, generator=torch.Generator().manual_seed(0)), noisy)
    assert torch.equal(torch.get_rng_state(), state)
