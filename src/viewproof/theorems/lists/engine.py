"""How a statement of the finite algebra is checked.

1. Its hypotheses can hold, with every list non-empty (else VACUOUS).
2. The public functions, run on every list up to a small length with symbolic entries, satisfy it (else REFUTED).
3. Each public function it calls equals its recursive definition on lists of length 0 to 6 (else UNKNOWN).
4. The definitions satisfy it on lists of every length: base and step, each discharged by Z3.
"""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType, SimpleNamespace
from typing import Any

import z3

from viewproof import objectives
from viewproof.symbolic import second_solver
from viewproof.theorems.lists import reference
from viewproof.theorems.lists.kinds import Inputs, World, concrete, emptied, prepend
from viewproof.theorems.lists.reference import LONGEST, SHAPES, observed
from viewproof.theorems.lists.sequences import lift, lower, smt2, unfolded
from viewproof.theorems.lists.terms import BOOL, REAL, conjunction, executions
from viewproof.theorems.registry import Mutant, Outcome, register
from viewproof.verdict import Verdict

SECONDS = 20
"""How long Z3 may take for one goal."""

Program = Any
"""The public functions, as attributes: the real ones, a mutant's, or the definitions."""
Formula = Any
"""What a statement returns: its conclusion, or ``assuming(hypothesis, …, then=conclusion)``."""

PROGRAM = SimpleNamespace(
    **{name: getattr(objectives, name) for name in objectives.__all__ if hasattr(reference, name)}
)
"""The public functions that have a recursive definition."""


class Undecided(Exception):
    """Z3 gave no answer, or the check does not apply: the reason."""


LemmaInputs = Callable[[SimpleNamespace, Any], World]
"""A lemma's inputs, from a theorem's as its induction hypothesis has them, and the entry that a step adds."""


@dataclass(frozen=True, eq=False)
class ListClaim:
    """A statement about the program, for all values of its inputs.

    The proof is by induction on the list named ``induction`` (none: the definitions unfold to it); the lists named in
    ``along`` lose their heads together with it. ``uses`` are lemmas, each at the theorem's own inputs but for those
    that its function gives.
    """

    name: str
    statement: Callable[..., Formula]
    inputs: Inputs
    induction: str
    along: Sequence[str]
    uses: Mapping["ListClaim", LemmaInputs | None]

    def shapes(self, least: int) -> list[tuple[int, ...]]:
        """The lengths of the direct check, smallest first."""
        return self.inputs.shapes(least, 3 if self.inputs.axes < 3 else 2)

    def sides(self, program: Program, world: World) -> tuple[Any, Any]:
        """Hypothesis and conclusion, evaluated on whatever form the inputs have."""
        formula = self.statement(program, *self.inputs.arguments(program, world))
        return formula if isinstance(formula, tuple) else (True, formula)

    def executions(self, program: Program, world: World) -> list[tuple[Any, Any, Any]]:
        """Every execution as Z3 terms: its condition, the hypothesis, the conclusion."""
        runs = executions(partial(self.sides, program, world))
        return [(condition, *(lower(side, BOOL) for side in sides)) for condition, sides in runs]

    def formula(self, program: Program, world: World) -> Any:
        """The statement as a Z3 term."""
        return conjunction([_implies(premises, then) for *premises, then in self.executions(program, world)])

    def holds(self, program: Program, witness: Mapping[str, Any]) -> bool:
        """Evaluate the statement on concrete inputs, by calling the program."""
        hypothesis, conclusion = self.sides(program, witness)
        return bool(conclusion) or not hypothesis


def lemma(
    induction: str = "", along: Sequence[str] = (), uses: Mapping[ListClaim, LemmaInputs | None] = MappingProxyType({})
) -> Callable[[Callable[..., Formula]], ListClaim]:
    """Make a function ``(program, *inputs)`` a claim that theorems may use; see `ListClaim`."""

    def enter(statement: Callable[..., Formula]) -> ListClaim:
        inputs = Inputs(statement, skip=1)
        return ListClaim(statement.__name__, statement, inputs, induction, along, uses)

    return enter


def theorem(
    *, mutants: Sequence[Mutant], given: tuple[str, ...] = (), **proof: Any
) -> Callable[[Callable[..., Formula]], ListClaim]:
    """Register a function ``(program, *inputs)`` as the theorem of its name and docstring.

    ``given`` are its hypotheses in words, ``proof`` the arguments of `lemma`.
    """

    def enter(statement: Callable[..., Formula]) -> ListClaim:
        claim = lemma(**proof)(statement)
        lengths = f"; every length (definition), length 0 to {LONGEST} (Python)" if claim.inputs.axes else ""
        register(
            statement,
            layer="algebra",
            hypotheses=given,
            scope=f"exact numbers{lengths}",
            method=f"induction on {claim.induction}" if claim.induction else "the definitions unfold to it",
            program=PROGRAM,
            prove=partial(prove, claim),
            holds=claim.holds,
            mutants=tuple(mutants),
        )
        return claim

    return enter


def mutant(name: str, what: str, replaced: Sequence[str], function: Callable[..., Any]) -> Mutant:
    """The program with ``function`` in place of the public functions ``replaced``.

    It is called with the function that it stands for, and then with that function's arguments.
    """
    changes = {public: partial(function, getattr(PROGRAM, public)) for public in replaced}
    return Mutant(name, what, SimpleNamespace(**{**vars(PROGRAM), **changes}))


