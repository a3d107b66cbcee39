"""LeJEPA as published: its contract, ranks, views, and a run that resumes."""

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from taught import check_resumed
from torch import Tensor

import viewproof as vp
from viewproof.certify import certify_objective
from viewproof.certify.ranks import certify_ranks
from viewproof.cli import main
from viewproof.losses import LeJEPALoss, SIGRegLoss
from viewproof.methods.lejepa import LeJEPA, LeJEPANetwork
from viewproof.models.patches import PatchEncoder
from viewproof.training.multi_crop import MultiCrop
from viewproof.verdict import Verdict

# To the ranks go the losses, not this module, which takes seconds to import.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LOSS = LeJEPALoss(SIGRegLoss(slices=3, points=5), global_views=2)


def drawn(seed: int = 0) -> list[Tensor]:
    return list(torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(seed)).double())


def exact(*views: Any) -> Any:
    return vp.predictive_view_objective(LOSS.contract(views, 2))


def test_the_loss_is_the_objective_of_its_contract() -> None:
    views = drawn()
    assert float(exact(*(z.tolist() for z in views))) == pytest.approx(LOSS(views, 2).item(), rel=1e-12)
    assert not certify_objective(lambda *z: LOSS(z, 2), exact, *views).refuted


@pytest.mark.parametrize(
    "wrong",
    [
        lambda *z: LOSS(z, 3),
        lambda *z: LOSS([z[1], z[2], z[3], z[0]], 2),
        lambda *z: LeJEPALoss(LOSS.statistic, global_views=4)(z, 2),
        lambda *z: LeJEPALoss(SIGRegLoss(0.1, slices=3, points=5))(z, 2),
    ],
    ids=["another step", "a local view in the centre", "all views as the centre", "another lambda"],
)
def test_a_wrong_one_is_refuted(wrong: Any) -> None:
    assert certify_objective(wrong, exact, *drawn()).verdict() is Verdict.REFUTED


def test_two_views_are_the_loss_of_a_pair() -> None:
    a, b = drawn()[:2]
    statistic = SIGRegLoss(slices=3)
    torch.testing.assert_close(LeJEPALoss(statistic)([a, b], 4), statistic(a, b, 4))


def on_ranks(rows: Tensor) -> Tensor:
    return LOSS(list(rows.unbind(1)), 1)


def own_rows(rows: Tensor) -> Tensor:
    return (rows - rows.mean(1, keepdim=True)).square().mean() + LOSS.statistic.guard(rows[:, 0])


@pytest.mark.parametrize(("loss", "verdict"), [(on_ranks, Verdict.PROVED), (own_rows, Verdict.REFUTED)])
def test_two_unequal_ranks_have_the_value_and_gradient_of_one(loss: Any, verdict: Verdict) -> None:
    rows = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(2))
    assert certify_ranks(loss, rows, (3, 5)).verdict() is verdict


def test_the_module_compares_all_its_views_at_its_step() -> None:
    torch.manual_seed(0)
    network = LeJEPANetwork(PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2), width=4)
    trained = LeJEPA(network, MultiCrop((4, 4), 3), LOSS)
    x, ids = torch.randn(5, 1, 8, 8), torch.arange(5)
    large, small = trained.views(x, ids, 3)
    alone = [z for view in large for z in network([view], [])] + [z for view in small for z in network([], [view])]
    torch.testing.assert_close(trained.objective(x, ids, 7, 3), LOSS(alone, 7))
    torch.testing.assert_close(network.encoder.encode(x), network.encode(x))


def test_a_run_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["pretrain", "digits", "--method", "lejepa", "--dim", "16", "--depth", "1", "--heads", "2"]
    check_resumed([*words, "--epochs", "2", "--batch-size", "479", "--local-views", "2"], tmp_path, monkeypatch, 1)
    assert main(["doctor", str(tmp_path / "a")]) == 0


def test_bad_input() -> None:
    z = torch.zeros(4, 3)
    for views in ([z], [z, z[:2]]):
        with pytest.raises(vp.InvalidArgument, match="must be at least 2 views of one shape"):
            LeJEPALoss()(views)
    with pytest.raises(vp.InvalidArgument, match="a batch of 1 has no statistics"):
        LeJEPALoss()([z[:1], z[:1]])


def test_views_and_loss_must_count_the_same_global_views() -> None:
    network = LeJEPANetwork(PatchEncoder((1, 8, 8), (2, 2), dim=8, depth=1, heads=2), width=4)
    assert LeJEPA(network, MultiCrop((4, 4), global_views=1)).loss.global_views == 1  # type: ignore[attr-defined]
    for views, loss in ((MultiCrop((4, 4), global_views=1), LOSS), (MultiCrop((4, 4), 0, global_views=1), None)):
        with pytest.raises(vp.InvalidArgument, match="pass one number to both"):
            LeJEPA(network, views, loss)


def test_views_of_what_is_no_batch_of_images_are_refused() -> None:
    crops, x = MultiCrop((4, 4)), torch.rand(2, 1, 8, 8)
    for images, ids in ((x, torch.arange(3)), (x[0], torch.arange(1))):
        with pytest.raises(vp.InvalidArgument):
            crops(images, ids)
