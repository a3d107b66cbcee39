"""Geometry guards: VICReg terms, the redundancy objective, and that collapse has a cost."""

from fractions import Fraction
from functools import partial
from types import SimpleNamespace

from viewproof import objectives
from viewproof.theorems.lists.engine import Formula, Program, lemma, mutant, theorem
from viewproof.theorems.lists.kinds import Number, Numbers, all_equal, assuming, both, length, nonempty, prepend
from viewproof.theorems.lists.reference import BarlowArguments, VICRegArguments
from viewproof.theorems.lists.sums import starts_at_one

PENALTY, TERM, VICREG = ["variance_floor_penalty"], ["variance_term"], ["vicreg_objective"]
BARLOW = ["redundancy_reduction_objective", "BarlowGuard"]

penalty_min_for_max = mutant("min_for_max", "min(0, gamma - v)", PENALTY, lambda _, gamma, v: min(0, gamma - v))
no_floor = mutant("no_floor", "gamma - v, never cut off", PENALTY, lambda _, gamma, v: gamma - v)
term_min_for_max = mutant(
    "min_for_max", "min(0, gamma - v)", TERM, lambda _, gamma, vs: sum(min(0, gamma - v) for v in vs)
)
arguments_reversed = mutant(
    "arguments_reversed",
    "max(0, v - gamma)",
    TERM,
    lambda _, gamma, vs: sum(objectives.variance_floor_penalty(v, gamma) for v in vs),
)
skips_first = mutant("skips_first", "The first entry is left out", TERM, lambda real, gamma, vs: real(gamma, vs[1:]))
floor_of_the_sum = mutant(
    "floor_of_the_sum", "One floor for the sum", TERM, lambda _, gamma, vs: max(0, gamma * len(vs) - sum(vs))
)
epsilon = mutant("epsilon", "An epsilon is added", VICREG, lambda real, *rest: real(*rest) + Fraction(1, 10**8))
variance_subtracted = mutant(
    "variance_subtracted",
    "The variance's sign is wrong",
    [*VICREG, "VICRegGuard"],
    lambda real, a, mu, *rest: real(a, -mu, *rest),
)
variance_dropped = mutant(
    "variance_dropped",
    "Mu multiplies the covariance",
    [*VICREG, "VICRegGuard"],
    lambda real, a, mu, nu, invariance, _, covariance: real(a, mu, nu, invariance, covariance, covariance),
)
penalty_target_zero = mutant("target_zero", "|c| on the diagonal", ["diagonal_redundancy_penalty"], lambda _, c: abs(c))
penalty_signed = mutant(
    "signed", "c - 1 without the absolute value", ["diagonal_redundancy_penalty"], lambda _, c: c - 1
)
target_one = mutant(
    "target_one", "|c - 1| off the diagonal", ["off_diagonal_redundancy_penalty"], lambda _, c: abs(c - 1)
)
diagonal_target_zero = mutant(
    "target_zero", "|c| on the diagonal", BARLOW, lambda real, a, d, off: real(a, [c + 1 for c in d], off)
)
diagonal_included = mutant(
    "diagonal_included",
    "The off-diagonal sum has the diagonal in it",
    BARLOW,
    lambda real, a, d, off: real(a, d, off + d),
)
first_left_out = mutant(
    "first_left_out", "The first diagonal entry is left out", BARLOW, lambda real, a, d, off: real(a, d[1:], off)
)
objective_signed = mutant(
    "signed", "No absolute values", BARLOW[:1], lambda _, a, d, off: sum(c - 1 for c in d) + a * sum(off)
)
guard_signed = mutant(
    "signed",
    "No absolute values",
    BARLOW[1:],
    lambda _, a, d, off: SimpleNamespace(value=sum(c - 1 for c in d) + a * sum(off)),
)


@theorem(mutants=[penalty_min_for_max, no_floor])
def variance_floor_penalty_zero(p: Program, gamma: Number, v: Number) -> Formula:
    """The penalty of variance 0 is max(0, gamma); the penalty is 0 once the variance reaches gamma."""
    zero_once_reached = p.variance_floor_penalty(gamma, v) == 0 if v >= gamma else True
    return both(p.variance_floor_penalty(gamma, 0) == max(0, gamma), zero_once_reached)


@theorem(mutants=[starts_at_one])
def variance_term_nil(p: Program, gamma: Number) -> Formula:
    """variance_term of the empty list is 0."""
    return p.variance_term(gamma, []) == 0


@theorem(mutants=[term_min_for_max, skips_first])
def variance_term_cons(p: Program, gamma: Number, v: Number, vs: Numbers) -> Formula:
    """variance_term of v :: rest is the penalty of v plus that of rest."""
    return p.variance_term(gamma, prepend(v, vs)) == p.variance_floor_penalty(gamma, v) + p.variance_term(gamma, vs)


@theorem(induction="vs", mutants=[starts_at_one, floor_of_the_sum])
def variance_term_append(p: Program, gamma: Number, vs: Numbers, more: Numbers) -> Formula:
    """variance_term of two lists joined is the sum of their terms."""
    return p.variance_term(gamma, vs + more) == p.variance_term(gamma, vs) + p.variance_term(gamma, more)


@theorem(induction="vs", given=("every entry of vs is 0",), mutants=[arguments_reversed, skips_first])
def variance_term_replicate_zero(p: Program, gamma: Number, vs: Numbers) -> Formula:
    """variance_term of n zeros is n * max(0, gamma)."""
    return assuming(all_equal(vs, 0), then=p.variance_term(gamma, vs) == length(vs) * max(0, gamma))


