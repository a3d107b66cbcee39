"""The value of a loss: the exact objective, its scale, and masks at which means go wrong."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.check import Check, Claims
from viewproof.certify.inputs import flat_mask
from viewproof.certify.loss.case import LossCase, hidden_of
from viewproof.certify.loss.masks import block_of
from viewproof.certify.outputs import first_true, value_and_gradient
from viewproof.certify.report import Contract, Finding, Severity
from viewproof.masks import Mask, Sample
from viewproof.objectives import predictive_view_objective, row_predictive_contract
from viewproof.objectives.masked import rounding_bound

ROUNDINGS = 16
"""How often a term may be rounded; torch's own distances round at most five times."""
_MOST_EXACT = 20_000
_MANY = 1 << 13
INVARIANT = "one expression as without the change, at random points of a field"

claims = Claims[LossCase](scope="{case.target_shape}")


@claims(Contract.C4, "{case.value_of_nothing}", scope="the empty mask, {case.target_shape}")
def _empty_mask(case: LossCase, check: Check) -> Finding:
    if case.masks is not None:
        return check.vacuous("no mask that is declared (masks=) is empty")
    mask, prediction, mean = case.sample.mask, case.prediction, case.reduction == "mean"
    empty = Mask(torch.zeros_like(mask.hidden), mask.per_sample, rule="an empty mask")
    sample = replace(case.sample, mask=empty)
    case(prediction)
    inputs = {"prediction": prediction, "sample": sample}
    try:
        returned = case(prediction, sample)
    except Exception as error:
        text = f"raises {type(error).__name__}"
        return check.proved(text) if mean else check.refuted(f"an empty mask {text}", inputs)
    if not mean and bool((returned == 0).all()):
        return check.proved()
    # NaN is seen at once when it happens; a number is trained on.
    severity = Severity.ROBUSTNESS if mean and bool(returned.isnan().all()) else Severity.OBJECTIVE
    return check.refuted(f"an empty mask gives {returned.tolist()}", inputs, severity=severity)


@claims(Contract.C4, "{case.objective}", method="exact fractions")
def _declared_objective(case: LossCase, check: Check) -> Finding | None:
    """The value against Fractions at constant and generic errors and several masks; then by proof."""
    if case.distance is None:
        return None
    if case.shape != case.target_shape and not case.distance.of_classes:
        return check.unknown("the prediction has class scores and the distance takes none; declare a torch.nn loss")
    tried, ungraded = 0, ""
    for prediction, sample in _points(case):
        tried += 1
        # What is trained on is the value that has a gradient; a proof reads the program without one.
        returned = case.with_gradient(prediction, sample)[0].double().reshape(-1).tolist()
        without = case(prediction, sample).double().reshape(-1).tolist()
        wide = torch.promote_types(prediction.dtype, torch.float32)
        if case.distance.of_error and sample.y.is_floating_point():
            try:
                exact: Sequence[Any] = _exact(case, prediction, sample)
            except OverflowError:
                # Infinite in double precision: there is nothing to compare.
                tried -= 1
                continue
            # What the declared distance itself loses in this dtype, by cancelling, is no fault of the loss.
            lost = [
                abs(v - float(e)) if math.isfinite(v) else 0.0
                for v, e in zip(_in_dtype(case, prediction, sample, wide), exact, strict=True)
            ]
            bounds = [rounding_bound(ROUNDINGS, sample.y.numel(), abs(float(e)), wide) for e in exact]
            allowed = [bound + 4 * one for bound, one in zip(bounds, lost, strict=True)]
        else:
            exact = _in_dtype(case, prediction, sample, torch.float64)
            # A softmax or a norm is not bounded as sums are: what is off by less is left to the proof.
            allowed = [1e-3 * max(1.0, abs(float(e))) for e in exact]
        # A constant target divided by its deviation is NaN in both: there is nothing to compare.
        if len(returned) == len(exact) and all(
            (math.isnan(r) and math.isnan(e)) or (math.isfinite(r) and abs(Fraction(r) - e) <= Fraction(a))
            for r, e, a in zip(returned, exact, allowed, strict=True)
        ):
            if not all(abs(w - r) <= a for w, r, a in zip(without, returned, allowed, strict=True) if math.isfinite(r)):
                ungraded = f"the value is {returned}, and {without} where no gradient is needed"
            continue
        hidden, values = hidden_of(sample), [float(e) for e in exact]
        what = f"the loss is {returned}, the exact objective {values}, with {int(hidden.sum())} hidden"
        inputs = {"prediction": prediction, "sample": sample}
        return check.refuted(what, inputs, maps={"hidden": hidden}, scope=str(tuple(sample.y.shape)))
    if (slope := _other_slope(case)) is not None:
        return check.refuted(
            slope, {"prediction": case.prediction, "sample": case.sample}, scope=str(case.target_shape)
        )
    if ungraded:
        return check.undecided(ungraded)
    scope, method, reason = case.proof
    if scope:
        return check.proved(scope=scope, method=method)
    reason = f"right within rounding on all tried; not proved: {reason}"
    return check.unknown(reason, scope=f"{tried} predictions and masks", method=check.method)


