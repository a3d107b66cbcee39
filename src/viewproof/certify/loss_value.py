"""What a loss returns: the exact objective, its scale, and the masks and numbers at which means go wrong."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.loss import LossCase, over
from viewproof.certify.report import Contract, Finding, Witness
from viewproof.masks import Mask, Sample
from viewproof.objectives import predictive_view_objective, row_predictive_contract
from viewproof.objectives.masked import rounding_bound
from viewproof.verdict import Verdict

ROUNDINGS = 16
"""How often a term may be rounded; torch's own distances round at most five times."""
_MOST_EXACT = 20_000
_MANY = 1 << 13


def empty(case: LossCase) -> Iterable[Finding]:
    """A mean of nothing has no value, a sum of nothing is 0."""
    mask = Mask(torch.zeros_like(case.sample.mask.hidden), case.sample.mask.per_sample, rule="an empty mask")
    sample, prediction = replace(case.sample, mask=mask), case.predictions()[1]
    mean = case.reduction == "mean"
    claim = "the mean over an empty mask raises" if mean else "the sum over an empty mask is 0"
    scope = f"the empty mask, {tuple(case.sample.y.shape)}"
    case(prediction)
    try:
        returned = case(prediction, sample).detach()
    except Exception as error:
        said = f"raises {type(error).__name__}"
        if mean:
            yield Finding(Contract.C4, claim, Verdict.PROVED, scope, "run", said)
            return
        witness = Witness(f"an empty mask {said}", {"prediction": prediction, "sample": sample})
        yield Finding(Contract.C4, claim, Verdict.REFUTED, scope, "run", "", witness)
        return
    if not mean and bool((returned == 0).all()):
        yield Finding(Contract.C4, claim, Verdict.PROVED, scope, "run")
        return
    witness = Witness(f"an empty mask gives {returned.tolist()}", {"prediction": prediction, "sample": sample})
    yield Finding(Contract.C4, claim, Verdict.REFUTED, scope, "run", "", witness)


def value(case: LossCase) -> Iterable[Finding]:
    """The value against Fractions at constant and at generic errors, under several masks; then for all by proof."""
    claim = {
        "mean": "the value is the mean of the declared distance over the hidden set",
        "sum": "the value is the sum of the declared distance over the hidden set",
        "rows": "each row's value is its sum of the declared distance over the hidden set",
    }[case.reduction]
    if case.distance is None or case.shape != tuple(case.sample.y.shape) or not case.sample.y.is_floating_point():
        return
    tried = 0
    for prediction, sample in _points(case):
        tried += 1
        got, exact = case(prediction, sample).detach().double(), _exact(case, prediction, sample)
        wide = torch.promote_types(prediction.dtype, torch.float32)
        allowed = [rounding_bound(ROUNDINGS, sample.y.numel(), abs(float(e)), wide) for e in exact]
        returned = got.reshape(-1).tolist()
        if len(returned) == len(exact) and all(
            abs(Fraction(g) - e) <= Fraction(a) if math.isfinite(g) else False
            for g, e, a in zip(returned, exact, allowed, strict=True)
        ):
            continue
        shown = [float(e) for e in exact]
        what = f"the loss is {returned}, the exact objective {shown}, with {int(over(sample).sum())} hidden"
        witness = Witness(what, {"prediction": prediction, "sample": sample}, {}, {"hidden": over(sample)})
        yield Finding(Contract.C4, claim, Verdict.REFUTED, f"{tuple(sample.y.shape)}", "exact fractions", "", witness)
        return
    verdict, reason = objective_proved(case)
    scope = "the reals, all sizes, any mask" if verdict is Verdict.PROVED else f"{tried} predictions and masks"
    method = "captured and proved; exact fractions" if verdict is Verdict.PROVED else "exact fractions"
    detail = "" if verdict is Verdict.PROVED else f"right within rounding on all tried; not proved: {reason}"
    yield Finding(Contract.C4, claim, verdict, scope, method, detail)


@lru_cache(maxsize=8)
def objective_proved(case: LossCase) -> tuple[Verdict, str]:
    """Whether the loss is the declared objective over the reals, for all sizes and masks of the sample's form."""
    from viewproof.certify.loss_proof import prove_value

    if case.distance is None:
        return Verdict.UNKNOWN, "no distance is declared"
    y, per_sample = case.sample.y, case.sample.mask.per_sample
    with case.afresh():
        outcome = prove_value(case.on, y, per_sample, case.reduction, case.distance)
    # A model of the reals whose replay is real too has been re-run; what the search here did not find stays open.
    return (Verdict.PROVED, "") if outcome.verdict is Verdict.PROVED else (Verdict.UNKNOWN, outcome.detail)


