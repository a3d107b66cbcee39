"""Geometry guards: the VICReg terms and the redundancy objective, and that collapse costs something."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from viewproof.theorems.lists.engine import PROGRAM, Claim, Use, mutant, theorem
from viewproof.theorems.lists.kinds import Number, Numbers, both, every, length, nonempty, prepend
from viewproof.theorems.lists.reference import BARLOW, VICREG, vicreg
from viewproof.theorems.registry import Theorem

_FLOOR = {"gamma": Number, "vs": Numbers}
_DIAG, _OFF = {"diag": Numbers}, {"off_diag": Numbers}

_PENALTY = Claim(
    "variance_floor_penalty_zero",
    {"gamma": Number, "v": Number},
    lambda p, w: (
        True,
        both(
            p.variance_floor_penalty(w.gamma, 0) == max(0, w.gamma),
            p.variance_floor_penalty(w.gamma, w.v) == 0 if w.v >= w.gamma else True,
        ),
    ),
)
_NIL = Claim("variance_term_nil", {"gamma": Number}, lambda p, w: (True, p.variance_term(w.gamma, []) == 0))
_CONS = Claim(
    "variance_term_cons",
    {**_FLOOR, "v": Number},
    lambda p, w: (
        True,
        p.variance_term(w.gamma, prepend(w.v, w.vs))
        == p.variance_floor_penalty(w.gamma, w.v) + p.variance_term(w.gamma, w.vs),
    ),
)
_APPEND = Claim(
    "variance_term_append",
    {**_FLOOR, "more": Numbers},
    lambda p, w: (
        True,
        p.variance_term(w.gamma, w.vs + w.more) == p.variance_term(w.gamma, w.vs) + p.variance_term(w.gamma, w.more),
    ),
    on="vs",
    upto=2,
)
_REPLICATE = Claim(
    "variance_term_replicate_zero",
    _FLOOR,
    lambda p, w: (every(w.vs, lambda v: v == 0), p.variance_term(w.gamma, w.vs) == length(w.vs) * max(0, w.gamma)),
    on="vs",
)
_AT_LEAST_ZERO = Claim(
    "variance_term_nonneg", _FLOOR, lambda p, w: (True, p.variance_term(w.gamma, w.vs) >= 0), on="vs"
)
_COLLAPSED = Claim(
    "variance_term_collapsed_positive",
    _FLOOR,
    lambda p, w: (both(w.gamma > 0, nonempty(w.vs), every(w.vs, lambda v: v == 0)), p.variance_term(w.gamma, w.vs) > 0),
    on="vs",
    uses=(Use(_AT_LEAST_ZERO),),
)
_VICREG_ZERO = Claim("vicreg_objective_zero", {}, lambda p, w: (True, p.vicreg_objective(0, 0, 0, 0, 0, 0) == 0))
_VICREG_POSITIVE = Claim(
    "vicreg_objective_variance_positive",
    VICREG,
    lambda p, w: (
        both(w.mu > 0, w.variance > 0, w.lambda_ * w.invariance >= 0, w.nu * w.covariance >= 0),
        p.vicreg_objective(*vicreg(w)) > 0,
    ),
)
_VICREG_GUARD = Claim(
    "vicreg_guard_variance_only_positive",
    {"mu": Number, "variance": Number},
    lambda p, w: (both(w.mu > 0, w.variance > 0), p.VICRegGuard(0, w.mu, 0, 0, w.variance, 0).value > 0),
)
_ONE = Claim("diagonal_redundancy_penalty_one", {}, lambda p, w: (True, p.diagonal_redundancy_penalty(1) == 0))
_OFF_ZERO = Claim(
    "off_diagonal_redundancy_penalty_zero", {}, lambda p, w: (True, p.off_diagonal_redundancy_penalty(0) == 0)
)
_ZERO_POSITIVE = Claim(
    "diagonal_redundancy_penalty_zero_positive", {}, lambda p, w: (True, p.diagonal_redundancy_penalty(0) > 0)
)
_ONES = Claim(
    "diagonal_of_ones",
    _DIAG,
    lambda p, w: (every(w.diag, lambda c: c == 1), p.redundancy_reduction_objective(0, w.diag, []) == 0),
    on="diag",
)
_DIAGONAL_AT_LEAST_ZERO = Claim(
    "diagonal_nonneg", _DIAG, lambda p, w: (True, p.redundancy_reduction_objective(0, w.diag, []) >= 0), on="diag"
)
_ZEROS = Claim(
    "off_diagonal_of_zeros",
    _OFF,
    lambda p, w: (every(w.off_diag, lambda c: c == 0), p.redundancy_reduction_objective(1, [], w.off_diag) == 0),
    on="off_diag",
)


def _identity(name: str, guard: bool) -> Claim:
    return Claim(
        name,
        BARLOW,
        lambda p, w: (
            both(every(w.diag, lambda c: c == 1), every(w.off_diag, lambda c: c == 0)),
            _redundancy(p, guard, w.lambda_, w.diag, w.off_diag) == 0,
        ),
        uses=(Use(_ONES), Use(_ZEROS)),
        upto=2,
    )


def _one_collapsed(name: str, guard: bool) -> Claim:
    return Claim(
        name,
        BARLOW,
        lambda p, w: (
            every(w.off_diag, lambda c: c == 0),
            _redundancy(p, guard, w.lambda_, prepend(0, w.diag), w.off_diag) > 0,
        ),
        uses=(Use(_DIAGONAL_AT_LEAST_ZERO), Use(_ZEROS)),
        upto=2,
    )


def _redundancy(p: Any, guard: bool, *fields: Any) -> Any:
    return p.BarlowGuard(*fields).value if guard else p.redundancy_reduction_objective(*fields)


_real = PROGRAM
_MIN = mutant("min_for_max", "min(0, gamma - v)", variance_floor_penalty=lambda gamma, v: min(0, gamma - v))
_NO_FLOOR = mutant("no_floor", "gamma - v, never cut off", variance_floor_penalty=lambda gamma, v: gamma - v)
_TERM_MIN = mutant(
    "min_for_max", "min(0, gamma - v)", variance_term=lambda gamma, vs: sum(min(0, gamma - v) for v in vs)
)
_TERM_REVERSED = mutant(
    "arguments_reversed", "max(0, v - gamma)", variance_term=lambda gamma, vs: sum(max(0, v - gamma) for v in vs)
)
_TERM_SKIPS = mutant(
    "skips_first", "the first entry is left out", variance_term=lambda gamma, vs: _real.variance_term(gamma, vs[1:])
)
_TERM_ONE = mutant(
    "starts_at_one", "the sum starts at 1", variance_term=lambda gamma, vs: 1 + _real.variance_term(gamma, vs)
)
_TERM_SUM_FIRST = mutant(
    "floor_of_the_sum", "one floor for the sum", variance_term=lambda gamma, vs: max(0, gamma * len(vs) - sum(vs))
)
_EPSILON = mutant(
    "epsilon",
    "an epsilon is added",
    vicreg_objective=lambda *fields: _real.vicreg_objective(*fields) + Fraction(1, 10**8),
)
_VARIANCE_MINUS = mutant(
    "variance_subtracted",
    "the variance's sign is wrong",
    vicreg_objective=lambda lambda_, mu, *rest: _real.vicreg_objective(lambda_, -mu, *rest),
    VICRegGuard=lambda lambda_, mu, *rest: _real.VICRegGuard(lambda_, -mu, *rest),
)
_VARIANCE_DROPPED = mutant(
    "variance_dropped",
    "mu multiplies the covariance",
    vicreg_objective=lambda lam, mu, nu, i, v, c: lam * i + mu * c + nu * c,
    VICRegGuard=lambda lam, mu, nu, i, v, c: SimpleNamespace(value=lam * i + mu * c + nu * c),
)
_AT_ZERO = mutant("target_zero", "|c| on the diagonal", diagonal_redundancy_penalty=abs)
_SIGNED = mutant("signed", "c - 1 without the absolute value", diagonal_redundancy_penalty=lambda c: c - 1)
_AT_ONE = mutant("target_one", "|c - 1| off the diagonal", off_diagonal_redundancy_penalty=lambda c: abs(c - 1))


def _both_forms(name: str, what: str, value: Any) -> Any:
    return mutant(
        name, what, redundancy_reduction_objective=value, BarlowGuard=lambda *f: SimpleNamespace(value=value(*f))
    )


_ALL_TO_ZERO = _both_forms(
    "target_zero", "|c| on the diagonal", lambda w, diag, off: sum(map(abs, diag)) + w * sum(map(abs, off))
)
_DIAGONAL_IN_OFF = _both_forms(
    "diagonal_included",
    "the off-diagonal sum has the diagonal in it",
    lambda w, diag, off: _real.redundancy_reduction_objective(w, diag, off + diag),
)
_SIGNED_SUM = _both_forms("signed", "no absolute values", lambda w, diag, off: sum(c - 1 for c in diag) + w * sum(off))
_FIRST_LEFT_OUT = _both_forms(
    "first_left_out",
    "the first diagonal entry is left out",
    lambda w, diag, off: _real.redundancy_reduction_objective(w, diag[1:], off),
)

_ALL_ZERO, _GAMMA = "every entry of vs is 0", "gamma > 0"
_IDEAL = ("every diagonal entry is 1", "every off-diagonal entry is 0")
_OFF_ZEROS = ("every off-diagonal entry is 0",)

THEOREMS: tuple[Theorem, ...] = (
    theorem(
        _PENALTY,
        "The penalty of variance 0 is max(0, gamma); the penalty is 0 once the variance reaches gamma.",
        _MIN,
        _NO_FLOOR,
    ),
    theorem(_NIL, "variance_term of the empty list is 0.", _TERM_ONE),
    theorem(_CONS, "variance_term of v :: rest is the penalty of v plus that of rest.", _TERM_MIN, _TERM_SKIPS),
    theorem(_APPEND, "variance_term of two lists joined is the sum of their terms.", _TERM_ONE, _TERM_SUM_FIRST),
    theorem(
        _REPLICATE, "variance_term of n zeros is n * max(0, gamma).", _TERM_REVERSED, _TERM_SKIPS, given=(_ALL_ZERO,)
    ),
    theorem(
        _COLLAPSED,
        "variance_term of collapsed coordinates is positive.",
        _TERM_MIN,
        _TERM_SKIPS,
        given=(_GAMMA, "vs is not empty", _ALL_ZERO),
    ),
    theorem(_VICREG_ZERO, "vicreg_objective of zeros is 0.", _EPSILON),
    theorem(
        _VICREG_POSITIVE,
        "vicreg_objective is positive when the weighted variance is and the other terms are not negative.",
        _VARIANCE_MINUS,
        _VARIANCE_DROPPED,
        given=("mu > 0", "variance > 0", "lambda * invariance >= 0", "nu * covariance >= 0"),
    ),
    theorem(
        _VICREG_GUARD,
        "A VICReg guard of variance alone is positive.",
        _VARIANCE_MINUS,
        _VARIANCE_DROPPED,
        given=("mu > 0", "variance > 0", "the other weights and summaries are 0"),
    ),
    theorem(_ONE, "The diagonal penalty of 1 is 0.", _AT_ZERO),
    theorem(_OFF_ZERO, "The off-diagonal penalty of 0 is 0.", _AT_ONE),
    theorem(_ZERO_POSITIVE, "The diagonal penalty of 0 is positive.", _AT_ZERO, _SIGNED),
    theorem(
        _identity("redundancy_reduction_objective_identity", guard=False),
        "The redundancy objective of the identity correlation is 0.",
        _ALL_TO_ZERO,
        _DIAGONAL_IN_OFF,
        given=_IDEAL,
    ),
    theorem(
        _one_collapsed("redundancy_reduction_objective_collapsed_diag_positive", guard=False),
        "The redundancy objective is positive if a diagonal entry is 0, whatever the rest of the diagonal.",
        _SIGNED_SUM,
        _FIRST_LEFT_OUT,
        given=("the first diagonal entry is 0", *_OFF_ZEROS),
    ),
    theorem(
        _identity("barlow_guard_identity_value_zero", guard=True),
        "A Barlow guard of the identity correlation is 0.",
        _ALL_TO_ZERO,
        _DIAGONAL_IN_OFF,
        given=_IDEAL,
    ),
    theorem(
        _one_collapsed("barlow_guard_collapsed_diag_positive", guard=True),
        "A Barlow guard is positive if a diagonal entry is 0, whatever the rest of the diagonal.",
        _SIGNED_SUM,
        _FIRST_LEFT_OUT,
        given=("the first diagonal entry is 0", *_OFF_ZEROS),
    ),
)
