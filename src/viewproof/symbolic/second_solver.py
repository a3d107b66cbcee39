"""A second opinion: every goal that Z3 decided, written as SMT-LIB 2 and settled by cvc5 as well.

Whoever relies on an answer of Z3 notes it here. Inside `collecting` the goals are kept, outside a note costs nothing.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import z3

from viewproof.symbolic.terms import Term, known

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
    """Keep a goal that Z3 has settled: these conditions together have no model, or have one."""
    if _collected is None:
        return
    terms, unspecified = _standard([z3.BoolVal(c) if known(c) else c for c in conditions])
    text = smt_lib(terms)
    _collected.setdefault(text, Goal(what, text, satisfiable, weaker or unspecified))


def smt_lib(conditions: Sequence[z3.BoolRef]) -> str:
    """The conditions as declarations and assertions in SMT-LIB 2."""
    solver = z3.Solver()
    solver.add(*conditions)
    text = solver.to_smt2().replace("(check-sat)", "")
    # Z3 prints a conjunction of nothing as the bare symbol.
    text = re.sub(r"(?<=\s)and(?=[\s)])", "true", text)
    text = re.sub(r"(?<=\s)or(?=[\s)])", "false", text)
    return f"(set-logic ALL)\n{text}"


def _standard(conditions: list[z3.BoolRef]) -> tuple[list[z3.BoolRef], bool]:
    """The conditions without Z3's own ``fp.to_ieee_bv``, and whether there was any.

    In its place stands a function of which is only said that its bits encode the number; Z3 fixes a NaN's bits too.
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

    for condition in conditions:
        visit(condition)
    if not replaced:
        return conditions, False
    return [*(z3.substitute(condition, *replaced) for condition in conditions), *laws], True


_ANSWERS: dict[str, str] = {}


def answers(texts: Sequence[str], seconds: float = SECONDS) -> list[str]:
    """cvc5's answer to each text: ``sat``, ``unsat``, or why neither is known."""
    process: subprocess.Popen[str] | None = None
    try:
        for text in texts:
            if text in _ANSWERS:
                continue
            if process is None:
                script = Path(__file__).with_name("cvc5_process.py")
                # -P: this folder is no place to look for modules.
                command = [sys.executable, "-P", str(script)]
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(json.dumps([text, seconds]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
            _ANSWERS[text] = json.loads(line) if line else f"cvc5 ended with exit code {process.wait()}"
            process = process if line else None
    finally:
        if process is not None:
            process.kill()
            process.communicate()
    return [_ANSWERS[text] for text in texts]
