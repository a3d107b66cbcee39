"""Verdicts of reports: severities, waivers, VACUOUS beside PROVED."""

import json
from itertools import combinations_with_replacement

import pytest

from viewproof.certify.check import Check, Claims
from viewproof.certify.report import Contract, Finding, Report, Severity
from viewproof.verdict import Verdict

C4, C9 = Check(Contract.C4, "one"), Check(Contract.C9, "two", severity=Severity.ROBUSTNESS)
PROVED, UNKNOWN, VACUOUS = C4.proved(), C4.unknown("why"), C4.vacuous("nothing")
WRONG, UNEXPLAINED = C4.refuted("x", {}), C4.vacuous("")
FRAGILE, OPEN, SAFE = C9.refuted("y", {}), C9.unknown("why"), C9.proved()


@pytest.mark.parametrize(
    ("findings", "verdict", "strict"),
    [
        ((), Verdict.UNKNOWN, Verdict.UNKNOWN),
        ((PROVED, VACUOUS), Verdict.PROVED, Verdict.PROVED),
        ((PROVED, UNEXPLAINED), Verdict.VACUOUS, Verdict.VACUOUS),
        ((VACUOUS, VACUOUS), Verdict.VACUOUS, Verdict.VACUOUS),
        ((PROVED, FRAGILE), Verdict.PROVED, Verdict.REFUTED),
        ((PROVED, OPEN), Verdict.PROVED, Verdict.UNKNOWN),
        ((UNKNOWN, FRAGILE), Verdict.UNKNOWN, Verdict.REFUTED),
        ((WRONG, SAFE), Verdict.REFUTED, Verdict.REFUTED),
        ((FRAGILE,), Verdict.VACUOUS, Verdict.REFUTED),
    ],
)
def test_verdicts(findings: tuple[Finding, ...], verdict: Verdict, strict: Verdict) -> None:
    report = Report("r", findings)
    assert (report.verdict(), report.verdict(strict=True)) == (verdict, strict)


def test_nothing_is_proved_that_fails() -> None:
    every = (PROVED, UNKNOWN, VACUOUS, WRONG, FRAGILE, OPEN, SAFE)
    for findings in combinations_with_replacement(every, 3):
        for strict in (False, True):
            report = Report("r", findings)
            passes = report.verdict(strict=strict) in (Verdict.PROVED, Verdict.VACUOUS)
            assert passes == (not report.failures(strict=strict))


def test_a_waiver_by_claim_or_contract_is_printed_and_never_proves() -> None:
    report = Report("r", (WRONG, FRAGILE)).waive({"one": "by design", "C9": "float32 only"})
    assert report.verdict(strict=True) is Verdict.VACUOUS
    assert "waived: by design" in str(report) and "waived: float32 only" in str(report)
    assert [f["waiver"] for f in json.loads(report.json())["findings"]] == ["by design", "float32 only"]
    assert "the waiver is not needed: by design" in str(Report("r", (PROVED,)).waive({"one": "by design"}))


def test_a_claim_declares_its_severity_and_a_witness_may_say_another() -> None:
    claims = Claims[int]()

    @claims(Contract.C9, "robust", severity=Severity.ROBUSTNESS)
    def robust(case: int, check: Check) -> Finding:
        if case == 0:
            raise ValueError("broken")
        return check.refuted("x", {}, severity=Severity.OBJECTIVE if case == 2 else None)

    severities = [claims.run("r", case)[0].severity for case in range(3)]
    assert severities == [Severity.ROBUSTNESS, Severity.ROBUSTNESS, Severity.OBJECTIVE]
