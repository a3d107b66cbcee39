"""Whether a goal follows from the facts of a path; sums are compared summand by summand."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import z3

from viewproof.symbolic import second_solver
from viewproof.symbolic.facts import BoundedSum, Facts
from viewproof.symbolic.terms import Term, conj, known, same, subterms

TIMEOUT = 20.0
"""Seconds for one goal."""


@dataclass(frozen=True)
class Answer:
    """``proved``, ``refuted`` with a model, or ``unknown`` with the reason.

    The model is of the premises and the goal's negation.
    """

    kind: str
    model: z3.ModelRef | None = None
    reason: str = ""


def follows(facts: Facts, goal: Term, sizes: Sequence[z3.ArithRef] = (), seconds: float = TIMEOUT) -> Answer:
    """Whether the goal holds wherever the facts do.

    ``sizes`` are the integers to keep small in a counterexample.

    Sums are unknowns to the solver. Equations between those with equal summands, and closed forms of those that add
    up one number, are added to the premises; a counterexample is searched where every sum has at most two summands.
    """
    if known(goal) and goal:
        return Answer("proved")
    negated = z3.BoolVal(True) if known(goal) else z3.Not(goal)
    if not known(goal) and (_simplifies_to_true(facts, goal) or _holds_for_all_values(goal)):
        return Answer("proved")
    terms = [negated, *facts.assumed]
    if not _sums_in(facts, terms):
        return _decide(facts, negated, sizes, seconds)
    if not _sums_in(facts, [negated]) and _contradicts(facts, negated, seconds):
        return Answer("proved")
    if _follows_by_equal_sums(facts, negated, terms, seconds):
        return Answer("proved")
    with facts.given(*unrolled(facts, terms)):
        answer = _decide(facts, negated, sizes, seconds)
    return answer if answer.kind == "refuted" else Answer("unknown", reason=f"sums that may differ; {answer.reason}")


Value = TypeVar("Value")


def _cached_by_term(function: Callable[[z3.ExprRef], Value]) -> Callable[[z3.ExprRef], Value]:
    """The function, which stores its value for each term: premises come back in every goal."""
    values: dict[int, tuple[z3.ExprRef, Value]] = {}

    def look_up(term: z3.ExprRef) -> Value:
        # The term is stored too, so that its number stays its own.
        if term.get_id() not in values:
            values[term.get_id()] = term, function(term)
        return values[term.get_id()][1]

    return look_up


@_cached_by_term
def _substitutions(assumed: z3.ExprRef) -> list[tuple[z3.ExprRef, z3.ExprRef]]:
    """What an assumption lets one put in place: True for it, or a constant for a term that equals it."""
    put: list[tuple[z3.ExprRef, z3.ExprRef]] = []
    for part in assumed.children() if z3.is_and(assumed) else [assumed]:
        denied = z3.is_not(part)
        put.append((part.arg(0) if denied else part, z3.BoolVal(not denied)))
        if z3.is_eq(part):
            put += [(a, b) for a, b in (part.children(), part.children()[::-1]) if z3.is_const(b) and a.num_args()]
    return put


def _simplifies_to_true(facts: Facts, goal: z3.BoolRef) -> bool:
    """Whether the goal simplifies to True once what is assumed is put in its place."""
    put = [pair for term in facts.assumed for pair in _substitutions(term)]
    if not z3.is_true(z3.simplify(z3.substitute(goal, *put))):
        return False
    second_solver.note("by simplification", [*facts.assumed, z3.Not(goal)])
    return True


_GENERAL: dict[int, tuple[z3.BoolRef, bool]] = {}


def _holds_for_all_values(goal: z3.BoolRef) -> bool:
    """Whether a goal of floating-point arithmetic holds for all values, wherever they were read.

    Every value read from a tensor becomes an unknown of its own, and no premise is used: bit-blasting is spared the
    arithmetic of coordinates, and captures that compute alike ask once.
    """

    def is_read(term: z3.ExprRef) -> bool:
        return bool(z3.is_bv(term) and term.num_args() and _uninterpreted(term))

    parts = list(subterms(goal, enter=lambda term: not is_read(term)))
    # A truth value that is read turns on a premise about a mask.
    if not any(map(z3.is_fp, parts)) or any(z3.is_bool(part) and _uninterpreted(part) for part in parts):
        return False
    read = [part for part in parts if is_read(part)]
    general = z3.substitute(goal, *((term, z3.Const(f"value!{i}", term.sort())) for i, term in enumerate(read)))
    if general.get_id() not in _GENERAL:
        solver = z3.Solver()
        solver.set("timeout", 2000)
        solver.add(z3.Not(general))
        _GENERAL[general.get_id()] = general, solver.check() == z3.unsat
    if _GENERAL[general.get_id()][1]:
        second_solver.note("for all values", [z3.Not(general)])
    return _GENERAL[general.get_id()][1]


def _follows_by_equal_sums(facts: Facts, negated: z3.BoolRef, terms: Sequence[Term], seconds: float) -> bool:
    """Whether the goal follows from the premises and the equations between the terms' sums."""
    equations = same_sums(facts, terms, seconds)
    for closed_forms in (False, True):
        equations += repeated_sums(facts, terms, seconds) if closed_forms else []
        # The equations are often all it takes, and the premises hold much arithmetic of coordinates.
        for premises, most in ((Facts(), 0.1), (facts, seconds)):
            with premises.given(*equations):
                if _contradicts(premises, negated, most):
                    return True
    return False


