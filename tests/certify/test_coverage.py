"""Uniform maskers are never REFUTED; what is left out, uneven or shared is."""

import math

import pytest
import torch
from torch import Tensor

from viewproof import InvalidArgument, RandomPatchMask, certify_coverage
from viewproof.certify.binomial import clopper_pearson, fisher


def verdicts(draw: object, **kwargs: object) -> dict[str, str]:
    report = certify_coverage(draw, draws=2048, **kwargs)  # type: ignore[arg-type]
    return {f.claim: f.verdict.value for f in report.findings}


@pytest.mark.parametrize("seed", range(20))
def test_a_uniform_masker_is_never_refuted(seed: int) -> None:
    found = verdicts(lambda: torch.rand(10) < 0.3, uniform=True, share=0.3, seed=seed)
    assert "REFUTED" not in [v for claim, v in found.items() if not claim.startswith("no draw hides")]


def test_a_rule_is_proved() -> None:
    report = certify_coverage(RandomPatchMask(4, 4, 5), data_shape=(1, 16, 16), draws=2048, count=80, uniform=True)
    assert report.verdict(strict=True).value == "PROVED"


def spans() -> Tensor:
    start = int(torch.randint(0, 9, ()))
    return (torch.arange(12) >= start) & (torch.arange(12) < start + 4)


def test_what_is_left_out_or_uneven_is_refuted() -> None:
    fixed = verdicts(lambda: torch.arange(6) < 3)
    assert fixed["no coordinate is always or never hidden"] == "REFUTED"
    uneven = verdicts(spans, uniform=True, count=4)
    assert uneven["no coordinate is always or never hidden"] == "PROVED"
    assert uneven["the coordinates' hidden shares are compatible with equal ones"] == "REFUTED"
    assert uneven["each draw hides the declared number"] == "PROVED"
    assert verdicts(spans, count=3)["each draw hides the declared number"] == "REFUTED"
    assert verdicts(spans, share=0.5)["the hidden share is compatible with the declared one"] == "REFUTED"
    counted, claim = lambda: torch.randperm(100) < 30, "the hidden share is compatible with the declared one"
    assert (verdicts(counted, share=0.3)[claim], verdicts(counted, share=0.33)[claim]) == ("PROVED", "REFUTED")
    never = torch.arange(12) == 0
    assert verdicts(spans, never=never)["no coordinate is always or never hidden"] == "REFUTED"


def test_too_few_draws_are_unknown() -> None:
    report = certify_coverage(lambda: torch.arange(6) == torch.randint(1, 6, ()), draws=50)
    assert report.findings[0].verdict.value == "UNKNOWN"


def test_outcomes() -> None:
    def bert(random: float) -> Tensor:
        kind = torch.rand(20)
        code = torch.where(kind < 0.8, 1, torch.where(kind < 0.8 + random, 2, 3))
        return torch.where(torch.rand(20) < 0.3, code, 0)

    claim = "the outcomes' shares are compatible with the declared ones"
    assert verdicts(lambda: bert(0.1), outcomes=(0.8, 0.1, 0.1))[claim] == "PROVED"
    assert verdicts(lambda: bert(0.02), outcomes=(0.8, 0.1, 0.1))[claim] == "REFUTED"


def test_one_seed_for_two_operations() -> None:
    def draw(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        return torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(int(i))) < 0.5 for i in ids])

    def angle(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        return torch.stack([torch.rand(1, generator=torch.Generator().manual_seed(seed + int(i))) for i in ids])

    claim = "the draws are compatible with independence of the other operation's"
    assert verdicts(draw, beside=angle)[claim] == "REFUTED"
    assert verdicts(draw, beside=angle, seed=10**6)[claim] == "PROVED"

    def rare(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        return angle(ids, epoch=epoch, seed=0) < 0.2

    assert verdicts(rare, beside=rare)[claim] == "REFUTED"


def test_exact_bounds() -> None:
    low, high = clopper_pearson(3, 20, 0.05)
    assert math.isclose(low, 0.0320709, rel_tol=1e-4) and math.isclose(high, 0.3789268, rel_tol=1e-4)
    assert math.isclose(fisher(8, 10, 10, 20), 2 * 0.0115070, rel_tol=1e-3)


def test_wrong_arguments() -> None:
    with pytest.raises(InvalidArgument, match="draws=1"):
        certify_coverage(spans, draws=1)
    with pytest.raises(InvalidArgument, match="must sum to 1"):
        certify_coverage(spans, outcomes=(0.5, 0.1))
