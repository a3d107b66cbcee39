"""The online probe learns from the training; the training learns nothing of the probe."""

import csv
import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch import nn

import viewproof as vp
from viewproof.cli import main
from viewproof.data import Split, batches, make_dataset
from viewproof.methods.mae import MaskedPretraining
from viewproof.training import online_probe
from viewproof.training.online_probe import OnlineProbe, embed

SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2", "--projector-dim", "16", "--batch-size", "27", "--threads", "1", "--epochs", "4"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Ninety images of 1 x 8 x 8, their labels seen in their brightness, and the same without labels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    x = rng.normal(size=(90, 1, 8, 8)).astype(np.float32) + 2 * labels[:, None, None, None]
    np.savez(folder / "images.npz", x=x, y=labels)
    np.save(folder / "bare.npy", x)
    return folder


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("words", ["mae --clip 0.5", "mae --model resnet", "vicreg", "ijepa"])
def test_the_training_is_bit_identical_with_and_without_the_probe(images, tmp_path, words):
    words = [str(images / "images.npz"), "--method", *words.split(), *SMALL]
    assert main(["pretrain", *words, "--out", str(tmp_path / "without")]) == 0
    assert main(["pretrain", *words, "--online-probe", "--out", str(tmp_path / "with")]) == 0
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("with", "without"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = rows(tmp_path / "with"), rows(tmp_path / "without")
    kept = theirs[0].keys() - {"images_per_second"}
    assert [{name: row[name] for name in kept} for row in ours] == [
        {name: row[name] for name in kept} for row in theirs
    ]
    assert ours[0].keys() - theirs[0].keys() == {"probe_accuracy", "val_probe_accuracy"}
    for row in ours:
        filled = "val_probe_accuracy" if row["val_loss"] else "probe_accuracy"
        assert [name for name in ("probe_accuracy", "val_probe_accuracy") if row[name]] == [filled]
        assert 0 <= float(row[filled]) <= 1
    assert sum(bool(row["val_loss"]) for row in ours) == 4


def clusters():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 96)
    x = rng.normal(size=(96, 6)).astype(np.float32)
    x[:, :3] += 3 * labels[:, None]
    return make_dataset("clusters", Split(x[:64], labels[:64]), Split(x[64:], labels[64:]))


def fit(module, data, *callbacks, epochs=1, checkpoint=None):
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, batches(data, "train", 16), batches(data, "test", 16), ckpt_path=checkpoint, weights_only=True)
    return trainer


def module_of(data):
    torch.manual_seed(0)
    return MaskedPretraining(vp.VectorAutoencoder(6, 16, 8), vp.VectorMask(2, 0))


def gradients_after_a_probe_step(data):
    """The gradient of each weight of the model after the probe has learned from one batch."""
    module = module_of(data)
    probe = OnlineProbe.of(module.model, data)
    probe.weight.data.normal_(generator=torch.Generator().manual_seed(0))  # zeros would pass no gradient on
    before = probe.weight.detach().clone()
    probe.learn(module.model, *next(iter(batches(data, "train", 16))))
    assert not torch.equal(before, probe.weight)
    return [p.grad for p in module.parameters()]


def test_no_gradient_reaches_the_encoder():
    assert all(gradient is None for gradient in gradients_after_a_probe_step(clusters()))


def test_the_test_above_sees_a_probe_that_is_not_detached(monkeypatch):
    monkeypatch.setattr(online_probe, "embed", lambda model, x: model.encode(x))
    assert any(gradient is not None for gradient in gradients_after_a_probe_step(clusters()))


def test_the_probe_learns_and_its_accuracies_are_counted():
    data = clusters()
    module = module_of(data)
    probe = OnlineProbe.of(module.model, data)
    trainer = fit(module, data, probe, epochs=20)
    assert probe.values["probe_accuracy"] > 0.9 and probe.values["val_probe_accuracy"] > 0.9
    assert float(trainer.callback_metrics["val_probe_accuracy"]) == pytest.approx(probe.values["val_probe_accuracy"])
    with torch.no_grad():
        predicted = probe.logits(module.model, data.fetch("test", range(32))).argmax(1)
    assert probe.values["val_probe_accuracy"] == float((predicted == probe.held_out).float().mean())


def test_shuffled_labels_are_not_learned():
    """So a high accuracy is one of features and labels, not of the counting."""
    data = clusters()
    rng = np.random.default_rng(1)
    probe = OnlineProbe(rng.permutation(data.train.labels), rng.permutation(data.test.labels), classes=2, dim=8)
    fit(module_of(data), data, probe, epochs=3)
    assert probe.values["val_probe_accuracy"] < 0.8


def test_a_batch_is_labelled_before_it_is_learned_from():
    data = clusters()
    module = module_of(data)
    probe = OnlineProbe.of(module.model, data)
    x, ids = next(iter(batches(data, "train", 16)))
    # The classifier starts from zero, so every sample is given class 0.
    assert probe.learn(module.model, x, ids) == float((probe.labels[ids] == 0).float().mean())


def test_a_resumed_run_goes_on_with_the_probe_bit_for_bit(tmp_path):
    data = clusters()
    straight = OnlineProbe.of(module_of(data).model, data)
    fit(module_of(data), data, straight, epochs=4)
    trainer = fit(module_of(data), data, OnlineProbe.of(module_of(data).model, data), epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = OnlineProbe.of(module_of(data).model, data)
    fit(module_of(data), data, resumed, epochs=4, checkpoint=tmp_path / "half.ckpt")
    assert torch.equal(straight.weight, resumed.weight) and torch.equal(straight.bias, resumed.bias)
    assert straight.values == resumed.values and straight.recent == resumed.recent


def test_embedding_leaves_modes_statistics_and_random_state_alone():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.drop, self.frozen = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.BatchNorm1d(4)

        def encode(self, x):
            return self.frozen(self.drop(self.norm(x)))

    model = Noisy()
    model.frozen.eval()
    modes = [module.training for module in model.modules()]
    before, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(embed(model, x), embed(model, x))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input(images, tmp_path, capsys):
    assert main(["pretrain", str(images / "bare.npy"), "--online-probe", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "online_probe needs labels of at least two classes" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    words = [str(images / "images.npz"), "--devices", "2", "--strategy", "fsdp", "--online-probe"]
    assert main(["pretrain", *words, "--out", str(tmp_path / "run")]) == 2
    assert "online_probe needs the whole encoder on each device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(vp.InvalidArgument, match="labels from 0 to 2 must lie from 0 to 1"):
        OnlineProbe([0, 2], [0], classes=2, dim=3)
    with pytest.raises(vp.InvalidArgument, match="held_out from -1 to 0"):
        OnlineProbe([0, 1], [0, -1], classes=2, dim=3)
    with pytest.raises(vp.InvalidArgument, match="classes=1 must be at least 2"):
        OnlineProbe([0], [0], classes=1, dim=3)
    bare = make_dataset("bare", Split(np.zeros((4, 6))), Split(np.ones((4, 6))))
    with pytest.raises(vp.InvalidArgument, match="needs labels, and bare has none"):
        OnlineProbe.of(vp.VectorAutoencoder(6), bare)
    probe = OnlineProbe([0, 1], [0], classes=2, dim=8)
    module = MaskedPretraining(vp.VectorAutoencoder(6, 16, 8), vp.VectorMask(2, 0))
    with pytest.raises(vp.InvalidArgument, match="sample_ids"):
        probe.on_train_batch_end(pl.Trainer(logger=False), module, None, torch.zeros(2, 6), 0)
    assert math.isnan(probe.values["probe_accuracy"])
