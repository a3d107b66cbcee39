"""Losses as expressions: what is proved equal to a declared distance, what is not, and under which masks."""

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import viewproof as vp
from viewproof.certify import Report, Verdict
from viewproof.certify.flow.expressions import differs, guards
from viewproof.certify.loss.masks import block_of, like_example

PROVED, REFUTED, UNKNOWN = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN
IDS = torch.randint(0, 5, (3, 6), generator=torch.Generator().manual_seed(0))
TOKENS = vp.Sample(IDS, IDS, vp.Mask(torch.tensor([False, True, True, False, True, False])))
Y = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
VECTORS = vp.Sample(Y, Y, vp.Mask(torch.tensor([False, True, True, False, True, False])[:, None].expand(6, 4)))
FIRST = torch.zeros(6, dtype=torch.long)
WEIGHT = torch.rand(5, generator=torch.Generator().manual_seed(2)) + 0.1


def hidden_of(s: vp.Sample) -> Tensor:
    hidden = s.mask.hidden.expand(s.y.shape)
    if not hidden.any():
        raise ValueError("nothing is hidden")
    return hidden


def claim(report: Report, words: str) -> Any:
    return next(f for f in report.findings if words in f.claim)


def classes(loss: Any, distance: Any, **options: Any) -> Report:
    return vp.certify_loss(loss, TOKENS, prediction_shape=(3, 6, 5), distance=distance, **options)


def selected(**options: Any) -> Any:
    return lambda p, s: F.cross_entropy(p[hidden_of(s)], s.y[hidden_of(s)], **options)


def ignored(**options: Any) -> Any:
    return lambda p, s: F.cross_entropy(p.transpose(1, 2), torch.where(hidden_of(s), s.y, -100), **options)


def by_hand(p: Tensor, s: vp.Sample) -> Tensor:
    score = p.gather(-1, s.y[..., None])[..., 0]
    return (p.logsumexp(-1) - score)[hidden_of(s)].mean()


@pytest.mark.parametrize(
    ("loss", "distance"),
    [
        (selected(), "cross_entropy"),
        (ignored(), "cross_entropy"),
        (by_hand, "cross_entropy"),
        (ignored(weight=WEIGHT, label_smoothing=0.2), nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2)),
    ],
    ids=["selected", "ignored", "by hand", "weights and smoothing"],
)
def test_cross_entropy(loss: Any, distance: Any) -> None:
    report = classes(loss, distance)
    assert claim(report, "declared distance").verdict is PROVED, str(report)
    assert "the reals at" in claim(report, "declared distance").scope
    # The backward pass of logsumexp has no rule: that nothing off the mask has a gradient is left open there.
    assert report.verdict() is (UNKNOWN if loss is by_hand else PROVED), str(report)


def test_another_cross_entropy_is_refuted() -> None:
    assert claim(classes(selected(label_smoothing=0.1), "cross_entropy"), "declared").verdict is REFUTED
    nearly = classes(lambda p, s: selected()(p, s) * (1 + 1e-5), "cross_entropy")
    assert claim(nearly, "declared").verdict is UNKNOWN


def test_a_sum_of_cross_entropies() -> None:
    for declared, verdict in (("sum", PROVED), ("mean", REFUTED)):
        report = classes(selected(reduction=declared), "cross_entropy", reduction="sum", invariant=())
        assert claim(report, "declared distance").verdict is verdict, str(report)


def test_labels_that_hold_the_mask() -> None:
    def of_labels(p: Tensor, s: vp.Sample) -> Tensor:
        if (s.y == -100).all():
            raise ValueError("nothing is scored")
        return F.cross_entropy(p.flatten(0, 1), s.y.flatten())

    report = classes(of_labels, "cross_entropy", ignore_index=-100)
    assert report.verdict() is PROVED, str(report)


def distance_of_vectors(p: Tensor, s: vp.Sample) -> Tensor:
    rows = hidden_of(s).all(-1)
    return (1 - F.cosine_similarity(p[rows], s.y[rows], dim=-1)).mean()