def prove(claim: ListClaim, program: Program) -> Outcome:
    """Check the claim about the program."""
    recorder = _CallRecorder(program)
    try:
        for shape in claim.shapes(least=0):
            world = claim.inputs.bounded(shape)
            model = _model(z3.Not(claim.formula(recorder, world)), f"the statement{_lengths(shape)}")
            if model is not None:
                witness = {name: concrete(value, model) for name, value in world.items()}
                return Outcome(Verdict.REFUTED, f"fails{_lengths(shape)}", witness)
        nonempty = (claim.executions(program, claim.inputs.bounded(shape)) for shape in claim.shapes(least=1))
        for condition, hypothesis, _ in itertools.chain.from_iterable(nonempty):
            hypotheses = z3.And(condition, hypothesis)
            if _model(hypotheses, "the hypotheses") is not None:
                second_solver.note("the hypotheses can hold", [hypotheses], satisfiable=True)
                break
        else:
            return Outcome(Verdict.VACUOUS, "the hypotheses hold of no non-empty lists")
        for name in recorder.called:
            # Many theorems are about the same functions of the one real program.
            difference = _real_difference(name) if program is PROGRAM else definition_difference(name, program)
            if difference:
                return Outcome(Verdict.UNKNOWN, difference)
        goals = goals_of(claim)
        for title, goal in goals.items():
            if _model(z3.Not(unfolded(goal)), title) is not None:
                raise Undecided(f"{title}: the definitions do not satisfy it, or a lemma is missing")
        texts = tuple(f"; {title}:\n{smt2(goal)}" for title, goal in goals.items())
        return Outcome(Verdict.PROVED, f"every length; program run on lengths 0 to {LONGEST}", goals=texts)
    except Undecided as reason:
        return Outcome(Verdict.UNKNOWN, str(reason))
    except Exception as problem:
        return Outcome(Verdict.UNKNOWN, f"the program stopped: {type(problem).__name__}: {problem}")


class _CallRecorder:
    """The program, with a note of which of its functions are called."""

    def __init__(self, program: Program) -> None:
        self.program, self.called = program, dict[str, None]()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.program, name)
        self.called[name] = None
        return function


def _model(goal: Any, what: str) -> Any:
    """A model of ``goal``, or None if there is none."""
    solver = z3.Solver()
    solver.set("timeout", int(1000 * SECONDS))
    solver.add(goal)
    start = time.perf_counter()
    answer = solver.check()
    if answer == z3.unknown:
        raise Undecided(f"{what}: Z3 gave up after {time.perf_counter() - start:.1f} s ({solver.reason_unknown()})")
    if answer == z3.unsat and second_solver.active():
        written = unfolded(goal)
        second_solver.note(what, [written], weaker="any_" in written.sexpr())
    return solver.model() if answer == z3.sat else None


def _implies(premises: Sequence[Any], conclusion: Any) -> Any:
    premise = conjunction(premises)
    return conclusion if z3.is_true(premise) else z3.Implies(premise, conclusion)


def _lengths(shape: tuple[int, ...]) -> str:
    return f" on lists of length {', '.join(map(str, shape))}" if shape else ""


def definition_difference(name: str, program: Program) -> str | None:
    """Where the public function is not its recursive definition, if it is not."""
    definition = getattr(reference, name)
    inputs = Inputs(definition)
    for shape in SHAPES.get(name) or inputs.shapes(0, LONGEST):
        world = inputs.bounded(shape)
        expected = definition(*inputs.arguments(reference, inputs.images(world)))
        expected_numbers = observed(reference, expected, expected)

        def run(world: World = world, expected: Any = expected) -> list[Any]:
            return observed(program, getattr(program, name)(*inputs.arguments(program, world)), expected)

        differ = [
            z3.And(condition, lower(number, REAL) != lower(expected_number, REAL))
            for condition, numbers in executions(run)
            for number, expected_number in zip(numbers, expected_numbers, strict=True)
        ]
        if _model(z3.Or(differ), name) is not None:
            return f"{name} is not its definition{_lengths(shape)}"
    return None


@cache
def _real_difference(name: str) -> str | None:
    return definition_difference(name, PROGRAM)


def goals_of(claim: ListClaim) -> dict[str, Any]:
    """The formulas whose validity is the statement for all lengths, its lemmas' first."""
    goals: dict[str, Any] = {}
    for used in claim.uses:
        goals.update({f"lemma {used.name}, {title}": goal for title, goal in goals_of(used).items()})
    world = claim.inputs.unbounded()
    if not claim.induction:
        return {**goals, "unfolding": _implies(_lemmas(claim, world, None), claim.formula(reference, world))}
    # The inputs' own names stand for those that the statement holds of already; the step makes one list longer, and so
    # those in ``along``, of which the statement is assumed at the tail.
    on = claim.induction
    head = lift(z3.Const(f"{on}_head", world[on].sort.head.range()))
    shorter = {**world, **{name: world[name].tail for name in claim.along}}
    premises = [*_lemmas(claim, shorter, head), claim.formula(reference, shorter)]
    step = claim.formula(reference, {**world, on: prepend(head, world[on])})
    goals[f"base, {on} empty"] = claim.formula(reference, {**world, on: emptied(world[on])})
    goals[f"step, from {on} to {on}_head :: {on}"] = _implies(premises, step)
    return goals


def _lemmas(claim: ListClaim, world: World, head: Any) -> list[Any]:
    changes = [(used, inputs(SimpleNamespace(**world), head) if inputs else {}) for used, inputs in claim.uses.items()]
    return [used.formula(reference, {**world, **change}) for used, change in changes]
