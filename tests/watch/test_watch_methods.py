"""Steps of our own training modules, watched without a declaration."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import viewproof as vp
from viewproof.losses import BarlowTwinsLoss, VICRegLoss
from viewproof.methods.ijepa import IJEPA, JEPANetwork
from viewproof.methods.mae import MaskedPretraining
from viewproof.methods.two_view import ProjectedEncoder, TwoView
from viewproof.models.patches import PatchEncoder, PatchPredictor, Projector
from viewproof.training.base import Pretraining
from viewproof.training.ema import move_target
from viewproof.verdict import Verdict
from viewproof.watch import watch
from viewproof.watch.report import WatchReport

Built = tuple[Callable[[Any], Any], Any]


def stepped(module: Pretraining, after: Callable[[], None] = lambda: None) -> Built:
    """Lightning's automatic optimization of one batch, written out."""
    optimizer = module.configure_optimizers()["optimizer"]

    def step(batch: Any) -> float:
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after()
        return loss.item()

    return step, (torch.rand(3, 1, 8, 8), torch.arange(3))


def encoder() -> PatchEncoder:
    return PatchEncoder((1, 8, 8), (2, 2), dim=16, depth=1, heads=2)


def mae(rule: vp.Rule, **options: Any) -> Built:
    model = vp.MaskedAutoencoder(
        (1, 8, 8), (2, 2), 16, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2
    )
    return stepped(MaskedPretraining(model, rule, **options))


def vector() -> Built:
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 6))
    step, _ = stepped(MaskedPretraining(model, vp.VectorMask(3, 1)))
    return step, torch.rand(4, 6)


def ijepa() -> Built:
    context = encoder()
    network = JEPANetwork(context, PatchPredictor(context.grid, dim=16, width=8, depth=1, heads=2))
    rule = vp.MultiBlockMask(2, 2, context=5, target_area=(2, 4), context_area=(14, 16))
    module = IJEPA(network, rule)
    with torch.no_grad():
        for p in network.target.parameters():
            p.add_(0.01 * torch.randn_like(p))
    return stepped(module, lambda: move_target(network.target, network.encoder, 0.99))


def two_view(loss: Any) -> Built:
    return stepped(TwoView(ProjectedEncoder(encoder(), Projector(16, 8)), loss))


STEPS: dict[str, Callable[[], Built]] = {
    "MAE": lambda: mae(vp.RandomPatchMask(2, 2, 12)),
    "MAE, fixed rule, normalised patches": lambda: mae(
        vp.PatchMask(2, 2, period=2, offset=1), target=vp.PatchNormalization(2, 2)
    ),
    "vectors": vector,
    "I-JEPA": ijepa,
    "VICReg": lambda: two_view(VICRegLoss()),
    "Barlow Twins": lambda: two_view(BarlowTwinsLoss()),
}


def report_of(name: str) -> WatchReport:
    torch.manual_seed(0)
    step, batch = STEPS[name]()
    return watch(step, batch)


@pytest.mark.parametrize("name", STEPS)
def test_nothing_of_our_own_methods_is_refuted(name: str) -> None:
    report = report_of(name)
    assert not report.refuted, str(report)
    assert not any(f.verdict is Verdict.UNKNOWN for f in report.findings), str(report)
    if "MAE" in name or name == "vectors":
        source = max(report.sources, key=lambda s: s.values.numel())
        assert not source.leak.any() and (source.seen | source.scored).all()