def _decide(facts: Facts, negated: z3.BoolRef, sizes: Sequence[z3.ArithRef], seconds: float) -> Answer:
    """Try for a moment, then with small sizes, then with all the time.

    Small counterexamples of nonlinear goals are found sooner.
    """
    start = time.perf_counter()
    for bound, most in ((None, 0.3), (3, 1.0), (6, 1.0), (None, seconds)):
        smaller = [size <= bound for size in sizes if bound is not None]
        solver, result = _check(facts, negated, min(most, seconds / 2 if bound else seconds), smaller)
        if result == z3.sat:
            return _smallest(solver, sizes)
        if result == z3.unsat and bound is None:
            second_solver.note("the goal", [*facts.assumed, negated])
            return Answer("proved")
    return Answer("unknown", reason=f"{solver.reason_unknown()} after {time.perf_counter() - start:.1f} s")


def _check(
    facts: Facts, negated: z3.BoolRef, seconds: float, more: Sequence[z3.BoolRef] = ()
) -> tuple[z3.Solver, z3.CheckSatResult]:
    """The solver and its answer.

    Times for one nonlinear goal vary a hundredfold with the solver's random choices, so short tries with other choices
    come before longer ones.
    """
    left, most = seconds, 0.4
    for seed in itertools.count():
        solver = z3.Solver()
        solver.set("timeout", max(1, int(1000 * min(most, left))))
        solver.set("random_seed", seed)
        solver.add(*facts.assumed, negated)
        result = solver.check(*more)
        left -= most
        if result != z3.unknown or left <= 0:
            break
        most *= 2
    return solver, result


_CONTRADICTIONS: dict[tuple[int, ...], tuple[tuple[z3.ExprRef, ...], bool]] = {}


def _contradicts(facts: Facts, negated: z3.BoolRef, seconds: float) -> bool:
    """Whether the premises contradict the negated goal.

    The answer is stored: a mutant's sums ask much that was asked before.
    """
    terms = (*facts.assumed, negated)
    key = tuple(term.get_id() for term in terms)
    if key not in _CONTRADICTIONS:
        result = _check(facts, negated, seconds)[1]
        if result == z3.unknown:
            return False
        _CONTRADICTIONS[key] = terms, result == z3.unsat
    if _CONTRADICTIONS[key][1]:
        second_solver.note("the goal, or equal summands", terms)
    return _CONTRADICTIONS[key][1]


