"""certify_loss: the package's losses come out proved, mutants refuted under the right claim, strange ones unknown."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from inspect import unwrap

import pytest
import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.certify.loss import certify_loss
from viewproof.certify.report import Contract, Finding, Report, Severity
from viewproof.masks import Mask, Sample
from viewproof.verdict import Verdict

SAMPLE = vp.VectorMask(3, 1).sample(torch.randn(3, 7, generator=torch.Generator().manual_seed(0)))
PER_ROW = Sample(SAMPLE.x, SAMPLE.y, Mask(torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.5, True))


def square(error: Tensor) -> Tensor:
    return error * error


def smooth(error: Tensor) -> Tensor:
    size = abs(torch.as_tensor(float(error)) if not isinstance(error, Tensor) else error)
    return torch.where(size < 1, size * size / 2, size - 0.5)


def right(prediction: Tensor, y: Tensor, hidden: Tensor) -> Tensor:
    if not hidden.any():
        raise ValueError("empty")
    return torch.where(hidden, prediction.float() - y.float(), 0.0).square().sum() / hidden.sum()


def claim(report: Report, words: str) -> Finding:
    return next(f for f in report.findings if words in f.claim)


@pytest.mark.parametrize("sample", [SAMPLE, PER_ROW], ids=["one mask", "a mask a row"])
@pytest.mark.parametrize(
    ("loss", "distance"), [(vp.masked_mse, square), (vp.masked_l1, abs), (vp.masked_smooth_l1, smooth)]
)
def test_the_losses_of_the_package_are_proved(
    loss: Callable[..., Tensor], distance: Callable[[Tensor], Tensor], sample: Sample
) -> None:
    report = certify_loss(loss, sample, distance=distance)
    assert report.verdict() is Verdict.PROVED, str(report)
    assert "all sizes" in claim(report, "mean of the declared distance").scope


@pytest.mark.parametrize("reduction", ["sum", "rows"])
def test_other_reductions(reduction: str) -> None:
    def loss(prediction: Tensor, sample: Sample) -> Tensor:
        return vp.masked_mse(prediction, sample, reduction=reduction)  # type: ignore[arg-type]

    report = certify_loss(loss, SAMPLE, reduction=reduction, distance=square)  # type: ignore[arg-type]
    assert report.verdict() is Verdict.PROVED, str(report)
    assert certify_loss(loss, SAMPLE, distance=square).verdict(Contract.C4) is Verdict.REFUTED


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("every hidden coordinate", lambda p, y, h: right(p, y, h & (torch.arange(7) < 3))),
        ("no visible coordinate", lambda p, y, h: right(p, y, h) + 1e-3 * p[~h].square().sum()),
        ("every hidden coordinate", lambda p, y, h: right(p.detach(), y, h) + p.sum() * 0),
        ("empty mask", lambda p, y, h: torch.where(h, p - y, 0.0).square().sum() / h.sum().clamp(min=1)),
        ("mean of the declared", lambda p, y, h: right(p, y, h) * (1 + 1e-4)),
        ("does not change", lambda p, y, h: right(p, y, h) * h.sum() / y.shape[0]),
        ("does not change", lambda p, y, h: right(p, y, h) * h.sum() / h.numel()),
        ("values off the mask", lambda p, y, h: ((p - y).square() * h).sum() / h.sum()),
        ("values off the mask", lambda p, y, h: right(p, y, h) * (1 + 1e-6 * y[~h].sum())),
        ("a row with nothing", lambda p, y, h: ((p - y).square() * h).sum(1).div(h.sum(1)).mean()),
        ("do not overflow", lambda p, y, h: torch.where(h, p - y, 0.0).square().sum() / h.sum()),
    ],
)
def test_mutants(words: str, wrong: Callable[..., Tensor]) -> None:
    report = certify_loss(wrong, SAMPLE, takes="tensors", distance=square)
    finding = claim(report, words)
    assert finding.verdict is Verdict.REFUTED and finding.witness is not None, str(report)
    assert finding.witness.inputs and finding.witness.what


def test_the_right_one_is_not_refuted_and_proved_off_the_mask() -> None:
    report = certify_loss(right, SAMPLE, takes="tensors", distance=square)
    assert not report.refuted
    assert claim(report, "no visible").verdict is Verdict.PROVED
    assert claim(report, "values off the mask").verdict is Verdict.PROVED
    # A guard on the mask's values cannot be exported: it is proved at this shape.
    assert claim(report, "declared distance").verdict is Verdict.PROVED
    assert claim(report, "declared distance").scope == "the reals at (3, 7), 5 masks"


def test_traps_far_from_the_points_tried_are_never_called_proved() -> None:
    def trap(prediction: Tensor, sample: Sample) -> Tensor:
        extra = torch.relu(prediction.abs() - 1e9).sum()
        return vp.masked_mse(prediction, sample) + extra

    def branch(prediction: Tensor, sample: Sample) -> Tensor:
        return vp.masked_mse(prediction, sample) if float(prediction.max()) < 1e9 else prediction.sum()

    def known_target(prediction: Tensor, sample: Sample) -> Tensor:
        return vp.masked_mse(prediction, sample) * (1 + torch.relu(sample.y - 1e9).sum())

    for loss in (trap, branch, known_target):
        report = certify_loss(loss, SAMPLE)
        assert claim(report, "no visible").verdict is Verdict.UNKNOWN, report
        assert claim(report, "values off the mask").verdict is not Verdict.PROVED, report


def test_a_product_with_the_mask_is_proved_for_finite_values_only() -> None:
    report = certify_loss(lambda p, y, h: ((p - y).square() * h).sum() / h.sum(), SAMPLE, takes="tensors")
    assert claim(report, "no visible").verdict is Verdict.PROVED
    assert claim(report, "no visible").scope.startswith("all finite values")
    assert claim(report, "values off the mask").verdict is Verdict.REFUTED


def test_selecting_by_index_and_class_scores() -> None:
    report = certify_loss(lambda p, y, h: (p[h] - y[h]).square().mean(), SAMPLE, takes="tensors")
    assert claim(report, "values off the mask").verdict is Verdict.PROVED
    tokens = torch.randint(0, 4, (2, 6))
    sample = Sample(tokens.float(), tokens, Mask(torch.tensor([1, 0, 0, 1, 1, 0]).bool()))

    def scores(prediction: Tensor, sample: Sample) -> Tensor:
        hidden = sample.mask.hidden.expand(sample.y.shape)
        return torch.nn.functional.cross_entropy(prediction[hidden], sample.y[hidden])

    report = certify_loss(scores, sample, prediction_shape=(2, 6, 4), invariant=("batch",))
    assert claim(report, "no visible").verdict is Verdict.PROVED
    assert claim(report, "empty mask").verdict is Verdict.REFUTED


def test_vacuous_masks() -> None:
    whole = Sample(SAMPLE.x, SAMPLE.y, Mask.all((7,)))
    report = certify_loss(vp.masked_mse, whole)
    assert claim(report, "no visible").verdict is Verdict.VACUOUS
    assert claim(report, "values off").verdict is Verdict.VACUOUS
    nothing = Sample(SAMPLE.x, SAMPLE.y, Mask.empty((7,)))
    assert claim(certify_loss(lambda p, s: p.sum() * 0, nothing), "every hidden").verdict is Verdict.VACUOUS


def test_a_loss_that_raises_is_reported_with_its_words() -> None:
    def broken(prediction: Tensor, sample: Sample) -> Tensor:
        raise RuntimeError("no such layer")

    report = certify_loss(broken, SAMPLE)
    assert {f.verdict for f in report.findings} == {Verdict.UNKNOWN}
    assert "broken raised RuntimeError: no such layer" in report.findings[0].detail


def test_global_random_state_and_the_sample_stay() -> None:
    state, y = torch.get_rng_state(), SAMPLE.y.clone()

    def rude(prediction: Tensor, sample: Sample) -> Tensor:
        torch.rand(3)
        sample.y.zero_()
        return vp.masked_mse(prediction, sample)

    certify_loss(rude, SAMPLE)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(SAMPLE.y, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"takes": "both"}, "takes='both' must be 'sample' or 'tensors'"),
        ({"reduction": "max"}, "reduction='max' must be"),
        ({"invariant": ("time",)}, r"invariant=\('time',\) must be among"),
        ({"prediction_shape": (3, 8)}, r"prediction_shape=\(3, 8\) must begin with the target's shape \(3, 7\)"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(vp.InvalidArgument, match=message):
        unwrap(certify_loss)(vp.masked_mse, SAMPLE, **options)  # type: ignore[arg-type]


def test_bad_samples() -> None:
    with pytest.raises(vp.InvalidArgument, match="NaN or infinite at hidden"):
        certify_loss(vp.masked_mse, vp.VectorMask(2, 0).sample(torch.tensor([[math.nan, 1.0]])))
    with pytest.raises(vp.InvalidArgument, match="is empty"):
        certify_loss(vp.masked_mse, vp.VectorMask(2, 0).sample(torch.zeros(0, 3)))


class Centred(nn.Module):
    """Teacher's centre as DINO has it: a buffer that every call binds anew, and a count of the calls."""

    centre: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(7))
        self.weight, self.calls = nn.Parameter(torch.ones(())), 0

    def forward(self, prediction: Tensor, sample: Sample) -> Tensor:
        hidden = sample.mask.hidden.expand(sample.y.shape)
        if not bool(hidden.any()):
            raise ValueError("nothing is hidden")
        error = torch.where(hidden, prediction - sample.y - self.centre.expand_as(sample.y), 0.0)
        self.centre, self.calls = 0.9 * self.centre + 0.1, self.calls + 1
        return error.float().square().sum() / hidden.sum() * self.weight * min(1.0, self.calls / 10)


