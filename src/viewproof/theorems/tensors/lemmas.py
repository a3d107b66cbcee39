"""The mathematics that goals are split with: row-major division, and sums by induction.

``P(n)`` is ``a(0) + ... + a(n - 1)``: ``P(0) = 0`` and ``P(n + 1) = P(n) + a(n)``, stated where a proof needs it. An
induction is two goals, the base and the step; congruence (equal summands, equal sums) is the step with two sums.
"""

from functools import cache

import z3

from viewproof.symbolic import second_solver
from viewproof.symbolic.terms import Term, as_z3, known
from viewproof.symbolic.values import NoMeaning


def _quotient(whole: z3.ArithRef, divisor: z3.ArithRef, quotient: z3.ArithRef) -> z3.BoolRef:
    rest = whole - quotient * divisor
    return z3.Implies(z3.And(rest >= 0, rest < divisor), whole / divisor == quotient)


def quotient(whole: Term, divisor: Term, *guesses: Term) -> Term:
    """``whole // divisor`` is the guess that leaves over less than the divisor: lemma ``quotient``."""
    if known(whole) and known(divisor):
        return True
    return z3.And([_quotient(*map(as_z3, (whole, divisor, guess))) for guess in guesses])


def _below(whole: z3.ArithRef, count: z3.ArithRef, divisor: z3.ArithRef) -> z3.BoolRef:
    return z3.Implies(z3.And(whole >= 0, whole < count * divisor, divisor > 0), whole / divisor < count)


def below(whole: Term, count: Term, divisor: Term) -> Term:
    """What is below ``count * divisor`` has a quotient below ``count``: lemma ``below``."""
    return True if known(whole) else _below(whole, count, divisor)


def _goals() -> dict[str, z3.BoolRef]:
    q, n, m, r, b = z3.Ints("q n m r b")
    whole = q * n + r
    division = z3.Implies(z3.And(r >= 0, r < n), z3.And(whole / n == q, whole % n == r))
    a, other, total, total_other, shifted = (
        z3.Function(name, z3.IntSort(), z3.RealSort()) for name in ("a", "other", "P", "P_other", "Q")
    )
    value = z3.Real("value")

    def grows(sum_: z3.FuncDeclRef, summand: z3.ExprRef, at: z3.ArithRef) -> z3.BoolRef:
        return sum_(at + 1) == sum_(at) + summand

    return {
        "row_major_division": division,
        "quotient": _quotient(m, n, q),
        "below": _below(q, m, n),
        "sum_congruence": z3.Implies(
            z3.And(
                total(n) == total_other(n), a(n) == other(n), grows(total, a(n), n), grows(total_other, other(n), n)
            ),
            total(n + 1) == total_other(n + 1),
        ),
        "sum_of_one_number": z3.Implies(
            z3.And(total(n) == z3.ToReal(n) * value, grows(total, value, n)), total(n + 1) == z3.ToReal(n + 1) * value
        ),
        "sum_append": z3.Implies(
            z3.And(total(b + n) == total(b) + shifted(n), grows(total, a(b + n), b + n), grows(shifted, a(b + n), n)),
            total(b + n + 1) == total(b) + shifted(n + 1),
        ),
        # total_other(m) sums m rows of n entries each; the last row is what sum_append leaves.
        "sum_of_rows": z3.Implies(
            z3.And(
                total_other(m) == total(m * n),
                grows(total_other, shifted(n), m),
                total(m * n + n) == total(m * n) + shifted(n),
            ),
            total_other(m + 1) == total((m + 1) * n),
        ),
        # Of the list of selected indices below n, index n is the next entry iff it is selected.
        "sum_over_selected": z3.Implies(
            z3.And(total(n) == total_other(n), grows(total, z3.If(z3.Bool("h"), a(n), 0), n)),
            total(n + 1) == z3.If(z3.Bool("h"), total_other(n) + a(n), total_other(n)),
        ),
    }


@cache
def proved_lemmas() -> tuple[str, ...]:
    """Every lemma's name and goal, once Z3 has proved them; `NoMeaning` names one that it has not."""
    for name, goal in _goals().items():
        solver = z3.Solver()
        solver.set("timeout", 20_000)
        solver.add(z3.Not(goal))
        if solver.check() != z3.unsat:
            raise NoMeaning(f"lemma {name} is not proved")
        second_solver.note(f"lemma {name}", [z3.Not(goal)])
    return tuple(f"lemma {name}\n{goal}" for name, goal in _goals().items())
