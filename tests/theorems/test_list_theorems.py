"""Every statement of the finite algebra is proved, and its checker can fail in each of its four ways."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import pytest

z3 = pytest.importorskip("z3")

from viewproof import masked_loss, objectives, sq_dist, variance_term  # noqa: E402
from viewproof.theorems.lists import engine, sums  # noqa: E402
from viewproof.theorems.lists.engine import PROGRAM, definition_difference, lemma, mutant, prove  # noqa: E402
from viewproof.theorems.lists.kinds import IndexLoss, Indices, Number, Numbers, OfIndex, Table, assuming, every  # noqa: E402
from viewproof.theorems.lists.reference import Contract  # noqa: E402
from viewproof.theorems.lists.sequences import SymList, fold, list_sort  # noqa: E402
from viewproof.theorems.lists.terms import REAL, Execution, Num, Truth, executions  # noqa: E402
from viewproof.theorems.registry import THEOREMS  # noqa: E402
from viewproof.theorems.workers import check_one  # noqa: E402
from viewproof.verdict import Verdict  # noqa: E402

ABOUT_LISTS = {name: theorem for name, theorem in THEOREMS.items() if theorem.program is PROGRAM}


@pytest.mark.parametrize("theorem", ABOUT_LISTS.values(), ids=ABOUT_LISTS)
def test_proved_and_every_mutant_refuted(theorem):
    checked = check_one(theorem)
    assert checked.outcome.verdict is Verdict.PROVED, checked.outcome.detail
    assert checked.green, checked.complaints
    assert checked.outcome.goals
    assert theorem.mutants and {o.verdict for o in checked.mutants.values()} == {Verdict.REFUTED}
    assert len({mutant.name for mutant in theorem.mutants}) == len(theorem.mutants)


def test_no_theorem_is_missing():
    assert len(ABOUT_LISTS) == 51 and sum(len(theorem.mutants) for theorem in ABOUT_LISTS.values()) == 82


def test_witness_is_concrete_and_replays_by_hand():
    theorem = ABOUT_LISTS["variance_term_collapsed_positive"]
    witness = theorem.prove(theorem.mutants[0].program).witness
    assert variance_term(witness["gamma"], witness["vs"]) > 0
    assert all(isinstance(number, Fraction) for number in [witness["gamma"], *witness["vs"]])
    assert not theorem.holds(theorem.mutants[0].program, witness)


def test_functions_in_a_witness_are_tables():
    witness = ABOUT_LISTS["masked_loss_reverse"].prove(ABOUT_LISTS["masked_loss_reverse"].mutants[0].program).witness
    assert isinstance(witness["loss"], Table)
    assert masked_loss(witness["idxs"], witness["loss"]) == sum(map(witness["loss"], witness["idxs"]))


def test_smallest_witness_comes_first():
    theorem = ABOUT_LISTS["sq_dist_self"]
    witness = theorem.prove(theorem.mutants[0].program).witness
    assert len(witness["u"]) == 1 and sq_dist(witness["u"], witness["u"]) == 0


def test_a_bug_that_no_short_list_shows_is_not_proved():
    """From length 5 on the last entry is lost: the direct check stops at 3, the comparison with the definition not."""

    late = mutant("late", "The fifth entry is lost", ["masked_loss"], lambda real, idxs, loss: real(idxs[:4], loss))
    outcome = ABOUT_LISTS["masked_loss_nil"].prove(late.program)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.detail == "masked_loss is not its definition on lists of length 5"


def test_hypotheses_that_cannot_hold_are_vacuous():
    @lemma()
    def vacuous(p, v: Number):
        return assuming(v > 0, v < 0, then=p.variance_floor_penalty(v, 0) == 7)

    assert prove(vacuous, PROGRAM).verdict is Verdict.VACUOUS


def test_hypotheses_that_hold_of_the_empty_list_only_are_vacuous():
    @lemma()
    def false_of_nil(p, idxs: Indices, loss: IndexLoss):
        return assuming(every(idxs, lambda i: loss(i) < loss(i)), then=p.masked_loss(idxs, loss) == 7)

    @lemma()
    def only_nil(p, idxs: Indices, loss: IndexLoss):
        return assuming(loss(0) == 7, *([False] if idxs else []), then=True)

    assert prove(false_of_nil, PROGRAM).verdict is Verdict.REFUTED
    assert prove(only_nil, PROGRAM).verdict is Verdict.VACUOUS


def test_a_step_without_its_lemma_is_unknown(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 1)
    claim = dataclasses.replace(sums.masked_loss_reverse, uses={})
    assert prove(claim, PROGRAM).verdict is Verdict.UNKNOWN


def test_a_false_statement_that_short_lists_do_not_show_is_unknown():
    """Fewer than five entries: true of every list that is run, false of the definition."""

    @lemma(induction="idxs")
    def short(p, idxs: Indices):
        return p.masked_loss(idxs, lambda i: 1) < 5

    outcome = prove(short, PROGRAM)
    assert outcome.verdict is Verdict.UNKNOWN and "step" in outcome.detail


def test_a_false_lemma_is_unknown():
    @lemma()
    def wrong(p, v: Number):
        return v > 0

    @lemma(uses={wrong: None})
    def right(p, v: Number):
        return p.variance_floor_penalty(v, v) == 0

    assert prove(right, PROGRAM).verdict is Verdict.UNKNOWN


def test_time_out_is_unknown_with_the_time(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.001)

    @lemma()
    def hard(p, a: Number, b: Number, c: Number, d: Number):
        return a**5 + b**5 * c**3 != d**7 * a + p.variance_floor_penalty(0, c)

    outcome = prove(hard, PROGRAM)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "Z3 gave up after" in outcome.detail and " s " in outcome.detail


def test_a_program_that_stops_is_unknown():
    stops = mutant(
        "stops", "It asks for a float", ["masked_loss"], lambda _, idxs, loss: float(loss(idxs[0])) if idxs else 0
    )
    outcome = ABOUT_LISTS["masked_loss_append"].prove(stops.program)
    assert outcome.verdict is Verdict.UNKNOWN and "TypeError" in outcome.detail


def test_executions_cover_both_branches():
    x = Num(z3.Real("x"))
    runs = {str(result): taken for taken, result in executions(lambda: max(0, x))}
    assert set(runs) == {"0", "x"}
    solver = z3.Solver()
    solver.add(z3.Not(z3.Or(list(runs.values()))))
    assert solver.check() == z3.unsat


def test_a_condition_met_again_keeps_its_branch():
    execution = Execution([False])
    assert execution.decide(z3.Bool("a")) is False and execution.decide(z3.Bool("a")) is False
    assert len(execution.branches) == 1


def test_truth_outside_an_execution_does_not_pick_a_branch():
    with pytest.raises(RuntimeError, match="no execution to fork"):
        bool(Truth(z3.Bool("a")))
    assert bool(Truth(z3.BoolVal(True)))


@pytest.mark.parametrize("value", [3, Fraction(1, 3), 0.5])
def test_symbolic_arithmetic_is_python_s(value):
    x = Num(z3.RealVal(2))
    for ours, exact in [
        (x + value, 2 + Fraction(value)),
        (value + x, 2 + Fraction(value)),
        (x - value, 2 - Fraction(value)),
        (value - x, Fraction(value) - 2),
        (x * value, 2 * Fraction(value)),
        (value / x, Fraction(value) / 2),
        (abs(value - x) ** 2, (Fraction(value) - 2) ** 2),
    ]:
        assert bool(ours == exact) and not bool(ours < exact) and not bool(ours != exact)


def test_two_inputs_of_one_name_are_refused():
    with pytest.raises(AssertionError, match="two inputs of one name"):

        @lemma()
        def about_two_targets(p, contract: Contract, target: OfIndex):
            return p.predictive_loss(contract) == 0


def test_a_definition_inside_another_is_refused():
    """It would be about the outer one's bound list, which no term outside may mention."""
    numbers = SymList(z3.Const("numbers", list_sort(REAL)))

    def inner_sum(head, rest):
        return fold("inner", numbers, lambda x, others: x.term + others, rest)

    with pytest.raises(RuntimeError, match="would not be closed"):
        fold("outer", numbers, inner_sum, z3.RealVal(0))


