"""How many coordinates a periodic mask hides, and why a product is no mask."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import z3
from torch import Tensor

from viewproof.masks import PatchMask, Rule, VectorMask
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, conj, floordiv, ite, known, same
from viewproof.theorems.registry import Mutant, Outcome, Theorem
from viewproof.theorems.tensors import lemmas, mutants, spec
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.decide import decide
from viewproof.theorems.tensors.masks import CAPTURED, if_selected, theorem, vector_rule
from viewproof.theorems.tensors.subjects import INT, PATCHES, PERIODIC, VECTOR, not_negative
from viewproof.theorems.tensors.witness import broken, build
from viewproof.verdict import Verdict


def closed_count(size: Term, period: Term, offset: Term) -> Term:
    """How many ``j < size`` are congruent to the offset: ``ceil((size - offset % period) / period)``, at least 0."""
    if known(period):
        return 0 if period == 0 else max(0, -(-(size - offset % period) // period))
    # offset % period < period, so the numerator is not negative and the bound 0 is met by itself.
    return z3.If(period == 0, 0, floordiv(size + period - 1 - offset % period, period, positive=True))


def _counted(size: Term, inputs: Inputs, observed: Sequence[Any], facts: Facts, total: Term) -> list[Claim]:
    """The count by induction on the size; ``total`` is the specification's sum, shaped as the program takes it."""
    period, offset = inputs["period"], inputs["offset"]

    def step(j: Term) -> Term:
        grown = ite(spec.in_class(j, period, offset), 1, 0)
        return same(closed_count(j + 1, period, offset), closed_count(j, period, offset) + grown)

    def division(j: Term) -> Term:
        if known(period) or known(j):
            return True
        ends = [j + more + period - 1 - offset % period for more in (0, 1)]
        return conj(*(lemmas.quotient(end, period, j / period, j / period + 1) for end in ends))

    # By induction the flat sum of the indicator is the closed form; sum_of_rows makes it a sum over the grid.
    by_induction = lambda: same(total, closed_count(size, period, offset))  # noqa: E731
    return [
        Claim("the closed form is 0 for size 0", (), lambda: same(closed_count(0, period, offset), 0)),
        Claim("one more index adds 1 iff it is hidden", (size,), step, division),
        Claim(
            "the number of hidden features or patches is the closed form",
            (),
            lambda: same(observed[0].at(()), closed_count(size, period, offset)),
            by_induction,
        ),
    ]


def _one_if_hidden(inputs: Inputs, index: Term) -> Any:
    hidden = spec.in_class(index, inputs["period"], inputs["offset"])
    return z3.If(hidden, z3.IntVal(1), z3.IntVal(0)) if not known(hidden) else z3.IntVal(int(hidden))


def _vector_count(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    size = inputs["data_dim"]
    total = facts.sum(size, lambda j: _one_if_hidden(inputs, j), z3.IntVal(0))
    return _counted(size, inputs, observed, facts, total)


def _patch_count(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    rows = spec.ceil_div(inputs["height"], inputs["patch_h"])
    columns = spec.ceil_div(inputs["width"], inputs["patch_w"])
    zero = z3.IntVal(0)

    def row(i: Term) -> Any:
        return facts.sum(columns, lambda j: _one_if_hidden(inputs, i * columns + j), zero)

    return _counted(rows * columns, inputs, observed, facts, facts.sum(rows, row, zero))


def _patches(program: Any, height: int, width: int, *rest: int) -> Sequence[Tensor]:
    hidden = program(PatchMask(*rest), (1, height, width)).hidden
    return [hidden[0, :: rest[0], :: rest[1]].sum()]


def _positive_patches(inputs: Inputs) -> list[Term]:
    return [*not_negative(inputs), inputs["patch_h"] > 0, inputs["patch_w"] > 0]


COUNTS = [
    Case(
        Subject(
            "hidden features",
            {"data_dim": INT, **PERIODIC},
            lambda program, size, *rest: [program(VectorMask(*rest), (size,)).hidden.sum()],
            not_negative,
        ),
        _vector_count,
    ),
    Case(
        Subject("hidden patches", {"height": INT, "width": INT, **PATCHES}, _patches, _positive_patches), _patch_count
    ),
]

_HIDDEN_VALUES = {"NaN": 0x7FC00000, "-0.0": 0x80000000}


def _holding(bits: int) -> Callable[[Inputs], Sequence[Term]]:
    """One feature, which is hidden and holds these bits."""

    def hypotheses(inputs: Inputs) -> list[Term]:
        x = inputs["x"]
        one = [same(extent, 1) for extent in x.shape]
        value = x.at((z3.IntVal(0), z3.IntVal(0))) == z3.BitVecVal(bits, 32)
        return [*not_negative(inputs), *one, same(inputs["period"], 1), value]

    return hypotheses


HIDDEN_CASES = {
    what: Case(replace(VECTOR, name=what, hypotheses=_holding(bits)), if_selected(vector_rule))
    for what, bits in _HIDDEN_VALUES.items()
}


def _not_a_mask(program: Any) -> Outcome:
    """For each of NaN and -0.0 a run in which the hidden value does not become +0.0, found by the solver."""
    goals: list[str] = []
    found: list[str] = []
    for what, case in HIDDEN_CASES.items():
        outcome = decide([case], program)
        goals += outcome.goals
        if outcome.verdict is Verdict.REFUTED:
            found.append(f"{what}: {outcome.witness}")
            continue
        if outcome.verdict is not Verdict.PROVED:
            return outcome
        x = {"dtype": "float32", "shape": [1, 1], "bits": [_HIDDEN_VALUES[what]]}
        witness = {"case": what, "x": x, "period": 1, "offset": 0}
        return Outcome(Verdict.REFUTED, f"a hidden {what} becomes +0.0", witness, tuple(goals), outcome.graphs)
    return Outcome(Verdict.PROVED, "; ".join(found), None, tuple(goals), outcome.graphs)


def _fails_there(program: Any, witness: Mapping[str, Any]) -> bool:
    case = HIDDEN_CASES[witness["case"]]
    return broken(case, program, build(case, witness)) is not None


THEOREMS = (
    theorem(
        "hidden_count_eq_closed_form",
        "masks",
        "Of D features, or of the ceil(H / patch_h) * ceil(W / patch_w) patches of an image, counted as n, exactly "
        "ceil((n - offset % period) / period) are hidden (0 if that is negative, or if period is 0).",
        Rule.mask,
        lambda: COUNTS,
        mutants.COUNT_COMPLEMENT,
        mutants.COUNT_FLOOR,
        hypotheses=("period and offset are non-negative", "patch sizes are positive"),
        method=f"{CAPTURED}; induction on n, base and step by Z3",
    ),
    Theorem(
        "multiplicative_mask_is_not_a_mask",
        "masks",
        "x * keep does not mask: a hidden NaN stays NaN, and a hidden -0.0 stays -0.0.",
        ("one feature, hidden",),
        "a counterexample each, in IEEE-754 arithmetic, replayed",
        CAPTURED,
        mutants.VECTOR_MULTIPLICATION.program,
        _not_a_mask,
        _fails_there,
        (Mutant("selection", "torch.where in place of the product is a mask", mutants.selection),),
    ),
)
