"""What is concluded from what was read off a step: one function a claim."""

from viewproof.certify.check import Check, Claims
from viewproof.certify.report import Contract, Finding, Severity
from viewproof.watch.branches import Broken
from viewproof.watch.examine import Examined
from viewproof.watch.facts import LossFacts
from viewproof.watch.ledger import ledger_of
from viewproof.watch.report import WatchReport
from viewproof.watch.token_rows import KEPT

claims = Claims[Examined](scope="{case.what}", method="the step run again")


def report_of(x: Examined, subject: str) -> WatchReport:
    """The report: findings, and the facts that they follow from."""
    findings = claims.run(subject, x)
    if x.plain is None:
        return WatchReport(subject, findings, ledger=ledger_of(x))
    losses = tuple(LossFacts(loss.value, loss.place, loss.reads) for loss in x.plain.record.losses)
    maps = {}
    for source in x.planes.sources:
        for name, plane in (("seen", source.seen), ("scored", source.scored)):
            maps[f"{name}: {source.path}"] = plane.float().mean(0).reshape(source.grid)
    return WatchReport(subject, findings, maps, tuple(x.planes.sources), tuple(x.plain.modules), losses, ledger_of(x))


@claims(Contract.C8, "the step can be run again from where it was", method="run twice from one state")
def repeatable(x: Examined, check: Check) -> Finding:
    """The same loss, bit for bit."""
    if x.plain is None:
        return check.unknown(x.failure)
    if not x.plain.record.losses:
        return check.unknown("no backward ran in the step")
    return check.proved() if x.repeatable else check.undecided(x.unrepeatable)


@claims(Contract.C1, "no scored group of the source is seen", method="dependence tracked through the whole step")
def no_leak(x: Examined, check: Check) -> Finding | None:
    """What the loss asks for does not reach a prediction."""
    if x.plain is None or not x.plain.record.losses:
        return None
    if not x.repeatable:
        return check.unknown(f"not repeatable: {x.unrepeatable}")
    planes = x.planes
    # Tokens whose rows are followed have a claim of their own.
    sources = [s for s in planes.sources if x.rows is None or s.path not in (x.rows.path, x.rows.inputs)]
    if x.rows is not None and not sources:
        return None
    if not sources:
        return check.unknown("no source was found: nothing that carries content came in the batch")
    if planes.witness is not None:
        what, inputs, at, maps = planes.witness
        return check.refuted(what, inputs, at, maps, method="two batches that differ in one group")
    scored = any(bool(s.scored.any()) for s in sources)
    # A source of which everything is asked for may be an autoencoder's, and says nothing about the others.
    leaking = [s for s in sources if bool(s.leak.any()) and not bool(s.scored.all())]
    if leaking:
        return check.undecided(
            f"{leaking[0].path}: {int(leaking[0].leak.sum())} groups may be both seen and scored; {planes.reason()}"
        )
    if not scored and x.tokens:
        return check.undecided(f'{x.tokens}; allow={{"C1": "..."}} if meant')
    if x.first and (not scored or x.others):
        reason = (
            f"{' and '.join(x.others)} were made before, perhaps of the same data"
            if scored
            else "the loss asks for nothing of it"
        )
        return check.undecided(
            f"no DataLoader gave a batch, so it is what {x.first}, the first module, takes; {reason}; "
            "vp.watch(step, batch) follows a step from its batch on"
        )
    if scored and x.copies:
        return check.undecided(x.copies)
    if not scored and "scored" in planes.proved and "scored" not in planes.reasons:
        reason = "with predictions held, the loss depends on no group of a source: a joint embedding, or labels"
        return check.vacuous(reason, scope=check.scope, method="dependence tracked through the whole step")
    if planes.waived:
        # So does an autoregressive model whose masks fail: an autoencoder must be one on purpose.
        return check.undecided(f'{planes.waived}; allow={{"C1": "an autoencoder"}} says so')
    if planes.reasons:
        reason = planes.reason()
        return check.undecided(reason if "allow=" in reason else f'{reason}; allow={{"C1": "..."}} if it does not')
    values = max(planes.proved.values(), key=len) if planes.proved else "all values"
    start = f", from the first call of {x.first} on" if x.first else ""
    start += f", the loss read out at {planes.read_out} staying as it is" if planes.read_out else ""
    start += f", one of {x.ranks} ranks" if x.ranks > 1 else ""
    asked = {s.path for s in sources if bool(s.scored.any())}
    beside = [path for path in x.others if asked and path.startswith("batch") and path not in asked]
    start += f", {' and '.join(beside)} beside it as it is" if beside else ""
    scope = f"{check.scope}, {values} of what is scored, these weights, this draw{start}"
    return check.proved(planes.constant, scope=scope)


