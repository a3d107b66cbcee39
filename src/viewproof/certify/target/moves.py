"""How the parameters of a self-distilling pipeline move (C6): average, accumulation, optimizer."""

from collections.abc import Mapping

import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims
from viewproof.certify.outputs import first_true
from viewproof.certify.report import Contract, Finding
from viewproof.certify.target.branch import TargetBranch, TargetCase, gradients_of, shake, state_of

_SCHEDULE = 64
"""A step's own counter may stand at any of these when a schedule is asked for its momentum."""

# For each tensor of the target its next value by the closed form, and the error that rounding may make (None: exact).
ClosedForm = Mapping[str, tuple[Tensor, Tensor | None]]

claims = Claims[TargetCase](scope="this batch", method="closed form")


@claims(Contract.C6, "the target moves by the declared average")
def averages(case: TargetCase, check: Check) -> Finding | None:
    """``target' = m * target + (1 - m) * online`` for every parameter and buffer, step after step."""
    branch = case.branch
    if branch.target is None or branch.online is None:
        return None
    if branch.update is None or branch.momentum is None:
        return check.unknown("update and momentum are not given")
    invisible = None
    for step in range(case.steps):
        shake([*branch.online.parameters(), *branch.online.buffers()], 100 + step)
        old, online, momentum = state_of(branch.target), state_of(branch.online), branch.rate(step)
        branch.update(step)
        new, online_after = state_of(branch.target), state_of(branch.online)
        expected = _closed_form(branch, old, online, momentum)
        inputs = {"step": step, "momentum": momentum, "target": old, "online": online, "updated": new}
        scope = f"these modules, step {step}"
        written = [k for k in online if not torch.equal(online[k], online_after[k])]
        if written:
            return check.refuted(f"the update of step {step} writes to online.{written[0]}", inputs, scope=scope)
        wrong = _first_difference(new, expected)
        if wrong is not None:
            key, at = wrong
            before, after, online_value = (float(state[key][at]) for state in (old, new, online))
            what = (
                f"step {step}: target.{key} at {at} goes from {before:.9g} to {after:.9g}; "
                f"{float(expected[key][0][at]):.9g} is what momentum {momentum:.9g} makes of it and of online's "
                f"{online_value:.9g}"
            )
            return check.refuted(what, inputs, {key: at}, scope=scope)
        if momentum != 1:
            invisible = invisible or _invisible_move(old, expected)
    scope = f"these modules, steps 0 to {case.steps - 1}, drawn online values"
    rules = {branch.buffer_rule(k) for k, _ in branch.target.named_buffers()} or {branch.buffer_rule("")}
    done = {"average": "averaged", "copy": "copied", "keep": "kept"}
    method = "closed form; buffers " + " or ".join(done[rule] for rule in sorted(rules))
    if invisible is not None:
        return check.unknown(invisible, scope=scope, method=method)
    return check.proved(scope=scope, method=method)


@claims(Contract.C6, "four micro-batches move the target once")
def moves_once_a_step(case: TargetCase, check: Check) -> Finding | None:
    """One optimizer step over four micro-batches moves the target once."""
    branch = case.branch
    if branch.target is None or branch.online is None or branch.step is None or branch.momentum is None:
        return None
    invisible, orders = None, list[set[str]]()
    for count in (1, 4):
        shake([*branch.online.parameters(), *branch.online.buffers()], 200)
        old, online = state_of(branch.target), state_of(branch.online)
        branch.step([case.batch] * count)
        new, online_after = state_of(branch.target), state_of(branch.online)
        parameters = {k for k, _ in branch.target.named_parameters()}
        rates = {branch.rate(k) for k in range(_SCHEDULE)} if callable(branch.momentum) else {branch.rate(0)}
        forms = [
            {k: form for k, form in _closed_form(branch, old, source, rate).items() if k in parameters}
            for source in (online_after, online)
            for rate in rates
        ]
        differences = [_first_difference(new, form) for form in forms]
        fitting = [form for form, wrong in zip(forms, differences, strict=True) if wrong is None]
        fits = [wrong is None for wrong in differences]
        orders.append({o for o, some in (("after", fits[: len(rates)]), ("before", fits[len(rates) :])) if any(some)})
        if not fitting:
            assert differences[0] is not None
            key, at = differences[0]
            before, source, after = (float(state[key][at]) for state in (old, online_after, new))
            what = (
                f"a step over {count} micro-batches takes target.{key} at {at} from {before:.9g} (online "
                f"{source:.9g}) to {after:.9g}, once by the momentum is {float(forms[0][key][0][at]):.9g}"
            )
            inputs = {"batch": case.batch, "count": count, "target": old, "online": online}
            return check.refuted(what, inputs, {key: at})
        invisible = invisible or next(filter(None, (_invisible_move(old, form) for form in fitting)), None)
    scope = "these modules, this batch once and four times"
    if invisible is not None:
        return check.unknown(invisible, scope=scope, method=check.method)
    seen = set.intersection(*orders)
    if branch.order is not None and branch.order not in seen:
        what = f"the average reads online {' or '.join(seen) or 'irregularly'}, not {branch.order} the optimizer's step"
        return check.refuted(what, {"batch": case.batch, "order": branch.order}, scope=scope)
    if not seen:
        return check.undecided("the average reads online now before and now after the optimizer's step")
    if len(seen) != 1:
        reason = (
            "whether the average reads online before or after the optimizer's step cannot be told: it moves too little"
        )
        return check.proved(reason, scope=scope) if branch.order is None else check.unknown(reason, scope=scope)
    detail = f"the average reads online {seen.pop()} the optimizer's step"
    return check.proved(detail, scope=scope)


