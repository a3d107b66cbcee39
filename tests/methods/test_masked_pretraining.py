"""The LightningModule: what it differentiates, its schedule, and that a resumed run is the run."""

import csv
import logging
import math

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn

import viewproof as vp
from viewproof.data import Split, batches, make_dataset
from viewproof.methods.mae import MaskedPretraining
from viewproof.training.callbacks import MetricsFile

RULE = vp.Rotating(vp.VectorMask(period=3, offset=0))


def dataset(n=24):
    values = torch.randn(n + 6, 9, generator=torch.Generator().manual_seed(3)).numpy()
    return make_dataset("table", Split(values[:n]), Split(values[n:]))


def module(**options):
    torch.manual_seed(5)
    return MaskedPretraining(vp.VectorAutoencoder(9, 16, 4), RULE, **options)


def trainer(folder, epochs, callbacks=()):
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, deterministic=True, callbacks=[
            ModelCheckpoint(folder, "last", save_on_train_epoch_end=True, enable_version_counter=False), *callbacks
        ],
    )  # fmt: skip


def fit(folder, epochs, checkpoint=None, callbacks=()):
    data, trained = dataset(), module(warmup_steps=2, total_steps=12)
    run = trainer(folder, epochs, callbacks)
    run.fit(
        trained, batches(data, "train", 8, seed=1), batches(data, "test", 6), ckpt_path=checkpoint, weights_only=True
    )
    return trained, run


def test_it_differentiates_the_loss_of_the_steps_own_mask():
    trained, x = module(), torch.randn(4, 9)
    for step in range(4):
        sample = trained.sample((x, torch.arange(4)), step)
        assert sample.mask.selected_idxs == [i for i in range(9) if i % 3 == step % 3]
    loss = trained.training_step(x, 0)
    expected = vp.masked_mse(trained.model(RULE.at(0).sample(x).x), RULE.at(0).sample(x))
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(
    "batch", [torch.ones(2, 9), [torch.ones(2, 9), 0], (torch.ones(2, 9),), {"x": torch.ones(2, 9)}]
)
def test_batches_of_every_usual_form(batch):
    assert torch.equal(module().sample(batch, 0).y, torch.ones(2, 9))


@pytest.mark.parametrize("batch", [{"images": torch.ones(2, 9)}, ["a"], 3])
def test_other_batches_are_refused(batch):
    with pytest.raises(vp.InvalidArgument, match="must be a tensor"):
        module().sample(batch, 0)


def test_any_loss_and_any_target_transform():
    x = torch.rand(2, 3, 8, 8)
    normalise = vp.PatchNormalization(4, 4)
    trained = MaskedPretraining(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), ~vp.PatchMask(4, 4, 4, 0), vp.masked_l1, target=normalise
    )
    sample = normalise((~vp.PatchMask(4, 4, 4, 0)).sample(x))
    assert torch.equal(trained.training_step(x, 0), vp.masked_l1(trained.model(sample.x), sample))


def test_the_schedule_is_a_warm_up_and_half_a_cosine():
    trained = module(warmup_steps=4, total_steps=12)
    assert [trained.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert trained.rate(4) == 1.0 and trained.rate(8) == pytest.approx(0.5) and trained.rate(12) == 0.0
    assert trained.rate(7) == pytest.approx(0.5 * (1 + math.cos(math.pi * 3 / 8)))
    assert module().rate(10**6) == 1.0


def test_biases_and_norms_are_not_decayed():
    trained = module(weight_decay=0.3)
    decayed, plain = trained.configure_optimizers()["optimizer"].param_groups
    assert decayed["weight_decay"] == 0.3 and all(p.dim() >= 2 for p in decayed["params"])
    assert plain["weight_decay"] == 0.0 and all(p.dim() < 2 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(trained.model.parameters()))


def test_two_runs_are_the_same_run(tmp_path):
    first, second = fit(tmp_path / "a", 3)[0].state_dict(), fit(tmp_path / "b", 3)[0].state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_is_bit_for_bit_the_straight_run(tmp_path):
    straight, whole = fit(tmp_path / "straight", 4)
    fit(tmp_path / "half", 2)
    resumed, run = fit(tmp_path / "half", 4, checkpoint=tmp_path / "half" / "last.ckpt")
    ours, theirs = resumed.state_dict(), straight.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    left, right = run.optimizers[0].state_dict()["state"], whole.optimizers[0].state_dict()["state"]
    assert all(torch.equal(left[k][name], right[k][name]) for k in right for name in ("exp_avg", "exp_avg_sq"))


def test_resuming_in_another_order_would_be_seen(tmp_path):
    straight, _ = fit(tmp_path / "straight", 4)
    fit(tmp_path / "half", 2)
    data, trained = dataset(), module(warmup_steps=2, total_steps=12)
    run = trainer(tmp_path / "half", 4)
    run.fit(trained, batches(data, "train", 8, seed=2), ckpt_path=tmp_path / "half" / "last.ckpt", weights_only=True)
    assert not all(torch.equal(a, b) for a, b in zip(trained.parameters(), straight.parameters(), strict=True))


def test_metrics_go_on_where_the_checkpoint_stands(tmp_path):
    straight, resumed = tmp_path / "straight.csv", tmp_path / "resumed.csv"
    fit(tmp_path / "a", 4, callbacks=[MetricsFile(straight, every=1)])
    fit(tmp_path / "b", 2, callbacks=[MetricsFile(resumed, every=1)])
    with resumed.open("a") as file:
        file.write("7,2,9.9,,,\n")
    fit(tmp_path / "b", 4, checkpoint=tmp_path / "b" / "last.ckpt", callbacks=[MetricsFile(resumed, every=1)])

    def losses(path):
        return [line.rsplit(",", 1)[0] for line in path.read_text().splitlines()]

    assert losses(resumed) == losses(straight)
    assert len(losses(straight)) == 1 + 12 + 4


def test_the_images_of_a_batch_that_is_a_mapping_are_counted(tmp_path):
    data = dataset()
    loader = torch.utils.data.DataLoader(
        [{"x": x, "sample_ids": n} for n, x in enumerate(data.fetch("train", range(24)))], batch_size=8
    )
    metrics = MetricsFile(tmp_path / "metrics.csv", every=1)
    trainer(tmp_path, 1, [metrics]).fit(module(), loader)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert all(float(row["images_per_second"]) > 0 for row in rows)


def test_validation_first_does_not_spoil_training(tmp_path):
    """The mask is first made under validation's inference mode, then saved for a backward pass."""
    data = dataset()
    trained = MaskedPretraining(vp.VectorAutoencoder(9, 16, 4), vp.VectorMask(period=4, offset=3))
    run = trainer(tmp_path, 1)
    run.validate(trained, batches(data, "test", 6), verbose=False)
    run.fit(trained, batches(data, "train", 8), batches(data, "test", 6))
    assert run.global_step == 3
