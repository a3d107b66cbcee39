"""What is claimed of a view, and how each claim is settled: by labels for all values, else by runs that break it."""

from collections.abc import Callable

import torch
from torch import Tensor

from viewproof.certify.flow.trace import CONSTANT, MIXED, VISIBLE
from viewproof.certify.report import Contract, Finding, Witness
from viewproof.certify.search import difference, leak, place, unlike
from viewproof.certify.view_case import LABELS, Case
from viewproof.verdict import Verdict

TRIALS = "search for runs that break it"

LEAK = "hidden source content does not reach x"
SHOWN = "each visible source coordinate appears in x, bit for bit"
WRITES = "nothing is written to the input"
TARGET = "y is the unmasked source in the declared order"
SCORED = "the mask selects exactly the target coordinates that x does not show"
RULE = "the mask is the rule's"

Claim = tuple[Contract, str]


def leaks(case: Case) -> Finding:
    """C1."""
    claim = Contract.C1, LEAK
    if case.hidden is None:
        return _unknown_hidden(claim)
    if not bool(case.hidden.any()):
        return Finding(*claim, Verdict.VACUOUS, case.scope, LABELS, "nothing is hidden")
    labels = case.base(case.seen)
    secret = (labels == MIXED) | ((labels >= 0) & case.hidden.reshape(-1)[labels.clamp(min=0)])
    if not bool(secret.any()) and case.lost is None:
        return case.proved(*claim)
    found = leak(case.view, case.example, case.hidden)
    if found is None:
        reason = case.doubt or "x holds values computed from hidden coordinates; none of the changes tried reached it"
        return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)
    one, two, reach = found
    before, after = case.view(one), case.view(two)
    where, hidden = difference(before.x, after.x), place(int(unlike(one, two).int().argmax()), one.shape)
    what = f"x at {where} changes with the hidden source coordinate {hidden}"
    if difference(before.mask, after.mask) is not None:
        what += ": what is hidden follows from it"
    maps = {"hidden": case.hidden, "leak": reach}
    witness = Witness(what, case.inputs(changed=two), {"hidden": hidden, "x": where or ()}, maps)
    return _refuted(claim, witness)


def passes(case: Case) -> Finding:
    """C2."""
    claim = Contract.C2, SHOWN
    if case.hidden is None:
        return _unknown_hidden(claim)
    if bool(case.hidden.all()):
        return Finding(*claim, Verdict.VACUOUS, case.scope, LABELS, "nothing is visible")
    if case.output.x.shape == case.example.shape or case.declared.source is not None:
        return _passes_in_place(case, claim)
    return _passes_elsewhere(case, claim)


def _passes_in_place(case: Case, claim: Claim) -> Finding:
    assert case.hidden is not None
    source = case.declared.source or (lambda x: x)
    here = torch.arange(case.count, device=case.example.device).reshape(case.example.shape)
    if case.declared.source is None and case.lost is None and bool(((case.seen == here) | case.hidden).all()):
        return case.proved(*claim)
    for x, output in case.runs():
        hidden, declared = case.hidden_in(output), source(x)
        if declared.shape != output.x.shape or declared.dtype != output.x.dtype:
            what = f"x is {output.x.dtype} {tuple(output.x.shape)}, the source {declared.dtype} {tuple(declared.shape)}"
            return _refuted(claim, Witness(what, case.inputs(x=x)))
        if hidden is not None and bool((wrong := unlike(declared, output.x) & ~hidden).any()):
            where = case.place(wrong.reshape(-1).int().argmax())
            what = f"x at the visible coordinate {where} is {output.x[where].item()!r}, not {declared[where].item()!r}"
            return _refuted(claim, Witness(what, case.inputs(x=x), {"x": where}, {"changed": wrong}))
    reason = case.doubt or "visible content is computed, not moved; the inputs tried show no difference"
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)