@claims(Contract.C1, "no row reads the token that it is asked for", method="dependence tracked, then run again")
def no_token_read(x: Examined, check: Check) -> Finding | None:
    """Row by row: the prediction of a token does not depend on that token."""
    rows = x.rows
    if rows is None:
        return None
    n, k = int(rows.scored.sum()), int(rows.shown.sum())
    asked = f"{k} of the {n} tokens of {rows.path} that are asked for are looked up in the clear"
    declared = KEPT.get(x.kept)
    scope = f"{check.scope}, all ids of what is asked for that keep what is computed finite"
    scope += f", {rows.beside} beside them as it is" if rows.beside else ""
    scope += f", one of {x.ranks} ranks" if x.ranks > 1 else ""
    if not rows.witness and rows.reason:
        settled = "" if "allow=" in rows.reason else '; allow={"C1": "..."} if no row reads its token'
        return check.undecided(rows.reason + settled)
    if not rows.witness:
        return check.proved(scope=scope)
    what, inputs, at = rows.witness
    if rows.all_seen:
        reason = f"every row reads every token of {rows.inputs}: an autoencoder, which hides nothing"
        return check.undecided(f'{reason}; allow={{"C1": "an autoencoder"}} says so')
    if rows.doubt:
        return check.undecided(f'{what}; {rows.doubt}; allow={{"C1": "..."}} says so')
    # BERT leaves a tenth of what it asks for in the clear; far more than that is another thing.
    chance = rows.chance(declared or KEPT["mlm"])
    if rows.shift or chance < (1e-3 if declared else 1e-9):
        more = "; the loss asks for what is visible" if not rows.shift else ""
        return check.refuted(f"{what}; {asked}{more}", inputs, at, method="two batches that differ in one token")
    if rows.reason:
        return check.undecided(f"{asked}; {rows.reason}")
    if declared is None:
        return check.undecided(f'{asked}; kept="mlm" declares that BERT\'s tenth is left in the clear on purpose')
    return check.proved(f"{asked}, as kept={x.kept!r} declares", scope=f"{scope} and is not kept")


@claims(Contract.C4, "no scored position is padding", method="the loss's gradient and the attention mask")
def no_padding_scored(x: Examined, check: Check) -> Finding | None:
    """What the batch itself calls padding is not asked for."""
    if x.padding is not None and x.padding.asked:
        if x.padding.declared:
            return check.refuted(x.padding.what, x.padding.inputs)
        return check.undecided(f'{x.padding.what}; allow={{"C4": "..."}} if meant')
    if x.rows is not None and x.rows.padding_asked:
        return check.undecided(f'{x.rows.padding_asked}; allow={{"C4": "..."}} if meant')
    if x.rows is None or not x.rows.padding:
        return None
    if x.rows.padding_scored:
        return check.refuted(*x.rows.padding_scored)
    return check.proved()


@claims(Contract.C10, "no scored row reads padding", method="dependence tracked, then run again")
def no_padding_read(x: Examined, check: Check) -> Finding | None:
    """What a text gives does not depend on the ids of its padding."""
    if x.rows is None or not x.rows.padding:
        return None
    if x.rows.padding_read:
        return check.refuted(*x.rows.padding_read)
    if x.rows.padding_reason:
        return check.undecided(x.rows.padding_reason)
    return check.proved(scope=f"{check.scope}, all ids of padding that keep what is computed finite")


@claims(Contract.C10, "padding that the batch names is left out", method="run with other padding")
def padding_left_out(x: Examined, check: Check) -> Finding | None:
    """Concerns steps whose loss reads what a mask or the lengths call padding; scored rows of text have their own."""
    if x.rows is not None and x.rows.padding_read:
        return None
    return check.undecided(f'{x.unread}; allow={{"C10": "..."}} if meant') if x.unread else None


