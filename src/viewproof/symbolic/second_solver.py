"""A second opinion: every goal that Z3 decided, written as SMT-LIB 2 and checked by cvc5 as well.

Whoever relies on an answer of Z3 notes it here. Inside `collecting` the goals are kept, outside a note costs nothing.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import z3

from viewproof.symbolic.terms import Term, as_z3

SECONDS = 60.0
"""What cvc5 has for one goal."""


@dataclass(frozen=True)
class Goal:
    """Conditions in SMT-LIB 2, and Z3's answer.

    ``weaker``: they say less than what Z3 was asked, so that only ``unsat`` carries over.
    """

    what: str
    text: str
    satisfiable: bool
    weaker: bool


_collected: dict[str, Goal] | None = None


@contextmanager
def collecting() -> Iterator[dict[str, Goal]]:
    """The goals noted inside the block, by their text."""
    global _collected
    before, _collected = _collected, {}
    try:
        yield _collected
    finally:
        _collected = before


def active() -> bool:
    """Whether notes are kept."""
    return _collected is not None


def note(what: str, conditions: Iterable[Term], satisfiable: bool = False, weaker: bool = False) -> None:
    """Keep a goal that Z3 has decided: these conditions have no common model, or have one."""
    if _collected is None:
        return
    terms, laws = _standard([*map(as_z3, conditions)])
    text = smt_lib([*terms, *laws])
    _collected.setdefault(text, Goal(what, text, satisfiable, weaker or bool(laws)))


def smt_lib(conditions: Sequence[z3.BoolRef]) -> str:
    """The conditions as declarations and assertions in SMT-LIB 2."""
    solver = z3.Solver()
    solver.add(*conditions)
    text = solver.to_smt2().replace("(check-sat)", "")
    # Z3 prints a conjunction of nothing as the bare symbol.
    text = re.sub(r"(?<=\s)and(?=[\s)])", "true", text)
    text = re.sub(r"(?<=\s)or(?=[\s)])", "false", text)
    text = re.sub(r"\(declare-fun (\|(\w+) as (\w+)\|) \(\) \3\)", r"(define-fun \1 () \3 (as \2 \3))", text)
    return f"(set-logic ALL)\n{text}"


def _standard(conditions: list[z3.BoolRef]) -> tuple[list[z3.BoolRef], list[z3.BoolRef]]:
    """The conditions in words that SMT-LIB has, and premises about the words that stand for others.

    Z3's own ``fp.to_ieee_bv`` becomes a function whose bits are only assumed to encode the number, while Z3 fixes a
    NaN's bits too. A constructor without arguments, such as ``nil``, belongs to one datatype only by its sort, which
    Z3 does not print.
    """
    replaced: list[tuple[z3.ExprRef, z3.ExprRef]] = []
    laws: list[z3.BoolRef] = []
    seen: set[int] = set()

    def visit(term: z3.ExprRef) -> None:
        if term.get_id() in seen:
            return
        seen.add(term.get_id())
        for child in term.children():
            visit(child)
        if z3.is_app_of(term, z3.Z3_OP_FPA_TO_IEEE_BV):
            number = z3.substitute(term.arg(0), *replaced)
            bits = z3.Function(f"bits of {number.sort()}", number.sort(), term.sort())(number)
            replaced.append((term, bits))
            laws.append(z3.fpBVToFP(bits, number.sort()) == number)
        elif z3.is_app_of(term, z3.Z3_OP_DT_CONSTRUCTOR) and term.num_args() == 0:
            replaced.append((term, z3.Const(f"{term.decl().name()} as {term.sort().name()}", term.sort())))

    for condition in conditions:
        visit(condition)
    return [z3.substitute(condition, *replaced) for condition in conditions], laws


_ANSWERS: dict[str, str] = {}


def answers(texts: Sequence[str], seconds: float = SECONDS) -> list[str]:
    """cvc5's answer to each text: ``sat``, ``unsat``, or why neither is known."""
    with ExitStack() as stack:
        solver = None
        for text in texts:
            if text in _ANSWERS:
                continue
            for options, share in _attempts(text):
                solver = solver or stack.enter_context(_Process())
                answer = solver.ask(text, options, seconds * share)
                if answer is None:
                    solver, answer = None, "timeout"
                _ANSWERS[text] = f"timeout after {seconds:g} s" if answer == "timeout" else answer
                if answer != "timeout":
                    break
    return [_ANSWERS[text] for text in texts]


def _attempts(text: str) -> list[tuple[dict[str, str], float]]:
    """cvc5's options, and the share of the time that they get."""
    if "Real" not in text:
        return [({}, 1.0)]
    # Cylindrical algebraic coverings, first beside the usual linearization, which may never finish with a square of
    # real numbers, then alone.
    coverings = {"nl-cov": "true"}
    return [(coverings, 0.02), ({**coverings, "nl-ext": "none"}, 0.05), ({}, 0.93)]


class _Process:
    def __enter__(self) -> "_Process":
        script = Path(__file__).with_name("cvc5_process.py")
        # -P: the script's folder is no place to look for modules.
        command = [sys.executable, "-P", str(script)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def ask(self, text: str, options: dict[str, str], seconds: float) -> str | None:
        """The answer; None if the process overran its time and was killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([text, options, seconds]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return str(json.loads(line)) if line else None

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
