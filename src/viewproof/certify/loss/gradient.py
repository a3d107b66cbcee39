"""Which predictions the loss depends on (C4), and whether numbers off the mask can reach it (C9)."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, failure
from viewproof.certify.loss.case import LossCase, hidden_of
from viewproof.certify.outputs import first_true, unequal
from viewproof.certify.report import Contract, Finding, Severity
from viewproof.masks import Sample

FOLLOWS = "the gradient follows the mask that is given"
NEVER_READ = "the loss never reads the mask that it is given"
TRACED = "dependence of value and gradient followed by element"

repeatable = Claims[LossCase](scope="this sample", method="run twice")
claims = Claims[LossCase](scope="this sample, {case.shape}", method="gradient at points")


@repeatable(Contract.C4, "the loss is a function of its arguments")
def _repeats(case: LossCase, check: Check) -> Finding | None:
    """Two calls on one prediction agree; there is a finding only if they do not."""
    (first, slope), (second, again) = (case.with_gradient(case.prediction) for _ in range(2))
    if _same_values(first, second) and _same_values(slope, again):
        return None
    values = f"{_text(first)} and {_text(second)}"
    return check.undecided(f"called twice alike it gives {values}; hand over one whose state is fixed")


@claims(Contract.C4, "every hidden coordinate has a gradient")
def _gradient_on_the_mask(case: LossCase, check: Check) -> Finding:
    if not bool(case.hidden.any()):
        return check.vacuous("the mask hides nothing")
    missing = case.hidden & ~case.support
    if (at := first_true(missing)) is None:
        for y in case.declared_targets:
            sample = replace(case.sample, y=y)
            slopes = torch.stack([case.with_gradient(p, sample)[1] != 0 for p in case.predictions]).any(0)
            if not bool(slopes[case.hidden_predictions].any()):
                what = f"where the target is {int(y.flatten()[0])} no hidden prediction has a gradient"
                return check.refuted(what, {"prediction": case.prediction, "sample": sample})
        return check.proved(method="a point with a gradient found for each coordinate")
    total = int(case.hidden.sum())
    what = f"the prediction at {at} is hidden and has no gradient, nor have {int(missing.sum()) - 1} others of {total}"
    maps = {"hidden": case.hidden, "support": case.support}
    return check.refuted(what, {"prediction": case.prediction, "sample": case.sample}, {"prediction": at}, maps)


@claims(Contract.C4, "no visible coordinate has a gradient")
def _no_gradient_off_the_mask(case: LossCase, check: Check) -> Finding:
    """Refuted at a generic prediction, or proved by dependence through loss and backward pass."""
    if bool(case.hidden.all()):
        return check.vacuous("the mask hides everything")
    for prediction, _, gradient in case.runs:
        at = first_true(~case.hidden_predictions & (gradient != 0))
        if at is not None:
            what = f"the prediction at {at} is visible and has gradient {float(gradient[at]):.6g}"
            maps = {"hidden": case.hidden, "support": case.support}
            return check.refuted(what, {"prediction": prediction, "sample": case.sample}, {"prediction": at}, maps)
    checks = case.where_checks_pass
    if case.may_depend is None:
        return check.proved(scope=f"all values; {check.scope}{checks}", method=TRACED)
    if case.why_dependent(finite=True) is None:
        return check.proved(scope=f"all finite values; {check.scope}{checks}", method=TRACED)
    return check.undecided(f"none at {len(case.predictions)} predictions; not proved: {case.may_depend}")


@claims(Contract.C4, FOLLOWS, method="gradient at points under other masks")
def _follows(case: LossCase, check: Check) -> Finding:
    """Under other masks of the example's structure, or the declared ones, the gradient lies exactly on them.

    One that never moves is refuted by two masks with one value, if nothing else tells the loss the mask. A mask that
    all rows share may be the only one there is, of which the loss may hold a copy: that stays open until declared.
    """
    followed, still, refused = 0, 0, 0
    elsewhere = ""
    for hidden in case.other_masks:
        sample = case.under(hidden)
        try:
            slopes = [case.with_gradient(p, sample)[1] for p in case.predictions[1:]]
        except Exception:
            refused += 1
            continue
        moved = torch.stack([slope != 0 for slope in slopes]).any(0)
        support = moved.flatten(hidden.dim()).any(-1) if moved.dim() > hidden.dim() else moved
        followed += torch.equal(support, hidden)
        still += torch.equal(support, case.support)
        if (at := first_true(support != hidden)) is not None and not elsewhere:
            status, has = ("hidden", "no gradient") if hidden[at] else ("visible", "one")
            elsewhere = f"the prediction at {at} is {status} under another mask, and has {has}"
    tried = len(case.other_masks) - refused
    if not tried:
        return check.vacuous("no other mask" + (" is accepted" if refused else " of the example's structure"))
    if followed == tried:
        return check.proved(scope=f"{tried} other masks, {case.shape}")
    if still == tried:
        others = f"under {tried} others the gradient stays where it was"
        if (other := _sample_that_changes_nothing(case)) is not None:
            if case.masks is not None or case.sample.mask.per_sample:
                inputs = {"prediction": case.prediction, "sample": case.sample, "other": other}
                maps = {"hidden": case.hidden, "other": hidden_of(other), "support": case.support}
                return check.refuted(f"{NEVER_READ}: {others}, and the value is the same", inputs, maps=maps)
            return check.undecided(f"{NEVER_READ}: {others}; declare which masks there are (masks=), if only this one")
        return check.undecided(f"{NEVER_READ}: {others}; declare ignore_index= if the targets hold the mask")
    return check.undecided(f"{elsewhere}; declare which masks there are (masks=)")


def _sample_that_changes_nothing(case: LossCase) -> Sample | None:
    """A sample with another mask, and with x, view and the target off the mask that tell nothing of the first one.

    None if value or gradient follow any of it, or a call fails: then the loss may read the mask somewhere else.
    """
    x, y, view = case.sample.x, case.sample.y, case.sample.view
    generator = torch.Generator().manual_seed(3)
    shuffled = x.reshape(-1)[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
    scored, target = y[case.hidden], y.clone()
    if not len(scored):
        return None
    target[~case.hidden] = scored[torch.randint(len(scored), (int((~case.hidden).sum()),), generator=generator)]
    for hidden in case.other_masks:
        other = replace(case.under(hidden), x=shuffled, y=target, view=None if view is None else ~view)
        for prediction, value, gradient in case.runs:
            try:
                new_value, new_gradient = case.with_gradient(prediction, other)
            except Exception:
                return None
            if not (_same_values(new_value, value) and _same_values(new_gradient, gradient)):
                return None
    return other


@claims(Contract.C9, "the value and its gradient are finite", method="run")
def _finite(case: LossCase, check: Check) -> Finding | None:
    """At finite predictions; there is a finding only if not, for a few points prove nothing."""
    for prediction, value, gradient in case.runs:
        if bool(value.isfinite().all() & gradient.isfinite().all()):
            continue
        of_gradient = bool(value.isfinite().all())
        what = f"value {value} " + ("with a gradient that is not finite" if of_gradient else "of a finite prediction")
        maps = {"hidden": case.hidden, "support": case.support}
        return check.refuted(what, {"prediction": prediction, "sample": case.sample}, maps=maps)
    return None


@claims(Contract.C9, "values off the mask change neither value nor gradient", method="run with poison")
def _poison_off_the_mask(case: LossCase, check: Check) -> Finding:
    """NaN, infinities and other finite values off the mask, in the prediction and in the target."""
    if bool(case.hidden.all()):
        return check.vacuous("the mask hides everything")
    clean, y, refuted = case.prediction, case.sample.y, None
    value, gradient = case.with_gradient(clean)
    for poison in (math.nan, math.inf, -math.inf, 1e4, -3.0):
        poisoned = torch.where(case.hidden_predictions, clean, torch.tensor(poison, dtype=clean.dtype))
        if y.is_floating_point():
            other = torch.tensor(poison, dtype=y.dtype)
        else:
            # Whole numbers (classes) are replaced by one that occurs, or may.
            low, high = case.ids or (int(y[case.hidden].min()), int(y[case.hidden].max()))
            other = torch.tensor(high if poison > 0 else low, dtype=y.dtype)
        target = replace(case.sample, y=torch.where(case.hidden, y, other))
        for where, prediction, sample in (("prediction", poisoned, case.sample), ("target", clean, target)):
            try:
                new_value, new_gradient = case.with_gradient(prediction, sample)
            except Exception as error:
                if not case.guards or math.isfinite(poison):
                    raise
                # A check of values that raises is no wrong objective; it stops a run that NaN off the mask would not.
                if refuted is None:
                    what = failure(f"{poison} off the mask, in the {where}: the loss", error)
                    inputs = {"prediction": prediction, "sample": sample}
                    refuted = check.refuted(what, inputs, severity=Severity.ROBUSTNESS)
                continue
            same_value = _same_values(new_value, value)
            if same_value and _same_values(new_gradient, gradient):
                continue
            if refuted is None:
                part = "the gradient" if same_value else f"the value from {_text(value)} to {_text(new_value)}"
                inputs = {"prediction": prediction, "sample": sample, "clean": (clean, case.sample)}
                what = f"{poison} off the mask, in the {where}, changes {part}"
                maps = {"hidden": case.hidden}
                refuted = check.refuted(what, inputs, maps=maps, severity=Severity.ROBUSTNESS)
            if math.isfinite(poison) or (where == "target" and not y.is_floating_point()):
                # NaN and infinities show how robust the loss is, numbers that occur in training what it is.
                return replace(refuted, severity=Severity.OBJECTIVE)
    if refuted is not None:
        return refuted
    if case.may_depend is None:
        return check.proved(scope=f"all values; {check.scope}{case.where_checks_pass}", method=TRACED)
    return check.undecided(f"none of five does; {case.may_depend}")


def _same_values(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and not bool(unequal(a, b).any())


def _text(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else str(value.tolist())
