"""How a statement of the finite algebra is settled.

1. Its hypotheses can hold, with every list non-empty (else VACUOUS).
2. The public functions, run on every list up to a small length with symbolic entries, satisfy it (else REFUTED).
3. Each public function it calls equals its recursive definition on lists of length 0 to 6 (else UNKNOWN).
4. The definitions satisfy it on lists of every length: base and step, each discharged by Z3.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import z3

from viewproof import objectives
from viewproof.symbolic import second_solver
from viewproof.theorems.lists.reference import LONGEST, REFERENCE, TIES
from viewproof.theorems.lists.sequences import defined_in, definitions_at, lift, lower, unfolded
from viewproof.theorems.lists.terms import BOOL, REAL, paths
from viewproof.theorems.registry import Mutant, Outcome, Theorem
from viewproof.verdict import Verdict

SECONDS = 20
Statement = Callable[[Any, Any], tuple[Any, Any]]


class Unsettled(Exception):
    """Z3 gave no answer, or the check does not apply: the reason."""


@dataclass(frozen=True, eq=False)
class Use:
    """A lemma at an instance: ``at(tail_world, head)`` gives its inputs, the others are the theorem's own."""

    lemma: "Claim"
    at: Callable[[Any, Any], Mapping[str, Any]] = lambda w, head: {}


@dataclass(frozen=True, eq=False)
class Claim:
    """``says(program, inputs)`` is ``(hypothesis, conclusion)``, evaluated on whatever form the inputs have.

    ``on`` is the list of the induction (none: the definitions unfold to it); lists in ``along`` may change
    from step to step. ``upto`` bounds the lists of the direct check.
    """

    name: str
    inputs: Mapping[str, Any]
    says: Statement
    on: str = ""
    along: tuple[str, ...] = ()
    uses: tuple[Use, ...] = ()
    upto: int = 3

    def shapes(self, least: int = 0) -> Iterable[tuple[int, ...]]:
        """The lengths of the direct check, smallest first."""
        axes = sum(kind.axes for kind in self.inputs.values())
        return sorted(product(range(least, self.upto + 1), repeat=axes), key=lambda shape: (sum(shape), shape))


def _solve(goal: Any, what: str) -> Any:
    """A model of ``goal``, or None if there is none."""
    solver = z3.Solver()
    solver.set("timeout", int(1000 * SECONDS))
    solver.add(goal)
    start = time.perf_counter()
    answer = solver.check()
    if answer == z3.unknown:
        raise Unsettled(f"{what}: Z3 gave up after {time.perf_counter() - start:.1f} s ({solver.reason_unknown()})")
    if answer == z3.unsat and second_solver.active():
        written = unfolded(goal)
        second_solver.note(what, [written, *definitions_at(goal)], weaker="any_" in written.sexpr())
    return solver.model() if answer == z3.sat else None


def _bounded(inputs: Mapping[str, Any], shape: tuple[int, ...]) -> SimpleNamespace:
    world: dict[str, Any] = {}
    sizes = list(shape)
    for name, kind in inputs.items():
        own = [len(world[kind.like])] if getattr(kind, "like", "") else [sizes.pop(0) for _ in range(kind.axes)]
        world[name] = kind.bounded(name, own)
    return SimpleNamespace(**world, sizes=shape)


def _term(condition: Any) -> Any:
    return lower(condition, BOOL)


def _formula(claim: Claim, program: Any, world: Any) -> Any:
    runs = [(taken, *said) for taken, said in paths(partial(claim.says, program, world))]
    return _all([_implies([taken, _term(given)], _term(then)) for taken, given, then in runs])


def _all(parts: list[Any]) -> Any:
    kept = [part for part in parts if not z3.is_true(part)]
    return z3.And(kept) if len(kept) > 1 else kept[0] if kept else z3.BoolVal(True)


def _implies(premises: list[Any], conclusion: Any) -> Any:
    premise = _all(premises)
    return conclusion if z3.is_true(premise) else z3.Implies(premise, conclusion)


def _vacuous(claim: Claim, program: Any) -> bool:
    for shape in claim.shapes(least=1):
        world = _bounded(claim.inputs, shape)
        for taken, (given, _) in paths(partial(claim.says, program, world)):
            hypotheses = z3.And(taken, _term(given))
            if _solve(hypotheses, "the hypotheses") is not None:
                second_solver.note("the hypotheses can hold", [hypotheses], satisfiable=True)
                return False
    return True


def _at(shape: tuple[int, ...]) -> str:
    return f" on lists of length {', '.join(map(str, shape))}" if shape else ""


def _refutation(claim: Claim, program: Any) -> Outcome | None:
    for shape in claim.shapes():
        world = _bounded(claim.inputs, shape)
        model = _solve(z3.Not(_formula(claim, program, world)), f"the statement{_at(shape)}")
        if model is not None:
            witness = {name: kind.witness(getattr(world, name), model) for name, kind in claim.inputs.items()}
            return Outcome(Verdict.REFUTED, f"fails{_at(shape)}", witness)
    return None


class _Recorder:
    """The program, with a note of which of its functions are asked for."""

    def __init__(self, program: Any) -> None:
        self.program, self.asked = program, dict[str, None]()

    def __getattr__(self, name: str) -> Any:
        self.asked[name] = None
        return getattr(self.program, name)


