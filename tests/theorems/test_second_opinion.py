"""Goals that Z3 has decided, settled by cvc5 as well; a disagreement is never green."""

import subprocess
import sys
from collections.abc import Sequence

import pytest

pytest.importorskip("z3")
pytest.importorskip("cvc5")

import z3

from viewproof.symbolic import second_solver
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.prove import follows
from viewproof.theorems import registered, report
from viewproof.theorems.registry import Agreement
from viewproof.theorems.second_opinion import compare
from viewproof.theorems.workers import check_all
from viewproof.verdict import Verdict

X, N = z3.Ints("x n")
BITS = z3.BitVec("bits", 32)
NUMBER = z3.fpBVToFP(BITS, z3.Float32())
RIGHT = {
    "integers": z3.Implies(z3.And(X >= 0, N > 0), X / N * N <= X),
    "reals": (z3.Real("a") - z3.Real("b")) ** 2 >= 0,
    "bits": BITS ^ BITS == 0,
    "numbers": z3.Implies(
        z3.Not(z3.fpIsNaN(NUMBER)), z3.fpIsNaN(z3.fpSub(z3.RNE(), NUMBER, NUMBER)) == z3.fpIsInf(NUMBER)
    ),
    "bits of a number": z3.Implies(
        z3.Not(z3.fpIsNaN(NUMBER)), z3.fpIsInf(NUMBER) == (z3.fpToIEEEBV(z3.fpAbs(NUMBER)) == 0x7F800000)
    ),
}
WRONG = {
    "integers": z3.Implies(z3.And(X >= 0, N > 0), X / N * N == X),
    "reals": (z3.Real("a") - z3.Real("b")) ** 2 > 0,
    "bits": BITS ^ BITS == 1,
    "numbers": z3.fpIsZero(z3.fpSub(z3.RNE(), NUMBER, NUMBER)),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_both_prove_what_is_right(kind: str) -> None:
    with second_solver.collecting() as goals:
        assert follows(Facts(), RIGHT[kind]).kind == "proved"
    assert goals and compare(goals.values(), 20.0) == Agreement(len(goals), len(goals))


@pytest.mark.parametrize("kind", WRONG)
def test_both_refute_a_planted_wrong_goal(kind: str) -> None:
    with second_solver.collecting() as goals:
        assert follows(Facts(), WRONG[kind]).kind == "refuted"
    assert not goals
    text = second_solver.smt_lib([z3.Not(WRONG[kind])])
    assert second_solver.answers([text], 20.0) == ["sat"]
    # Had Z3 called it proved, the disagreement would be seen.
    [disagreed] = compare([second_solver.Goal(kind, text, satisfiable=False, weaker=False)], 20.0).disagreed
    assert disagreed == f"{kind}: Z3 says unsat, cvc5 says sat"


def test_every_goal_of_a_theorem_is_settled_by_both() -> None:
    # Several about one program: what one has asked counts for the next as well.
    names = ["sq_dist_nonneg", "complement_selected_iff", "vector_mae_hidden_mask_selected_iff"]
    names += ["vector_mae_mask_hidden_get_eq_zero", "vector_mae_mask_visible_get_eq_input", "patch_index_in_range"]
    settled = list(check_all([registered()[name] for name in names], 2, "both"))
    assert [one.theorem.name for one in settled if one.green] == names
    for one in settled:
        second = one.outcome.second
        assert second is not None and second.agreed == second.asked > 1, second
        assert all(mutant.verdict is Verdict.REFUTED for mutant in one.mutants.values())


def test_a_premise_that_cannot_hold_is_no_agreement() -> None:
    never = second_solver.Goal("premise", second_solver.smt_lib([X > 0, X < 0]), satisfiable=True, weaker=False)
    assert compare([never], 20.0).disagreed == ("premise: Z3 says sat, cvc5 says unsat",)


def test_a_model_of_less_than_was_asked_decides_nothing() -> None:
    for satisfiable in (False, True):
        less = second_solver.Goal("less", second_solver.smt_lib([X > 0]), satisfiable, weaker=True)
        agreement = compare([less], 20.0)
        assert (agreement.agreed, agreement.disagreed, len(agreement.unsettled)) == (0, (), 1)


def test_what_cvc5_cannot_read_is_named() -> None:
    [answer] = second_solver.answers(["(set-logic ALL)(assert (no_such_function 1))"], 20.0)
    assert answer.startswith("not expressible: ")


def test_outside_a_collection_nothing_is_kept() -> None:
    second_solver.note("goal", [X > 0])
    with second_solver.collecting() as goals:
        pass
    assert not goals and not second_solver.active()


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    answer = ["unsat"]

    def answers(texts: Sequence[str], seconds: float) -> list[str]:
        return answer * len(texts)

    monkeypatch.setattr(second_solver, "answers", answers)
    monkeypatch.setattr(report, "registered", lambda: {"sq_dist_self": registered()["sq_dist_self"]})
    return answer


def test_a_disagreement_is_not_green(answered: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    answered[0] = "sat"
    assert report.run(solver="both") == 1
    out = capsys.readouterr().out
    assert "UNKNOWN" in out and "the solvers disagree" in out and "Z3 says unsat, cvc5 says sat" in out


@pytest.mark.parametrize(("solver", "code"), [("both", 0), ("cvc5", 1)])
def test_what_cvc5_leaves_open_is_listed(
    answered: list[str], capsys: pytest.CaptureFixture[str], solver: str, code: int
) -> None:
    answered[0] = "timeout after 60 s"
    assert report.run(solver=solver) == code
    out = capsys.readouterr().out
    assert ("PROVED" in out) is (code == 0) and "timeout after 60 s" in out and "cvc5 0/" in out
    assert max(map(len, out.splitlines())) <= 120


def test_without_cvc5_one_line_and_exit_2() -> None:
    code = (
        "import sys; sys.modules['cvc5'] = None\nfrom viewproof.theorems import report\n"
        "sys.exit(report.run(solver='both'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "a second opinion needs cvc5; pip install 'viewproof[cvc5]'\n"
