"""Whether a view returns the same for the same input (C8): without that, runs of it cannot be compared."""

from torch import Tensor

from viewproof.certify.check import Check, Claims
from viewproof.certify.flow.trace import LabelTrace
from viewproof.certify.outputs import difference
from viewproof.certify.report import Contract, Finding
from viewproof.certify.view.case import DeclaredView
from viewproof.certify.view.output import SeededView, ViewOutput

CALLS = 3
"""How often a view is called again on one input."""

repetition = Claims[DeclaredView](method="called again", scope="these calls on this input", witness_scope="this input")


@repetition(Contract.C8, "a second call returns the same, and no global random state is used")
def repeats(declared: DeclaredView, check: Check) -> Finding:
    """Calls from one random state, one from another, and whether the state moved: if so the view is random."""
    x, view = declared.example, SeededView(declared.view)
    first, states, labels = _traced(view, x)
    for again in range(CALLS):
        second, other_states, other_labels = _traced(view, x) if again == 0 else (view(x), states, labels)
        for part in ("x", "y", "mask"):
            where = difference(getattr(first, part), getattr(second, part))
            if where is not None or other_states != states:
                what = f"two calls on the same input return another {part} at {where}"
                what = "a generator that the view keeps moves on from call to call" if where is None else what
                maps = {"first": getattr(first, part), "second": getattr(second, part)}
                return check.refuted(what, {"x": x}, {part: where or ()}, maps)
        if any(difference(a, b) is not None for a, b in zip(labels, other_labels, strict=False)):
            reason = "what the view makes of its input in one call shows in the next: it keeps tensors"
            return check.undecided(reason)
    if not declared.random:
        return check.proved()
    other = SeededView(declared.view, seed=1)(x)
    moved = [p for p in ("x", "y", "mask") if difference(getattr(first, p), getattr(other, p)) is not None]
    what = f"the view uses the global random state: seeds 0 and 1 give another {' and '.join(moved) or 'state only'}"
    return check.refuted(what, {"x": x, "seed": 0, "other seed": 1})


def _traced(view: SeededView, x: Tensor) -> tuple[ViewOutput, list[bytes], list[Tensor]]:
    """What the view returns, the state of every generator of its own each time it is used, and the labels."""
    try:
        with LabelTrace(x := x.clone()) as trace:
            output = view.on(x)
        return output, trace.generators, [trace.labels(t) for t in (output.x, output.y, output.mask)]
    except NotImplementedError:
        return view(x), [], []