@claims(Contract.C3, "what is scored is content of the source", method="dependence tracked, then run again")
def target_has_content(x: Examined, check: Check) -> Finding | None:
    """The target is not a constant where the loss asks."""
    empty = x.planes.empty_target or x.terms.constant
    if x.plain is None or empty is None:
        return None
    what, inputs = empty
    return check.refuted(what, inputs)


@claims(Contract.C2, "the step does not erase content of its batch", method="the batch before and after")
def not_erased(x: Examined, check: Check) -> Finding | None:
    """No source is overwritten with a constant in places."""
    if x.plain is None or not x.plain.record.losses:
        return None
    for path, (count, value) in x.plain.erased.items():
        what = (
            f"{count} coordinates of {path} are overwritten with {value:g} in place, and what reads it later gets that"
        )
        return check.refuted(what, {"batch": path})
    return check.proved()


def _branch(x: Examined, check: Check, broken: list[Broken], kind: str) -> Finding | None:
    if x.plain is None or not x.plain.record.losses:
        return None
    if broken:
        what, names = broken[0]
        more = f"; {len(broken) - 1} more" if len(broken) > 1 else ""
        return check.refuted(f"{what} ({', '.join(names)}){more}" if names else what + more, {"names": names})
    return check.proved(kind)


@claims(Contract.C6, "no gradient reaches a target encoder", method="gradients at the optimizer's step")
def no_gradient(x: Examined, check: Check) -> Finding | None:
    """Target encoders take no gradient."""
    if x.plain is None or not (x.plain.branches.teachers or x.plain.branches.frozen or x.plain.branches.gradient):
        return None
    return _branch(x, check, x.plain.branches.gradient, "")


@claims(Contract.C6, "the target encoder averages its student", method="parameters before and after")
def averages(x: Examined, check: Check) -> Finding | None:
    """One momentum for every parameter, after the optimizer's step, buffers too."""
    if x.plain is None:
        return None
    branches = x.plain.branches
    if not branches.teachers and not branches.average:
        return None
    if not branches.average and not x.plain.averages:
        return check.undecided(
            f"`{branches.teachers[0]}` moves without gradient, and is the average of no module found; "
            'allow={"C6": "..."} if meant'
        )
    shown = {path: a for path, a in x.plain.averages.items() if abs(1 - a.momentum) > 1e-6}
    if not shown and not branches.average:
        path, average = next(iter(x.plain.averages.items()))
        reason = f"`{path}` and `{average.of}` were equal when one averaged the other: a later step shows the momentum"
        return check.vacuous(reason, scope=check.scope, method="parameters before and after")
    each = "; ".join(
        f"`{path}` is {a.momentum:.6g} of itself + {1 - a.momentum:.6g} of `{a.of}`" for path, a in shown.items()
    )
    return _branch(x, check, branches.average, each)


@claims(Contract.C6, "the target encoder draws nothing", method="modules in training mode")
def draws_nothing(x: Examined, check: Check) -> Finding | None:
    """No dropout in the teacher."""
    if x.plain is None or not (x.plain.branches.teachers or x.plain.branches.random):
        return None
    return _branch(x, check, x.plain.branches.random, "")