def _asked(claim: Claim, program: Any) -> list[str]:
    recorder = _Recorder(program)
    list(paths(lambda: claim.says(recorder, _bounded(claim.inputs, next(iter(claim.shapes(least=1)))))))
    return list(recorder.asked)


def _difference(name: str, program: Any) -> str | None:
    """Where the function is not its recursive definition."""
    tie = TIES[name]
    for shape in tie.shapes():
        world = _bounded(tie.inputs, shape)
        image = {key: kind.image(getattr(world, key)) for key, kind in tie.inputs.items()}
        expected = tie.call(REFERENCE, SimpleNamespace(**image, sizes=shape))
        pairs = [(taken, got, expected) for taken, got in paths(partial(tie.call, program, world))]
        if _solve(z3.Or([z3.And(taken, _differ(got, want)) for taken, got, want in pairs]), name) is not None:
            return f"{name} is not its definition{_at(shape)}"
    return None


@cache
def _real_difference(name: str) -> str | None:
    # many theorems are about the same functions of the one real program
    return _difference(name, PROGRAM)


def _differ(got: Any, want: Any) -> Any:
    pairs = zip(got, want, strict=True) if isinstance(got, list) else [(got, want)]
    return z3.Or([lower(a, REAL) != lower(b, REAL) for a, b in pairs])


def _goals(claim: Claim) -> dict[str, Any]:
    """The formulas whose validity is the statement about the definitions, for lists of every length."""
    world = SimpleNamespace(**{name: kind.unbounded(name) for name, kind in claim.inputs.items()})

    def at(changes: Mapping[str, Any], of: Claim = claim) -> Any:
        return _formula(of, REFERENCE, SimpleNamespace(**{**vars(world), **changes}))

    if not claim.on:
        lemmas = [at(use.at(world, None), use.lemma) for use in claim.uses]
        return {"unfolding": _implies(lemmas, at({}))}
    kind, whole = claim.inputs[claim.on], getattr(world, claim.on)
    head = lift(z3.Const(f"{claim.on}_head", kind.entry))
    shorter = SimpleNamespace(**{**vars(world), **{name: getattr(world, name).tail for name in claim.along}})
    lemmas = [at(use.at(shorter, head), use.lemma) for use in claim.uses]
    return {
        f"base, {claim.on} empty": at({claim.on: kind.empty(whole)}),
        f"step, from {claim.on} to {claim.on}_head :: {claim.on}": _implies(
            [*lemmas, at(vars(shorter))], at({claim.on: kind.grown(head, whole)})
        ),
    }


def _induction(claim: Claim) -> tuple[str, ...]:
    """Discharge the lemmas and the goals; the goals in readable form."""
    shown: list[str] = []
    for lemma in dict.fromkeys(use.lemma for use in claim.uses):
        shown += [f"lemma {lemma.name}, {line}" for line in _induction(lemma)]
    for name, goal in _goals(claim).items():
        valid = _solve(z3.Not(unfolded(goal)), name) is None or _solve(z3.Not(goal), name) is None
        if not valid:
            raise Unsettled(f"{name}: the definitions do not satisfy it, or a lemma is missing")
        shown.append("\n".join([f"{name}:", *defined_in(goal), f"valid: {goal}"]))
    return tuple(shown)


def prove(claim: Claim, program: Any) -> Outcome:
    """Settle the claim about the program."""
    try:
        if refuted := _refutation(claim, program):
            return refuted
        if _vacuous(claim, program):
            return Outcome(Verdict.VACUOUS, "the hypotheses hold of no non-empty lists")
        for name in _asked(claim, program):
            difference = _real_difference(name) if program is PROGRAM else _difference(name, program)
            if difference:
                return Outcome(Verdict.UNKNOWN, difference)
        return Outcome(Verdict.PROVED, f"every length; program run on lengths 0 to {LONGEST}", goals=_induction(claim))
    except Unsettled as reason:
        return Outcome(Verdict.UNKNOWN, str(reason))
    except Exception as problem:
        return Outcome(Verdict.UNKNOWN, f"the program stopped: {type(problem).__name__}: {problem}")


def holds(claim: Claim, program: Any, witness: Mapping[str, Any]) -> bool:
    """Evaluate the claim on concrete inputs, by calling the program."""
    given, then = claim.says(program, SimpleNamespace(**witness))
    return bool(then) or not given


def theorem(claim: Claim, statement: str, *mutants: Mutant, given: tuple[str, ...] = ()) -> Theorem:
    """The registry entry of a claim."""
    how = f"induction on {claim.on}" if claim.on else "the definitions unfold to it"
    lists = any(kind.axes for kind in claim.inputs.values())
    scope = f"exact numbers; every length (definition), length 0 to {LONGEST} (Python)" if lists else "exact numbers"
    return Theorem(
        name=claim.name,
        layer="algebra",
        statement=statement,
        hypotheses=given,
        scope=scope,
        method=how,
        program=PROGRAM,
        prove=partial(prove, claim),
        holds=partial(holds, claim),
        mutants=mutants,
    )


PROGRAM = SimpleNamespace(**{name: getattr(objectives, name) for name in vars(REFERENCE)})


def mutant(name: str, what: str, **changes: Any) -> Mutant:
    """The public functions with some of them changed."""
    return Mutant(name, what, SimpleNamespace(**{**vars(PROGRAM), **changes}))