def _points(case: LossCase) -> Iterator[tuple[Tensor, Sample]]:
    """Predictions off by a constant and by small whole numbers, under the sample's mask and under others."""
    rows = max(1, min(len(case.sample.y), _MOST_EXACT // max(1, case.sample.y[0].numel())))
    sample = first_rows(case.sample, rows)
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(-4, 5, sample.y.shape, generator=generator).to(sample.y)
    shape = sample.mask.hidden.shape
    single = torch.zeros(shape, dtype=torch.bool)
    single.view(-1)[int(over(sample)[0].reshape(-1).long().argmax()) if over(sample).any() else 0] = True
    drawn = torch.rand(shape, generator=generator) < 0.5
    masks = [sample.mask.hidden, single.to(sample.y.device), drawn.to(sample.y.device)]
    masks = [m for m in masks if bool(m.any())]
    for i, hidden in enumerate(masks):
        given = replace(sample, y=y, mask=Mask(hidden, sample.mask.per_sample, sample.mask.rule))
        for error in (0.5, -1.0, 3.0) if i == 0 else ():
            yield y + error, given
        yield y + torch.randint(-8, 9, y.shape, generator=generator).to(y) / 4, given
        # Errors that a narrower type would round, or could not hold.
        for size in (1.0, 1e-3, 1e6 if y.dtype in (torch.float32, torch.float64) else 8.0):
            yield y + size * torch.randn(y.shape, generator=generator).to(y), given


def _exact(case: LossCase, prediction: Tensor, sample: Sample) -> list[Fraction]:
    """The objective of each row's contract in exact numbers, added up as the reduction says."""
    flat = Sample(sample.x, sample.y.flatten(1), _flat(sample.mask), None)
    declared: Any = case.distance

    def patch_loss(target: Tensor, predicted: Tensor) -> Fraction:
        error = Fraction(predicted.item()) - Fraction(target.item())
        try:
            return Fraction(declared(error))
        except (TypeError, AttributeError):
            return Fraction(float(declared(torch.tensor(float(error), dtype=torch.float64))))

    rows = range(len(sample.y))
    contracts = [row_predictive_contract(flat, prediction.flatten(1), row, patch_loss) for row in rows]
    sums = [Fraction(predictive_view_objective(c)) for c in contracts]
    if case.reduction == "rows":
        return sums
    total = sum(sums, Fraction(0))
    return [total / int(over(sample).sum()) if case.reduction == "mean" else total]


def _flat(mask: Mask) -> Mask:
    return Mask(mask.hidden.flatten(int(mask.per_sample)), mask.per_sample, mask.rule)


def first_rows(sample: Sample, rows: int) -> Sample:
    """The first rows of the batch."""

    def cut(mask: Mask | None) -> Mask | None:
        return mask if mask is None or not mask.per_sample else Mask(mask.hidden[:rows], True, mask.rule)

    own = cut(sample.mask)
    assert own is not None
    return Sample(sample.x[:rows], sample.y[:rows], own, cut(sample.view))


def scale(case: LossCase) -> Iterable[Finding]:
    """The mean of a batch twice, of every axis twice, and of a batch with visible padding."""
    claim = "the value does not change with batch, axes or padding"
    if not case.invariant:
        return
    prediction = case.predictions()[1]
    before = case(prediction).detach().double()
    if not bool(case.hidden.any()):
        yield Finding(Contract.C4, claim, Verdict.VACUOUS, "nothing", "not run", "the mask hides nothing")
        return
    tried, refused = [], []
    for what, changed, sample in _variants(case, prediction):
        try:
            after = case(changed, sample).detach().double()
        except Exception as error:
            refused.append(f"{what} ({type(error).__name__})")
            continue
        tried.append(what)
        bound = rounding_bound(ROUNDINGS, sample.y.numel(), max(1.0, float(before.abs().max())), torch.float32)
        if after.shape == before.shape and _close(before, after, 2 * bound):
            continue
        shown = f"with {what} the loss goes from {before.tolist()} to {after.tolist()}"
        inputs = {"prediction": changed, "sample": sample, "before": (prediction, case.sample)}
        witness = Witness(shown, inputs, {}, {"hidden": over(sample)})
        yield Finding(Contract.C4, claim, Verdict.REFUTED, f"{tuple(sample.y.shape)}", "run", "", witness)
        return
    said = ", ".join(tried) + (f"; not tried, refused: {', '.join(refused)}" if refused else "")
    verdict, reason = objective_proved(case) if case.distance is not None else (Verdict.UNKNOWN, "no distance declared")
    if verdict is Verdict.PROVED:
        yield Finding(Contract.C4, claim, verdict, "the reals, all sizes, any mask", "follows from the objective", said)
    else:
        reason = f"the same within rounding with {said}; not proved: {reason}"
        yield Finding(Contract.C4, claim, verdict, f"{len(tried)} changes", "run", reason)


def _variants(case: LossCase, prediction: Tensor) -> Iterator[tuple[str, Tensor, Sample]]:
    sample = case.sample
    if case.reduction == "mean" and "batch" in case.invariant:
        hidden = torch.cat([over(sample), over(sample)]) if sample.mask.per_sample else sample.mask.hidden
        yield "the batch twice", torch.cat([prediction] * 2), _twice(sample, hidden)
    for axis in range(1, sample.y.dim()):
        if case.reduction == "mean" and "axes" in case.invariant:
            again = Mask(torch.cat([over(sample)] * 2, axis), True, sample.mask.rule)
            y = torch.cat([sample.y] * 2, axis)
            yield f"axis {axis} twice", torch.cat([prediction] * 2, axis), _like(sample, y, again)
        if "padding" not in case.invariant:
            continue
        pad = torch.zeros_like(over(sample).narrow(axis, 0, 1))
        longer = Mask(torch.cat([over(sample), pad], axis), True, sample.mask.rule)
        y = torch.cat([sample.y, sample.y.narrow(axis, 0, 1)], axis)
        padded = torch.cat([prediction, prediction.narrow(axis, 0, 1) + 1], axis)
        yield f"one visible place more on axis {axis}", padded, _like(sample, y, longer)


def _like(sample: Sample, y: Tensor, mask: Mask) -> Sample:
    """Another target and mask; a mask that all rows share stays one, and x and its view stay as they are."""
    own = mask if sample.mask.per_sample else Mask(mask.hidden[0], False, mask.rule)
    return Sample(sample.x, y, own, sample.view)


def _twice(sample: Sample, hidden: Tensor) -> Sample:
    def both(mask: Mask | None) -> Mask | None:
        return mask if mask is None or not mask.per_sample else Mask(torch.cat([mask.hidden] * 2), True, mask.rule)

    mask = Mask(hidden, sample.mask.per_sample, sample.mask.rule)
    return Sample(torch.cat([sample.x] * 2), torch.cat([sample.y] * 2), mask, both(sample.view))


def _close(a: Tensor, b: Tensor, bound: float) -> bool:
    return bool(((a - b).abs() <= bound).all())


def empty_row(case: LossCase) -> Iterable[Finding]:
    """One row shown whole, the others as they are: its mean has no value, and must not become the batch's NaN."""
    claim = "a row with nothing hidden gives no NaN, in value or gradient"
    sample, prediction = case.sample, case.predictions()[1]
    if len(sample.y) < 2 or not bool(case.hidden[1:].any()):
        reason = "a batch of one row, or nothing hidden in the others"
        yield Finding(Contract.C9, claim, Verdict.VACUOUS, "nothing", "not run", reason)
        return
    hidden = case.hidden.clone()
    hidden[0] = False
    given = replace(sample, mask=Mask(hidden, True, sample.mask.rule))
    scope = f"row 0 shown whole, {case.shape}"
    case.run(prediction)
    try:
        got, gradient = case.run(prediction, given)
    except Exception as error:
        yield Finding(Contract.C9, claim, Verdict.PROVED, scope, "run", f"refused: {type(error).__name__}")
        return
    if bool(got.isfinite().all() & gradient.isfinite().all()):
        yield Finding(Contract.C9, claim, Verdict.PROVED, scope, "run")
        return
    part = f"value {got.tolist()}" if not bool(got.isfinite().all()) else "a gradient that is not finite"
    witness = Witness(
        f"a row with nothing hidden gives {part}", {"prediction": prediction, "sample": given, "shown": 0}
    )
    yield Finding(Contract.C9, claim, Verdict.REFUTED, scope, "run", "", witness)


def half(case: LossCase) -> Iterable[Finding]:
    """Many float16 errors that are small enough to be squared, whose sum and whose count float16 cannot hold."""
    y, count = case.sample.y, int(case.hidden.sum())
    claim = f"{_MANY} float16 errors of 1/8 to 128 do not overflow"
    if case.reduction != "mean" or not y.is_floating_point() or count == 0 or case.shape != tuple(y.shape):
        return
    copies = -(-_MANY // count)
    if copies * y.numel() > 64 * _MANY:
        reason = f"the sample hides only {count} of {y.numel()} coordinates; pass one that hides more"
        yield Finding(Contract.C9, claim, Verdict.UNKNOWN, "nothing", "not run", reason)
        return
    hidden = case.hidden.repeat(copies, *[1] * (y.dim() - 1)) if case.sample.mask.per_sample else None
    mask = case.sample.mask if hidden is None else Mask(hidden, True, case.sample.mask.rule)
    errors = 2.0 ** torch.randint(-3, 8, (copies * len(y), *y.shape[1:]), generator=torch.Generator().manual_seed(2))
    view = None if case.sample.view is None or case.sample.view.per_sample else case.sample.view
    x = case.sample.x.repeat(copies, *[1] * (case.sample.x.dim() - 1))
    exact = Sample(x, torch.zeros_like(errors, dtype=torch.float64, device=y.device), mask, view)
    wide = case(errors.to(exact.y), exact).detach().double()
    narrow = replace(exact, y=exact.y.half())
    got = case(errors.to(narrow.y), narrow).detach().double()
    scope = f"those numbers, batch {copies * len(y)}"
    if bool(((got - wide).abs() <= wide.abs() / 64).all()):
        yield Finding(Contract.C9, claim, Verdict.PROVED, scope, "run beside float64")
        return
    witness = Witness(
        f"in float16 the loss is {got.tolist()}, in float64 {wide.tolist()}",
        {"prediction": errors.to(narrow.y), "sample": narrow, "exact": (errors.to(exact.y), exact)},
    )
    yield Finding(Contract.C9, claim, Verdict.REFUTED, scope, "run beside float64", "", witness)