def test_no_branch_is_taken_while_a_definition_is_written():
    numbers = SymList(z3.Const("numbers", list_sort(REAL)))
    with pytest.raises(RuntimeError, match="no execution to fork"):
        list(executions(lambda: fold("floor", numbers, lambda x, rest: max(0, x).term + rest, z3.RealVal(0))))


def test_holds_evaluates_the_real_functions():
    @lemma()
    def positive(p, gamma: Number, vs: Numbers):
        return assuming(gamma > 0, then=p.variance_term(gamma, vs) > 0)

    assert not positive.holds(PROGRAM, {"gamma": Fraction(1), "vs": []})
    assert positive.holds(PROGRAM, {"gamma": Fraction(-1), "vs": []})
    assert isinstance(PROGRAM, SimpleNamespace) and PROGRAM.masked_loss is masked_loss


def test_every_function_of_the_finite_algebra_equals_its_definition():
    about_tensors = (
        "masked_m",
        "masked_l1",
        "masked_smooth",
        "rounding_bound",
        "image_",
        "matrix_row",
        "row_",
        "block_",
    )
    finite = {name for name in objectives.__all__ if not name.startswith((*about_tensors, "vector_mae"))}
    assert set(vars(PROGRAM)) == finite
    assert all(definition_difference(name, PROGRAM) is None for name in finite)


def test_hypotheses_are_stated():
    assert ABOUT_LISTS["variance_term_collapsed_positive"].hypotheses == (
        "gamma > 0",
        "vs is not empty",
        "every entry of vs is 0",
    )
