"""`assert_certified`: what passes, what raises, and what the error says."""

import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify.check import Check
from viewproof.testing import assert_certified

RULE = vp.PatchMask(4, 4, period=3, offset=1)
IMAGES = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
Returned = tuple[Tensor, Tensor, vp.Mask]


def masked(x: Tensor) -> Returned:
    mask = RULE.mask((3, 8, 12))
    return mask.apply(x), x, mask


def unmasked(x: Tensor) -> Returned:
    return x, x, RULE.mask((3, 8, 12))


def scaled(x: Tensor) -> Returned:
    mask = RULE.mask((3, 8, 12))
    return mask.apply(x / 3), x, mask


def test_a_view_and_a_pipeline_that_hold_are_returned_as_their_report() -> None:
    assert assert_certified(masked, IMAGES, RULE).verdict() is vp.Verdict.PROVED
    assert assert_certified(vp.Pipeline(view=masked), IMAGES).subject == "masked"
    with_rule = assert_certified(vp.Pipeline(view=masked), IMAGES, RULE)
    assert vp.Contract.C5 in {f.contract for f in with_rule.findings}


@pytest.mark.parametrize("allow_unknown", [False, True])
def test_a_refuted_view_raises_with_the_report(allow_unknown: bool) -> None:
    with pytest.raises(AssertionError) as raised:
        assert_certified(unmasked, IMAGES, RULE, allow_unknown=allow_unknown)
    assert str(raised.value) == str(vp.certify_view(unmasked, IMAGES, RULE))
    assert "x at (0, 0, 0, 4) changes with the hidden source coordinate (0, 0, 0, 4)" in str(raised.value)


def test_unknown_raises_unless_it_is_allowed() -> None:
    pipeline = vp.Pipeline(view=scaled, rule=RULE, options={"view": {"source": lambda x: x / 3}})
    with pytest.raises(AssertionError, match="UNKNOWN  C2"):
        assert_certified(pipeline, IMAGES)
    report = assert_certified(pipeline, IMAGES, allow_unknown=True)
    assert report.verdict() is vp.Verdict.UNKNOWN and not report.refuted


def test_a_view_that_hides_nothing_passes_as_vacuous() -> None:
    nothing = vp.PatchMask(4, 4, period=0, offset=0)
    report = assert_certified(nothing.sample, IMAGES, nothing)
    assert report.verdict() is vp.Verdict.PROVED and report.verdict(vp.Contract.C1) is vp.Verdict.VACUOUS
    assert report.verdict(vp.Contract.C4) is vp.Verdict.VACUOUS


def test_a_waiver_needs_a_name_and_a_reason() -> None:
    leak = {"C1": "known", "C4": "known"}
    report = assert_certified(unmasked, IMAGES, RULE, allow=leak)
    assert (
        report.verdict() is vp.Verdict.PROVED and len(report.refuted) == 2 and str(report).count("waived: known") == 2
    )
    with pytest.raises(AssertionError, match="REFUTED  C4"):
        assert_certified(unmasked, IMAGES, RULE, allow={"C1": "known"}, allow_unknown=True)
    with pytest.raises(vp.InvalidArgument, match="allow='C1' must have a reason"):
        assert_certified(unmasked, IMAGES, RULE, allow={"C1": " "})
    with pytest.raises(vp.InvalidArgument, match=r"allow='C10' must be a contract or a claim.*those are: .*C1 hidden"):
        assert_certified(unmasked, IMAGES, RULE, allow={"C10": "none"})


def test_what_is_not_robust_fails_with_strict_only(monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check(vp.Contract.C9, "float16 does not overflow")
    findings = Check(vp.Contract.C4, "right").proved(), check.refuted("inf", {}, severity=vp.Severity.ROBUSTNESS)
    monkeypatch.setattr("viewproof.testing.certify", lambda *_: vp.Report("a loss", findings))
    assert "not robust; fails with strict only" in str(assert_certified(masked, IMAGES))
    with pytest.raises(AssertionError, match="REFUTED  C9"):
        assert_certified(masked, IMAGES, strict=True)
    waived = assert_certified(masked, IMAGES, strict=True, allow={"float16 does not overflow": "float32 only"})
    assert waived.verdict(strict=True) is vp.Verdict.PROVED and "waived: float32 only" in str(waived)


def test_two_rules_are_bad_input() -> None:
    with pytest.raises(vp.InvalidArgument, match="is given twice; the pipeline has PatchMask"):
        assert_certified(vp.Pipeline(view=masked, rule=RULE), IMAGES, RULE)
