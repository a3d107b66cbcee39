"""What a theorem is about: how to run and observe a program, and what must hold of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from viewproof.symbolic.capture import IntInput, Signature
from viewproof.symbolic.explore import LIMIT
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import spec

Inputs = Mapping[str, Any]
"""A subject's arguments by name: symbolic tensors and integers, or concrete ones when a witness is replayed."""

Observed = Sequence[Any]
"""The tensors that a subject observes, as functions of their coordinates."""

INT = IntInput()
PERIODIC: Signature = {"period": INT, "offset": INT}
PATCHES: Signature = {"patch_h": INT, "patch_w": INT, **PERIODIC}
"""Arguments that many subjects take."""


Claims = Iterator[tuple[str, Term]]
"""Formulas, each with what it says: at every coordinate of `Facts.each`, under the premises of `Facts.given`."""


@dataclass(frozen=True, eq=False)
class Subject:
    """How a program is called, what is asked of its arguments, and which tensors are observed."""

    name: str
    signature: Signature
    observe: Callable[..., Sequence[Tensor]]
    hypotheses: Callable[[Inputs], Sequence[Term]]
    arithmetic: str = "ieee"
    value_hypotheses: Callable[[Inputs, Facts], Sequence[Term]] | None = None
    """Hypotheses about the values in the tensors, which no path depends on."""
    replay: Callable[..., Sequence[Tensor]] | None = None
    """How witnesses are run, if not by ``observe``."""
    meanings: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    """Meanings of operators for this subject alone, before those of the table."""
    examples: Sequence[Sequence[Any]] = ()
    """Arguments that are tried before any proof."""
    paths: int = LIMIT
    """How many captures are tried."""


@dataclass(frozen=True)
class TensorCase:
    """One subject and what is claimed of it."""

    subject: Subject
    claims: Callable[[Inputs, Observed, Facts], Claims]


def not_negative(inputs: Inputs) -> list[Term]:
    """The hypotheses that every integer argument is at least 0."""
    return [value >= 0 for value in inputs.values() if not hasattr(value, "at")]


def result(program: Any, *arguments: Any) -> Sequence[Tensor]:
    """What is observed of a program that returns one tensor."""
    return [program(*arguments)]


def same_tensors(what: str, a: Any, b: Any, facts: Facts) -> Claims:
    """The claims that two tensors have one shape and the same bits at every coordinate."""
    yield f"{what}: the same shape", spec.same_shape(a.shape, b.shape)
    for place in facts.each(b.shape):
        yield f"{what}: the same bits", agree(a.at(place), b.at(place), b.dtype)
