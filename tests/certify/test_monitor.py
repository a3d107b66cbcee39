"""certify_monitor: monitors that see collapse pass, those that see something else are refuted."""

from collections.abc import Callable
from inspect import unwrap

import numpy as np
import pytest
import torch
from torch import Tensor

from viewproof import InvalidArgument
from viewproof.bugzoo.monitors import effective_rank
from viewproof.certify.monitor import certify_monitor
from viewproof.verdict import Verdict


def spread(z: Tensor) -> Tensor:
    return z.std(0).mean()


def cosine(z: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(z, dim=-1)
    return (unit @ unit.T).square().mean()


def test_an_effective_rank() -> None:
    assert certify_monitor(effective_rank, rank=True).verdict() is Verdict.PROVED
    assert certify_monitor(effective_rank, rank=True, threshold=4.0).verdict() is Verdict.PROVED


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z: -spread(z),
        lambda z: torch.tensor(1.0),
        lambda z: z.abs().mean(),
        lambda z: z.std(1).mean(),
        lambda z: spread(z) / z.std(0).max(),
    ],
    ids=["sign", "constant", "size", "over features", "NaN when collapsed"],
)
def test_blind_monitors(wrong: Callable[[Tensor], Tensor]) -> None:
    report = certify_monitor(wrong)
    assert report.verdict() is Verdict.REFUTED and report.refuted[0].witness is not None


def test_the_threshold_counts() -> None:
    assert certify_monitor(spread, dimensional=False, threshold=0.1).verdict() is Verdict.PROVED
    assert certify_monitor(spread, dimensional=False, threshold=0.5).verdict() is Verdict.REFUTED


def test_low_is_healthy() -> None:
    assert certify_monitor(cosine, healthy="low", dimensional=False).refuted[0].witness is not None  # zeros score 0
    assert certify_monitor(lambda z: -spread(z), healthy="low", dimensional=False).verdict() is Verdict.PROVED


@pytest.mark.parametrize(
    ("rank", "healthy"), [(lambda z: effective_rank(z) + 0.5, False), (lambda z: torch.linalg.matrix_rank(z), True)]
)
def test_ranks(rank: Callable[[Tensor], Tensor], healthy: bool) -> None:
    verdict = next(f.verdict for f in certify_monitor(rank, rank=True).findings if "isotropic dimensions" in f.claim)
    assert (verdict is Verdict.PROVED) is healthy


def test_an_exception_is_unknown() -> None:
    report = certify_monitor(lambda z: z.no_such_thing)
    assert report.verdict() is Verdict.UNKNOWN and "AttributeError" in report.findings[0].detail


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"healthy": "up"}, "healthy='up' must be"),
        ({"samples": 2}, "samples=2 is too few"),
        ({"views": 1}, "views=1 is too few"),
        ({"samples": 16, "features": 16}, "samples=16 must exceed features=16"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        unwrap(certify_monitor)(spread, **options)  # type: ignore[arg-type]


def test_a_monitor_that_remembers() -> None:
    seen: list[Tensor] = []

    def running(z: Tensor) -> Tensor:
        seen.append(z.std(0).mean())
        return torch.stack(seen).mean()

    finding = certify_monitor(running, dimensional=False).findings[0]
    assert finding.verdict is Verdict.UNKNOWN and finding.detail.startswith("it remembers: isotropic scores 0.25")


def test_a_monitor_that_draws_a_subset() -> None:
    state = str(np.random.get_state())
    report = certify_monitor(lambda z: z[np.random.permutation(len(z))[:64]].std(0).mean(), dimensional=False)
    assert report.verdict() is Verdict.PROVED and str(np.random.get_state()) == state