def test_what_a_loss_keeps_is_put_back_after_every_call() -> None:
    loss = Centred()
    centre = loss.centre
    report = certify_loss(loss, SAMPLE, invariant=("batch",))
    assert not report.refuted, str(report)
    assert loss.centre is centre and not bool(centre.any()) and loss.calls == 0
    assert not certify_loss(loss.forward, SAMPLE, invariant=("batch",)).refuted and loss.calls == 0


def test_a_loss_that_changes_from_call_to_call_is_not_compared() -> None:
    calls = itertools.count(1)
    report = certify_loss(lambda p, s: vp.masked_mse(p, s) * next(calls), SAMPLE)
    assert [f.verdict for f in report.findings] == [Verdict.UNKNOWN]
    assert report.findings[0].detail.startswith("called twice alike it gives ")


def test_a_known_count_is_that_of_the_counted_coordinates_alone() -> None:
    from viewproof.certify.loss.proof import _CountedMask

    hidden = torch.tensor([True, False, False])
    mask = _CountedMask(hidden, counted=hidden, known_count=7)
    assert mask.count == 7
    assert (~mask).count == replace(mask, hidden=~hidden).count == 2


def test_what_nan_alone_changes_is_not_robust_and_what_numbers_change_is_wrong() -> None:
    def by_product(prediction: Tensor, sample: vp.Sample) -> Tensor:
        if sample.mask.count == 0:
            raise ValueError("nothing is hidden")
        keep = sample.mask.hidden.to(prediction.dtype)
        wide = ((prediction - sample.y) * keep).double().square().sum()
        return (wide / (keep.sum() * len(prediction))).to(prediction.dtype)

    def over_everything(prediction: Tensor, sample: vp.Sample) -> Tensor:
        return (prediction - sample.y).square().mean()

    sample = vp.vector_mae_sample(torch.rand(3, 7), period=3, offset=1)
    report = vp.certify_loss(by_product, sample)
    assert {f.severity for f in report.refuted} == {Severity.ROBUSTNESS}
    assert report.verdict() is not Verdict.REFUTED
    assert report.verdict(strict=True) is Verdict.REFUTED
    assert Severity.OBJECTIVE in {f.severity for f in vp.certify_loss(over_everything, sample).refuted}
