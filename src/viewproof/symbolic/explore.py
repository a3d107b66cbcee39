"""Every path of a program: captures are added until their path conditions cover the hypotheses."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import z3

from viewproof.symbolic import second_solver
from viewproof.symbolic.capture import Capture, Program, Signature, capture, unknowns, unknowns_at
from viewproof.symbolic.terms import Term, as_z3
from viewproof.symbolic.values import NoMeaning

LIMIT = 40
_CACHE: dict[Any, tuple[list[Capture], bool]] = {}


class NotCovered(NoMeaning):
    """The captures do not cover all sizes and parameters that the hypotheses allow."""


def forget() -> None:
    """Drop the captures that are kept; needed after the captured code has been changed."""
    _CACHE.clear()


def explore(
    program: Program, signature: Signature, hypotheses: Sequence[Term], key: Any = None, limit: int = LIMIT
) -> Iterator[Capture]:
    """Captures that together are the program wherever the hypotheses hold, stored under ``key``.

    Each new capture starts from sizes and parameters that no path covers so far, which a solver finds; the last
    answer of that solver, that none are left, is what makes "all sizes" true.
    """
    captures, done = _CACHE.setdefault(key, ([], False)) if key is not None else ([], False)
    yield from list(captures)
    while not done:
        conditions = [*hypotheses, *(z3.Not(c.path) for c in captures)]
        hints = uncovered(signature, conditions)
        if hints is None:
            second_solver.note("the paths cover all arguments", [*_extents_from_0(signature), *conditions])
            done = True
            break
        if len(captures) == limit:
            raise NotCovered(f"{limit} captures do not cover all sizes and parameters")
        new = capture(program, signature, hints, hypotheses)
        at_hints = [(term, z3.IntVal(value)) for term, value in unknowns_at(signature, hints)]
        if not z3.is_true(z3.simplify(z3.substitute(new.path, at_hints))):
            raise NotCovered(f"a capture made at {hints} does not hold there")
        captures.append(new)
        yield new
    if key is not None:
        _CACHE[key] = captures, True


def uncovered(signature: Signature, conditions: Sequence[Term]) -> dict[str, Any] | None:
    """Small values for all arguments that satisfy the conditions, or None if there are none.

    Numbers of at least 2, different ones if possible, are tried first: what torch's shape rules decide at those is
    what they decide in general.
    """
    names = unknowns(signature)
    extents = [d for terms in names.values() if isinstance(terms, tuple) for d in terms]
    numbers = [term for term in names.values() if not isinstance(term, tuple)]
    solver = z3.Solver()
    solver.set("timeout", 20_000)
    solver.add(*_extents_from_0(signature), *map(as_z3, conditions))
    if solver.check() == z3.unsat:
        return None
    every = [*extents, *numbers]
    preferences = [
        [a != b for a, b in itertools.combinations(every, 2)],
        [d >= 2 for d in every],
        [d <= 40 for d in every],
    ]
    while (answer := solver.check(*itertools.chain(*preferences))) == z3.unsat:
        core = {preference.get_id() for preference in solver.unsat_core()}
        # The weakest in conflict goes: differences, then sizes of 2 and more, then small numbers.
        group = next((group for group in preferences if any(one.get_id() in core for one in group)), None)
        if group is None:
            return None
        dropped = [one for one in group if one.get_id() in core]
        for single in dropped if group is not preferences[0] else ():
            rest = [one for other in preferences[1:] for one in other if one is not single]
            if solver.check(*rest) == z3.sat:
                dropped = [single]
                break
        group[:] = [one for one in group if all(one is not other for other in dropped)]
    if answer == z3.unknown:
        raise NotCovered(f"whether all sizes are covered is undecided: {solver.reason_unknown()}")
    model = solver.model()

    def value(term: z3.ExprRef) -> Any:
        return model.eval(term, model_completion=True).as_long()

    return {n: tuple(map(value, t)) if isinstance(t, tuple) else value(t) for n, t in names.items()}


def _extents_from_0(signature: Signature) -> list[z3.BoolRef]:
    return [extent >= 0 for terms in unknowns(signature).values() if isinstance(terms, tuple) for extent in terms]
