"""What ``viewproof prove`` prints, writes and returns."""

import dataclasses
import hashlib
import json
import subprocess
import sys

import pytest

pytest.importorskip("z3")

from viewproof.errors import InvalidArgument
from viewproof.theorems import registered, report
from viewproof.theorems.pages import theorems_page, trust_page
from viewproof.theorems.registry import Outcome
from viewproof.theorems.workers import check_one
from viewproof.verdict import Verdict

SMALL = {t.name: t for t in registered().values() if t.name.startswith(("masked_loss", "variance_term_collapsed"))}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    theorems = dict(SMALL)
    monkeypatch.setattr(report, "registered", lambda: theorems)
    return theorems


def answering(theorem, outcome):
    """The theorem with this answer, and its mutants refuted."""
    refuted = Outcome(Verdict.REFUTED, "", {"n": 1})
    return dataclasses.replace(
        theorem,
        prove=lambda program: outcome if program is theorem.program else refuted,
        holds=lambda program, witness: program is theorem.program,
    )


def test_all_green_exits_0_and_lists_every_theorem(capsys):
    assert report.run(None, None, None) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in SMALL)
    assert all(theorem.statement in " ".join(out.split()) for theorem in SMALL.values())
    assert f"{len(SMALL)} PROVED" in out and "all green" in out
    assert max(map(len, out.splitlines())) <= 120
    assert "\x1b" not in out


def test_rows_are_grouped_by_layer(capsys, registry):
    name = next(iter(registry))
    registry["other"] = dataclasses.replace(registry[name], name="other", layer="masks")
    registry["last"] = dataclasses.replace(registry[name], name="last")
    report.run("*[!s]", None, None)
    out = capsys.readouterr().out
    assert out.index("last") < out.index("\n\nmasks\n") < out.index("other")


def test_a_mutant_in_the_place_of_the_program_exits_1(capsys, registry):
    theorem = registry["masked_loss_append"]
    registry[theorem.name] = dataclasses.replace(theorem, program=theorem.mutants[0].program)
    assert report.run(None, None, None) == 1
    out = capsys.readouterr().out
    assert "REFUTED" in out and "fails on lists of length 0, 0" in out and "1 NOT GREEN" in out


def test_a_mutant_that_is_not_refuted_exits_1(capsys, registry):
    theorem = registry["masked_loss_nil"]
    harmless = dataclasses.replace(theorem.mutants[0], name="harmless", program=theorem.program)
    registry[theorem.name] = dataclasses.replace(theorem, mutants=(harmless,))
    assert report.run("masked_loss_nil", None, None) == 1
    assert "mutant harmless came out PROVED" in capsys.readouterr().out


def test_a_theorem_without_mutants_exits_1(capsys, registry):
    registry["masked_loss_nil"] = dataclasses.replace(registry["masked_loss_nil"], mutants=())
    assert report.run("masked_loss_nil", None, None) == 1
    assert "no mutant shows that this theorem can fail" in capsys.readouterr().out


@pytest.mark.parametrize("verdict", [Verdict.UNKNOWN, Verdict.VACUOUS])
def test_only_proved_is_green(capsys, registry, verdict):
    registry["masked_loss_nil"] = answering(registry["masked_loss_nil"], Outcome(verdict, "why it is so"))
    assert report.run("masked_loss_nil", None, None) == 1
    out = capsys.readouterr().out
    assert verdict in out and "why it is so" in out


def test_a_check_that_raises_is_unknown(capsys, registry):
    def broken(program):
        raise ZeroDivisionError("no")

    registry["masked_loss_nil"] = dataclasses.replace(registry["masked_loss_nil"], prove=broken)
    assert report.run("masked_loss_*", None, None) == 1
    out = capsys.readouterr().out
    assert "the check stopped: ZeroDivisionError: no" in out and "masked_loss_append" in out


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("masked_loss_nil", ["masked_loss_nil"]),
        ("append", ["masked_loss_append"]),
        ("masked_loss_[nc]*", ["masked_loss_nil", "masked_loss_cons"]),
    ],
)
def test_only_takes_a_pattern_or_a_part(only, names):
    assert [theorem.name for theorem in report.chosen(SMALL, only)] == names


def test_only_without_a_match_suggests_the_nearest():
    with pytest.raises(InvalidArgument) as raised:
        report.run("masked_loss_appendix", None, None)
    assert str(raised.value) == "only='masked_loss_appendix' matches no theorem; the nearest is 'masked_loss_append'"


def test_show_of_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InvalidArgument) as raised:
        report.run(None, None, "masked_los_nil")
    assert str(raised.value) == "show='masked_los_nil' is not a theorem; the nearest is 'masked_loss_nil'"