def _passes_elsewhere(case: Case, claim: Claim) -> Finding:
    """x is no tensor of the source's shape: a visible coordinate may appear anywhere in its own row."""
    assert case.hidden is not None
    labels, rows = case.base(case.seen), case.output.x.shape[0]
    if case.lost is not None or bool((labels < CONSTANT).any()):
        reason = case.lost or "x is not of the source's shape, and computed from several coordinates at once"
        unknown = Finding(*claim, Verdict.UNKNOWN, "nothing", LABELS, reason)
        return _unshown(case, claim, ~case.hidden.reshape(-1) & case.absent) or unknown
    row = torch.arange(rows, device=labels.device).reshape(-1, *[1] * (labels.dim() - 1))
    foreign = (labels >= 0) & (labels // (case.count // len(case.example)) != row) & (rows == len(case.example))
    computed = (case.seen >= case.count) & ~foreign
    shown = torch.zeros(case.count, dtype=torch.bool, device=labels.device)
    shown[labels[(labels >= 0) & ~foreign]] = True
    lost = ~case.hidden.reshape(-1) & ~shown
    if bool(foreign.any()):
        where = place(int(foreign.reshape(-1).int().argmax()), labels.shape)
        for x, output in case.changed(int(labels[where])):
            if difference(output.x[where], case.output.x[where]) is not None:
                source = case.place(labels[where])
                what = f"x at {where} comes from the source coordinate {source}, which is in another row"
                return _refuted(claim, Witness(what, case.inputs(changed=x), {"x": where, "source": source}))
    if (found := _unshown(case, claim, lost)) is not None:
        return found
    if not bool((foreign | computed).any()) and not bool(lost.any()):
        return case.proved(*claim)
    for x, output in case.runs():
        if output.x.dtype != x.dtype:
            return _refuted(claim, Witness(f"x is {output.x.dtype}, the source {x.dtype}", case.inputs(x=x)))
        wrong = computed & unlike(output.x, x.reshape(-1)[labels.clamp(min=0)])
        if bool(wrong.any()):
            where = place(int(wrong.reshape(-1).int().argmax()), labels.shape)
            source, held = case.place(labels[where]), x.reshape(-1)[labels[where]].item()
            what = f"x at {where} is {output.x[where].item()!r}, made of the source coordinate {source}, {held!r}"
            return _refuted(claim, Witness(what, case.inputs(x=x), {"x": where, "source": source}))
    reason = case.doubt or "visible content is computed, not moved; the inputs tried show no difference"
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)


def _unshown(case: Case, claim: Claim, lost: Tensor) -> Finding | None:
    """Whether another value at the first of the lost visible coordinates leaves x and the mask as they are."""
    index = int(lost.int().argmax())
    for x, output in case.changed(index) if bool(lost.any()) else ():
        if all(difference(getattr(output, part), getattr(case.output, part)) is None for part in ("x", "mask")):
            source = case.place(index)
            what = f"the visible source coordinate {source} does not appear in x, which stays as it is when it changes"
            maps = {"lost": lost.reshape(case.example.shape)}
            return _refuted(claim, Witness(what, case.inputs(changed=x), {"source": source}, maps))
    return None


def writes(case: Case) -> Finding:
    """C2 of the input tensor itself."""
    claim = Contract.C2, WRITES
    x, y = case.output.x, case.output.y
    shared = x.untyped_storage()._cdata == y.untyped_storage()._cdata
    if not case.wrote and case.lost is None and difference(case.after, case.example) is None:
        return case.proved(*claim, "x and y share memory: writing to one later changes the other" if shared else "")
    for source, _ in case.runs():
        given = source.clone()
        case.view.on(given)
        where = difference(source, given)
        if where is not None:
            what = f"the input at {where} is {given[where].item()!r} after the call, {source[where].item()!r} before"
            maps = {"written": unlike(source, given)}
            return _refuted(claim, Witness(what, case.inputs(x=source), {"x": where}, maps))
    reason = case.doubt or "an operator writes to the input; no input tried was changed by it"
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)


def targets(case: Case) -> Finding:
    """C3."""
    claim = Contract.C3, TARGET
    y = case.output.y
    if case.wanted is None:
        reason = f"y of shape {tuple(y.shape)} is neither the source nor its row-major prefix; declare target="
        return Finding(*claim, Verdict.UNKNOWN, "nothing", "not run", reason)
    declared = case.declared.target_of(case.example.clone(), y)
    assert declared is not None
    if declared.numel() == 0:
        return Finding(*claim, Verdict.VACUOUS, case.scope, LABELS, "the declared target is empty")
    if case.lost is None and difference(y, declared) is None:
        moved = (case.made == case.wanted) & (case.made >= CONSTANT) & (case.made < case.count)
        if bool(moved.all()):
            return case.proved(*claim)
    for x, output in case.runs():
        wanted = case.declared.target_of(x.clone(), output.y)
        if wanted is None or (where := difference(output.y, wanted)) is not None:
            shape = "nothing" if wanted is None else f"{wanted.dtype} {tuple(wanted.shape)}"
            what = f"y is {output.y.dtype} {tuple(output.y.shape)}, the declared target {shape}"
            if wanted is not None and where:
                what = f"y at {where} is {output.y[where].item()!r}, the declared target {wanted[where].item()!r}"
            maps = {} if wanted is None or not where else {"wrong": unlike(output.y, wanted)}
            return _refuted(claim, Witness(what, case.inputs(x=x), {"y": where or ()}, maps))
    reason = case.doubt or "the target is computed, not moved; the inputs tried show no difference"
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)


