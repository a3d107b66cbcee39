"""Certifies a view: the hidden does not show, the visible is untouched, the loss asks for it."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from viewproof.certify.check import failure, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.inputs import require_batch
from viewproof.certify.report import Report
from viewproof.certify.view.case import DeclaredView
from viewproof.certify.view.claims import RULE, claims
from viewproof.certify.view.proof import extended
from viewproof.certify.view.repetition import repetition
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.verdict import Verdict


@puts_back
def certify_view(
    view: Callable[[Tensor], Any],
    example: Tensor,
    rule: Rule | Mask | None = None,
    *,
    target: Callable[[Tensor], Tensor] | None = None,
    source: Callable[[Tensor], Tensor] | None = None,
    scored: Mask | Tensor | None = None,
    generator: Literal["global"] | None = None,
    sizes: Literal["example", "all"] = "example",
    name: str | None = None,
) -> Report:
    """Whether hidden content stays hidden, visible content passes, target and mask are right.

    ``view(x)`` takes a batch ``[N, *data]`` and returns a `Sample`, or ``x, y, mask`` as a tuple, a mapping or
    attributes. ``mask`` (a `Mask`, or a bool tensor, True = hidden) lies over y's coordinates or its first axes, with
    or without the batch axis. There may be a ``view``, the same over x or over the source, and ``kept``: target
    coordinates that the loss asks for although x is declared to show them (BERT's kept tokens).

    A target coordinate is scored, visible, or hidden and not scored (I-JEPA's blocks, partial prediction). The last is
    declared by a ``view`` that hides more than the mask selects, where no rule says otherwise, or by ``scored=``: what
    the mask must select, over y like it.

    What is hidden: the rule's coordinates; without a rule those of ``view`` if x has the source's shape; else the
    source coordinates that the masked target is made of. What y should be: ``target(x)``, by default x itself or the
    row-major prefix of the flattened x, whichever has y's shape. What x should show: ``source(x)``, by default x (a
    view that normalises declares its normalisation here and in ``target``); an x of another shape than the source must
    show each visible coordinate somewhere in its own row.

    Findings: C1 hidden content does not reach x; C2 visible content passes, and the input is not written to; C3 the
    target; C4 the mask selects what x does not show, or what is declared of it; with a rule, C5 the mask (and the
    view's) is the rule's; C8 a second call returns the same and no global random state is used.

    With ``generator="global"`` the view is declared to draw from torch's global generator, as maskers of other projects
    do: C8 then asks that nothing else decides, and the rest is asked of the draws of seeds 0 to 7.

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
    require_batch(example)
    if not callable(view):
        raise InvalidArgument(f"view={view!r} must be a function of a batch; wrap it in a lambda")
    if generator not in (None, "global"):
        raise InvalidArgument(f"generator={generator!r} must be 'global' (torch's own) or None")
    if not isinstance(rule, Rule | Mask | None):
        raise InvalidArgument(
            f"rule={rule!r} must be a fixed rule or a Mask; of a random rule pass a mask that it made"
        )
    return certify_declared(DeclaredView(view, example.detach(), rule, target, source, scored, generator), sizes, name)


def certify_declared(declared: DeclaredView, sizes: str = "example", name: str | None = None) -> Report:
    """`certify_view` of a view that others look at too: ``declared`` keeps what was traced."""
    if sizes not in ("all", "example"):
        raise InvalidArgument(f"sizes={sizes!r} must be 'example' or 'all' (prove beyond the example, seconds longer)")
    subject, reason = subject_name(declared.view, name), ""
    findings = repetition.run(subject, declared)
    repeats = findings[0]
    # A view that draws from the global generators still repeats itself from equal seeds.
    if repeats.verdict is Verdict.PROVED or (repeats.witness is not None and "seed" in repeats.witness.inputs):
        try:
            findings += claims.run(subject, *declared.cases)
        except Exception as error:
            reason = failure(subject, error)
    elif repeats.scope != "nothing":
        reason = repeats.detail or "the view returns something else each time, even from equal global random states"
    if reason:
        findings += tuple(f for f in claims.unknown(reason) if f.claim != RULE or declared.rule is not None)
    return Report(subject, extended(declared, findings) if sizes == "all" else findings)