def test_only_and_show_exclude_each_other():
    with pytest.raises(InvalidArgument, match="pass one of them"):
        report.run("a", None, "b")


def test_show_prints_statement_goal_and_witnesses(capsys):
    assert report.run(None, None, "variance_term_collapsed_positive") == 0
    out = capsys.readouterr().out
    assert "variance_term of collapsed coordinates is positive." in out
    assert "vs is not empty" in out
    assert "base, vs empty:" in out and "step, from vs to vs_head :: vs:" in out
    assert "define-funs-rec ( ( variance_term ((x!1 ListReal)) Real)" in out
    assert "min_for_max: min(0, gamma - v)" in out and "gamma = 1" in out and "vs = ['0']" in out


def test_show_prints_the_captured_graph(capsys, registry):
    proved = Outcome(Verdict.PROVED, graphs=("graph():\n  return x",), goals=("a goal",))
    registry["masked_loss_nil"] = answering(registry["masked_loss_nil"], proved)
    report.run(None, None, "masked_loss_nil")
    out = capsys.readouterr().out
    assert "captured graph\n  graph():\n    return x" in out and "goals\n  a goal" in out


def test_json_has_versions_and_every_answer(tmp_path, registry):
    proved = Outcome(Verdict.PROVED, graphs=("graph()",))
    registry["masked_loss_nil"] = answering(registry["masked_loss_nil"], proved)
    path = tmp_path / "proofs.json"
    assert report.run(None, path, None) == 0
    held = json.loads(path.read_text())
    assert set(held) == {"viewproof", "python", "torch", "z3", "theorems"}
    assert [entry["name"] for entry in held["theorems"]] == list(registry)
    for entry in held["theorems"]:
        assert entry["verdict"] == "PROVED" and entry["green"] is True and entry["milliseconds"] >= 0
        assert {"layer", "statement", "hypotheses", "scope", "method", "detail", "witness", "complaints"} <= set(entry)
        assert entry["mutants"] and all(mutant["verdict"] == "REFUTED" for mutant in entry["mutants"])
    assert held["theorems"][0]["graphs_sha256"] == [hashlib.sha256(b"graph()").hexdigest()]
    assert [entry.name for entry in tmp_path.iterdir()] == ["proofs.json"]


def test_json_in_a_missing_folder_is_refused_before_any_proof(tmp_path):
    with pytest.raises(InvalidArgument, match="folder that exists"):
        report.run(None, tmp_path / "missing" / "proofs.json", None)


def test_interrupt_prints_what_was_checked_and_exits_130(capsys, registry, tmp_path):
    def interrupted(program):
        raise KeyboardInterrupt

    registry["masked_loss_reverse"] = dataclasses.replace(registry["masked_loss_reverse"], prove=interrupted)
    assert report.run(None, tmp_path / "proofs.json", None) == 130
    out = capsys.readouterr().out
    assert "masked_loss_nil" in out and f"interrupted: 2 of {len(registry)} checked; 2 PROVED" in out
    assert not (tmp_path / "proofs.json").exists()


def test_interrupt_that_z3_took_for_itself_counts_too(capsys, registry):
    swallowed = Outcome(Verdict.UNKNOWN, "Z3 gave up after 0.1 s (interrupted from keyboard)")
    registry["masked_loss_nil"] = answering(registry["masked_loss_nil"], swallowed)
    assert report.run(None, None, None) == 130
    assert "interrupted: 0 of" in capsys.readouterr().out


def test_colour_on_a_terminal_only(monkeypatch):
    checked = check_one(SMALL["masked_loss_nil"])
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert "\x1b[32m" in report.row(checked)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in report.row(checked)


def test_without_z3_one_line_and_exit_2():
    code = "import sys; sys.modules['z3'] = None\nfrom viewproof.theorems.report import run\nsys.exit(run())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "proofs need Z3; pip install 'viewproof[prove]'\n"


def test_the_page_has_every_theorem_with_its_mutants():
    page = theorems_page(SMALL)
    for theorem in SMALL.values():
        assert f"### `{theorem.name}`" in page and theorem.statement in page and theorem.scope in page
        assert all(f"`{mutant.name}`" in page for mutant in theorem.mutants)


def test_trust_lists_are_replaced_and_the_rest_is_kept():
    markers = ("theorems", "scopes", "operators")
    page = "before\n" + "".join(f"<!-- generated: {name} -->\nSTALE\n<!-- end -->\n" for name in markers) + "after\n"
    new = trust_page(page, SMALL)
    assert "STALE" not in new and "`masked_loss_nil`" in new and new.startswith("before\n") and new.endswith("after\n")
    assert trust_page(new, SMALL) == new
