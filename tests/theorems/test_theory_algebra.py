"""Every statement of the finite algebra is settled, and its checker can fail in each of its four ways."""

import dataclasses
from fractions import Fraction
from types import SimpleNamespace

import pytest

z3 = pytest.importorskip("z3")

from viewproof import masked_loss, sq_dist, variance_term  # noqa: E402
from viewproof.theorems.lists import THEOREMS, engine  # noqa: E402
from viewproof.theorems.lists.engine import PROGRAM, Claim, Use, holds, mutant, prove  # noqa: E402
from viewproof.theorems.lists.kinds import Function, Indices, Number, Numbers, Table, both, every  # noqa: E402
from viewproof.theorems.lists.terms import REAL, TOKEN, Num, Trace, Truth, paths  # noqa: E402
from viewproof.theorems.registry import check  # noqa: E402
from viewproof.verdict import Verdict  # noqa: E402

BY_NAME = {theorem.name: theorem for theorem in THEOREMS}
MASKED = {"idxs": Indices, "loss": Function(TOKEN, REAL)}


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
def test_proved_and_every_mutant_refuted(theorem):
    checked = check(theorem)
    assert checked.outcome.verdict is Verdict.PROVED, checked.outcome.detail
    assert checked.green, checked.complaints
    assert checked.outcome.goals
    assert theorem.mutants and {o.verdict for o in checked.mutants.values()} == {Verdict.REFUTED}
    assert len({mutant.name for mutant in theorem.mutants}) == len(theorem.mutants)


def test_names_are_unique():
    assert len(BY_NAME) == len(THEOREMS)


def test_witness_is_concrete_and_replays_by_hand():
    theorem = BY_NAME["variance_term_collapsed_positive"]
    witness = theorem.prove(theorem.mutants[0].program).witness
    assert variance_term(witness["gamma"], witness["vs"]) > 0
    assert all(isinstance(number, Fraction) for number in [witness["gamma"], *witness["vs"]])
    assert not theorem.holds(theorem.mutants[0].program, witness)


def test_functions_in_a_witness_are_tables():
    witness = BY_NAME["masked_loss_reverse"].prove(BY_NAME["masked_loss_reverse"].mutants[0].program).witness
    assert isinstance(witness["loss"], Table)
    assert masked_loss(witness["idxs"], witness["loss"]) == sum(map(witness["loss"], witness["idxs"]))


def test_smallest_witness_comes_first():
    theorem = BY_NAME["sq_dist_self"]
    witness = theorem.prove(theorem.mutants[0].program).witness
    assert len(witness["u"]) == 1 and sq_dist(witness["u"], witness["u"]) == 0


def test_a_bug_that_no_short_list_shows_is_not_proved():
    """From length 5 on the last entry is lost: the direct check stops at 3, the tie to the definition does not."""
    late = mutant("late", "", masked_loss=lambda idxs, f: sum(f(i) for i in idxs[:4]))
    outcome = BY_NAME["masked_loss_nil"].prove(late.program)
    assert outcome.verdict is Verdict.UNKNOWN
    assert outcome.detail == "masked_loss is not its definition on lists of length 5"


def test_hypotheses_that_cannot_hold_are_vacuous():
    claim = Claim(
        "vacuous", {"v": Number}, lambda p, w: (both(w.v > 0, w.v < 0), p.variance_floor_penalty(w.v, 0) == 7)
    )
    assert prove(claim, PROGRAM).verdict is Verdict.VACUOUS


def test_hypotheses_that_hold_of_the_empty_list_only_are_vacuous():
    says = lambda p, w: (every(w.idxs, lambda i: w.loss(i) < w.loss(i)), p.masked_loss(w.idxs, w.loss) == 7)  # noqa: E731
    guarded = lambda p, w: (both(w.loss(0) == 7, *([False] if w.idxs else [])), True)  # noqa: E731
    assert prove(Claim("false of nil", MASKED, says), PROGRAM).verdict is Verdict.REFUTED
    assert prove(Claim("only nil", MASKED, guarded), PROGRAM).verdict is Verdict.VACUOUS


def test_a_step_without_its_lemma_is_unknown(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 1)
    (reverse,) = [t for t in THEOREMS if t.name == "masked_loss_reverse"]
    claim = dataclasses.replace(reverse.prove.args[0], uses=())
    assert prove(claim, PROGRAM).verdict is Verdict.UNKNOWN


def test_a_false_statement_that_short_lists_do_not_show_is_unknown():
    """Fewer than five entries: true of every list that is run, false of the definition."""
    claim = Claim("short", {"idxs": Indices}, lambda p, w: (True, p.masked_loss(w.idxs, lambda i: 1) < 5), on="idxs")
    outcome = prove(claim, PROGRAM)
    assert outcome.verdict is Verdict.UNKNOWN and "step" in outcome.detail


def test_a_false_lemma_is_unknown():
    lemma = Claim("wrong", {"v": Number}, lambda p, w: (True, w.v > 0))
    claim = Claim(
        "right", {"v": Number}, lambda p, w: (True, p.variance_floor_penalty(w.v, w.v) == 0), uses=(Use(lemma),)
    )
    assert prove(claim, PROGRAM).verdict is Verdict.UNKNOWN


def test_time_out_is_unknown_with_the_time(monkeypatch):
    monkeypatch.setattr(engine, "SECONDS", 0.001)
    claim = Claim(
        "hard",
        dict.fromkeys("abcd", Number),
        lambda p, w: (True, w.a**5 + w.b**5 * w.c**3 != w.d**7 * w.a + p.variance_floor_penalty(0, w.c)),
    )
    outcome = prove(claim, PROGRAM)
    assert outcome.verdict is Verdict.UNKNOWN
    assert "Z3 gave up after" in outcome.detail and " s " in outcome.detail


def test_a_program_that_stops_is_unknown():
    stops = mutant("stops", "", masked_loss=lambda idxs, f: float(f(idxs[0])) if idxs else 0)
    outcome = BY_NAME["masked_loss_append"].prove(stops.program)
    assert outcome.verdict is Verdict.UNKNOWN and "TypeError" in outcome.detail


def test_paths_cover_both_branches():
    x = Num(z3.Real("x"))
    runs = {str(result): taken for taken, result in paths(lambda: max(0, x))}
    assert set(runs) == {"0", "x"}
    solver = z3.Solver()
    solver.add(z3.Not(z3.Or(list(runs.values()))))
    assert solver.check() == z3.unsat


def test_a_condition_met_again_keeps_its_branch():
    trace = Trace([False])
    assert trace.decide(z3.Bool("a")) is False and trace.decide(z3.Bool("a")) is False
    assert len(trace.taken) == 1


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


def test_holds_evaluates_the_real_functions():
    claim = Claim("c", {"gamma": Number, "vs": Numbers}, lambda p, w: (w.gamma > 0, p.variance_term(w.gamma, w.vs) > 0))
    assert not holds(claim, PROGRAM, {"gamma": Fraction(1), "vs": []})
    assert holds(claim, PROGRAM, {"gamma": Fraction(-1), "vs": []})
    assert isinstance(PROGRAM, SimpleNamespace) and PROGRAM.masked_loss is masked_loss


def test_every_function_of_the_objectives_is_tied():
    assert set(engine.TIES) == set(vars(PROGRAM))
    assert all(engine._difference(name, PROGRAM) is None for name in engine.TIES)


def test_hypotheses_are_stated():
    assert BY_NAME["variance_term_collapsed_positive"].hypotheses == (
        "gamma > 0",
        "vs is not empty",
        "every entry of vs is 0",
    )
