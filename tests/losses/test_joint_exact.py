"""Each running loss is the finite objective of its contract, up to what rounding can do."""

from fractions import Fraction

import pytest
import torch
from bounded import Bounded, bounded
from torch import Tensor

import viewproof as vp
from viewproof.losses import BarlowTwinsLoss, InfoNCELoss, JEPALoss, SIGRegLoss, VICRegLoss
from viewproof.losses.pair import PairLoss
from viewproof.objectives.rows import mae_batch_predictive_contract

PAIRS = [
    VICRegLoss(),
    VICRegLoss(lambda_=3.0, mu=7.5, nu=0.25, gamma=0.5, epsilon=1e-3),
    BarlowTwinsLoss(),
    BarlowTwinsLoss(lambda_=0.25, epsilon=0.0),
    SIGRegLoss(slices=6),
    InfoNCELoss(),
    InfoNCELoss(temperature=1.5, epsilon=1e-3),
    SIGRegLoss(lambda_=0.5, slices=3, points=5, t_max=3.0, seed=2),
]


def views(n: int = 7, d: int = 3, seed: int = 0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, n, d, generator=torch.Generator().manual_seed(seed))
    return scale * drawn[0], scale * (drawn[0] + 0.5 * drawn[1])


@pytest.mark.parametrize("scale", [0.125, 1.0, 3.0])
@pytest.mark.parametrize("loss", PAIRS, ids=repr)
def test_the_running_loss_is_its_contracts_objective_up_to_rounding(loss: PairLoss, scale: float) -> None:
    a, b = views(scale=scale)
    objective = vp.predictive_view_objective(loss.contract(bounded(a), bounded(b), 4))
    assert isinstance(objective, Bounded)
    assert objective.error < 0.02 * max(1, abs(objective.value)), "a bound that says nothing"
    assert abs(Fraction(loss(a, b, 4).item()) - objective.value) <= objective.error


@pytest.mark.parametrize("loss", PAIRS, ids=repr)
def test_another_view_another_step_and_another_constant_leave_the_bound(loss: PairLoss) -> None:
    a, b = views()
    objective = vp.predictive_view_objective(loss.contract(bounded(a), bounded(b), 4))
    moved = b + torch.eye(7, 3)
    wrong = [loss(a, b.flip(0), 4), loss(a, moved, 4), loss(a, b, 4) * 1.1]
    wrong += [loss(a, b, 5)] if isinstance(loss, SIGRegLoss) else []
    for value in wrong:
        assert abs(Fraction(value.item()) - objective.value) > objective.error


@pytest.mark.parametrize("loss", PAIRS, ids=repr)
def test_the_contract_takes_floats_and_tensors_too(loss: PairLoss) -> None:
    a, b = (z.double() for z in views(n=4, d=2))
    value = loss(a, b, 1)
    for rows in ((a.tolist(), b.tolist()), (a, b)):
        torch.testing.assert_close(
            torch.as_tensor(vp.predictive_view_objective(loss.contract(*rows, 1)), dtype=torch.float64), value
        )


@pytest.mark.parametrize("loss", PAIRS, ids=repr)
def test_float32_is_float64_within_the_bound(loss: PairLoss) -> None:
    a, b = views(seed=3)
    bound = vp.predictive_view_objective(loss.contract(bounded(a), bounded(b))).error
    assert abs(loss(a, b).item() - loss(a.double(), b.double()).item()) <= bound


def fractions(z: Tensor) -> list[Fraction]:
    return [Fraction(v) for v in z.flatten().tolist()]


@pytest.mark.parametrize("beta", [1.0, 0.5, 3.0])
def test_jepa_is_exact_in_fractions_and_within_its_bound(beta: float) -> None:
    prediction, target = views(n=5, d=4, scale=2.0)
    exact = vp.predictive_view_objective(JEPALoss(beta).contract(fractions(prediction), fractions(target)))
    assert isinstance(exact, Fraction)
    computed = Fraction(JEPALoss(beta)(prediction, target).item())
    bound = vp.rounding_bound(5, 20, float(exact), beta=beta)
    assert abs(computed - exact) <= bound < 1e-5
    assert abs(computed * Fraction(1001, 1000) - exact) > bound


def test_whole_numbers_stay_exact() -> None:
    loss = VICRegLoss(mu=0.0)
    value = vp.predictive_view_objective(loss.contract([[0, 1], [2, 5], [1, 0]], [[1, 1], [2, 2], [0, 3]]))
    assert isinstance(value, Fraction)
    # s: 25 * 20 / 6; covariances 2 and -1 / 2, squared twice each, over D = 2.
    assert value == Fraction(25 * 20, 6) + 4 + Fraction(1, 4)


GUARDS = {
    "none": lambda z: 0,
    "vicreg": lambda z: VICRegLoss().guard(z),
    "sigreg": lambda z: 0.1 * SIGRegLoss(slices=8).guard(z, step=3),
}


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize("rule", [vp.VectorMask(3, 1), vp.RandomBlockMask((1,), 4)], ids=repr)
def test_mae_with_or_without_a_guard(name: str, rule: vp.Rule) -> None:
    torch.manual_seed(0)
    x, prediction, embeddings = torch.randn(5, 9), torch.randn(5, 9, requires_grad=True), torch.randn(5, 4)
    sample = rule.sample(x, sample_ids=torch.arange(5))
    guard = GUARDS[name](embeddings)
    running = vp.masked_mse(prediction, sample) + guard
    contract = mae_batch_predictive_contract(sample, prediction, guard)
    torch.testing.assert_close(vp.predictive_view_objective(contract), running)
    assert vp.predictive_view_objective(vp.with_geometry_guard(contract, 0)) == vp.predictive_loss(contract)
    assert len(contract.target_idxs) == int(sample.mask.hidden.sum()) * (1 if sample.mask.per_sample else 5)


def test_mae_of_nothing_is_refused() -> None:
    sample = vp.VectorMask(0, 0).sample(torch.zeros(2, 3))
    with pytest.raises(vp.InvalidArgument, match="selects nothing"):
        mae_batch_predictive_contract(sample, torch.zeros(2, 3))
