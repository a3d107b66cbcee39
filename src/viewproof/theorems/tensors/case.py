"""What a theorem is about: how to run and observe a program, and what must hold of what is observed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from viewproof.symbolic.capture import Signature
from viewproof.symbolic.explore import LIMIT
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Claim:
    """A formula that holds at every coordinate of the extents at which the premise does."""

    what: str
    extents: tuple[Term, ...]
    holds: Callable[..., Term]
    premise: Callable[..., Term] | None = None


@dataclass(frozen=True, eq=False)
class Subject:
    """How a program is called (its arguments and what is asked of them) and which tensors are observed."""

    name: str
    signature: Signature
    observe: Callable[..., Sequence[Tensor]]
    hypotheses: Callable[[Inputs], Sequence[Term]]
    arithmetic: str = "ieee"
    given: Callable[[Inputs, Facts], Sequence[Term]] | None = None
    """Hypotheses about the values in the tensors, which no path depends on."""
    replay: Callable[..., Sequence[Tensor]] | None = None
    """How witnesses are run, if not by ``observe``."""
    paths: int = LIMIT
    """How many captures are tried."""


@dataclass(frozen=True)
class Case:
    """One subject and what is claimed of it."""

    subject: Subject
    claims: Callable[[Inputs, Sequence[Any], Facts], Sequence[Claim]]
