"""Planted collapse raises the alarm, planted health does not; the numbers are what they are called."""

import math
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.monitor import certify_monitor
from viewproof.training.collapse import CollapseMonitor, measure, rankme
from viewproof.verdict import Verdict


def healthy(n: int = 200, d: int = 12) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


HEALTH = {
    "isotropic": healthy(),
    "far from 0": healthy() + 20,
    "small": 1e-6 * healthy(),
    "few dimensions": healthy(d=4) @ torch.randn(4, 12, generator=torch.Generator().manual_seed(1)),
    "fewer samples than dimensions": healthy(8, 64),
    "bfloat16": healthy().bfloat16(),
}
COLLAPSE = {
    "one point": torch.ones(200, 12),
    "zero": torch.zeros(200, 12),
    "one point, far from 0": torch.full((200, 12), 1e4),
    "one point with a thousandth of noise": torch.ones(200, 12) + 1e-3 * healthy(),
    "one line": healthy()[:, :1] * torch.arange(12.0),
    "one line far from 0": 5 + healthy()[:, :1] * torch.arange(12.0),
    "one NaN": torch.where(torch.arange(200)[:, None] == 3, torch.nan, healthy()),
    "overflow": healthy().index_fill(0, torch.tensor([5]), torch.inf),
}


@pytest.mark.parametrize("name", HEALTH)
def test_health_raises_no_alarm(name: str) -> None:
    assert not measure(HEALTH[name]).collapsed


@pytest.mark.parametrize("name", COLLAPSE)
def test_collapse_raises_the_alarm(name: str) -> None:
    assert measure(COLLAPSE[name]).collapsed


def test_the_alarm_and_the_numbers_are_certified_monitors() -> None:
    assert certify_monitor(lambda z: measure(z).collapsed, healthy="low", threshold=0.5).verdict() is Verdict.PROVED
    assert certify_monitor(rankme, rank=True).verdict() is Verdict.PROVED
    assert certify_monitor(lambda z: measure(z).spread, dimensional=False).verdict() is Verdict.PROVED
    assert certify_monitor(lambda z: measure(z).std_mean, dimensional=False).verdict() is Verdict.PROVED


def test_spread_is_the_finite_coordinate_spread() -> None:
    z = healthy(9, 4).double() + 0.5
    geometry = measure(z)
    total = sum(float(vp.coordinate_spread(z, j)) for j in range(4))
    assert geometry.spread == pytest.approx(total / (2 * 9 * float(z.square().sum())), rel=1e-12)
    assert geometry.std_mean == pytest.approx(float(z.std(0).mean()), rel=1e-12)
    assert geometry.std_least == pytest.approx(float(z.std(0).min()), rel=1e-12)


def test_rankme_is_the_papers_without_its_floor() -> None:
    z = healthy(30, 6).double()
    shares = torch.linalg.svdvals(z) / torch.linalg.svdvals(z).sum()
    assert rankme(z) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares.tolist())), rel=1e-12)


def step(monitor: CollapseMonitor, at: int, embeddings: Tensor | None) -> None:
    trainer = Mock(spec=pl.Trainer, global_step=at, is_global_zero=True, accumulate_grad_batches=1)
    monitor.on_train_batch_end(trainer, Mock(spec=pl.LightningModule, embeddings=embeddings), None, None, 0)


def test_one_line_when_it_begins_and_one_when_it_ends() -> None:
    said: list[str] = []
    monitor = CollapseMonitor(every=2, say=said.append)
    point = COLLAPSE["one point"]
    for at, embeddings in enumerate([healthy(), point, healthy(), point, point, point, healthy(), healthy()]):
        step(monitor, at, embeddings)
    assert said == [
        "step 4: COLLAPSE: the embeddings of all samples lie nearly on one point or line (RankMe 0 of 12, spread 0)",
        f"step 6: no collapse now (RankMe {measure(healthy()).rank:.3g} of 12, spread {measure(healthy()).spread:.2g})",
    ]
    assert monitor.values["rank"] == measure(healthy()).rank


def test_a_module_without_embeddings_is_left_alone() -> None:
    monitor = CollapseMonitor(every=1)
    step(monitor, 1, None)
    assert math.isnan(monitor.values["rank"])


@pytest.mark.parametrize(("samples", "dims"), [(1, 12), (2, 12), (3, 12), (200, 1), (200, 2)])
def test_few_samples_or_coordinates_tell_nothing(samples: int, dims: int) -> None:
    said: list[str] = []
    monitor = CollapseMonitor(every=1, say=said.append)
    step(monitor, 1, healthy(samples, dims))
    assert not said and set(monitor.values.values()) == {None}
    step(monitor, 2, COLLAPSE["one point"])
    assert said and monitor.values["rank"] == 0


@pytest.mark.parametrize("shape", [(1, 4), (5,), (4, 0), (2, 3, 4)])
def test_what_is_no_batch_of_embeddings_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(vp.InvalidArgument, match=r"must be \[N, D\] of at least two samples"):
        measure(torch.zeros(shape))
    with pytest.raises(vp.InvalidArgument, match="every=0 measures nothing"):
        CollapseMonitor(every=0)