@claims(Contract.C6, "every trained parameter moves", scope="{case.steps} steps on this batch", method="run")
def trained_move(case: TargetCase, check: Check) -> Finding | None:
    """Every trained parameter on which the loss depends moves within a few optimizer steps."""
    if case.branch.step is None or not case.trained:
        return None
    still = [k for k, p in case.trained.items() if k not in case.moved and case.matters(p)]
    if not still:
        return check.proved(case.fixed_detail)
    with torch.enable_grad():
        slopes = gradients_of(case.branch.value(case.batch), [p for p in case.trained.values() if p.requires_grad])
    flat = {
        k
        for k, g in zip([k for k, p in case.trained.items() if p.requires_grad], slopes, strict=True)
        if g is not None and not bool((g != 0).any())
    }
    if set(still) <= flat:
        return check.undecided(f"{still[0]} stays as it was where its gradient is 0, {len(still)} do")
    still = [k for k in still if k not in flat]
    what = f"{still[0]} stays as it was in {case.steps} steps, {len(still)} of {len(case.trained)} do"
    return check.refuted(what, {"batch": case.batch})


@claims(Contract.C6, "no frozen parameter moves", scope="{case.steps} steps on this batch", method="run")
def frozen_stay(case: TargetCase, check: Check) -> Finding | None:
    """The same steps leave every frozen parameter as it was."""
    # The average moves the target, the optimizer must not: the closed form speaks of it.
    averaged = set() if case.branch.target is None else {id(p) for p in case.branch.target.parameters()}
    frozen = [k for k, p in case.frozen.items() if id(p) not in averaged]
    if case.branch.step is None or not frozen:
        return None
    moved = [k for k in frozen if k in case.moved]
    if not moved:
        return check.proved()
    what = f"{moved[0]} moves in {case.steps} steps, {len(moved)} of {len(frozen)} do"
    return check.refuted(what, {"batch": case.batch})


def _closed_form(
    branch: TargetBranch, old: Mapping[str, Tensor], online: Mapping[str, Tensor], momentum: float
) -> ClosedForm:
    """One move of the target, in float64."""
    assert branch.target is not None
    parameters = {k for k, _ in branch.target.named_parameters()}
    expected: dict[str, tuple[Tensor, Tensor | None]] = {}
    for key, before in old.items():
        rule = "average" if key in parameters else branch.buffer_rule(key)
        if before.is_floating_point() and rule == "average":
            a, b, info = before.double(), online[key].double(), torch.finfo(before.dtype)
            expected[key] = momentum * a + (1 - momentum) * b, 4 * info.eps * (a.abs() + b.abs()) + info.tiny
        else:
            expected[key] = before if rule == "keep" else online[key], None
    return expected


def _first_difference(new: Mapping[str, Tensor], expected: ClosedForm) -> tuple[str, tuple[int, ...]] | None:
    """The first tensor and coordinate that is not what the closed form says."""
    for key, (value, bound) in expected.items():
        at = first_true(new[key] != value if bound is None else ~((new[key].double() - value).abs() <= bound))
        if at is not None:
            return key, at
    return None


def _invisible_move(old: Mapping[str, Tensor], expected: ClosedForm) -> str | None:
    """A tensor that could as well have stayed where it was: its whole move is below rounding."""
    for key, (value, bound) in expected.items():
        if bound is not None and value.numel() and bool(((value - old[key].double()).abs() <= bound).all()):
            return f"{key} ({str(old[key].dtype).removeprefix('torch.')}) would move by less than rounding allows"
    return None
