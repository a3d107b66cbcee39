"""The proof of a theorem with every goal checked by cvc5 too."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from viewproof.symbolic import second_solver
from viewproof.theorems.lists import engine
from viewproof.theorems.registry import Agreement, Outcome, Theorem
from viewproof.theorems.tensors import decide
from viewproof.verdict import Verdict


def with_second_opinion(theorem: Theorem, solver: str, seconds: float = second_solver.SECONDS) -> Theorem:
    """The theorem with a proof that also asks cvc5.

    Only about the theorem's own program: mutants' witnesses are replayed, and need no second opinion.

    Where the solvers disagree it is UNKNOWN. With ``solver="cvc5"`` it is also UNKNOWN where cvc5 leaves a goal open;
    with ``"both"`` Z3's verdict stays, and the outcome says how many goals cvc5 decided.
    """

    def prove(program: Any) -> Outcome:
        if program is not theorem.program:
            return theorem.prove(program)
        # What other theorems have proved is asked again, so that the count is of all goals of this one.
        decide.forget()
        engine._real_difference.cache_clear()
        with second_solver.collecting() as goals:
            outcome = theorem.prove(program)
        agreement = compare(goals.values(), seconds)
        outcome = replace(outcome, second=agreement)
        if outcome.verdict is not Verdict.PROVED:
            return outcome
        if agreement.disagreed:
            return replace(outcome, verdict=Verdict.UNKNOWN, detail=f"the solvers disagree: {agreement.disagreed[0]}")
        if solver == "cvc5" and agreement.unsettled:
            return replace(outcome, verdict=Verdict.UNKNOWN, detail=f"cvc5 leaves open: {agreement.unsettled[0]}")
        return outcome

    return replace(theorem, prove=prove)


def compare(goals: Iterable[second_solver.Goal], seconds: float) -> Agreement:
    """What cvc5 says to goals that Z3 has decided."""
    goals = list(goals)
    agreed = 0
    unsettled: list[str] = []
    disagreed: list[str] = []
    for goal, answer in zip(goals, second_solver.answers([goal.text for goal in goals], seconds), strict=True):
        expected = "sat" if goal.satisfiable else "unsat"
        if answer not in ("sat", "unsat"):
            unsettled.append(f"{goal.what}: {answer}")
        elif answer == "sat" and goal.weaker:
            unsettled.append(f"{goal.what}: what could be written has a model")
        elif answer == expected:
            agreed += 1
        else:
            disagreed.append(f"{goal.what}: Z3 says {expected}, cvc5 says {answer}")
    return Agreement(len(goals), agreed, tuple(unsettled), tuple(disagreed))
