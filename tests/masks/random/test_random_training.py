"""Random masks in the asymmetric encoder, in training and as text."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import viewproof as vp
from viewproof.expressions import parse_rule
from viewproof.masks import Mask, MaskOfSample, RandomPatchMask, Rule, TokenMask
from viewproof.methods.mae import MaskedPretraining
from viewproof.training.fixed import predict

SHAPE, PATCH = (3, 8, 12), (4, 2)
RULE = RandomPatchMask(4, 2, count=8, seed=1)


def autoencoder(decoder: Any = "self-attention") -> vp.MaskedAutoencoder:
    torch.manual_seed(0)
    return vp.MaskedAutoencoder(SHAPE, PATCH, 16, 2, 2, 8, 2, 2, decoder=decoder)


@pytest.mark.parametrize("decoder", ["self-attention", "cross-attention"])
def test_a_batch_of_different_masks_gives_what_each_sample_gives_alone(decoder: str) -> None:
    model, ids = autoencoder(decoder).double(), torch.arange(5)
    x = torch.randn(5, *SHAPE, dtype=torch.float64)
    sample = RULE.sample(x, sample_ids=ids)
    together = predict(model, sample)
    for n in range(5):
        alone = model(x[n : n + 1], MaskOfSample(RULE, n).mask(SHAPE))
        assert torch.allclose(together[n], alone[0], rtol=0, atol=1e-12)
    assert sample.view is not None and (together[~sample.view.hidden.flatten(1)] == 0).all()


def test_gathered_tokens_are_the_visible_tokens_of_the_zero_filled_images() -> None:
    model, x = autoencoder(), torch.randn(6, *SHAPE)
    sample = RULE.sample(x, sample_ids=torch.arange(6))
    assert sample.view is not None
    visible, hidden = vp.split_patches_by_sample(sample.view, *PATCH)
    by_channel = vp.patchify(sample.x, *PATCH).unflatten(2, (-1, SHAPE[0])).transpose(2, 3).flatten(2)
    every = model.embed(by_channel)
    gathered = model.gather(x, visible)
    assert torch.equal(gathered, model.gather(sample.x, visible))
    assert torch.equal(gathered, by_channel[torch.arange(6)[:, None], visible])
    assert torch.allclose(model.embed(gathered), every[torch.arange(6)[:, None], visible], atol=1e-6)
    poisoned = torch.where(sample.view.hidden, torch.nan, x)
    assert torch.equal(model(x, sample.view), model(poisoned, sample.view))
    mask = Mask(model._place(model.gather(torch.ones_like(x), hidden), hidden) != 0, per_sample=True)
    assert torch.equal(mask.hidden, sample.mask.hidden)


def test_unequal_masks_cannot_be_gathered() -> None:
    view = Mask(torch.zeros(2, *SHAPE, dtype=torch.bool), per_sample=True)
    view.hidden[0, :, :4, :2] = True
    with pytest.raises(vp.InvalidArgument, match=r"hide \[0, 1\] patches; a batch that is gathered needs equal counts"):
        autoencoder()(torch.zeros(2, *SHAPE), view)


def batches(order: list[int]) -> DataLoader[Any]:
    data = torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(0))
    return DataLoader([(data[i], i) for i in order], batch_size=4)  # type: ignore[arg-type]


def seen(module: MaskedPretraining, order: list[int], epoch: int) -> dict[int, torch.Tensor]:
    masks = {}
    for x, ids in batches(order):
        for n, row in zip(ids.tolist(), module.sample([x, ids], 3, epoch).mask.hidden, strict=True):
            masks[n] = row
    return masks


def test_training_draws_by_id_and_epoch_whatever_the_order() -> None:
    module = MaskedPretraining(autoencoder(), RULE)
    first, again, next_epoch = seen(module, list(range(12)), 0), seen(module, list(range(11, -1, -1)), 0), None
    next_epoch = seen(module, list(range(12)), 1)
    assert all(torch.equal(first[n], again[n]) for n in range(12))
    assert any(not torch.equal(first[n], next_epoch[n]) for n in range(12))
    x, ids = torch.randn(4, *SHAPE), torch.arange(4)
    by_name = module.sample({"x": x, "sample_ids": ids}, 0, 2)
    assert torch.equal(by_name.x, RULE.sample(x, sample_ids=ids, epoch=2).x)
    with pytest.raises(vp.InvalidArgument, match="pass sample_ids=ids"):
        module.sample(x, 0)


def test_the_trainer_passes_its_epoch(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import pytorch_lightning as pl

    module, epochs = MaskedPretraining(autoencoder(), RULE), []
    draw = RandomPatchMask.sample

    def spy(self: RandomPatchMask, x: Any, recon_dim: Any = None, **given: Any) -> Any:
        epochs.append(given["epoch"])
        return draw(self, x, recon_dim, **given)

    monkeypatch.setattr(RandomPatchMask, "sample", spy)
    options: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=2, default_root_dir=tmp_path, **options)
    trainer.fit(module, batches(list(range(12))))
    assert epochs == [0, 0, 0, 1, 1, 1]


TEXTS = [
    "RandomPatchMask(4, 2, 8)",
    "~RandomPatchMask(4, 2, count=8, seed=3)",
    "TubeMask(4, 2, 3)",
    "RandomBlockMask((1, None), 3)",
    "RandomBlockwiseMask(4, 2, 8, min_area=2)",
    "MultiBlockMask(4, 2, 3, (2, 2), (12, 12))",
    "MultiRangeMask(MultiBlockMask(4, 2, 3, (2, 2), (12, 12)), MultiBlockMask(4, 2, 3, (6, 6), (12, 12), targets=2))",
    "SpanMask(2, 3, equal=False, per=10)",
    "SpectrogramMask(1, 2, 1, 3)",
    "TokenMask(24, 3, 3, 103, 30522, per=200, special=(101, 102))",
    "PaddedMask(VectorMask(2, 0), axis=0)",
    "MaskOfSample(~RandomPatchMask(4, 2, 8), 5)",
]


@pytest.mark.parametrize("text", TEXTS)
def test_rules_can_be_written_as_text(text: str) -> None:
    rule = parse_rule(text)
    assert isinstance(rule, Rule) and parse_rule(repr(rule)) == rule and hash(rule) == hash(parse_rule(text))


def test_the_mask_of_one_sample_is_a_fixed_rule() -> None:
    rule = MaskOfSample(RULE, 7, epoch=2)
    expected = RULE.mask(SHAPE, sample_ids=torch.tensor([7]), epoch=2).hidden[0]
    assert torch.equal(rule.mask(SHAPE).hidden, expected) and torch.equal((~rule).mask(SHAPE).hidden, ~expected)
    assert rule.at(3) is rule and rule.mask(SHAPE) is rule.mask(SHAPE)
    tokens = MaskOfSample(TokenMask(3, 1, 1, 0, 9)).mask((9,))
    assert tokens.count == 5
