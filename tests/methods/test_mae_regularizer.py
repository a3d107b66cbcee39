"""A masked autoencoder with a regularizer: what trains is the contract's objective, and it reaches the encoder."""

import csv
from pathlib import Path

import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.methods.mae import MAEMethod, MaskedPretraining
from viewproof.models import MaskedAutoencoder
from viewproof.objectives.rows import mae_batch_predictive_contract

RULE = ~vp.PatchMask(4, 4, 2, 0)


def model() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder((1, 8, 12), (4, 4), 8, 1, 2, 8, 1, 2)


@pytest.mark.parametrize("name", ["vicreg", "sigreg"])
def test_the_training_loss_is_the_contract_with_that_guard(name: str) -> None:
    regularizer = MAEMethod(model="masked-autoencoder", guard=name, guard_weight=0.5).regularizer(seed=0)
    assert regularizer is not None
    module, x = MaskedPretraining(model(), RULE, regularizer=regularizer), torch.randn(5, 1, 8, 12)
    loss = module.training_step((x, torch.arange(5)), 0)
    sample = RULE.sample(x)
    prediction, tokens = module.model(sample.x, sample.view, with_tokens=True)
    contract = mae_batch_predictive_contract(sample, prediction, regularizer(tokens.mean(1), 0))
    torch.testing.assert_close(loss, vp.predictive_view_objective(contract))
    assert loss > vp.masked_mse(prediction, sample)
    assert module.embeddings is not None and not module.embeddings.requires_grad
    assert torch.equal(module.embeddings, tokens.mean(1))


def test_its_gradient_reaches_the_encoder_and_hidden_pixels_stay_unread() -> None:
    trained = MaskedPretraining(
        model(), RULE, loss=lambda p, s: 0 * p.sum(), regularizer=lambda z, step: z.square().sum()
    )
    x = torch.randn(5, 1, 8, 12)
    loss = trained.training_step((x, torch.arange(5)), 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert trained.model.embed.weight.grad.norm() > 0  # type: ignore[union-attr, operator]
    assert trained.model.head.weight.grad.norm() == 0  # type: ignore[union-attr, operator]
    hidden = RULE.mask((1, 8, 12)).hidden
    poisoned = torch.where(hidden, torch.nan, x)
    assert torch.equal(trained.training_step((poisoned, torch.arange(5)), 0), loss)


def test_validation_measures_the_predictive_loss_alone() -> None:
    plain, guarded = (MaskedPretraining(model(), RULE, regularizer=r) for r in (None, lambda z, step: z.sum() + 9))
    batch = torch.randn(3, 1, 8, 12), torch.arange(3)
    assert torch.equal(plain.validation_step(batch, 0), guarded.validation_step(batch, 0))


def test_a_model_without_tokens_is_refused() -> None:
    with pytest.raises(vp.InvalidArgument, match="gives its visible tokens"):
        MaskedPretraining(vp.VectorAutoencoder(6), vp.VectorMask(2, 0), regularizer=lambda z, step: z.sum())


def test_a_guarded_run_writes_its_geometry(tmp_path: Path) -> None:
    out, sizes = tmp_path / "run", "--dim 8 --depth 1 --heads 2 --decoder-dim 8 --decoder-heads 2 --threads 1"
    words = f"pretrain digits --steps 20 --guard sigreg --guard-weight 0.1 {sizes} --out {out}"
    assert main(words.split()) == 0
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert all(float(row["rank"]) > 1 for row in rows if row["loss"]) and rows


@pytest.mark.parametrize(
    "words", ["--method vicreg --guard vicreg", "--model conv --guard sigreg", "--guard sigreg --guard-weight -1"]
)
def test_a_guard_that_does_not_fit_is_refused(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "digits", *words.split(), "--out", str(tmp_path / "run")]) == 2
    assert "guard" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
