"""From the example's shape to all sizes: the view as a captured graph, and the same claims as formulas for Z3.

That hidden content cannot reach x is stated of two runs in one graph: the view of ``x``, and the view of ``x`` with
arbitrary other content where it is hidden, show the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.report import Finding
from viewproof.certify.search import read, spread_mask
from viewproof.certify.view_case import Declared
from viewproof.certify.view_claims import LEAK, RULE, SCORED, SHOWN, TARGET
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule
from viewproof.verdict import Verdict

SECONDS = 10.0
"""No goal is begun after this long."""

SCOPE = "all values, all sizes from 1"
METHOD = "torch.export graph, its operators' coordinate meanings, Z3"


def extended(declared: Declared, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, those that are proved for all sizes with that scope; the others say why they are not."""
    named = {f.claim for f in findings if f.verdict is Verdict.PROVED}
    if not named & {LEAK, SHOWN, TARGET} or declared.target is not None or declared.source is not None:
        return findings
    try:
        proved, reason = _proved(declared)
    except ImportError:
        proved, reason = frozenset(), "Z3 is not installed (pip install 'viewproof[prove]')"
    except Exception as error:
        text = str(error).strip().splitlines()
        proved, reason = frozenset(), text[0] if text else type(error).__name__
    return tuple(
        f
        if f.verdict is not Verdict.PROVED or f.claim not in (LEAK, SHOWN, TARGET, SCORED, RULE)
        else replace(f, scope=SCOPE, method=METHOD)
        if f.claim in proved
        else replace(f, detail=f"not extended to all sizes: {reason}")
        for f in findings
    )


def _proved(declared: Declared) -> tuple[frozenset[str], str]:
    """The claims that hold on every path, and what was not settled."""
    from viewproof.symbolic.capture import TensorInput
    from viewproof.symbolic.explore import explore
    from viewproof.symbolic.prove import follows
    from viewproof.symbolic.terms import inside
    from viewproof.theorems.tensors.agreement import disagreement, forget
    from viewproof.theorems.tensors.case import Subject

    kind = TensorInput(declared.example.dim(), declared.example.dtype)
    subject = Subject("view", {"x": kind, "z": kind}, lambda program, x, z: program(x, z), _same_sizes)
    program, start = _program(declared), time.perf_counter()
    proved = {LEAK, SHOWN, TARGET, SCORED} | ({RULE} if declared.rule is not None else set())
    reason, captures = "", list[Any]()
    for capture in explore(program, subject.signature, _premises(subject)):
        captures.append(capture)
        facts, inputs, observed = _meant(capture, subject)
        for claim, extents, premise, holds in _goals(facts, inputs["x"], observed):
            if claim not in proved:
                continue
            if time.perf_counter() - start > SECONDS:
                return frozenset(), f"not settled within {SECONDS:.0f} s"
            place = tuple(facts.fresh("at", inputs["x"].shape[0].sort()) for _ in extents)
            with facts.given(inside(place, extents), premise(*place)):
                answer = follows(facts, holds(*place), seconds=SECONDS / 5)
            if answer.kind != "proved":
                proved.discard(claim)
                reason = f"another size may break it ({answer.reason or 'the solver has a counterexample'})"
    different = disagreement(subject, program, captures)
    forget()
    if different is not None:
        return frozenset(), f"the captured graph is not the view: {different}"
    # What the mask selects is what x hides, if the mask is the hidden set and x shows the rest and nothing else.
    kept = proved if {LEAK, SHOWN} <= proved else proved - {SCORED}
    return frozenset(kept), reason


def _program(declared: Declared) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
    rule = declared.rule

    def program(x: Tensor, z: Tensor) -> Sequence[Tensor]:
        output = read(declared.view(x))
        if output.x.dim() != x.dim() or output.y.dim() not in (2, x.dim()) or output.kept is not None:
            raise InvalidArgument("x or y is neither of the source's shape nor its prefix")
        hidden = output.view if output.view is not None else output.mask
        if rule is not None:
            ruled = spread_mask("rule", rule.mask(tuple(x.shape[1:])) if isinstance(rule, Rule) else rule, x)
            assert ruled is not None
            hidden = ruled
        if rule is None and output.view is None and output.y.dim() != x.dim():
            raise InvalidArgument("the mask over a prefix does not say what else is hidden; pass rule= or return view")
        other = read(declared.view(torch.where(hidden, z, x)))
        return output.x, output.y, output.mask, hidden, other.x, output.view if output.view is not None else hidden

    return program


def _same_sizes(inputs: Any) -> list[Any]:
    return [a == b for a, b in zip(inputs["x"].shape, inputs["z"].shape, strict=True)]


def _premises(subject: Any) -> list[Any]:
    from viewproof.symbolic.facts import Facts
    from viewproof.symbolic.meaning import symbolic_inputs

    inputs = symbolic_inputs(subject.signature, Facts())
    return [*_same_sizes(inputs), *(extent >= 1 for extent in inputs["x"].shape)]


def _meant(capture: Any, subject: Any) -> tuple[Any, Any, Any]:
    from viewproof.symbolic.facts import Facts
    from viewproof.symbolic.meaning import outputs, symbolic_inputs
    from viewproof.symbolic.prove import follows

    facts = Facts()
    inputs = symbolic_inputs(subject.signature, facts)
    facts.assume(*_same_sizes(inputs), *(extent >= 1 for extent in inputs["x"].shape), capture.path)
    observed = outputs(capture, inputs, facts)
    for what, condition in facts.needs:
        if follows(facts, condition, seconds=SECONDS / 5).kind != "proved":
            raise InvalidArgument(f"undefined at some size: {what}")
    return facts, inputs, observed


Goal = tuple[str, tuple[Any, ...], Callable[..., Any], Callable[..., Any]]


def _goals(facts: Any, x: Any, observed: Any) -> Iterator[Goal]:
    """Claim, extents, premise and formula of each goal."""
    from viewproof.symbolic.terms import iff, neg, product
    from viewproof.symbolic.values import agree
    from viewproof.theorems.tensors import spec

    seen, y, mask, hidden, other, view = observed
    whole = y.rank == x.rank and x.rank != 2

    def position(place: Sequence[Any]) -> Any:
        return tuple(place) if y.rank == x.rank else (place[0], spec.flat_index(facts, place[1:], x.shape[1:]))

    def always(*place: Any) -> Any:
        return True

    def within(*place: Any) -> Any:
        return True if whole else position(place)[1] < y.shape[1]

    def shape(a: Any, b: Any) -> Callable[[], Any]:
        return lambda: spec.same_shape(a, b)

    for claim in (LEAK, SHOWN):
        yield claim, (), always, shape(seen.shape, x.shape)
    yield LEAK, x.shape, always, lambda *place: agree(seen.at(place), other.at(place), x.dtype)
    yield (
        SHOWN,
        x.shape,
        lambda *place: neg(hidden.at(place)),
        lambda *place: agree(seen.at(place), x.at(place), x.dtype),
    )
    yield TARGET, (), always, shape(y.shape[: 1 if not whole else None], x.shape[: 1 if not whole else None])
    if not whole:
        yield TARGET, (), always, lambda: y.shape[1] <= product(x.shape[1:])
    yield TARGET, x.shape, within, lambda *place: agree(y.at(position(place)), x.at(place), x.dtype)
    yield RULE, x.shape, always, lambda *place: iff(view.at(place), hidden.at(place))
    for claim in (SCORED, RULE):
        yield claim, x.shape, within, lambda *place: iff(mask.at(position(place)), hidden.at(place))
