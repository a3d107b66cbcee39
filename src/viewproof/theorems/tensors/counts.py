"""How many coordinates a periodic mask hides, and why a product is no mask."""

from collections.abc import Sequence
from typing import Any

import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks import Mask, PatchMask, Rule, VectorMask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, ite, known, one_if, same
from viewproof.theorems.registry import Mutant, Outcome, register
from viewproof.theorems.tensors import lemmas, spec
from viewproof.theorems.tensors.case import (
    INT,
    PATCHES,
    PERIODIC,
    Claims,
    Inputs,
    Observed,
    Subject,
    TensorCase,
    not_negative,
    result,
)
from viewproof.theorems.tensors.decide import decide
from viewproof.theorems.tensors.masks import FloorForCeiling, multiplication_for_selection, vector_hides, zero_or_input
from viewproof.theorems.tensors.theorem import CAPTURED, theorem
from viewproof.theorems.tensors.witness import replays
from viewproof.verdict import Verdict


def _patches(program: Any, height: int, width: int, patch_h: int, patch_w: int, *sizes: int) -> Sequence[Tensor]:
    hidden = program(PatchMask(patch_h, patch_w, *sizes), (1, height, width)).hidden
    return [hidden[0, ::patch_h, ::patch_w].sum()]


HIDDEN_FEATURES = Subject(
    "hidden features",
    {"data_dim": INT, **PERIODIC},
    lambda program, data_dim, *sizes: [program(VectorMask(*sizes), (data_dim,)).hidden.sum()],
    not_negative,
)
HIDDEN_PATCHES = Subject(
    "hidden patches",
    {"height": INT, "width": INT, **PATCHES},
    _patches,
    lambda inputs: [*not_negative(inputs), inputs["patch_h"] > 0, inputs["patch_w"] > 0],
)


def closed_count(size: Term, period: Term, offset: Term) -> Term:
    """How many ``j < size`` are congruent to the offset, in closed form."""
    if known(period):
        return 0 if period == 0 else max(0, -(-(size - offset % period) // period))
    # offset % period < period, so the numerator is not negative and the bound 0 is met by itself.
    return z3.If(period == 0, 0, floordiv(size + period - 1 - offset % period, period, positive=True))


def complement_counted(rule: Rule, shape: tuple[int, ...]) -> Mask:
    """Visible features are counted."""
    return ~rule.mask(shape)


def floor_for_ceiling(rule: Rule, shape: tuple[int, ...]) -> Mask:
    """A ragged last patch is not counted."""
    if isinstance(rule, PatchMask):
        return FloorForCeiling(rule.patch_h, rule.patch_w, rule.period, rule.offset).mask(shape)
    return rule.mask(shape)


@theorem(
    Rule.mask,
    on=[HIDDEN_FEATURES, HIDDEN_PATCHES],
    mutants=[complement_counted, floor_for_ceiling],
    given=("period and offset are non-negative", "patch sizes are positive"),
    method=f"{CAPTURED}; induction on n, base and step by Z3",
)
def hidden_count_eq_closed_form(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """Of D features, or of the ceil(H / patch_h) * ceil(W / patch_w) patches of an image, counted as n, exactly
    ceil((n - offset % period) / period) are hidden (0 if that is negative, or if period is 0).
    """
    period, offset, zero = inputs["period"], inputs["offset"], z3.IntVal(0)

    def one_if_hidden(index: Term) -> Any:
        return one_if(spec.in_class(index, period, offset))

    # The specification's sum is shaped as the program takes it: over features, or over rows and columns of patches.
    if "data_dim" in inputs:
        size = inputs["data_dim"]
        total = facts.sum(size, one_if_hidden, zero)
    else:
        rows = spec.ceil_div(inputs["height"], inputs["patch_h"])
        columns = spec.ceil_div(inputs["width"], inputs["patch_w"])
        size = rows * columns

        def in_row(i: Term) -> Any:
            return facts.sum(columns, lambda j: one_if_hidden(i * columns + j), zero)

        total = facts.sum(rows, in_row, zero)

    yield "the closed form is 0 for size 0", same(closed_count(0, period, offset), 0)
    for (j,) in facts.each([size]):
        ends = [] if facts.replayed else [j + more + period - 1 - offset % period for more in (0, 1)]
        with facts.given(conj(*(lemmas.quotient(end, period, j / period, j / period + 1) for end in ends))):
            before, grown = closed_count(j, period, offset), ite(spec.in_class(j, period, offset), 1, 0)
            yield "one more index adds 1 iff it is hidden", same(closed_count(j + 1, period, offset), before + grown)
    # By induction the flat sum of the indicator is the closed form; sum_of_rows makes it a sum over the grid.
    closed = closed_count(size, period, offset)
    with facts.given(same(total, closed)):
        yield "the number of hidden features or patches is the closed form", same(observed[0].at(()), closed)


HIDDEN_BITS = {"NaN": 0x7FC00000, "-0.0": 0x80000000}


def hidden_value_case(what: str, bits: int) -> TensorCase:
    """One feature, which is hidden and holds these bits, becomes ``+0.0``."""

    def holding(inputs: Inputs) -> list[Term]:
        x = inputs["x"]
        one = [same(extent, 1) for extent in x.shape]
        value = x.at((z3.IntVal(0), z3.IntVal(0))) == z3.BitVecVal(bits, 32)
        return [*not_negative(inputs), *one, same(inputs["period"], 1), value]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        return zero_or_input(vector_hides, inputs, observed[0], facts)

    return TensorCase(Subject(what, {"x": TensorInput(2), **PERIODIC}, result, holding), claims)


HIDDEN_VALUES = {what: hidden_value_case(what, bits) for what, bits in HIDDEN_BITS.items()}


def selection(x: Tensor, period: int, offset: int) -> Tensor:
    """torch.where in place of the product is a mask."""
    return vp.vector_mae_mask(x, period, offset)


def multiplicative_mask_is_not_a_mask(program: Any) -> Outcome:
    """x * keep does not mask: a hidden NaN stays NaN, and a hidden -0.0 stays -0.0.

    For each of them the solver finds a run in which the hidden value does not become +0.0.
    """
    goals: list[str] = []
    witnesses: list[str] = []
    for what, case in HIDDEN_VALUES.items():
        outcome = decide([case], program)
        goals += outcome.goals
        if outcome.verdict is Verdict.PROVED:
            x = {"dtype": "float32", "shape": [1, 1], "bits": [HIDDEN_BITS[what]]}
            witness = {"case": what, "x": x, "period": 1, "offset": 0}
            return Outcome(Verdict.REFUTED, f"a hidden {what} becomes +0.0", witness, tuple(goals), outcome.graphs)
        if outcome.verdict is not Verdict.REFUTED:
            return outcome
        witnesses.append(f"{what}: {outcome.witness}")
    return Outcome(Verdict.PROVED, "; ".join(witnesses), None, tuple(goals), outcome.graphs)


# The one statement that something fails: it is proved by counterexamples.
register(
    multiplicative_mask_is_not_a_mask,
    layer="masks",
    hypotheses=("one feature, hidden",),
    scope="a counterexample each, in IEEE-754 arithmetic, replayed",
    method=CAPTURED,
    program=multiplication_for_selection,
    prove=multiplicative_mask_is_not_a_mask,
    holds=lambda program, witness: not replays([HIDDEN_VALUES[witness["case"]]], program, witness),
    mutants=(Mutant.of(selection),),
)