@lemma(induction="vs")
def variance_term_nonneg(p: Program, gamma: Number, vs: Numbers) -> Formula:
    """variance_term is not negative."""
    return p.variance_term(gamma, vs) >= 0


@theorem(
    induction="vs",
    given=("gamma > 0", "vs is not empty", "every entry of vs is 0"),
    uses={variance_term_nonneg: None},
    mutants=[term_min_for_max, skips_first],
)
def variance_term_collapsed_positive(p: Program, gamma: Number, vs: Numbers) -> Formula:
    """variance_term of collapsed coordinates is positive."""
    return assuming(gamma > 0, nonempty(vs), all_equal(vs, 0), then=p.variance_term(gamma, vs) > 0)


@theorem(mutants=[epsilon])
def vicreg_objective_zero(p: Program) -> Formula:
    """vicreg_objective of zeros is 0."""
    return p.vicreg_objective(0, 0, 0, 0, 0, 0) == 0


@theorem(
    given=("mu > 0", "variance > 0", "lambda * invariance >= 0", "nu * covariance >= 0"),
    mutants=[variance_subtracted, variance_dropped],
)
def vicreg_objective_variance_positive(p: Program, vicreg: VICRegArguments) -> Formula:
    """vicreg_objective is positive if its weighted variance is and no other term is negative."""
    return assuming(
        vicreg.mu > 0,
        vicreg.variance > 0,
        vicreg.lambda_ * vicreg.invariance >= 0,
        vicreg.nu * vicreg.covariance >= 0,
        then=p.vicreg_objective(*vicreg) > 0,
    )


@theorem(
    given=("mu > 0", "variance > 0", "the other weights and summaries are 0"),
    mutants=[variance_subtracted, variance_dropped],
)
def vicreg_guard_variance_only_positive(p: Program, mu: Number, variance: Number) -> Formula:
    """A VICReg guard of variance alone is positive."""
    return assuming(mu > 0, variance > 0, then=p.VICRegGuard(0, mu, 0, 0, variance, 0).value > 0)


@theorem(mutants=[penalty_target_zero])
def diagonal_redundancy_penalty_one(p: Program) -> Formula:
    """The diagonal penalty of 1 is 0."""
    return p.diagonal_redundancy_penalty(1) == 0


@theorem(mutants=[target_one])
def off_diagonal_redundancy_penalty_zero(p: Program) -> Formula:
    """The off-diagonal penalty of 0 is 0."""
    return p.off_diagonal_redundancy_penalty(0) == 0


@theorem(mutants=[penalty_target_zero, penalty_signed])
def diagonal_redundancy_penalty_zero_positive(p: Program) -> Formula:
    """The diagonal penalty of 0 is positive."""
    return p.diagonal_redundancy_penalty(0) > 0


@lemma(induction="diag")
def diagonal_of_ones(p: Program, diag: Numbers) -> Formula:
    """A diagonal of ones costs nothing."""
    return assuming(all_equal(diag, 1), then=p.redundancy_reduction_objective(0, diag, []) == 0)


@lemma(induction="diag")
def diagonal_nonneg(p: Program, diag: Numbers) -> Formula:
    """No diagonal has a negative cost."""
    return p.redundancy_reduction_objective(0, diag, []) >= 0


@lemma(induction="off_diag")
def off_diagonal_of_zeros(p: Program, off_diag: Numbers) -> Formula:
    """Off-diagonal zeros cost nothing."""
    return assuming(all_equal(off_diag, 0), then=p.redundancy_reduction_objective(1, [], off_diag) == 0)


identity_theorem = partial(
    theorem,
    given=("every diagonal entry is 1", "every off-diagonal entry is 0"),
    uses={diagonal_of_ones: None, off_diagonal_of_zeros: None},
    mutants=[diagonal_target_zero, diagonal_included],
)
collapse_theorem = partial(
    theorem,
    given=("the first diagonal entry is 0", "every off-diagonal entry is 0"),
    uses={diagonal_nonneg: None, off_diagonal_of_zeros: None},
)


@identity_theorem()
def redundancy_reduction_objective_identity(p: Program, barlow: BarlowArguments) -> Formula:
    """The redundancy objective of the identity correlation is 0."""
    value = p.redundancy_reduction_objective(*barlow)
    return assuming(all_equal(barlow.diag, 1), all_equal(barlow.off_diag, 0), then=value == 0)


@collapse_theorem(mutants=[objective_signed, first_left_out])
def redundancy_reduction_objective_collapsed_diag_positive(
    p: Program, lambda_: Number, diag: Numbers, off_diag: Numbers
) -> Formula:
    """The redundancy objective is positive if any diagonal entry is 0."""
    value = p.redundancy_reduction_objective(lambda_, prepend(0, diag), off_diag)
    return assuming(all_equal(off_diag, 0), then=value > 0)


@identity_theorem()
def barlow_guard_identity_value_zero(p: Program, barlow: BarlowArguments) -> Formula:
    """A Barlow guard of the identity correlation is 0."""
    value = p.BarlowGuard(*barlow).value
    return assuming(all_equal(barlow.diag, 1), all_equal(barlow.off_diag, 0), then=value == 0)


@collapse_theorem(mutants=[guard_signed, first_left_out])
def barlow_guard_collapsed_diag_positive(p: Program, lambda_: Number, diag: Numbers, off_diag: Numbers) -> Formula:
    """A Barlow guard is positive if a diagonal entry is 0, whatever the rest of the diagonal."""
    value = p.BarlowGuard(lambda_, prepend(0, diag), off_diag).value
    return assuming(all_equal(off_diag, 0), then=value > 0)
