"""Scored, hidden and not scored, visible: what a view may declare; sources that move data; a declared generator."""

from typing import Any

import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify import Contract, Report, Verdict

PROVED, REFUTED, VACUOUS = Verdict.PROVED, Verdict.REFUTED, Verdict.VACUOUS
X = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
BLOCKS = vp.MultiBlockMask(2, 2, context=6, target_area=(3, 5), context_area=(20, 25), targets=2)
SAMPLE = BLOCKS.sample(X, sample_ids=torch.arange(2))
assert SAMPLE.view is not None
HIDDEN = SAMPLE.view.hidden


def blocks(x: Tensor) -> vp.Sample:
    return BLOCKS.sample(x, sample_ids=torch.arange(2))


def with_mask(change: Any) -> Any:
    def view(x: Tensor) -> Any:
        sample = blocks(x)
        assert sample.view is not None
        return {"x": sample.x, "y": sample.y, "mask": change(sample.mask.hidden), "view": sample.view}

    return view


def scored(report: Report) -> Any:
    return next(f for f in report.findings if f.contract is Contract.C4)


def test_blocks_are_hidden_scored_or_visible() -> None:
    report = vp.certify_view(blocks, X)
    assert report.verdict() is PROVED, str(report)
    assert "neither visible nor scored" in scored(report).detail
    by_rule = vp.certify_view(blocks, X, BLOCKS.mask((1, 12, 12), sample_ids=torch.arange(2)), scored=SAMPLE.mask)
    assert by_rule.verdict() is PROVED, str(by_rule)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("selects it, but x shows", lambda mask: mask | ~HIDDEN.flatten(1)),
        ("leaves it out", lambda mask: mask & False),
        ("leaves it out", lambda mask: mask & torch.tensor([[True], [False]])),
    ],
    ids=["scored and visible", "nothing scored", "nothing of a row scored"],
)
def test_wrong_scored_sets(what: str, change: Any) -> None:
    finding = scored(vp.certify_view(with_mask(change), X))
    assert finding.verdict is REFUTED and what in finding.witness.what


def test_the_scored_set_is_the_declared_one() -> None:
    finding = scored(vp.certify_view(blocks, X, scored=~SAMPLE.mask))
    assert finding.verdict is REFUTED and "declared to be scored" in finding.witness.what
    # A fixed rule says that all that it hides is scored.
    rule = vp.VectorMask(2, 0)
    half = rule.mask((8,)).hidden & (torch.arange(8) < 4)
    values = torch.randn(2, 8)
    report = vp.certify_view(lambda x: {"x": rule.sample(x).x, "y": x, "mask": half}, values, rule)
    assert report.verdict(Contract.C4) is REFUTED and report.verdict(Contract.C5) is REFUTED
    declared = vp.certify_view(lambda x: {"x": rule.sample(x).x, "y": x, "mask": half}, values, rule, scored=half)
    assert declared.verdict() is PROVED, str(declared)


def test_gathered_context() -> None:
    place = torch.tensor([[0, 3], [4, 1]])[..., None].expand(-1, -1, 5)
    mask = torch.tensor([[0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 0, 1]]).bool()
    view = torch.ones(2, 6, dtype=torch.bool).scatter(1, place[..., 0], False)
    tokens = torch.randn(2, 6, 5)

    def gathered(x: Tensor) -> dict[str, Tensor]:
        return {"x": x.gather(1, place), "y": x, "mask": mask}

    assert vp.certify_view(lambda x: {**gathered(x), "view": view}, tokens).verdict() is PROVED
    report = vp.certify_view(gathered, tokens, scored=mask)
    assert report.verdict() is PROVED
    assert report.findings[2].verdict is VACUOUS and "not declared" in report.findings[2].detail
    assert vp.certify_view(gathered, tokens).verdict(Contract.C4) is REFUTED


def test_a_source_that_moves_data() -> None:
    hidden = vp.PatchMask(2, 2, period=6, offset=0).mask((1, 12, 12)).hidden

    def turned(x: Tensor) -> Tensor:
        return x.flip(3)

    def view(x: Tensor) -> Any:
        return torch.where(hidden, 0.0, turned(x)), turned(x), hidden

    assert vp.certify_view(view, X, source=turned, target=turned).verdict() is PROVED
    wrong = vp.certify_view(view, X, source=lambda x: x, target=turned)
    assert wrong.verdict(Contract.C2) is REFUTED
    assert (
        vp.certify_view(lambda x: (torch.where(hidden, 0.0, x), x, hidden), X, source=lambda x: x).verdict() is PROVED
    )


def test_a_declared_generator() -> None:
    def view(x: Tensor) -> Any:
        hidden = torch.rand(len(x), 1, 12, 1) < 0.5
        return torch.where(hidden, 0.0, x), x, hidden.expand_as(x)

    report = vp.certify_view(view, X, generator="global")
    assert report.verdict() is PROVED and "seeds 0 to 7" in scored(report).scope, str(report)
    assert vp.certify_view(view, X).verdict(Contract.C8) is REFUTED

    def by_numpy(x: Tensor) -> Any:
        import numpy as np

        return view(x if np.random.rand() < 0.5 else x.flip(0))

    assert vp.certify_view(by_numpy, X, generator="global").verdict(Contract.C8) is REFUTED
