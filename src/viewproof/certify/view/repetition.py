"""Whether a view repeats itself, and draws from no global generator but a declared one (C8)."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from viewproof.certify.check import Check, Claims
from viewproof.certify.flow.trace import LabelTrace
from viewproof.certify.outputs import difference
from viewproof.certify.report import Contract, Finding
from viewproof.certify.view.case import DeclaredView, ViewOutput

CALLS = 3
"""How often a view is called again on one input."""

repetition = Claims[DeclaredView](method="called again", scope="these calls on this input", witness_scope="this input")


@repetition(Contract.C8, "a second call returns the same, and no global random state is used")
def _repeats(declared: DeclaredView, check: Check) -> Finding:
    """Calls from one random state, one from another, and whether the state moved."""
    x = declared.example
    first, states, labels = _traced(declared)
    for again in range(CALLS):
        second, other_states, other_labels = (
            _traced(declared) if again == 0 else (declared.run(x.clone()), states, labels)
        )
        for part in ("x", "y", "mask"):
            where = difference(getattr(first, part), getattr(second, part))
            if where is not None or other_states != states:
                what = "a generator that the view keeps moves on from call to call"
                what = what if where is None else f"two calls on the same input return another {part} at {where}"
                maps = {"first": getattr(first, part), "second": getattr(second, part)}
                return check.refuted(what, {"x": x}, {part: where or ()}, maps)
        if any(difference(a, b) is not None for a, b in zip(labels, other_labels, strict=False)):
            return check.undecided("what the view makes of its input in one call shows in the next: it keeps tensors")
    if declared.generator is not None:
        return _repeats_from_a_seed(declared, check, first)
    if not declared.random:
        return check.proved()
    other = declared.run(x.clone(), seed=1)
    moved = [p for p in ("x", "y", "mask") if difference(getattr(first, p), getattr(other, p)) is not None]
    what = f"the view uses the global random state: seeds 0 and 1 give another {' and '.join(moved) or 'state only'}"
    return check.refuted(what, {"x": x, "seed": 0, "other seed": 1})


def _repeats_from_a_seed(declared: DeclaredView, check: Check, first: ViewOutput) -> Finding:
    """For a view that may draw from torch's global generator: what it returns follows from no other."""
    check = replace(check, claim="from one seed of torch's global generator a call returns the same; no other is used")
    for seed in (1, 2):

        def reseeded(x: Tensor, seed: int = seed) -> Any:
            np.random.seed(seed)
            random.seed(seed)
            return declared.view(x)

        again = replace(declared, view=reseeded).run(declared.example.clone())
        for part in ("x", "y", "mask"):
            where = difference(getattr(first, part), getattr(again, part))
            if where is not None:
                what = f"with NumPy's and Python's generators seeded otherwise another {part} is returned at {where}"
                return check.refuted(what, {"x": declared.example, "seed": 0, "other seed": seed})
    return check.proved()


def _traced(declared: DeclaredView) -> tuple[ViewOutput, list[bytes], list[Tensor]]:
    """What the view returns, the states of its own generators at each use, and the labels."""
    try:
        with LabelTrace(x := declared.example.clone()) as trace:
            output = declared.run(x)
        return output, trace.generators, [trace.labels(t) for t in (output.x, output.y, output.mask)]
    except NotImplementedError:
        return declared.run(declared.example.clone()), [], []