@claims(Contract.C6, "what is trained takes gradients and is moved by them", method="gradients and moves")
def trained(x: Examined, check: Check) -> Finding | None:
    """Optimizer, gradients and moves agree."""
    if x.plain is None or not x.plain.record.losses:
        return None
    if not x.plain.record.optimizers:
        return check.unknown("no optimizer of torch made a step")
    if x.plain.record.made_in_step:
        made = x.plain.record.made_in_step[0]
        return check.refuted(f"{made} is constructed in the step: new random weights each time, in no optimizer", {})
    branches, gradients = x.plain.branches, x.plain.record.gradients
    if not branches.trained and (again := gradients.broken(x.plain.parameters)):
        return check.refuted(again, {})
    if x.plain.record.alone and not branches.trained:
        first = x.plain.parameters.get(x.plain.record.alone[0], "a parameter")
        what = f"nothing averages the gradient of {first} over the {x.ranks} ranks: each trains its own"
        what += f"; {x.plain.record.remedy}" if x.plain.record.remedy else ""
        if x.plain.record.averaged_some:
            return check.refuted(f"{what}: an earlier backward of the step was averaged, and the last is not", {})
        return check.undecided(f'{what}; allow={{"C6": "..."}} if meant')
    if not branches.trained and branches.doubts:
        what, names = branches.doubts[0]
        return check.undecided(f"{what} ({', '.join(names)})" if names else what)
    if not branches.trained and x.zeros:
        what, names = x.zeros[0]
        return check.undecided(f"{what} ({', '.join(names)})")
    if not branches.trained and (doubt := gradients.doubt(x.plain.parameters)):
        return check.undecided(doubt)
    if branches.trained and x.ranks > 1:
        what, names = branches.trained[0]
        shown = f"{what} ({', '.join(names)})" if names else what
        return check.undecided(f"{shown}, on this of {x.ranks} ranks; another may give the gradient")
    return _branch(x, check, branches.trained, "")


@claims(Contract.C9, "loss and gradients are finite", method="looked at in the step")
def finite(x: Examined, check: Check) -> Finding | None:
    """No NaN, no infinity."""
    if x.plain is None or not x.plain.record.losses:
        return None
    for loss in x.plain.record.losses:
        if not loss.finite:
            origin = f"; the first NaN is made by {x.plain.record.first_nan}" if x.plain.record.first_nan else ""
            return check.refuted(f"the loss at {loss.place} is {loss.value}{origin}", {})
    bad = [p.name for p in x.plain.record.parameters.values() if not p.finite]
    if bad:
        return check.refuted(f"the gradient of {bad[0]} is not finite", {"names": bad[:4]})
    return check.proved()


@claims(Contract.C9, "no operator makes a NaN", method="looked at in the step", severity=Severity.ROBUSTNESS)
def no_nan(x: Examined, check: Check) -> Finding | None:
    """A NaN that something hides later."""
    if x.plain is None or not x.plain.record.losses:
        return None
    if x.plain.record.first_nan:
        return check.refuted(f"{x.plain.record.first_nan} makes a NaN of numbers", {})
    return check.proved()


