"""What a theorem is: a statement, its program, a machine check, and mutants it rejects."""

import inspect
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from viewproof.verdict import Verdict

LAYERS = ("masks", "samples", "bridges", "methods", "algebra")
"""The layers of theorems, in the order in which they are listed."""


@dataclass(frozen=True)
class Agreement:
    """How many goals both solvers answer alike, and those that cvc5 does not, in words."""

    asked: int
    agreed: int
    unsettled: tuple[str, ...] = ()
    disagreed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.agreed}/{self.asked}"

    @property
    def text(self) -> str:
        """All of it, one goal a line."""
        return "\n".join([f"agrees on {self.agreed} of {self.asked} goals", *self.disagreed, *self.unsettled])


@dataclass(frozen=True)
class Outcome:
    """One answer. ``witness`` holds concrete inputs that break the statement, if it was refuted.

    ``second`` says how far cvc5 agrees, if it was asked.
    """

    verdict: Verdict
    detail: str = ""
    witness: Mapping[str, Any] | None = None
    goals: tuple[str, ...] = ()
    graphs: tuple[str, ...] = ()
    second: Agreement | None = None


@dataclass(frozen=True)
class Mutant:
    """A program with one plausible bug; the theorem about it must be REFUTED."""

    name: str
    what: str
    program: Any

    @classmethod
    def of(cls, program: Any) -> "Mutant":
        """A mutant from a function or class: its name in words, its docstring as what is wrong.

        >>> def rows_rolled(x):
        ...     "Row n predicts row n - 1."
        >>> Mutant.of(rows_rolled).name, Mutant.of(rows_rolled).what
        ('rows rolled', 'Row n predicts row n - 1')
        """
        words = re.sub("(?<=[a-z])(?=[A-Z])", " ", program.__name__).replace("_", " ").lower()
        return cls(words, first_paragraph(program).removesuffix("."), program)


@dataclass(frozen=True)
class Theorem:
    """A statement that ``prove(program)`` decides; ``holds(program, witness)`` evaluates it once."""

    name: str
    layer: str
    statement: str
    hypotheses: tuple[str, ...]
    scope: str
    method: str
    program: Any
    prove: Callable[[Any], Outcome]
    holds: Callable[[Any, Mapping[str, Any]], bool]
    mutants: tuple[Mutant, ...]
    module: str = ""
    """Where it is written."""


THEOREMS: dict[str, Theorem] = {}
"""Every theorem of the modules that have been imported, by name."""


def register(statement: Callable[..., Any], **fields: Any) -> Theorem:
    """Add the theorem with a function's name, docstring and module; the name must be new."""
    name = statement.__name__
    assert name not in THEOREMS, f"two theorems are called {name}"
    THEOREMS[name] = Theorem(name, statement=first_paragraph(statement), module=statement.__module__, **fields)
    return THEOREMS[name]


def first_paragraph(described: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())


@dataclass(frozen=True)
class Checked:
    """A theorem's outcome, its mutants' outcomes, and how long both took."""

    theorem: Theorem
    outcome: Outcome
    milliseconds: float
    mutants: Mapping[str, Outcome] = field(default_factory=dict)
    mutant_milliseconds: float = 0.0
    complaints: tuple[str, ...] = ()

    @property
    def green(self) -> bool:
        """PROVED, every mutant REFUTED, and every witness replayed."""
        return self.outcome.verdict is Verdict.PROVED and not self.complaints


def check(theorem: Theorem) -> Checked:
    """Prove the theorem, refute its mutants, and replay each witness on mutant and real program."""
    start = time.perf_counter()
    outcome = theorem.prove(theorem.program)
    proved = time.perf_counter()
    mutants: dict[str, Outcome] = {}
    complaints: list[str] = [] if theorem.mutants else ["no mutant shows that this theorem can fail"]
    for mutant in theorem.mutants:
        answer = mutants[mutant.name] = theorem.prove(mutant.program)
        if answer.verdict is not Verdict.REFUTED or answer.witness is None:
            complaints.append(f"mutant {mutant.name} came out {answer.verdict}: {answer.detail}")
        elif theorem.holds(mutant.program, answer.witness):
            complaints.append(f"mutant {mutant.name}: its witness does not replay")
        elif not theorem.holds(theorem.program, answer.witness):
            complaints.append(f"mutant {mutant.name}: its witness breaks the real program too")
    end = time.perf_counter()
    return Checked(theorem, outcome, 1e3 * (proved - start), mutants, 1e3 * (end - proved), tuple(complaints))
