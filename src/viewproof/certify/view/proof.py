"""From the example's shape to all sizes: the captured view and its claims as formulas for Z3.

That hidden content cannot reach x is stated of two runs in one graph: the view of ``x``, and the view of ``x`` with
arbitrary other content where it is hidden, show the same bits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.inputs import spread_mask
from viewproof.certify.report import Finding
from viewproof.certify.view.case import DeclaredView, read_output
from viewproof.certify.view.claims import LEAK, RULE, SCORED, SHOWN, TARGET
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule
from viewproof.verdict import Verdict

Call = Callable[..., Any]
SECONDS = 10.0
"""No goal is begun after this long."""

SCOPE = "all values, all sizes from 1"
METHOD = "torch.export graph, its operators' coordinate meanings, Z3"


def extended(declared: DeclaredView, findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    """The findings, with scope "all sizes" where proved so, else the reason why not."""
    proved_here = {f.claim for f in findings if f.verdict is Verdict.PROVED}
    of_example = declared.target, declared.source, declared.scored
    if not proved_here & {LEAK, SHOWN, TARGET} or any(part is not None for part in of_example):
        return findings
    proved, reason = frozenset[str](), ""
    try:
        proved, reason = _proved(declared)
    except ImportError:
        reason = "Z3 is not installed (pip install 'viewproof[prove]')"
    except Exception as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)

    extended_findings = []
    for finding in findings:
        if finding.verdict is Verdict.PROVED and finding.claim in (LEAK, SHOWN, TARGET, SCORED, RULE):
            not_extended = replace(finding, detail=f"not extended to all sizes: {reason}")
            finding = replace(finding, scope=SCOPE, method=METHOD) if finding.claim in proved else not_extended
        extended_findings.append(finding)
    return tuple(extended_findings)


def _proved(declared: DeclaredView) -> tuple[frozenset[str], str]:
    """The claims that hold on every path, and why the others are not proved."""
    from viewproof.symbolic.capture import TensorInput
    from viewproof.symbolic.explore import explore
    from viewproof.symbolic.facts import Facts
    from viewproof.symbolic.meaning import outputs, symbolic_inputs
    from viewproof.symbolic.prove import follows
    from viewproof.symbolic.terms import inside
    from viewproof.theorems.tensors.agreement import disagreement, forget
    from viewproof.theorems.tensors.case import Subject

    def same_sizes(inputs: Any) -> list[Any]:
        return [a == b for a, b in zip(inputs["x"].shape, inputs["z"].shape, strict=True)]

    def premises(inputs: Any) -> list[Any]:
        return [*same_sizes(inputs), *(extent >= 1 for extent in inputs["x"].shape)]

    kind = TensorInput(declared.example.dim(), declared.example.dtype)
    subject = Subject("view", {"x": kind, "z": kind}, lambda program, x, z: program(x, z), same_sizes)
    program, start = _program(declared), time.perf_counter()
    proved = {LEAK, SHOWN, TARGET, SCORED} | ({RULE} if declared.rule is not None else set())
    reason, captures = "", list[Any]()
    for capture in explore(program, subject.signature, premises(symbolic_inputs(subject.signature, Facts()))):
        captures.append(capture)
        inputs = symbolic_inputs(subject.signature, facts := Facts())
        facts.assume(*premises(inputs), capture.path)
        observed = outputs(capture, inputs, facts)
        for what, condition in facts.needs:
            if follows(facts, condition, seconds=SECONDS / 5).kind != "proved":
                raise InvalidArgument(f"undefined at some size: {what}")
        for claim, extents, premise, holds in _goals(facts, inputs["x"], observed):
            if claim not in proved:
                continue
            if time.perf_counter() - start > SECONDS:
                return frozenset(), f"not decided within {SECONDS:.0f} s"
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
    return frozenset(proved if {LEAK, SHOWN} <= proved else proved - {SCORED}), reason


def _program(declared: DeclaredView) -> Callable[[Tensor, Tensor], Sequence[Tensor]]:
    rule = declared.rule

    def program(x: Tensor, z: Tensor) -> Sequence[Tensor]:
        output = read_output(declared.view(x))
        if output.x.dim() != x.dim() or output.y.dim() not in (2, x.dim()) or output.kept is not None:
            raise InvalidArgument("x or y is neither of the source's shape nor its prefix")
        hidden = output.view if output.view is not None else output.mask
        if rule is not None:
            hidden = spread_mask("rule", rule.mask(tuple(x.shape[1:])) if isinstance(rule, Rule) else rule, x)
        if rule is None and output.view is None and output.y.dim() != x.dim():
            raise InvalidArgument("the mask over a prefix does not say what else is hidden; pass rule= or return view")
        other = read_output(declared.view(torch.where(hidden, z, x)))
        return output.x, output.y, output.mask, hidden, other.x, output.view if output.view is not None else hidden

    return program


def _goals(facts: Any, x: Any, observed: Any) -> Iterator[tuple[str, tuple[Any, ...], Call, Call]]:
    """Claim, extents, premise and formula of each goal."""
    from viewproof.symbolic.terms import iff, neg, product
    from viewproof.symbolic.values import agree
    from viewproof.theorems.tensors import spec

    shown, y, mask, hidden, other, view = observed
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
        yield claim, (), always, shape(shown.shape, x.shape)
    yield LEAK, x.shape, always, lambda *place: agree(shown.at(place), other.at(place), x.dtype)
    yield (
        SHOWN,
        x.shape,
        lambda *place: neg(hidden.at(place)),
        lambda *place: agree(shown.at(place), x.at(place), x.dtype),
    )
    yield TARGET, (), always, shape(y.shape[: 1 if not whole else None], x.shape[: 1 if not whole else None])
    if not whole:
        yield TARGET, (), always, lambda: y.shape[1] <= product(x.shape[1:])
    yield TARGET, x.shape, within, lambda *place: agree(y.at(position(place)), x.at(place), x.dtype)
    yield RULE, x.shape, always, lambda *place: iff(view.at(place), hidden.at(place))
    for claim in (SCORED, RULE):
        yield claim, x.shape, within, lambda *place: iff(mask.at(position(place)), hidden.at(place))