def scores(case: Case) -> Finding:
    """C4."""
    claim = Contract.C4, SCORED
    output, origin = case.output, case.origin
    if case.lost is not None or bool((case.seen == MIXED).any()) or bool((origin < CONSTANT).any()):
        reason = (
            case.lost or "x or the target is computed from several coordinates: which of them x shows is not decided"
        )
        unscored = torch.zeros_like(case.absent)
        if origin.shape == output.mask.shape:
            unscored[origin[(origin >= 0) & ~output.mask]] = True
        unknown = Finding(*claim, Verdict.UNKNOWN, "nothing", LABELS, reason)
        return _unshown(case, claim, unscored & case.absent) or unknown
    if origin.shape != output.mask.shape:
        reason = f"the mask lies over {tuple(output.mask.shape)}, the declared target over {tuple(origin.shape)}"
        return Finding(*claim, Verdict.UNKNOWN, "nothing", LABELS, reason)
    shown = case.shown[origin.clamp(min=0)]
    expected = ~shown if output.kept is None else ~shown | output.kept
    wrong = (origin >= 0) & (output.mask != expected)
    if bool((case.seen == VISIBLE).any()) and case.hidden is not None:
        # It shows nothing hidden, and perhaps a visible coordinate that is nowhere else.
        undecided = (origin >= 0) & ~shown & ~case.hidden.reshape(-1)[origin.clamp(min=0)]
        if bool(undecided.any()):
            reason = "x is computed from several visible coordinates: which of them it shows is not decided"
            return Finding(*claim, Verdict.UNKNOWN, "nothing", LABELS, reason)
    if not bool(wrong.any()):
        if bool(case.shown.all()) or not bool(case.shown.any()):
            return Finding(*claim, Verdict.VACUOUS, case.scope, LABELS, "x shows everything, or nothing")
        return case.proved(*claim)
    where = place(int(wrong.reshape(-1).int().argmax()), origin.shape)
    source, scored = int(origin[where]), bool(output.mask[where])
    for x, other in case.changed(source):
        if (difference(other.x, output.x) is not None) == scored:
            said = "selects it, but x shows" if scored else "leaves it out, but x does not show"
            what = f"target coordinate {where}: the mask {said} the source coordinate {case.place(source)}"
            maps = {"mask": output.mask, "wrong": wrong}
            witness = Witness(what, case.inputs(changed=x), {"y": where, "source": case.place(source)}, maps)
            return _refuted(claim, witness, LABELS)
    reason = "by the labels mask and x disagree, which no change tried shows"
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, reason)


def agrees(case: Case) -> Finding:
    """C5: with the rule."""
    claim = Contract.C5, RULE
    assert case.ruled is not None
    if case.origin.shape != case.output.mask.shape or bool((case.origin < CONSTANT).any()):
        reason = "which source coordinate each target coordinate stands for is not known; declare target="
        return Finding(*claim, Verdict.UNKNOWN, "nothing", LABELS, reason)
    expected = case.ruled.reshape(-1)[case.origin.clamp(min=0)]
    for x, output in case.runs():
        pairs = [("mask", (output.mask != expected) & (case.origin >= 0))]
        if output.view is not None and output.view.shape == case.ruled.shape:
            pairs.append(("view", output.view != case.ruled))
        for name, wrong in pairs:
            if bool(wrong.any()):
                where = place(int(wrong.reshape(-1).int().argmax()), wrong.shape)
                what = f"the {name} at {where} is {bool(getattr(output, name)[where])}, which the rule denies"
                return _refuted(claim, Witness(what, case.inputs(x=x), {name: where}, {"wrong": wrong}), LABELS)
        if case.lost is None:
            return case.proved(*claim)
    return Finding(*claim, Verdict.UNKNOWN, "the inputs tried", TRIALS, case.lost or "")


def _unknown_hidden(claim: Claim) -> Finding:
    reason = (
        "what is hidden is not known: the masked target is computed from several coordinates; pass rule= or return view"
    )
    return Finding(*claim, Verdict.UNKNOWN, "nothing", "not run", reason)


def _refuted(claim: Claim, witness: Witness, method: str = TRIALS) -> Finding:
    return Finding(*claim, Verdict.REFUTED, "this input", method, "", witness)


# The last one is about the rule, if there is one.
CLAIMS: tuple[tuple[Contract, str, Callable[[Case], Finding]], ...] = (
    (Contract.C1, LEAK, leaks),
    (Contract.C2, SHOWN, passes),
    (Contract.C2, WRITES, writes),
    (Contract.C3, TARGET, targets),
    (Contract.C4, SCORED, scores),
    (Contract.C5, RULE, agrees),
)
