"""The target's average: its closed form, its buffers, its momentum."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import viewproof as vp
from viewproof.certify.target import TargetBranch, certify_target_branch
from viewproof.training.ema import MomentumSchedule, move_target
from viewproof.verdict import Verdict


def branches() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    online, target = (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2))
    online(torch.randn(5, 3))
    return online, target.requires_grad_(False)


def test_the_schedule_is_its_closed_form() -> None:
    schedule = MomentumSchedule(0.9, 1.0, steps=8)
    assert [schedule(k) for k in range(12)] == [0.9 + (1.0 - 0.9) * min(1.0, k / 8) for k in range(12)]
    assert MomentumSchedule(0.25, 0.25)(7) == 0.25


@pytest.mark.parametrize("momentum", [0.0, 0.125, 0.5, 1.0])
def test_parameters_are_averaged_and_buffers_are_copied(momentum: float) -> None:
    online, target = branches()
    before = {name: p.clone() for name, p in target.named_parameters()}
    move_target(target, online, momentum)
    for (name, p), o in zip(target.named_parameters(), online.parameters(), strict=True):
        torch.testing.assert_close(p.data, momentum * before[name] + (1 - momentum) * o.data)
        assert momentum not in (0.0, 1.0) or torch.equal(p.data, before[name] if momentum else o.data)
    assert dict(target.named_buffers())["1.num_batches_tracked"] == 1
    assert all(torch.equal(t, o) for t, o in zip(target.buffers(), online.buffers(), strict=True))


def test_after_n_steps_the_initial_target_counts_the_product_of_the_momenta() -> None:
    online, target = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    online.weight.data.fill_(0.0), target.weight.data.fill_(1.0)
    schedule = MomentumSchedule(0.5, 1.0, steps=10)
    for step in range(10):
        move_target(target, online, schedule(step))
    assert target.weight.item() == pytest.approx(math.prod(schedule(step) for step in range(10)), rel=1e-12)


def test_the_target_branch_is_certified() -> None:
    online, target = branches()
    schedule = MomentumSchedule(0.9, 1.0, steps=4)
    branch = TargetBranch(
        lambda x: (online(x) - target(x).detach()).square().mean(),
        online,
        target,
        update=lambda step: move_target(target, online, schedule(step)),
        momentum=schedule,
    )
    report = certify_target_branch(branch, torch.randn(6, 3))
    assert report.verdict() is Verdict.PROVED


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: MomentumSchedule(1.5), "momentum start=1.5 must lie in [0, 1]"),
    (lambda: MomentumSchedule(0.5, -0.1), "momentum end=-0.1 must lie in [0, 1]"),
    (lambda: MomentumSchedule(math.nan), "momentum start=nan must lie in [0, 1]"),
    (lambda: MomentumSchedule(0.5, steps=0), "steps=0 has no schedule"),
    (lambda: move_target(nn.Linear(2, 2), nn.Linear(2, 2), 1.01), "momentum=1.01 must lie in [0, 1]"),
    (lambda: move_target(nn.Linear(2, 2), nn.Linear(2, 3), 0.5), "differ in structure"),
    (lambda: move_target(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), 0.5), "differ in structure"),
]


@pytest.mark.parametrize(("build", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_input(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=re.escape(message)):
        build()
