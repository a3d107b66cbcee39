"""I-JEPA without a teacher: the encoder is its own target, and SIGReg's test of its mean tokens is in the loss."""

from pathlib import Path

import pytest
import torch

import viewproof as vp
from viewproof.cli import main
from viewproof.losses import JEPALoss, SIGRegLoss
from viewproof.methods.ijepa import IJEPA, JEPANetwork
from viewproof.models.patches import PatchEncoder, PatchPredictor
from viewproof.runs.folder import load_run

SHAPE = (2, 8, 12)
RULE = vp.MultiBlockMask(2, 2, context=8, target_area=(3, 5), context_area=(20, 24), targets=3)


def network(teacher: bool = False) -> JEPANetwork:
    torch.manual_seed(5)
    encoder = PatchEncoder(SHAPE, (2, 2), dim=16, depth=1, heads=2)
    return JEPANetwork(encoder, PatchPredictor(encoder.grid, dim=16, width=8, depth=1, heads=2), teacher)


def test_the_objective_is_its_contract_with_the_guard() -> None:
    statistic = SIGRegLoss(slices=8)
    trained = IJEPA(network(), RULE, regularizer=lambda z, step: 0.3 * statistic.guard(z, step=step)).double()
    x, ids = torch.randn(4, *SHAPE, dtype=torch.float64), torch.arange(4)
    prediction, target, embeddings = trained.model(x, *trained.places(SHAPE, ids, 2))
    contract = JEPALoss().contract(prediction.detach(), target.detach())
    contract = vp.with_geometry_guard(contract, 0.3 * statistic.guard(embeddings.detach().float(), step=7).double())
    torch.testing.assert_close(
        vp.predictive_view_objective(contract), trained.objective(x, ids, 7, 2).detach(), rtol=1e-6, atol=0
    )
    assert torch.equal(trained.embeddings, embeddings)  # type: ignore[arg-type]


def test_the_targets_have_a_gradient_and_no_teacher_moves() -> None:
    trained = IJEPA(network(), RULE, regularizer=lambda z, step: z.sum() * 0)
    assert trained.model.target is None and not trained.loss.stop_gradient
    x, ids = torch.randn(4, *SHAPE), torch.arange(4)
    context, blocks = trained.places(SHAPE, ids, 0)
    _, target, _ = trained.model(x, context, blocks)
    assert target.requires_grad and torch.equal(trained.model.encode(x), trained.model.encoder.encode(x))
    taught = IJEPA(network(teacher=True), RULE)
    assert not taught.model(x, context, blocks)[1].requires_grad and taught.loss.stop_gradient
    assert taught.method == "IJEPA with JEPALoss(beta=1.0)" and trained.method.endswith("without a teacher")


def test_without_teacher_and_guard_it_is_refused() -> None:
    with pytest.raises(vp.InvalidArgument, match="regularizer=None must be a function"):
        IJEPA(network(), RULE)


def test_the_guard_moves_the_mean_tokens_towards_a_normal_distribution() -> None:
    x, ids, values = torch.randn(48, *SHAPE), torch.arange(48), []
    for weight in (0.1, 0.0):
        statistic = SIGRegLoss(slices=32)
        trained = IJEPA(network(), RULE, regularizer=lambda z, step, w=weight, s=statistic: w * s.guard(z, step=step))
        optimizer = torch.optim.Adam(trained.parameters(), lr=0.01)
        for step in range(20):
            optimizer.zero_grad()
            trained.objective(x, ids, step, 0).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        values.append(float(statistic.guard(trained.model.encode(x).detach())))
    assert values[0] < 0.5 * values[1], values


def test_a_run_without_a_teacher(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "digits", "--method", "ijepa", "--dim", "16", "--depth", "1", "--heads", "2", "--steps", "2"]
    assert main([*words, "--guard", "sigreg", "--out", str(tmp_path / "run")]) == 0
    run = load_run(tmp_path / "run")
    assert isinstance(run.model, JEPANetwork) and run.model.target is None
    assert main([*words, "--guard", "vicreg", "--out", str(tmp_path / "bad")]) == 2
    assert "guard='vicreg' must be one of 'sigreg'" in capsys.readouterr().err
