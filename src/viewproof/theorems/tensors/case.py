"""What a theorem is about: how to run and observe a program, and what must hold of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from viewproof.symbolic.capture import Signature
from viewproof.symbolic.explore import LIMIT
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term
from viewproof.symbolic.values import agree
from viewproof.theorems.tensors import spec

Inputs = Mapping[str, Any]
"""A subject's arguments by name: symbolic tensors and integers, or concrete ones when a witness is replayed."""

Observed = Sequence[Any]
"""The tensors that a subject observes, as functions of their coordinates."""


@dataclass(frozen=True)
class TensorClaim:
    """A formula that holds at every coordinate of the extents at which the premise does."""

    what: str
    extents: tuple[Term, ...]
    holds: Callable[..., Term]
    premise: Callable[..., Term] | None = None


Claims = list[TensorClaim]


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


def same_extents(what: str, a: Sequence[Term], b: Sequence[Term]) -> TensorClaim:
    """The claim that two shapes are equal."""
    return TensorClaim(what, (), lambda: spec.same_shape(a, b))


def same_tensors(what: str, a: Any, b: Any) -> Claims:
    """The claims that two tensors have one shape and the same bits at every coordinate."""
    return [
        same_extents(f"{what}: the same shape", a.shape, b.shape),
        TensorClaim(f"{what}: the same bits", b.shape, lambda *place: agree(a.at(place), b.at(place), b.dtype)),
    ]