def test_cosine_smooth_l1_and_functions_of_two() -> None:
    assert vp.certify_loss(distance_of_vectors, VECTORS, distance="cosine").verdict() is PROVED
    smooth = vp.certify_loss(
        lambda p, s: F.smooth_l1_loss(p[hidden_of(s)], s.y[hidden_of(s)], beta=0.5),
        VECTORS,
        distance=nn.SmoothL1Loss(beta=0.5),
    )
    assert smooth.verdict() is PROVED, str(smooth)
    normalised = vp.certify_loss(
        lambda p, s: F.smooth_l1_loss(p[hidden_of(s)], F.layer_norm(s.y, (4,))[hidden_of(s)]),
        VECTORS,
        distance=lambda p, t: F.smooth_l1_loss(p, F.layer_norm(t, (4,)), reduction="none"),
    )
    assert normalised.verdict() is PROVED, str(normalised)


def test_a_mask_that_cuts_what_the_distance_joins_is_no_objective() -> None:
    cut = VECTORS.mask.hidden.clone()
    cut[0, 0] = True
    sample = replace(VECTORS, mask=vp.Mask(cut))
    report = vp.certify_loss(distance_of_vectors, sample, distance="cosine", masks=lambda number: cut.roll(number, 0))
    assert claim(report, "declared").verdict is UNKNOWN and "cuts what" in claim(report, "declared").detail


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def two_minus_two_cosines(p: Tensor, t: Tensor) -> Tensor:
    return 2 - 2 * F.cosine_similarity(p, t, dim=-1)


def by_rows(each: Any) -> Any:
    """The mean over the hidden rows."""

    def loss(p: Tensor, s: vp.Sample) -> Any:
        rows = hidden_of(s).all(-1)
        return each(p[rows], s.y[rows]).mean()

    return loss


@pytest.mark.parametrize(
    "each",
    [
        lambda p, t: 2 - 2 * (unit(p) * unit(t)).sum(-1),
        lambda p, t: (unit(p) - unit(t)).square().sum(-1),
        lambda p, t: F.mse_loss(unit(p), unit(t), reduction="none").sum(-1),
        lambda p, t: 2 - 2 * (p * t).sum(-1) / (p.norm(dim=-1) * t.norm(dim=-1)),
    ],
    ids=["product", "difference", "mse_loss", "one quotient"],
)
def test_the_normalised_squared_error_of_byol(each: Any) -> None:
    report = vp.certify_loss(by_rows(each), VECTORS, distance=two_minus_two_cosines)
    assert report.verdict() is PROVED, str(report)


@pytest.mark.parametrize(
    "each",
    [
        lambda p, t: 2 - (unit(p) * unit(t)).sum(-1),
        lambda p, t: (unit(p) - t).square().sum(-1),
        lambda p, t: F.mse_loss(unit(p), unit(t), reduction="none").mean(-1),
        lambda p, t: (F.normalize(p, dim=0) - F.normalize(t, dim=0)).square().sum(-1),
    ],
    ids=["a factor", "a raw target", "a mean", "another axis"],
)
def test_another_normalised_error_is_refuted(each: Any) -> None:
    report = vp.certify_loss(by_rows(each), VECTORS, distance=two_minus_two_cosines, invariant=())
    assert claim(report, "declared distance").verdict is REFUTED


def test_what_has_no_meaning_and_is_not_used_leaves_the_rest_known() -> None:
    def beside(p: Tensor, s: vp.Sample) -> Tensor:
        F.conv1d(p, torch.ones(1, 6, 1))
        return (p - s.y)[hidden_of(s)].square().mean()

    def used(p: Tensor, s: vp.Sample) -> Tensor:
        return beside(p, s) + 0 * F.conv1d(p, torch.ones(1, 6, 1)).sum()

    def mse(p: Tensor, t: Tensor) -> Tensor:
        return (p - t).square()

    assert claim(vp.certify_loss(beside, VECTORS, distance=mse), "declared distance").verdict is PROVED
    report = vp.certify_loss(used, VECTORS, distance=mse)
    assert "convolution has no meaning" in claim(report, "declared distance").detail


