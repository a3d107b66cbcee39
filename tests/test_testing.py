"""`assert_certified`: what passes, what raises, and what the error says."""

import pytest
import torch
from torch import Tensor

import viewproof as vp
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
    assert assert_certified(nothing.sample, IMAGES, nothing).verdict() is vp.Verdict.VACUOUS


def test_two_rules_are_bad_input() -> None:
    with pytest.raises(vp.InvalidArgument, match="is given twice; the pipeline has PatchMask"):
        assert_certified(vp.Pipeline(view=masked, rule=RULE), IMAGES, RULE)
