"""Decides a statement about a program: every path, every claim, and that the paths cover all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import z3

from viewproof.symbolic import explore, second_solver
from viewproof.symbolic.capture import Capture, CaptureFailed
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import outputs, symbolic_inputs
from viewproof.symbolic.prove import TIMEOUT, follows
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import as_z3, conj, implies, known
from viewproof.symbolic.values import NoMeaning
from viewproof.theorems.registry import Outcome
from viewproof.theorems.tensors import agreement
from viewproof.theorems.tensors.case import TensorCase
from viewproof.theorems.tensors.lemmas import proved_lemmas
from viewproof.theorems.tensors.witness import broken, build, counterexample, describe, read_model
from viewproof.verdict import Verdict

_SHOWN = 12
"""Goals and graphs that an outcome keeps in words; the rest are counted."""

_MEANINGS: dict[Capture, tuple[Facts, dict[str, Any], list[Any]]] = {}
"""Facts, inputs and outputs of a capture whose operators are proved to be defined: theorems share captures."""


def forget() -> None:
    """Drop what is kept of captured programs; needed once their code has been changed."""
    _MEANINGS.clear()
    explore.forget()
    agreement.forget()
    proved_lemmas.cache_clear()


class _Decided(Exception):
    """The verdict that ends a decision early."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.detail)
        self.outcome = outcome


@dataclass
class Record:
    """What was asked on the way to a verdict."""

    goals: list[str] = field(default_factory=list)
    graphs: list[str] = field(default_factory=list)
    count: int = 0
    claims: dict[str, bool] = field(default_factory=dict)
    """Whether there are arguments and a coordinate that a claim says something of."""

    def goal(self, title: str, term: Any) -> None:
        """Keep one goal."""
        self.count += 1
        if len(self.goals) < _SHOWN:
            # Z3's own printer; the one in Python takes longer than most proofs.
            self.goals.append(f"{title}\n{term if known(term) else z3.simplify(term).sexpr()}")

    def refuted(self, broken_claim: str, witness: dict[str, Any]) -> _Decided:
        """The end of a decision: the last goal, on the last graph, has this counterexample."""
        last = tuple(self.goals[-1:]), tuple(self.graphs[-1:])
        return _Decided(Outcome(Verdict.REFUTED, broken_claim, witness, *last))


def decide(cases: Sequence[TensorCase], program: Any) -> Outcome:
    """PROVED if every claim of every case holds on every path, and the paths cover the hypotheses."""
    record = Record()
    try:
        for case in cases:
            _decide_case(case, program, record)
    except _Decided as decided:
        return decided.outcome
    except (NoMeaning, CaptureFailed) as error:
        tried = next(filter(None, (counterexample(case, program) for case in cases)), None)
        if tried is not None:
            return Outcome(Verdict.REFUTED, *tried)
        return Outcome(Verdict.UNKNOWN, str(error), None, tuple(record.goals), tuple(record.graphs))
    if not record.claims:
        return Outcome(Verdict.VACUOUS, "nothing is claimed")
    if idle := [name for name, can_hold in record.claims.items() if not can_hold]:
        return Outcome(Verdict.VACUOUS, f"no argument meets the premise of {idle}")
    goals = (*record.goals, *proved_lemmas())
    return Outcome(Verdict.PROVED, f"{record.count} goals", None, goals, tuple(record.graphs))


