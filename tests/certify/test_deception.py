"""Programs made to deceive a certifier: none of them may come out PROVED, and the finding that says why is named."""

from functools import partial

import torch
from torch import Tensor, nn

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


def test_entries_that_a_view_returns_beside_x_are_named() -> None:
    def view(x: Tensor) -> dict[str, Tensor]:
        return {"x": torch.where(HIDDEN, 0.0, x), "y": x, "mask": HIDDEN, "pixels": x}

    report = vp.certify_view(view, torch.randn(2, 6))
    assert "not asked about: pixels" in next(f.detail for f in report.findings if f.contract is Contract.C1)


def test_a_loss_with_another_value_where_a_gradient_is_needed_is_not_proved() -> None:
    y = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    sample = vp.Sample(y, y, vp.Mask(HIDDEN[0]))

    def loss(p: Tensor, s: vp.Sample, extra: float, trained: bool) -> Tensor:
        h = s.mask.hidden.expand(s.y.shape)
        if not h.any():
            raise ValueError("nothing is hidden")
        return (p - s.y)[h].square().mean() + extra * (p.requires_grad is trained)

    for extra, trained, verdict in (
        (0.5, True, Verdict.REFUTED),
        (0.5, False, Verdict.UNKNOWN),
        (0.0, True, Verdict.PROVED),
    ):
        report = vp.certify_loss(partial(loss, extra=extra, trained=trained), sample, distance=lambda e: e * e)
        [finding] = [f for f in report.findings if "declared distance" in f.claim]
        assert finding.verdict is verdict, str(report)


def test_decay_that_a_hook_adds_to_a_gradient_is_seen() -> None:
    model = nn.Linear(3, 2)
    groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]

    def report() -> Report:
        return vp.certify_optimizer(model, torch.optim.SGD(groups, 0.1), no_decay=["bias"], decay=["weight"])

    assert report().verdict() is Verdict.PROVED
    model.bias.register_hook(lambda gradient: gradient + 0.1 * model.bias.detach())
    assert report().verdict() is Verdict.REFUTED and model.bias.grad is None


def test_a_loss_that_leaves_pairs_out_is_not_proved() -> None:
    def of_the_first_half(a: Tensor, b: Tensor) -> Tensor:
        return -(a[: len(a) // 2] * b[: len(a) // 2]).sum(1).mean()

    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    report = vp.certify_pairs(lambda x: (x + 1, 2 * x), x, loss=of_the_first_half)
    assert report.verdict() is Verdict.UNKNOWN and "has a gradient" in report.findings[-1].detail
