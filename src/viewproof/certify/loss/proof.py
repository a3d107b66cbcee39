"""Proves that a captured loss is its declared objective, for all sizes and masks; imports Z3."""

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import z3
from torch import Tensor

from viewproof.masks import Mask, Sample
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, same
from viewproof.theorems.registry import Outcome
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Subject, TensorCase
from viewproof.theorems.tensors.decide import decide
from viewproof.theorems.tensors.spec import same_shape
from viewproof.torch_internals import replaced
from viewproof.verdict import Verdict

Call = Callable[[Tensor, Sample], Tensor]
_PATHS = 12
"""A loss that takes more paths than these, a loop over rows say, is not worth the minutes."""


def prove_value(
    call: Call, y: Tensor, per_sample: bool, reduction: str, distance: Callable[[Tensor], Tensor]
) -> Outcome:
    """Whether the loss is the declared mean or sum of distances over the mask, over the reals."""

    def observe(program: Call, prediction: Tensor, y: Tensor, hidden: Tensor, count: Any) -> Sequence[Tensor]:
        # The loss as it runs eagerly, with the mask's count, a Python number there, as a symbol.
        mask = _CountedMask(hidden, per_sample, "any mask", counted=hidden, known_count=count)
        with replaced(torch.compiler, "is_compiling", lambda: False):
            loss = program(prediction, Sample(y, y, mask))
        return [loss, distance(prediction - y)]

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> Claims:
        loss, terms = observed
        zero = z3.RealVal(0)

        def term(*place: Term) -> Any:
            return z3.If(_selected(inputs, place), terms.at(place), zero)

        yield "a distance for each coordinate", same_shape(terms.shape, inputs["y"].shape)
        if reduction == "rows":
            rows, *rest = inputs["y"].shape
            for row in facts.each([rows]):
                total = _sum(facts, rest, partial(term, *row), zero)
                yield "row n of the loss is the row's sum of distances", facts.equal(loss.at(row), total)
        else:
            count = z3.ToReal(_count(inputs, facts)) if reduction == "mean" else z3.RealVal(1)
            total = _sum(facts, inputs["y"].shape, term, zero)
            what = "loss * selected coordinates == sum of distances over the mask"
            yield what, facts.equal(loss.at(()) * count, total)

    def replay(program: Call, prediction: Tensor, y: Tensor, hidden: Tensor, count: Any) -> Sequence[Tensor]:
        # On concrete tensors what the mask selects is counted, instead of believing the witness.
        return observe(program, prediction, y, hidden, int(hidden.sum()))

    kinds = {"prediction": TensorInput(y.dim(), y.dtype), "y": TensorInput(y.dim(), y.dtype)}
    signature: dict[str, Any] = {**kinds, "hidden": TensorInput(y.dim() - (not per_sample), torch.bool), "count": INT}
    count_is_right = _counted if reduction == "mean" else None
    subject = Subject("loss", signature, observe, _fitting, "real", count_is_right, replay, paths=_PATHS)
    disabled = logging.root.manager.disable
    # What torch prints of a program that it cannot export comes back as the reason of the outcome.
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return decide([TensorCase(subject, claims)], call)
    except z3.Z3Exception as error:
        # A floating-point sum has no bit for bit meaning; what is computed from it does not even have the right sort.
        return Outcome(Verdict.UNKNOWN, f"no meaning: {error}")
    finally:
        logging.disable(disabled)


@dataclass(frozen=True, eq=False)
class _CountedMask(Mask):
    """A mask whose count is known, as long as it selects the coordinates that were counted."""

    counted: Tensor | None = None
    known_count: Any = None

    @property
    def count(self) -> Any:
        """How many coordinates are selected: a symbol, where the mask itself is one."""
        return self.known_count if self.hidden is self.counted else int(self.hidden.count_nonzero())


def _fitting(inputs: Inputs) -> list[Term]:
    shape, hidden = inputs["y"].shape, inputs["hidden"].shape
    pairs = [
        *zip(inputs["prediction"].shape, shape, strict=True),
        *zip(hidden, shape[len(shape) - len(hidden) :], strict=True),
    ]
    return [*(same(a, b) for a, b in pairs), inputs["count"] > 0, shape[0] > 0]


def _counted(inputs: Inputs, facts: Facts) -> list[Term]:
    """The mask selects something; ``count`` is what Python counts: one row's if rows share it."""
    total, own = _count(inputs, facts), inputs["count"]
    shared = inputs["hidden"].rank < inputs["y"].rank
    return [total > 0, total == (inputs["y"].shape[0] * own if shared else own)]


def _selected(inputs: Inputs, place: Sequence[Term]) -> Any:
    hidden = inputs["hidden"]
    return hidden.at(tuple(place)[len(place) - hidden.rank :])


def _count(inputs: Inputs, facts: Facts) -> Any:
    one, none = z3.IntVal(1), z3.IntVal(0)
    return _sum(facts, inputs["y"].shape, lambda *place: z3.If(_selected(inputs, place), one, none), none)


def _sum(facts: Facts, extents: Sequence[Term], value: Callable[..., Any], zero: Any) -> Any:
    if not extents:
        return value()
    return facts.sum(extents[0], lambda i: _sum(facts, extents[1:], lambda *rest: value(i, *rest), zero), zero)