def test_checks_of_values_are_no_branches() -> None:
    def checked(p: Tensor, s: vp.Sample) -> Tensor:
        assert p.sum() > -1e30
        return (p - s.y)[hidden_of(s)].square().mean()

    report = vp.certify_loss(checked, VECTORS, distance=lambda e: e * e)
    assert report.verdict() is PROVED, str(report)
    assert "where the check at test_loss_values.py" in claim(report, "declared").scope
    assert claim(report, "values off the mask").verdict is REFUTED

    def branching(p: Tensor, s: vp.Sample) -> Tensor:
        error = (p - s.y)[hidden_of(s)]
        return error.square().mean() if error.sum() < 1e9 else error.abs().mean()

    report = vp.certify_loss(branching, VECTORS, distance=lambda e: e * e, invariant=())
    assert claim(report, "declared").verdict is not PROVED
    assert guards(lambda p, y: p.sum() if p.sum() > 0 else -p.sum(), Y, Y) == []


def test_a_mask_that_is_never_read_is_named_and_nothing_is_proved() -> None:
    half = torch.zeros(3, 8, dtype=torch.bool)
    half[:, :4] = True
    y = torch.randn(3, 8)

    def own(p: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
        if not hidden.any():
            raise ValueError("nothing")
        return (p[:, :4] - y[:, :4]).square().mean()

    report = vp.certify_loss(own, vp.Sample(y, y, vp.Mask(half, True)), takes="tensors")
    follows = claim(report, "follows the mask")
    assert follows.verdict is REFUTED and "never reads the mask" in follows.witness.what
    assert not [f for f in report.findings if f.verdict is PROVED]


def test_masks_keep_the_structure_of_the_example() -> None:
    sample = vp.PatchMask(4, 4, period=4, offset=1).sample(torch.randn(2, 3, 8, 12))
    assert block_of(sample) == (3, 4, 4)
    for number in range(4):
        patches = vp.patchify(like_example(sample, number).reshape(2, 3, 8, 12).float(), 4, 4)
        assert bool((patches == patches[..., :1]).all()) and 0 < int(patches.sum()) < patches.numel()

    def of_patches(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = vp.patchify(hidden_of(s).reshape(-1, 3, 8, 12).float(), 4, 4)[..., 0]
        error = vp.patchify((p - s.y).reshape(-1, 3, 8, 12), 4, 4).square().mean(-1)
        return (error * hidden).sum() / hidden.sum()

    report = vp.certify_loss(of_patches, sample, distance=lambda e: e * e, dtypes=(torch.float32,))
    assert report.verdict() is PROVED, str(report)


def test_declared_masks() -> None:
    def row_means(p: Tensor, s: vp.Sample) -> Tensor:
        hidden = hidden_of(s).float()
        return (((p - s.y) ** 2 * hidden).sum((1, 2)) / hidden.sum((1, 2)).clamp(min=1)).mean()

    def equal(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return (torch.rand(3, 6, generator=generator).argsort(1) < 3)[..., None].expand(3, 6, 4)

    sample = vp.Sample(Y, Y, vp.Mask(equal(9), True))
    assert claim(vp.certify_loss(row_means, sample, distance=lambda e: e * e), "declared").verdict is REFUTED
    report = vp.certify_loss(row_means, sample, distance=lambda e: e * e, masks=equal, invariant=())
    assert report.verdict() is PROVED, str(report)


def test_state_of_closures_is_put_back() -> None:
    queue, calls = deque([torch.zeros(4)]), 0

    def loss(p: Tensor, s: vp.Sample) -> Tensor:
        nonlocal calls
        calls += 1
        queue.append(p.detach())
        return (p - s.y)[hidden_of(s)].square().mean()

    assert vp.certify_loss(loss, VECTORS, distance=lambda e: e * e).verdict() is PROVED
    assert calls == 0 and len(queue) == 1
    numbers = iter(range(10**6))

    def moves_on(p: Tensor, s: vp.Sample) -> Tensor:
        next(numbers)
        return (p - s.y)[hidden_of(s)].square().mean()

    assert "cannot be put back" in vp.certify_loss(moves_on, VECTORS, invariant=()).findings[0].detail


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda p, y: p.abs().sum(), lambda p, y: p.sum()),
        (lambda p, y: F.mse_loss(p, y) * (1 + 1e-12), lambda p, y: F.mse_loss(p, y)),
        (lambda p, y: p.long().sum(), lambda p, y: p.sum()),
        (lambda p, y: p.sum() * float(p[0, 0, 0] > 0), lambda p, y: p.sum()),
        (lambda p, y: (p * p).sum().sqrt(), lambda p, y: p.sum()),
        (lambda p, y: p.max(), lambda p, y: p.amax()),
        (lambda p, y: unit(p * y[..., :1]), lambda p, y: unit(p)),
        (lambda p, y: unit(-p), lambda p, y: unit(p)),
        (lambda p, y: p[..., :1].norm(dim=-1), lambda p, y: p[..., 0]),
        (lambda p, y: p.square().sum(-1).sqrt(), lambda p, y: -p.norm(dim=-1)),
        (lambda p, y: (p - y).norm(dim=-1), lambda p, y: p.norm(dim=-1) - y.norm(dim=-1)),
        (lambda p, y: (p * y).sum(-1), lambda p, y: p.norm(dim=-1) * y.norm(dim=-1)),
        (lambda p, y: torch.logical_and(torch.ones(4, dtype=torch.bool), p) * 1.0, lambda p, y: p),
        (lambda p, y: torch.logical_or(p, torch.zeros(4, dtype=torch.bool)) * 1.0, lambda p, y: p),
        (lambda p, y: ((p > 0) + (p > 0)) * 1.0, lambda p, y: (p > 0) * 2.0),
        (
            lambda p, y: (p[0] > 0).index_add(0, FIRST, p[1] > 0) * 1.0,
            lambda p, y: torch.zeros(6, 4).index_add(0, FIRST, (p[1] > 0) * 1.0) + (p[0] > 0) * 1.0,
        ),
        (lambda p, y: p.sum(dtype=torch.long), lambda p, y: p.sum()),
        (lambda p, y: p.view(torch.int32) * 1.0, lambda p, y: p),
        (lambda p, y: p.masked_fill(p < -1e9, 0), lambda p, y: p),
        (lambda p, y: F.pad(p, (1, 0), value=0.5), lambda p, y: F.pad(p, (1, 0), value=0.25)),
        (lambda p, y: (o := torch.ones(3, 6, 4), o[:1].copy_(p[:1]))[0], lambda p, y: torch.cat([p[:1], 0 * p[1:]])),
        (lambda p, y: p.sum() * float((p.numpy() < 1e9).all()), lambda p, y: p.sum()),
        (lambda p, y: p**3, lambda p, y: p**2),
        (lambda p, y: p / y, lambda p, y: p),
        (lambda p, y: torch.addmm(torch.zeros(6, 6), p[0], y[0].T, alpha=2), lambda p, y: p[0] @ y[0].T),
        (lambda p, y: F.smooth_l1_loss(p, y, beta=2.0), lambda p, y: F.huber_loss(p, y, delta=2.0)),
    ],
)
def test_other_expressions_are_not_called_the_same(one: Any, other: Any) -> None:
    reason, _ = differs(lambda p, y: (one(p, y), other(p, y)), Y.clone(), Y.clone())
    assert reason


def test_a_gradient_that_is_not_the_objectives_is_refuted() -> None:
    def half_stopped(p: Tensor, s: vp.Sample) -> Tensor:
        error = (p - s.y)[hidden_of(s)]
        return (error.detach() * error).mean()

    report = vp.certify_loss(half_stopped, VECTORS, distance=lambda e: e * e)
    assert "that of the declared objective" in claim(report, "declared").witness.what