def _decide_case(case: TensorCase, program: Any, record: Record) -> None:
    subject = case.subject
    for example in subject.examples:
        broken_claim = broken(case, program, example)
        if broken_claim is not None:
            raise record.refuted(broken_claim, describe(case, example))
    facts = Facts(subject.arithmetic)
    hypotheses = [h for h in subject.hypotheses(symbolic_inputs(subject.signature, facts)) if h is not True]
    on_sizes = [*facts.assumed, *hypotheses]
    solver = z3.Solver()
    solver.add(*on_sizes)
    if solver.check() != z3.sat:
        raise _Decided(Outcome(Verdict.VACUOUS, f"{subject.name}: the hypotheses cannot hold"))
    second_solver.note(f"{subject.name}: the hypotheses can hold", on_sizes, satisfiable=True)
    captures: list[Capture] = []
    observe = partial(subject.observe, program)
    for capture in explore.explore(observe, subject.signature, on_sizes, (subject, program), subject.paths):
        captures.append(capture)
        if len(record.graphs) < _SHOWN and capture.text not in record.graphs:
            record.graphs.append(capture.text)
        _decide_capture(case, program, capture, record)
    different = agreement.disagreement(subject, program, captures)
    if different is not None:
        raise NoMeaning(f"{subject.name}: the captured graph is not the program: {different}")


def _decide_capture(case: TensorCase, program: Any, capture: Capture, record: Record) -> None:
    if capture not in _MEANINGS:
        facts = Facts(case.subject.arithmetic, meanings=case.subject.meanings)
        inputs = symbolic_inputs(case.subject.signature, facts)
        facts.assume(*case.subject.hypotheses(inputs), capture.path)
        if case.subject.value_hypotheses is not None:
            facts.assume(*case.subject.value_hypotheses(inputs, facts))
        observed = outputs(capture, inputs, facts)
        for what, condition in facts.needs:
            _ask(case, program, facts, inputs, f"defined: {what}", condition, record)
        _MEANINGS[capture] = facts, inputs, observed
    facts, inputs, observed = _MEANINGS[capture]
    before = len(facts.assumed)
    # The statement is read to its end before anything is asked: a refutation would leave it amid its premises.
    claims = [(what, facts.assumed[before:], goal) for what, goal in case.claims(inputs, observed, facts)]
    for what, premises, goal in claims:
        with facts.given(*premises):
            name = f"{case.subject.name}: {what}"
            if not record.claims.get(name):
                record.claims[name] = not premises or _can_hold(facts.assumed, _sizes(inputs))
            _ask(case, program, facts, inputs, what, goal, record)


def _can_hold(conditions: Sequence[Any], sizes: Sequence[Any]) -> bool:
    solver = z3.Solver()
    solver.set("timeout", 2000)
    solver.add(*map(as_z3, conditions))
    for bound in (1, 2, 3, 1000):
        if solver.check(*(size <= bound for size in sizes)) == z3.sat:
            smaller = [size <= bound for size in sizes]
            second_solver.note("a premise can hold", [*conditions, *smaller], satisfiable=True)
            return True
    return False


def _sizes(inputs: Any) -> list[Any]:
    return [d for i in inputs.values() for d in (i.shape if isinstance(i, SymTensor) else (i,)) if not known(d)]


def _ask(case: TensorCase, program: Any, facts: Facts, inputs: Any, what: str, goal: Any, record: Record) -> None:
    record.goal(f"{case.subject.name}: {what}", implies(conj(*facts.assumed), goal) if not known(goal) else goal)
    answer = follows(facts, goal, _sizes(inputs), seconds=1.0)
    if answer.kind == "unknown":
        tried = counterexample(case, program)
        if tried is not None:
            raise record.refuted(*tried)
    for seconds in (4.0, TIMEOUT):
        if answer.kind == "unknown":
            answer = follows(facts, goal, _sizes(inputs), seconds)
    if answer.kind == "unknown":
        raise NoMeaning(f"{case.subject.name}: {what}: {answer.reason}")
    if answer.kind == "refuted":
        assert answer.model is not None
        witness = {"case": case.subject.name, **read_model(answer.model, inputs, case.subject.arithmetic == "real")}
        broken_claim = broken(case, program, build(case, witness))
        if broken_claim is None:
            # Z3 may choose the bits of a NaN that arithmetic makes; the machine makes its own. Trials have others.
            tried = counterexample(case, program)
            if tried is not None:
                raise record.refuted(*tried)
            detail = f"{case.subject.name}: {what}: the counterexample does not replay"
            raise _Decided(Outcome(Verdict.UNKNOWN, detail, witness))
        raise record.refuted(broken_claim, witness)