def _smallest(solver: z3.Solver, sizes: Sequence[z3.ArithRef]) -> Answer:
    """The model under the least common bound that a short search finds."""
    model = solver.model()
    largest = max((model.eval(size, model_completion=True).as_long() for size in sizes), default=0)
    solver.set("timeout", 200)
    for bound in (1, 2, 3, 4, 6, 10, 30):
        if bound >= largest:
            break
        if solver.check(*(size <= bound for size in sizes)) == z3.sat:
            return Answer("refuted", solver.model())
    return Answer("refuted", model)


@_cached_by_term
def _constants(term: z3.ExprRef) -> set[str]:
    return {part.decl().name() for part in subterms(term) if z3.is_const(part) and _uninterpreted(part)}


def _uninterpreted(term: z3.ExprRef) -> bool:
    return bool(term.decl().kind() == z3.Z3_OP_UNINTERPRETED)


def constants(*terms: Term) -> set[str]:
    """The names of the constants that occur in the terms."""
    return set().union(*(_constants(term) for term in terms if not known(term)))


def _sums_in(facts: Facts, terms: Sequence[Term]) -> list[BoundedSum]:
    return [facts.sums[name] for name in sorted(constants(*terms)) if name in facts.sums]


def same_sums(facts: Facts, terms: Sequence[Term], seconds: float) -> list[z3.BoolRef]:
    """``a == b`` for each two sums with equal extents and summands: lemma ``sum_congruence``."""
    equations: list[z3.BoolRef] = []
    for one, other in itertools.combinations(_sums_in(facts, terms), 2):
        if one.term.sort() == other.term.sort() and facts.entails(one.extent == other.extent):
            index = facts.fresh("index", z3.IntSort())
            if _equal_summands(facts, one.body(index), other.body(index), [index], one.extent, seconds):
                equations.append(one.term == other.term)
    return equations


def repeated_sums(facts: Facts, terms: Sequence[Term], seconds: float) -> list[z3.BoolRef]:
    """``a == extent * number`` for each sum of one number: lemma ``sum_of_one_number``."""
    equations: list[z3.BoolRef] = []
    for one in _sums_in(facts, terms):
        indices = [facts.fresh("index", z3.IntSort()) for _ in range(2)]
        number = one.body(indices[0])
        if _equal_summands(facts, number, one.body(indices[1]), indices, one.extent, seconds):
            extent = one.extent if one.term.is_int() else z3.ToReal(one.extent)
            inner = [s.term for s in _sums_in(facts, [number])]
            others = [*terms, *inner]
            equations.append(z3.Implies(one.extent >= 0, one.term == extent * number))
            with facts.given(conj(indices[0] >= 0, indices[0] < one.extent)):
                equations += [z3.Implies(one.extent > 0, e) for e in same_sums(facts, others, seconds)]
    return equations


def unrolled(facts: Facts, terms: Sequence[Term], most: int = 2) -> list[z3.BoolRef]:
    """The definition of each sum where it has at most ``most`` summands, and that it has no more."""
    equations: list[z3.BoolRef] = []
    for one in _sums_in(facts, terms):
        values = [one.body(z3.IntVal(i)) for i in range(most)]
        total = z3.IntVal(0) if one.term.is_int() else z3.RealVal(0)
        equations += [one.extent <= most, z3.Implies(one.extent <= 0, one.term == total)]
        for count, value in enumerate(values, 1):
            total = total + value
            equations.append(z3.Implies(one.extent == count, one.term == total))
        equations += unrolled(facts, values, most)
    return equations


def _equal_summands(facts: Facts, a: Any, b: Any, indices: Sequence[Any], extent: Term, seconds: float) -> bool:
    if same(a, b) is True:
        return True
    with facts.given(*(conj(i >= 0, i < extent) for i in indices)):
        return _simplifies_to_true(facts, a == b) or _follows_by_equal_sums(facts, z3.Not(a == b), [a, b], seconds)
