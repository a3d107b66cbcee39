"""Certifies a view: what it hides does not show, what it shows is untouched, and the loss asks for what it hides."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from viewproof.certify.flow.trace import LabelTrace
from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import Output, View, difference, drawn, draws
from viewproof.certify.view_case import Case, Declared
from viewproof.certify.view_claims import CLAIMS
from viewproof.certify.view_proof import extended
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.verdict import Verdict

DRAWS = 3
"""How many draws of a random view are looked at."""

CALLS = 3
"""How often a view is called again on one input, to see whether it repeats itself."""

REPEATS = "a second call returns the same, and no global random state is used"


def certify_view(
    view: Callable[[Tensor], Any],
    example: Tensor,
    rule: Rule | Mask | None = None,
    *,
    target: Callable[[Tensor], Tensor] | None = None,
    source: Callable[[Tensor], Tensor] | None = None,
    sizes: Literal["example", "all"] = "example",
    name: str | None = None,
) -> Report:
    """Whether hidden content stays hidden, visible content passes, and target and mask are what they should be.

    ``view(x)`` takes a batch ``[N, *data]`` and returns a `Sample`, or ``x, y, mask`` as a tuple, a mapping or
    attributes. ``mask`` (a `Mask`, or a bool tensor, True = hidden) lies over y's coordinates or its first axes, with
    or without the batch axis. There may be a ``view``, the same over x, and ``kept``: target coordinates that the loss
    asks for although x is declared to show them (BERT's kept tokens).

    What is hidden: the rule's coordinates; without a rule those of ``view`` if x has the source's shape; else the
    source coordinates that the masked target is made of. What y should be: ``target(x)``, by default x itself or the
    row-major prefix of the flattened x, whichever has y's shape. What x should show: ``source(x)``, by default x (a
    view that normalises declares its normalisation here and in ``target``); an x of another shape than the source must
    show each visible coordinate somewhere in its own row.

    Findings: C1 hidden content does not reach x; C2 visible content passes, and the input is not written to; C3 the
    target; C4 the mask selects what x does not show; with a rule, C5 the mask (and the view's) is the rule's; C8 a
    second call returns the same and no global random state is used.

    PROVED covers all values at the example's shape; with ``sizes="all"`` also all sizes, where Z3 is installed and
    proves it of the captured program (up to 10 s; the finding says if not). Data that was computed and not moved, a
    branch on values, and randomness leave UNKNOWN unless a witness is found: its ``inputs`` hold "x" and, if two runs
    are compared, "changed", and "seed" if the view draws from the global generators. If nothing is hidden, or nothing
    visible: VACUOUS. It is assumed that a view keeps no state but its generators: three calls would not tell.

    >>> import torch, viewproof as vp
    >>> images = torch.linspace(-1, 1, 576).reshape(2, 3, 8, 12)
    >>> rule = vp.PatchMask(4, 4, period=3, offset=1)
    >>> certify_view(rule.sample, images, rule).verdict().value
    'PROVED'
    >>> def by_product(x):
    ...     sample = rule.sample(x)
    ...     return x * ~sample.view.hidden, sample.y, sample.mask
    >>> report = certify_view(by_product, images, rule)
    >>> [(f.contract.name, f.witness.coordinates["hidden"]) for f in report.refuted if f.contract.name == "C1"]
    [('C1', (0, 0, 0, 4))]
    """
    if not isinstance(example, Tensor) or example.dim() == 0 or example.numel() == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InvalidArgument(f"example of shape {shape} must be a batch [N, *data] that is not empty")
    if not callable(view):
        raise InvalidArgument(f"view={view!r} must be a function of a batch; wrap it in a lambda")
    if not isinstance(rule, Rule | Mask | None):
        raise InvalidArgument(
            f"rule={rule!r} must be a fixed rule or a Mask; of a random rule pass a mask that it made"
        )
    if sizes not in ("all", "example"):
        raise InvalidArgument(f"sizes={sizes!r} must be 'example' or 'all' (prove beyond the example, seconds longer)")
    subject = str(name or getattr(view, "__qualname__", type(view).__name__))
    declared = Declared(view, example.detach(), rule, target, source)
    findings = attempt(subject, Contract.C8, REPEATS, lambda: _findings(declared))
    if sizes == "all":
        findings = extended(declared, findings)
    return Report(subject, findings)


def _findings(declared: Declared) -> Iterator[Finding]:
    """First whether the view repeats itself, then every claim; of several draws the first that is refuted."""
    repeats, random = _repeats(declared)
    yield repeats
    claims = CLAIMS if declared.rule is not None else CLAIMS[:-1]
    if repeats.verdict is not Verdict.PROVED and not random:
        reason = repeats.detail or "the view returns something else each time, even from equal global random states"
        for contract, claim, _ in claims:
            yield Finding(contract, claim, Verdict.UNKNOWN, "nothing", "not run", reason)
        return
    cases = [Case(declared, seed, random) for seed in range(DRAWS if random else 1)]
    for contract, claim, check in claims:
        start = time.perf_counter()
        for case in cases:
            found = attempt(claim, contract, claim, lambda: [check(case)])  # noqa: B023
            if found[0].verdict is Verdict.REFUTED:
                break
        yield replace(found[0], seconds=time.perf_counter() - start)


def _repeats(declared: Declared) -> tuple[Finding, bool]:
    """Calls from one random state, one from another, and whether the state moved: if so the view is random."""
    start = time.perf_counter()
    x, view = declared.example, View(declared.view)
    first, states, sources = _followed(view, x)

    def found(verdict: Verdict, scope: str, witness: Witness | None = None, detail: str = "") -> Finding:
        seconds = time.perf_counter() - start
        return Finding(Contract.C8, REPEATS, verdict, scope, "called again", detail, witness, seconds)

    for again in range(CALLS):
        second, other_states, other_sources = _followed(view, x) if again == 0 else (view(x), states, sources)
        for part in ("x", "y", "mask"):
            where = difference(getattr(first, part), getattr(second, part))
            if where is not None or other_states != states:
                what = f"two calls on the same input return another {part} at {where}"
                what = "a generator that the view keeps moves on from call to call" if where is None else what
                maps = {"first": getattr(first, part), "second": getattr(second, part)}
                return found(Verdict.REFUTED, "this input", Witness(what, {"x": x}, {part: where or ()}, maps)), False
        if any(difference(a, b) is not None for a, b in zip(sources, other_sources, strict=False)):
            reason = "what the view makes of its input in one call shows in the next: it keeps tensors"
            return found(Verdict.UNKNOWN, "these calls on this input", detail=reason), False
    with drawn(seed=0):
        uses = draws(lambda: declared.view(x.clone()))
    if not uses:
        return found(Verdict.PROVED, "these calls on this input"), False
    other = View(declared.view, seed=1)(x)
    moved = [p for p in ("x", "y", "mask") if difference(getattr(first, p), getattr(other, p)) is not None]
    what = f"the view uses the global random state: seeds 0 and 1 give another {' and '.join(moved) or 'state only'}"
    return found(Verdict.REFUTED, "this input", Witness(what, {"x": x, "seed": 0, "other seed": 1})), True


def _followed(view: View, x: Tensor) -> tuple[Output, list[bytes], list[Tensor]]:
    """What the view returns, the state of every generator of its own each time it is used, and the labels."""
    try:
        with LabelTrace(x := x.clone()) as trace:
            output = view.on(x)
        return output, trace.generators, [trace.labels(t) for t in (output.x, output.y, output.mask)]
    except NotImplementedError:
        return view(x), [], []
