"""The claims about a view: proved by labels for all values, or refuted by runs that break it."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.certify.check import Check, Claims
from viewproof.certify.flow.trace import CONSTANT, MIXED, VISIBLE
from viewproof.certify.inputs import other_hidden_contents
from viewproof.certify.outputs import difference, first_true
from viewproof.certify.report import Contract, Finding
from viewproof.certify.view.case import PARTS, ViewCase, ViewOutput

LABELS = "labels moved with the data"
SEARCH = "search for runs that break it"
TRIED = {"scope": "the inputs tried", "method": SEARCH}
UNDECIDED = {"scope": "nothing", "method": LABELS}

LEAK = "hidden source content does not reach x"
SHOWN = "each visible source coordinate appears in x, bit for bit"
TARGET = "y is the unmasked source in the declared order"
SCORED = "the mask selects exactly the target coordinates that x does not show"
PARTIAL = "the mask selects the declared target coordinates, none of which x shows"
RULE = "the mask is the rule's"

claims = Claims[ViewCase](scope="{case.scope}", method=LABELS, witness_scope="this input", witness_method=SEARCH)


def _by_labels(case: ViewCase, check: Check, detail: str = "") -> Finding:
    """PROVED by the labels; UNKNOWN if something else than labels decides."""
    if case.limit is not None:
        return check.unknown(case.limit, scope="the runs tried", method=LABELS)
    return check.proved(detail)


def _hidden_is_unknown(check: Check) -> Finding:
    reason = "the masked target is computed from several coordinates; pass rule= or return view"
    return check.unknown(f"what is hidden is not known: {reason}")


@claims(Contract.C1, LEAK)
def _leaks(case: ViewCase, check: Check) -> Finding:
    """Proved if no coordinate of x is made of a hidden one; refuted by two inputs.

    What declares the hidden set (mask, view, kept) must not follow from hidden values either: it would tell them.
    """
    if case.hidden is None:
        return _hidden_is_unknown(check)
    if not bool(case.hidden.any()):
        return check.vacuous("nothing is hidden", scope=check.scope, method=LABELS)
    labels = case.base(case.x_labels)
    secret = (labels == MIXED) | ((labels >= 0) & case.hidden.reshape(-1)[labels.clamp(min=0)])
    if not bool(secret.any()) and case.unreliable is None:
        entries = case.output.returned if isinstance(case.output.returned, Mapping) else {}
        others = [str(key) for key, value in entries.items() if key not in PARTS and isinstance(value, Tensor)]
        return _by_labels(case, check, f"not asked about: {', '.join(others)}" if others else "")
    before = case.declared.run(case.example.clone(), case.seed)
    for other in other_hidden_contents(case.example, case.hidden):
        after = case.attempt(other)
        if after is None or _shown_difference(before, after) is None:
            continue
        comparable = before.x.shape == after.x.shape and before.x.dtype == after.x.dtype
        reach = unlike(before.x, after.x) if comparable else case.hidden & False
        changed = _fewest_changes(case, other, before)
        after = case.declared.run(changed.clone(), case.seed)
        part, where = _shown_difference(before, after) or ("x", None)
        hidden = difference(case.example, changed)
        what = f"{part} at {where} changes with the hidden source coordinate {hidden}"
        if part == "x" and difference(before.mask, after.mask) is not None:
            what += ": what is hidden follows from it"
        maps = {"hidden": case.hidden, "leak": reach}
        return check.refuted(what, case.inputs(changed=changed), {"hidden": hidden or (), part: where or ()}, maps)
    reason = case.limit or "x holds values computed from hidden coordinates; none of the changes tried reached it"
    return check.unknown(reason, **TRIED)


def _shown_difference(before: ViewOutput, after: ViewOutput) -> tuple[str, tuple[int, ...]] | None:
    """The first shown or declared part of the output that differs between two runs, and where."""
    for part in ("x", "mask", "view", "kept"):
        one, other = getattr(before, part), getattr(after, part)
        where = difference(one, other) if one is not None and other is not None else None if one is other else ()
        if where is not None:
            return part, where
    return None


def _fewest_changes(case: ViewCase, other: Tensor, shown: ViewOutput) -> Tensor:
    """``other`` moved toward the example by bisection while what the view shows still differs."""
    x = case.example
    changed = unlike(x, other).reshape(-1).nonzero().reshape(-1)

    def with_only(part: Tensor) -> Tensor:
        return x.reshape(-1).index_copy(0, part, other.reshape(-1)[part]).reshape(x.shape)

    while len(changed) > 1:
        for part in changed.tensor_split([(len(changed) + 1) // 2]):
            output = case.attempt(with_only(part))
            if output is not None and _shown_difference(shown, output) is not None:
                changed = part
                break
        else:
            break
    return with_only(changed)


@claims(Contract.C2, SHOWN)
def _passes(case: ViewCase, check: Check) -> Finding:
    """Each visible coordinate in its place; in an x of another shape, anywhere in its own row."""
    if case.hidden is None:
        return _hidden_is_unknown(check)
    if bool(case.hidden.all()):
        return check.vacuous("nothing is visible", scope=check.scope, method=LABELS)
    declared = case.declared
    if declared.scored is not None and declared.rule is None and case.output.view is None:
        return check.vacuous("what is hidden beyond the scored coordinates is not declared; pass rule= or return view")
    if case.output.x.shape == case.example.shape or case.declared.source is not None:
        return _passes_in_place(case, check, case.hidden)
    return _passes_elsewhere(case, check, case.hidden.reshape(-1))


def _passes_in_place(case: ViewCase, check: Check, hidden: Tensor) -> Finding:
    source, labels = case.declared.source or (lambda x: x), case.source_labels
    if labels is None:
        labels = torch.arange(case.count, device=case.example.device).reshape(case.example.shape)
    elif labels.shape != hidden.shape or not (labels < CONSTANT).any():
        # A source that moves data takes what is hidden along.
        hidden = hidden.reshape(-1)[case.base(labels).clamp(min=0)] & (labels >= 0)
    if case.unreliable is None and labels.shape == case.x_labels.shape:
        declared = source(case.example.clone())
        moved = (labels >= CONSTANT) & (labels < case.count) & (case.x_labels == labels)
        same = declared.dtype == case.output.x.dtype and difference(
            torch.where(hidden, case.output.x, declared), case.output.x
        )
        if same is None and bool((moved | hidden).all()):
            return _by_labels(case, check)
    for x, output in case.runs():
        # Where the source moves data, what is hidden follows from the labels, which hold for all values.
        hidden_now = case.hidden_in(output) if hidden is case.hidden else hidden
        declared = source(x.clone())
        if declared.shape != output.x.shape or declared.dtype != output.x.dtype:
            what = f"x is {output.x.dtype} {tuple(output.x.shape)}, the source {declared.dtype} {tuple(declared.shape)}"
            return check.refuted(what, case.inputs(x=x))
        wrong = torch.tensor(False) if hidden_now is None else unlike(declared, output.x) & ~hidden_now
        if (where := first_true(wrong)) is not None:
            what = f"x at the visible coordinate {where} is {output.x[where].item()!r}, not {declared[where].item()!r}"
            return check.refuted(what, case.inputs(x=x), {"x": where}, {"changed": wrong})
    reason = case.limit or "visible content is computed, not moved; the inputs tried show no difference"
    return check.unknown(reason, **TRIED)


def _passes_elsewhere(case: ViewCase, check: Check, hidden: Tensor) -> Finding:
    """Where x has another shape: every visible coordinate is in x somewhere, in its own row."""
    labels, rows = case.base(case.x_labels), case.output.x.shape[0]
    if case.unreliable is not None or bool((labels < CONSTANT).any()):
        reason = case.unreliable or "x is not of the source's shape, and computed from several coordinates at once"
        return _not_shown(case, check, ~hidden & case.absent) or check.unknown(reason, **UNDECIDED)
    row = torch.arange(rows, device=labels.device).reshape(-1, *[1] * (labels.dim() - 1))
    foreign = (labels >= 0) & (labels // (case.count // len(case.example)) != row) & (rows == len(case.example))
    computed = (case.x_labels >= case.count) & ~foreign
    missing = ~hidden & ~case.marked(labels[~foreign])
    if (where := first_true(foreign)) is not None:
        for x, output in case.runs_with_change(int(labels[where])):
            if difference(output.x[where], case.output.x[where]) is not None:
                source = case.place(labels[where])
                what = f"x at {where} comes from the source coordinate {source}, which is in another row"
                return check.refuted(what, case.inputs(changed=x), {"x": where, "source": source})
    if (finding := _not_shown(case, check, missing)) is not None:
        return finding
    if not bool((foreign | computed).any()) and not bool(missing.any()):
        return _by_labels(case, check)
    for x, output in case.runs():
        if output.x.dtype != x.dtype:
            return check.refuted(f"x is {output.x.dtype}, the source {x.dtype}", case.inputs(x=x))
        where = first_true(computed & unlike(output.x, x.reshape(-1)[labels.clamp(min=0)]))
        if where is not None:
            source, value = case.place(labels[where]), x.reshape(-1)[labels[where]].item()
            what = f"x at {where} is {output.x[where].item()!r}, made of the source coordinate {source}, {value!r}"
            return check.refuted(what, case.inputs(x=x), {"x": where, "source": source})
    reason = case.limit or "visible content is computed, not moved; the inputs tried show no difference"
    return check.unknown(reason, **TRIED)


def _not_shown(case: ViewCase, check: Check, missing: Tensor) -> Finding | None:
    """REFUTED if another value at the first missing visible coordinate changes neither x nor mask."""
    index = int(missing.int().argmax())
    for x, output in case.runs_with_change(index) if bool(missing.any()) else ():
        if all(difference(getattr(output, part), getattr(case.output, part)) is None for part in ("x", "mask")):
            source = case.place(index)
            what = f"the visible source coordinate {source} does not appear in x, which stays as it is when it changes"
            maps = {"lost": missing.reshape(case.example.shape)}
            return check.refuted(what, case.inputs(changed=x), {"source": source}, maps)
    return None


@claims(Contract.C2, "nothing is written to the input")
def _writes(case: ViewCase, check: Check) -> Finding:
    if not case.writes and case.unreliable is None and difference(case.input_after, case.example) is None:
        detail = "x and y share memory: writing to one later changes the other" if case.output.shared else ""
        return _by_labels(case, check, detail)
    for source, _ in case.runs():
        x = source.clone()
        case.declared.run(x, case.seed)
        where = difference(source, x)
        if where is not None:
            what = f"the input at {where} is {x[where].item()!r} after the call, {source[where].item()!r} before"
            return check.refuted(what, case.inputs(x=source), {"x": where}, {"written": unlike(source, x)})
    reason = case.limit or "an operator writes to the input; no input tried was changed by it"
    return check.unknown(reason, **TRIED)


@claims(Contract.C3, TARGET)
def _targets(case: ViewCase, check: Check) -> Finding:
    y = case.output.y
    if case.target_labels is None:
        own = tuple(y.shape)
        return check.unknown(f"y of shape {own} is neither the source nor its row-major prefix; declare target=")
    declared = case.declared.target_of(case.example.clone(), y)
    assert declared is not None
    if declared.numel() == 0:
        return check.vacuous("the declared target is empty", scope=check.scope, method=LABELS)
    if case.unreliable is None and difference(y, declared) is None:
        labels = case.y_labels
        if bool(((labels == case.target_labels) & (labels >= CONSTANT) & (labels < case.count)).all()):
            return _by_labels(case, check)
    for x, output in case.runs():
        y, declared = output.y, case.declared.target_of(x.clone(), output.y)
        if declared is None or declared.shape != y.shape or declared.dtype != y.dtype:
            shape = "nothing" if declared is None else f"{declared.dtype} {tuple(declared.shape)}"
            what = f"y is {y.dtype} {tuple(y.shape)}, the declared target {shape}"
            return check.refuted(what, case.inputs(x=x), {"y": ()})
        wrong = unlike(y, declared)
        if (where := first_true(wrong)) is not None:
            what = f"y at {where} is {y[where].item()!r}, the declared target {declared[where].item()!r}"
            return check.refuted(what, case.inputs(x=x), {"y": where}, {"wrong": wrong})
    reason = case.limit or "the target is computed, not moved; the inputs tried show no difference"
    return check.unknown(reason, **TRIED)


@claims(Contract.C4, SCORED)
def _scores(case: ViewCase, check: Check) -> Finding:
    """The mask selects a target coordinate exactly if x was not made of its source coordinate.

    Fewer, where that is declared: by ``scored``, by a rule that says so, or by a ``view`` that hides more than the mask
    selects. Nothing that x shows is ever scored, kept tokens apart.
    """
    output, origin = case.output, case.origin
    over_origin = origin.shape == output.mask.shape
    if case.unreliable is not None or bool((case.x_labels == MIXED).any()) or bool((origin < CONSTANT).any()):
        reason = case.unreliable or (
            "x or the target is computed from several coordinates: which of them x shows is not decided"
        )
        not_scored = case.marked(origin[~output.mask]) if over_origin else torch.zeros_like(case.absent)
        if case.may_score_fewer and case.hidden is not None:
            not_scored &= ~case.hidden.reshape(-1)
        return _not_shown(case, check, not_scored & case.absent) or check.unknown(reason, **UNDECIDED)
    if not over_origin:
        reason = f"the mask lies over {tuple(output.mask.shape)}, the declared target over {tuple(origin.shape)}"
        return check.unknown(reason, **UNDECIDED)
    shown = case.shown[origin.clamp(min=0)]
    if case.hidden is not None and bool((case.x_labels == VISIBLE).any()):
        # x shows nothing hidden there, and perhaps a visible coordinate that is nowhere else.
        undecided = (origin >= 0) & ~shown & ~case.hidden.reshape(-1)[origin.clamp(min=0)]
        if bool(undecided.any()):
            reason = "x is computed from several visible coordinates: which of them it shows is not decided"
            return check.unknown(reason, **UNDECIDED)
    expected = ~shown if output.kept is None else ~shown | output.kept
    wrong = (origin >= 0) & (output.mask != expected)
    declared = case.declared_scored()
    if declared is not None:
        wrong, check = wrong & output.mask, replace(check, claim=PARTIAL)
        if (where := first_true((output.mask != declared) & (origin >= 0))) is not None:
            mistake = "selects it, which is not" if bool(output.mask[where]) else "leaves it out, which is"
            what = f"target coordinate {where}: the mask {mistake} declared to be scored"
            return check.refuted(what, case.inputs(), {"y": where}, {"mask": output.mask}, method=LABELS)
    elif (unscored := case.hidden_and_unscored(expected)) is not None:
        wrong, check = wrong & ~unscored, replace(check, claim=PARTIAL)
    where = first_true(wrong)
    if where is None:
        if bool(case.shown.all()) or not bool(case.shown.any()):
            return check.vacuous("x shows everything, or nothing", scope=check.scope, method=LABELS)
        left_out = int(((origin >= 0) & expected & ~output.mask).sum())
        counts = f"{left_out} of {origin.numel()} target coordinates are neither visible nor scored"
        return _by_labels(case, check, counts if left_out else "")
    source, scored = int(origin[where]), bool(output.mask[where])
    for x, other in case.runs_with_change(source):
        if (difference(other.x, output.x) is not None) == scored:
            mistake = "selects it, but x shows" if scored else "leaves it out, but x does not show"
            what = f"target coordinate {where}: the mask {mistake} the source coordinate {case.place(source)}"
            maps = {"mask": output.mask, "wrong": wrong}
            at = {"y": where, "source": case.place(source)}
            return check.refuted(what, case.inputs(changed=x), at, maps, method=LABELS)
    return check.unknown("by the labels mask and x disagree, which no change tried shows", **TRIED)


@claims(Contract.C5, RULE)
def _agrees(case: ViewCase, check: Check) -> Finding | None:
    if (ruled := case.declared.hidden_by_rule) is None:
        return None
    if case.origin.shape != case.output.mask.shape or bool((case.origin < CONSTANT).any()):
        reason = "which source coordinate each target coordinate stands for is not known; declare target="
        return check.unknown(reason, **UNDECIDED)
    expected = ruled.reshape(-1)[case.origin.clamp(min=0)]
    fewer = case.declared.scored is not None or case.declared.rule_scores_fewer
    for x, output in case.runs():
        masks = [("mask", output.mask, output.mask & ~expected if fewer else output.mask != expected)]
        masks = [(name, mask, wrong & (case.origin >= 0)) for name, mask, wrong in masks]
        if output.view is not None and output.view.shape == ruled.shape:
            masks.append(("view", output.view, output.view != ruled))
        for name, mask, wrong in masks:
            if (where := first_true(wrong)) is not None:
                what = f"the {name} at {where} is {bool(mask[where])}, which the rule denies"
                return check.refuted(what, case.inputs(x=x), {name: where}, {"wrong": wrong}, method=LABELS)
        if case.unreliable is None:
            return _by_labels(case, check)
    return check.unknown(case.unreliable or "", **TRIED)
