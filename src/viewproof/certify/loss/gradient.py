"""Which predictions the loss depends on (C4), and whether numbers off the mask can reach it (C9)."""

import math
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.loss.case import LossCase, fresh_copy, hidden_of
from viewproof.certify.outputs import first_true, unequal
from viewproof.certify.report import Contract, Finding
from viewproof.masks import Sample

TRACED = "dependence of value and gradient followed by element"

repeatable = Claims[LossCase](scope="this sample", method="run twice")
claims = Claims[LossCase](scope="this sample, {case.shape}", method="gradient at points")


@repeatable(Contract.C4, "the loss is a function of its arguments")
def repeats(case: LossCase, check: Check) -> Finding | None:
    """Two calls on one prediction agree; there is a finding only if they do not."""
    (first, slope), (second, again) = (case.with_gradient(case.prediction) for _ in range(2))
    if _same_values(first, second) and _same_values(slope, again):
        return None
    values = f"{_text(first)} and {_text(second)}"
    reason = f"called twice alike it gives {values}; hand over one whose state is fixed"
    return check.undecided(reason)


@claims(Contract.C4, "every hidden coordinate has a gradient")
def gradient_on_the_mask(case: LossCase, check: Check) -> Finding:
    """At one of the generic predictions each hidden coordinate has a gradient that is not 0."""
    if not bool(case.hidden.any()):
        return check.vacuous("the mask hides nothing")
    support = case.support
    missing = case.hidden & ~support
    at = first_true(missing)
    if at is None:
        return check.proved(method="a point with a gradient found for each coordinate")
    total = int(case.hidden.sum())
    what = f"the prediction at {at} is hidden and has no gradient, nor have {int(missing.sum()) - 1} others of {total}"
    maps = {"hidden": case.hidden, "support": support}
    return check.refuted(what, {"prediction": case.prediction, "sample": case.sample}, {"prediction": at}, maps)


@claims(Contract.C4, "no visible coordinate has a gradient")
def no_gradient_off_the_mask(case: LossCase, check: Check) -> Finding:
    """Refuted at a generic prediction, or proved by following dependence through loss and backward pass."""
    if bool(case.hidden.all()):
        return check.vacuous("the mask hides everything")
    for prediction, (_, gradient) in zip(case.predictions, case.runs, strict=True):
        at = first_true(~case.hidden_predictions & (gradient != 0))
        if at is not None:
            what = f"the prediction at {at} is visible and has gradient {float(gradient[at]):.6g}"
            maps = {"hidden": case.hidden, "support": case.support}
            return check.refuted(what, {"prediction": prediction, "sample": case.sample}, {"prediction": at}, maps)
    reason = _may_depend(case)
    if reason is None:
        return check.proved(scope=f"all values; {check.scope}", method=TRACED)
    if _may_depend(case, finite=True) is None:
        return check.proved(scope=f"all finite values; {check.scope}", method=TRACED)
    reason = f"none at {len(case.predictions)} predictions; not proved: {reason}"
    return check.undecided(reason)


@claims(Contract.C9, "the value and its gradient are finite", method="run")
def finite(case: LossCase, check: Check) -> Finding | None:
    """At finite predictions; there is a finding only if not, for a few points prove nothing."""
    for prediction, (value, gradient) in zip(case.predictions, case.runs, strict=True):
        if bool(value.isfinite().all() & gradient.isfinite().all()):
            continue
        of_gradient = bool(value.isfinite().all())
        what = f"value {value} " + ("with a gradient that is not finite" if of_gradient else "of a finite prediction")
        maps = {"hidden": case.hidden, "support": case.support}
        return check.refuted(what, {"prediction": prediction, "sample": case.sample}, maps=maps)
    return None


@claims(Contract.C9, "values off the mask change neither value nor gradient", method="run with poison")
def poison_off_the_mask(case: LossCase, check: Check) -> Finding:
    """NaN, infinities and other finite values off the mask, in the prediction and in the target."""
    if bool(case.hidden.all()):
        return check.vacuous("the mask hides everything")
    clean = case.prediction
    value, gradient = case.with_gradient(clean)
    for poison in (math.nan, math.inf, -math.inf, 1e4, -3.0):
        poisoned = torch.where(case.hidden_predictions, clean, torch.tensor(poison, dtype=clean.dtype))
        for where, prediction, sample in (
            ("prediction", poisoned, case.sample),
            ("target", clean, _poisoned(case.sample, poison)),
        ):
            new_value, new_gradient = case.with_gradient(prediction, sample)
            same_value = _same_values(new_value, value)
            if same_value and _same_values(new_gradient, gradient):
                continue
            part = "the gradient" if same_value else f"the value from {_text(value)} to {_text(new_value)}"
            inputs = {"prediction": prediction, "sample": sample, "clean": (clean, case.sample)}
            what = f"{poison} off the mask, in the {where}, changes {part}"
            return check.refuted(what, inputs, maps={"hidden": case.hidden})
    reason = _may_depend(case)
    if reason is None:
        return check.proved(scope=f"all values; {check.scope}", method=TRACED)
    return check.undecided(f"none of five does; {reason}")


@lru_cache(maxsize=4)
def _may_depend(case: LossCase, finite: bool = False) -> str | None:
    """Why value or gradient may depend on what is off the mask, or the gradient there not be 0; None if neither can be.

    Followed by element through every operator that runs, those of the backward pass included: once from what is off
    the mask, and once from everything, which shows the constant parts of the gradient and that no value decides which
    operators run. With ``finite``, as long as every number met is finite.
    """
    off, everything = ~case.hidden_predictions, torch.ones((), dtype=torch.bool)
    value, gradient, reason = _dependence(case, finite, off, ~case.hidden)
    if reason or bool(value.any()):
        return reason or "the value may depend on what is off the mask"
    if bool(gradient.any()):
        return "the gradient may depend on what is off the mask"
    _, gradient, reason = _dependence(case, finite, everything.expand_as(off), everything.expand_as(case.hidden))
    if reason or bool(gradient[off].any()):
        return reason or "the gradient off the mask may be another one for other values"
    is_zero = bool((case.with_gradient(case.prediction)[1][off] == 0).all())
    return None if is_zero else "the gradient off the mask is not 0"


def _dependence(case: LossCase, finite: bool, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, str]:
    """Which elements of value and gradient may depend on these of prediction and target; why no one knows, or ''."""
    leaf, sample = case.prediction.clone().requires_grad_(), fresh_copy(case.sample)
    with case.same_state(), torch.enable_grad(), Dependence(finite) as tracked:
        tracked.tag(leaf.detach(), prediction)
        tracked.tag(sample.y, target)
        value = case.apply(leaf, sample)
        gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
    nothing = torch.zeros(leaf.shape, dtype=torch.bool)
    return tracked.of(value.detach()), nothing if gradient is None else tracked.of(gradient), tracked.escaped


def _poisoned(sample: Sample, poison: float) -> Sample:
    """The sample with another target off the mask; whole numbers (classes) are replaced by one that occurs."""
    y = sample.y
    other = torch.tensor(poison, dtype=y.dtype) if y.is_floating_point() else y.max() if poison > 0 else y.min()
    return replace(sample, y=torch.where(hidden_of(sample), y, other))


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and not bool(unequal(a, b).any())


def _text(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else str(value.tolist())