@claims(Contract.C7, "two views of a sample differ", method="inputs of the trained modules compared")
def views_differ(x: Examined, check: Check) -> Finding | None:
    """Not for masked models, whose loss asks for content."""
    if x.plain is None or not x.plain.record.losses or any(bool(s.scored.any()) for s in x.planes.sources):
        return None
    rows: dict[tuple[bool, int], list[tuple[int, int]]] = {}
    kinds = {call.module: call.kind for call in x.plain.record.calls}
    for call in x.plain.record.calls:
        if call.rows and call.differentiable and call.after_backwards == 0 and not call.text:
            key = call.parent is not None, call.module
            rows.setdefault(key, []).extend(zip(call.rows, call.made, strict=True))
    # An encoder may read each text twice for two losses; one that compares texts has dropout make two views.
    texts = [row for c in x.plain.record.calls if c.text and c.differentiable for row in c.rows]
    if x.plain.record.terms.compared and texts and all(texts.count(row) > 1 for row in texts):
        what = "every text is encoded at least twice, to the same bit for bit: dropout is off, or makes no views"
        return check.undecided(f'{what}; allow={{"C7": "..."}} if meant')
    differ = False
    # A wrapper that makes the views itself reads each sample once: what is inside it reads the views.
    for (inside, module), pairs in sorted(rows.items(), key=lambda item: item[0][0]):
        read, made = ([pair[k] for pair in pairs] for k in range(2))
        some = max(1, len(pairs) // 4)
        twice = len(pairs) > 1 and all(read.count(h) > 1 for h in read[:some])
        what = f"`{x.plain.names.get(module, kinds[module])}` reads every sample at least twice, bit for bit the same"
        if twice and not inside and all(made.count(h) > 1 for h in made[:some]):
            return check.refuted(what, {"module": x.plain.names.get(module, kinds[module])})
        if twice:
            how = "views, or dropout" if not inside else "two views that are one, or one view with other masks"
            how = f", and draws in it: {how}" if not inside else f": {how}"
            return check.undecided(f'{what}{how}; allow={{"C7": "..."}} if meant')
        differ |= len(pairs) > 1 and not inside
    return check.proved() if differ else None


@claims(Contract.C4, "every term that is computed is part of the loss", method="read off the step")
def no_term_dropped(x: Examined, check: Check) -> Finding | None:
    """No term is overwritten by the next, or forgotten; concerns steps in which one may be."""
    if x.plain is None:
        return None
    terms = x.plain.record.terms
    if terms.dropped:
        return check.refuted(terms.dropped[0], {})
    if terms.zeroed:
        return check.undecided(
            f"the term at {terms.zeroed[0]} is computed and multiplied by 0, so that nothing is trained on it; "
            'allow={"C4": "off on purpose"} says so'
        )
    if terms.twice:
        what = "is computed twice, of the same predictions, and added twice: perhaps in the place of another"
        return check.undecided(f'the term at {terms.twice[0]} {what}; allow={{"C4": "..."}} if meant')
    if terms.left_out:
        return check.undecided(
            f"what {' and '.join(terms.left_out[:3])} computes of the predictions takes gradients, and no loss has it; "
            'detach it if it is only looked at, or allow={"C4": "a metric"} says so'
        )
    return None


@claims(Contract.C7, "no negative is the anchor or its positive", method="gradients of the step, and another batch")
def negatives_differ(x: Examined, check: Check) -> Finding | None:
    """In a cross-entropy over similarities; concerns steps in which one is."""
    if x.plain is None or not (x.plain.record.terms.itself or x.terms.equal):
        return None
    if x.plain.record.terms.itself:
        return check.refuted(x.plain.record.terms.itself[0], {})
    assert x.terms.equal is not None
    return check.refuted(*x.terms.equal)


@claims(Contract.C7, "a row's positive is of its own sample", method="gradients of the compared vectors")
def positives_of_own_sample(x: Examined, check: Check) -> Finding | None:
    """In a cross-entropy over similarities; concerns steps in which it is another's."""
    return check.undecided(f'{x.positives}; allow={{"C7": "..."}} if meant') if x.positives else None


@claims(Contract.C4, "no negative is padding", method="run with other padding, and with another batch beside it")
def no_padding_compared(x: Examined, check: Check) -> Finding | None:
    """In a cross-entropy over similarities; concerns steps in which one is, or is a vector of zeros."""
    if x.padding is None or x.padding.asked:
        return None
    if x.padding.declared:
        return check.refuted(x.padding.what, x.padding.inputs)
    return check.undecided(f'{x.padding.what}; allow={{"C4": "..."}} if meant')


@claims(Contract.C7, "negatives are taken of the own rank", method="the loss with other values of other ranks")
def negatives_of_own_rank(x: Examined, check: Check) -> Finding | None:
    """As ``local_negatives=True`` declares; concerns cross-entropies over similarities on several ranks."""
    if x.gathered is not None:
        return check.refuted(*x.gathered)
    if x.ranks < 2 or x.plain is None or not x.plain.record.terms.compared:
        return None
    what = f"the cross-entropy at {x.plain.record.terms.compared[0]} compares samples of this rank alone, of {x.ranks}"
    if x.plain.record.gathered_after:
        return check.undecided(f"{what}; {x.plain.record.gathered_after[0]} may keep other ranks' for later steps")
    if not x.local:
        return check.undecided(f"{what}; local_negatives=True declares that this is meant")
    return check.proved(f"{what}, as is declared", scope="this step, no collective before its last backward")


@claims(Contract.C9, "no prediction depends on uninitialised memory", method="run with two fillings of fresh memory")
def no_fresh_memory(x: Examined, check: Check) -> Finding | None:
    """Memory of torch.empty that nothing fills."""
    if x.plain is None or not x.plain.record.terms.empty:
        return None
    return check.refuted(*x.terms.fresh) if x.terms.fresh else None


@claims(Contract.C10, "predictions differ from place to place", method="run with other weights and another batch")
def places_differ(x: Examined, check: Check) -> Finding | None:
    """What is asked of many places is not answered by one vector; concerns steps in which it is."""
    return check.refuted(*x.terms.alike) if x.terms.alike else None