def _other_slope(case: LossCase) -> str | None:
    """Where the gradient is not the declared objective's: a backward pass that is not the value's derivative."""
    assert case.distance is not None
    objective, hidden = case.distance, case.hidden
    y = case.sample.y.double() if case.sample.y.is_floating_point() else case.sample.y
    if isinstance(objective.distance, nn.Module):
        objective = replace(objective, distance=copy.deepcopy(objective.distance).double())
    if not bool(hidden.any()):
        return None
    wide = replace(case.sample, y=y)
    # Near the target gradients cancel: only what is far from it tells rounding from another slope.
    for prediction in case.predictions[1:]:
        try:
            _, expected = value_and_gradient(
                lambda leaf: objective.value(leaf, y, hidden, case.reduction), prediction.double()
            )
        except Exception:
            # A distance of Fractions alone has no gradient.
            return None
        if not bool((expected != 0).any()):
            continue
        try:
            slope, allowed = case.with_gradient(prediction.double(), wide)[1], 1e-4
        except Exception:
            slope, allowed = case.with_gradient(prediction)[1].double(), 1e-2
        wrong = (slope - expected).abs() > allowed * expected.abs().max()
        if (at := first_true(wrong)) is not None:
            declared = f"that of the declared objective {float(expected[at]):.6g}"
            return f"the gradient at {at} is {float(slope[at]):.6g}, {declared}"
    return None


