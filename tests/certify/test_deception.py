"""Programs made to deceive a certifier: none of them may come out PROVED, and the finding that says why is named."""

import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify import Contract, Finding, Report, Verdict
from viewproof.certify.report import Severity

HIDDEN = torch.zeros(2, 6, dtype=torch.bool)
HIDDEN[:, 3:5] = True


def of(report: vp.Report, contract: Contract) -> set[Verdict]:
    return {finding.verdict for finding in report.findings if finding.contract is contract}


def test_an_encoder_that_writes_to_its_input_is_refuted() -> None:
    def zeroes_what_is_hidden(x: Tensor) -> Tensor:
        return x.masked_fill_(HIDDEN, 0.0).sum(-1)

    def the_same_on_a_copy(x: Tensor) -> Tensor:
        return x.masked_fill(HIDDEN, 0.0).sum(-1)

    x = torch.randn(2, 6)
    report = vp.certify_encoder(zeroes_what_is_hidden, x, hidden=HIDDEN)
    assert (of(report, Contract.C10), of(report, Contract.C2)) == ({Verdict.PROVED}, {Verdict.REFUTED})
    [finding] = report.refuted
    witness = finding.witness
    assert witness is not None and witness.coordinates["written"] == (0, 3)
    before = witness.inputs["x"].clone()
    zeroes_what_is_hidden(before)
    assert before[0, 3] != witness.inputs["x"][0, 3], "the witness replays"
    assert of(vp.certify_encoder(the_same_on_a_copy, x, hidden=HIDDEN), Contract.C2) == set()


def test_a_declaration_that_follows_from_hidden_values_is_refuted() -> None:
    ids = torch.randint(10, 20, (2, 6))
    ids[:, 3] = 99
    place = torch.zeros(2, 6, dtype=torch.bool)
    place[:, 3] = True

    def by_value(ids: Tensor) -> dict[str, Tensor]:
        kept = HIDDEN & (ids > 50)
        return {"x": torch.where(HIDDEN & ~place, 1, ids), "y": ids, "mask": HIDDEN, "kept": kept}

    def by_place(ids: Tensor) -> dict[str, Tensor]:
        return {"x": torch.where(HIDDEN & ~place, 1, ids), "y": ids, "mask": HIDDEN, "kept": place}

    assert of(vp.certify_view(by_value, ids), Contract.C1) == {Verdict.REFUTED}
    assert vp.certify_view(by_place, ids).verdict() is Verdict.PROVED


def test_robustness_alone_proves_no_report() -> None:
    def finding(verdict: Verdict, severity: Severity) -> Finding:
        return Finding(
            contract=Contract.C4, claim="a claim", verdict=verdict, scope="", method="", detail="why", severity=severity
        )

    nothing_said = finding(Verdict.VACUOUS, Severity.OBJECTIVE)
    robust, right = (finding(Verdict.PROVED, severity) for severity in (Severity.ROBUSTNESS, Severity.OBJECTIVE))
    assert Report("a loss", (nothing_said, robust)).verdict() is Verdict.VACUOUS
    assert Report("a loss", (nothing_said, right)).verdict() is Verdict.PROVED