def _points(case: LossCase) -> Iterator[tuple[Tensor, Sample]]:
    """Predictions off by a constant or small whole numbers, under the sample's mask and others."""
    assert case.distance is not None
    of_error = case.distance.of_error
    rows = max(1, min(len(case.sample.y), _MOST_EXACT // max(1, case.sample.y[0].numel())))

    def first(mask: Mask) -> Mask:
        return Mask(mask.hidden[:rows], True, mask.rule) if mask.per_sample else mask

    whole = case.sample
    sample = Sample(whole.x[:rows], whole.y[:rows], first(whole.mask), whole.view and first(whole.view))
    generator = torch.Generator().manual_seed(1)
    floats, classes = sample.y.is_floating_point(), case.shape[sample.y.dim() :]
    y = sample.y
    if floats:
        y = torch.randint(-4, 5, sample.y.shape, generator=generator).to(sample.y)
        if not of_error:
            y = y + torch.rand(sample.y.shape, generator=generator).to(sample.y)
    masks = [m for m in (hidden_of(sample), *(m[:rows] for m in case.other_masks)) if bool(m.any())]
    for i, hidden in enumerate(masks):
        shared = not sample.mask.per_sample and bool((hidden == hidden[:1]).all())
        mask = Mask(hidden[0] if shared else hidden, not shared, sample.mask.rule)
        masked = replace(sample, y=y, mask=mask)
        if not floats or classes:
            for size in (1.0, 8.0):
                logits = size * torch.randn((*sample.y.shape, *classes), generator=generator)
                yield logits.to(case.prediction), masked
                for y in case.declared_targets:
                    yield logits.to(case.prediction), replace(masked, y=y[:rows])
            continue
        for error in (0.5, -1.0, 3.0) if i == 0 else ():
            yield y + error, masked
        yield y + torch.randint(-8, 9, y.shape, generator=generator).to(y) / 4, masked
        # Errors that a narrower type would round, or could not hold.
        for size in (1.0, 1e-3, 1e6 if of_error and y.dtype in (torch.float32, torch.float64) else 8.0):
            yield y + size * torch.randn(y.shape, generator=generator).to(y), masked


def _in_dtype(case: LossCase, prediction: Tensor, sample: Sample, dtype: torch.dtype) -> list[float]:
    """The declared objective in this precision; NaN where the distance takes Fractions alone."""
    assert case.distance is not None
    y = sample.y.to(dtype) if sample.y.is_floating_point() else sample.y
    distance = case.distance
    if isinstance(distance.distance, nn.Module):
        distance = replace(distance, distance=copy.deepcopy(distance.distance).to(dtype))
    value = distance.value(prediction.to(dtype), y, hidden_of(sample), case.reduction)
    return [float(v) for v in value.reshape(-1).tolist()]


def _exact(case: LossCase, prediction: Tensor, sample: Sample) -> list[Fraction]:
    """The objective of each row's contract in exact numbers, added up as the reduction says."""
    flat = Sample(sample.x, sample.y.flatten(1), flat_mask(sample.mask), None)
    assert case.distance is not None
    declared = case.distance.distance

    def patch_loss(target: Tensor, predicted: Tensor) -> Fraction:
        error = Fraction(predicted.item()) - Fraction(target.item())
        try:
            return Fraction(declared(error))
        except (TypeError, AttributeError, RuntimeError):
            return Fraction(float(declared(torch.tensor(float(error), dtype=torch.float64))))

    rows = range(len(sample.y))
    contracts = [row_predictive_contract(flat, prediction.flatten(1), row, patch_loss) for row in rows]
    sums = [Fraction(predictive_view_objective(c)) for c in contracts]
    if case.reduction == "rows":
        return sums
    total = sum(sums, Fraction(0))
    return [total / int(hidden_of(sample).sum()) if case.reduction == "mean" else total]


@claims(Contract.C4, "the value does not change with batch, axes or padding")
def _scale(case: LossCase, check: Check) -> Finding | None:
    if not case.invariant:
        return None
    before = case(case.prediction).double()
    if not bool(case.hidden.any()):
        return check.vacuous("the mask hides nothing")
    tried, refused = [], []
    for what, prediction, sample in _variants(case, case.prediction):
        try:
            after = case(prediction, sample).double()
        except Exception as error:
            refused.append(f"{what} ({type(error).__name__})")
            continue
        tried.append(what)
        bound = 2 * rounding_bound(ROUNDINGS, sample.y.numel(), max(1.0, float(before.abs().max())), torch.float32)
        if after.shape == before.shape and bool(((before - after).abs() <= bound).all()):
            continue
        text = f"with {what} the loss goes from {before.tolist()} to {after.tolist()}"
        inputs = {"prediction": prediction, "sample": sample, "before": (case.prediction, case.sample)}
        return check.refuted(text, inputs, maps={"hidden": hidden_of(sample)}, scope=str(tuple(sample.y.shape)))
    detail = ", ".join(tried) + (f"; not tried, refused: {', '.join(refused)}" if refused else "")
    scope, _, reason = case.proof
    if scope.startswith("the reals, all sizes"):
        return check.proved(detail, scope=scope, method="follows from the objective")
    if not tried:
        return check.undecided(detail.removeprefix("; "))
    if not (reason := _not_invariant(case)):
        return check.proved(detail, scope=case.scope_of_expressions(0, "these changes"), method=INVARIANT)
    reason = f"the same within rounding with {detail}; not proved: {reason}"
    return check.unknown(reason, scope=f"{len(tried)} changes", method=check.method)


def _not_invariant(case: LossCase) -> str:
    """Why batch, axes and padding are not proved to leave the loss the same expression; "" if they are."""
    for number, (what, longer, changed) in enumerate(_variants(case, case.prediction)):
        try:
            case(longer, changed)
        except Exception:
            continue

        def after(prediction: Tensor, sample: Sample, number: int = number) -> Tensor:
            return case.apply(*_variant(case, number, prediction, sample))

        if reason := case.is_one_expression(after, case.apply, case.hidden):
            return f"{what}: {reason}"
    return ""


def _variant(case: LossCase, number: int, prediction: Tensor, sample: Sample) -> tuple[Tensor, Sample]:
    _, changed, of_changed = list(_variants(replace(case, sample=sample), prediction))[number]
    return changed, of_changed


def _variants(case: LossCase, prediction: Tensor) -> Iterator[tuple[str, Tensor, Sample]]:
    """What is done to the batch, the prediction for it, and the sample."""
    sample, hidden, y = case.sample, case.hidden, case.sample.y

    def with_target(y: Tensor, hidden: Tensor) -> Sample:
        """The sample with another target and mask; a mask that all rows share stays one."""
        shared = not sample.mask.per_sample
        return Sample(sample.x, y, Mask(hidden[0] if shared else hidden, not shared, sample.mask.rule), sample.view)

    def twice(mask: Mask) -> Mask:
        return Mask(torch.cat([mask.hidden] * 2), True, mask.rule) if mask.per_sample else mask

    if case.reduction == "mean" and "batch" in case.invariant:
        doubled = Sample(
            torch.cat([sample.x] * 2), torch.cat([y] * 2), twice(sample.mask), sample.view and twice(sample.view)
        )
        yield "the batch twice", torch.cat([prediction] * 2), doubled
    blocks = block_of(sample)
    for axis in range(1, y.dim()):
        width = blocks[axis - 1] if len(blocks) == y.dim() - 1 else 1
        # A cosine, or a normalised target, may join an axis on which the mask is constant.
        joined = width == y.shape[axis] and case.distance is not None and not case.distance.of_error
        if case.reduction == "mean" and "axes" in case.invariant and not joined:
            doubled = with_target(torch.cat([y] * 2, axis), torch.cat([hidden] * 2, axis))
            yield f"axis {axis} twice", torch.cat([prediction] * 2, axis), doubled
        # Places along which the mask is constant are hidden or visible as a whole.
        if "padding" in case.invariant and width < y.shape[axis]:
            pad = torch.zeros_like(hidden.narrow(axis, 0, width))
            longer = with_target(torch.cat([y, y.narrow(axis, 0, width)], axis), torch.cat([hidden, pad], axis))
            padded = torch.cat([prediction, prediction.narrow(axis, 0, width) + 1], axis)
            more = "one visible place" if width == 1 else f"{width} visible places"
            yield f"{more} more on axis {axis}", padded, longer


@claims(
    Contract.C9,
    "a row with nothing hidden gives no NaN, in value or gradient",
    scope="row 0 shown whole, {case.shape}",
    severity=Severity.ROBUSTNESS,
)
def _empty_row(case: LossCase, check: Check) -> Finding:
    """One row wholly visible: its mean has no value and must not become the batch's NaN."""
    if case.masks is not None:
        return check.vacuous("no mask that is declared (masks=) shows a row whole")
    if len(case.sample.y) < 2 or not bool(case.hidden[1:].any()):
        return check.vacuous("a batch of one row, or nothing hidden in the others")
    hidden = case.hidden.clone()
    hidden[0] = False
    sample, prediction = replace(case.sample, mask=Mask(hidden, True, case.sample.mask.rule)), case.prediction
    case.with_gradient(prediction)
    try:
        value, gradient = case.with_gradient(prediction, sample)
    except Exception as error:
        return check.proved(f"refused: {type(error).__name__}")
    if bool(value.isfinite().all() & gradient.isfinite().all()):
        return check.proved()
    part = "a gradient that is not finite" if bool(value.isfinite().all()) else f"value {value.tolist()}"
    inputs = {"prediction": prediction, "sample": sample, "shown": 0}
    return check.refuted(f"a row with nothing hidden gives {part}", inputs)


@claims(
    Contract.C9,
    f"{_MANY} float16 errors of 1/8 to 128 do not overflow",
    method="run beside float64",
    severity=Severity.ROBUSTNESS,
)
def _half_precision(case: LossCase, check: Check) -> Finding | None:
    """Many small float16 errors, whose sum and count float16 cannot hold."""
    sample, count = case.sample, int(case.hidden.sum())
    y = sample.y
    if case.dtypes is not None and torch.float16 not in case.dtypes:
        return check.vacuous(f"it is run in {', '.join(map(str, case.dtypes))} alone (dtypes=)")
    of_error = case.distance is None or case.distance.of_error
    if case.reduction != "mean" or not y.is_floating_point() or count == 0 or case.shape != case.target_shape:
        return None
    if not of_error:
        # A target of zeros, from which errors are counted here, has no direction and no variance.
        return None
    copies = -(-_MANY // count)
    if copies * y.numel() > 64 * _MANY:
        return check.unknown(f"the sample hides only {count} of {y.numel()} coordinates; pass one that hides more")

    def repeated(tensor: Tensor) -> Tensor:
        return tensor.repeat(copies, *[1] * (tensor.dim() - 1))

    mask = Mask(repeated(case.hidden), True, sample.mask.rule) if sample.mask.per_sample else sample.mask
    view = None if sample.view is None or sample.view.per_sample else sample.view
    errors = 2.0 ** torch.randint(-3, 8, (copies * len(y), *y.shape[1:]), generator=torch.Generator().manual_seed(2))
    errors = errors.to(y.device)
    wide = Sample(repeated(sample.x), torch.zeros_like(errors, dtype=torch.float64), mask, view)
    narrow = replace(wide, y=wide.y.half())
    exact, rounded = case(errors.double(), wide).double(), case(errors.half(), narrow).double()
    scope = f"those numbers, batch {len(errors)}"
    if bool(((rounded - exact).abs() <= exact.abs() / 64).all()):
        return check.proved(scope=scope)
    what = f"in float16 the loss is {rounded.tolist()}, in float64 {exact.tolist()}"
    inputs = {"prediction": errors.half(), "sample": narrow, "exact": (errors.double(), wide)}
    return check.refuted(what, inputs, scope=scope)
