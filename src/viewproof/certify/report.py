"""The answers of a certifier: findings by contract, with a witness where one is broken."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict


class Contract(StrEnum):
    """What a self-supervised pipeline promises."""

    C1 = "hidden content does not reach the encoder"
    C2 = "visible content passes unchanged"
    C3 = "the target is the declared, unmasked source"
    C4 = "the loss sums over exactly the hidden set"
    C5 = "mask geometry agrees with patch order"
    C6 = "target branch: no gradient, EMA right"
    C7 = "collapse is seen"
    C8 = "reproducible by seed, epoch and sample"
    C9 = "numerics"
    C10 = "no leak inside the model"


class Severity(StrEnum):
    """What a broken claim means: the objective is another one, or the program is fragile."""

    OBJECTIVE = "objective wrong"
    ROBUSTNESS = "not robust"


@dataclass(frozen=True)
class Witness:
    """Concrete inputs on which the contract is broken, to run the pipeline on again.

    ``inputs`` are what the user's own callables were given, by name; ``coordinates`` where to look, such as the hidden
    pixel that reaches the output and the output coordinate it reaches; ``maps`` are tensors worth drawing (a leak map
    over the data shape, the support of a gradient).
    """

    what: str
    inputs: Mapping[str, Any] = field(default_factory=dict)
    coordinates: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim under one contract: its verdict, how it was reached, and for which inputs.

    ``scope`` says what a PROVED covers ("all values, all sizes", "all values at 8x3x32x32"); ``detail`` is the reason
    of an UNKNOWN or VACUOUS, or more about the answer; a REFUTED has a ``witness``. ``severity`` is what it means if
    the claim does not hold; ``waiver`` is the reason for which that is accepted, see `Report.waive`.
    """

    contract: Contract
    claim: str
    verdict: Verdict
    scope: str
    method: str
    detail: str = ""
    witness: Witness | None = None
    seconds: float = 0.0
    severity: Severity = Severity.OBJECTIVE
    waiver: str = ""

    def __post_init__(self) -> None:
        if self.verdict is Verdict.REFUTED and self.witness is None:
            raise AssertionError(f"REFUTED without a witness: {self.claim}")

    @property
    def open(self) -> bool:
        """Whether it is REFUTED or UNKNOWN."""
        return self.verdict in (Verdict.REFUTED, Verdict.UNKNOWN)

    def decides(self, strict: bool = False) -> bool:
        """Whether it counts for a report's verdict; open waived or minor findings do not."""
        return not self.open or (not self.waiver and (strict or self.severity is Severity.OBJECTIVE))

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a report prints below the finding: what breaks it, why, its severity, its waiver."""
        minor = "not robust; fails with strict only" if self.open and self.severity is Severity.ROBUSTNESS else ""
        waiver = self.waiver and ("waived: " if self.open else "the waiver is not needed: ") + self.waiver
        return tuple(filter(None, (self.witness.what if self.witness else "", self.detail, minor, waiver)))


# The worst of several verdicts, worst first: one broken claim breaks a contract, one unknown claim leaves it open.
_WORST = (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.VACUOUS, Verdict.PROVED)


@dataclass(frozen=True)
class Report:
    """The findings about one subject; ``maps`` are worth drawing whatever the verdicts."""

    subject: str
    findings: tuple[Finding, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def verdict(self, contract: Contract | None = None, *, strict: bool = False) -> Verdict:
        """The worst verdict of the contract's findings, or of all of them; UNKNOWN if there are none.

        Waived findings, and without ``strict`` those about robustness, do not make it worse. Beside a PROVED about
        the objective a VACUOUS with a reason does not either; VACUOUS is the verdict where nothing that counts is left.
        """
        findings = [f for f in self.findings if contract is None or f.contract is contract]
        if not findings:
            return Verdict.UNKNOWN
        deciding = [f for f in findings if f.decides(strict)]
        verdicts = {f.verdict for f in deciding}
        # A loss that is proved robust, and of whose objective nothing could be said, is not proved.
        if any(f.verdict is Verdict.PROVED and f.severity is Severity.OBJECTIVE for f in deciding):
            verdicts = {f.verdict for f in deciding if f.verdict is not Verdict.VACUOUS or not f.detail}
        return next((verdict for verdict in _WORST if verdict in verdicts), Verdict.VACUOUS)

    def failures(self, *, strict: bool = False, allow_unknown: bool = False) -> tuple[Finding, ...]:
        """The findings that fail a test: REFUTED or UNKNOWN, not waived, about the objective."""
        wrong = {Verdict.REFUTED} if allow_unknown else {Verdict.REFUTED, Verdict.UNKNOWN}
        return tuple(f for f in self.findings if f.verdict in wrong and f.decides(strict))

    def waive(self, reasons: Mapping[str, str]) -> "Report":
        """The report with named findings waived, by claim or contract ("C9"), each with its reason.

        >>> finding = Finding(
        ...     contract=Contract.C9, claim="no NaN", verdict=Verdict.UNKNOWN, scope="nothing", method="not run")
        >>> report = Report("a loss", (finding,)).waive({"C9": "only ever run on finite data"})
        >>> report.verdict(), report.failures()
        (<Verdict.VACUOUS: 'VACUOUS'>, ())

        Raises `InvalidArgument` for a name that no finding has, and for an empty reason.
        """
        findings = list(self.findings)
        for name, reason in reasons.items():
            if not reason.strip():
                raise InvalidArgument(f"allow={name!r} must have a reason; say why it is accepted")
            named = [i for i, f in enumerate(findings) if name in (f.claim, f.contract.name, f.contract.value)]
            if not named:
                claims = "; ".join(f"{f.contract.name} {f.claim}" for f in findings)
                raise InvalidArgument(
                    f"allow={name!r} must be a contract or a claim of the report; those are: {claims}"
                )
            for i in named:
                findings[i] = replace(findings[i], waiver=reason)
        return replace(self, findings=tuple(findings))

    def html_head(self) -> str:
        """HTML that a page shows above the findings; a kind of report with more to show overrides it."""
        return ""

    def html_tail(self) -> str:
        """HTML that a page shows below the findings and their pictures."""
        return ""

    @property
    def refuted(self) -> tuple[Finding, ...]:
        """The findings that come with a witness."""
        return tuple(f for f in self.findings if f.verdict is Verdict.REFUTED)

    def __add__(self, other: "Report") -> "Report":
        return Report(self.subject, self.findings + other.findings, {**self.maps, **other.maps})

    def __str__(self) -> str:
        """One finding a line, its reason or witness below it."""
        lines = [self.subject]
        for f in self.findings:
            lines.append(f"  {f.verdict:<8} {f.contract.name:<3} {f.claim}  [{f.scope}; {f.method}]")
            lines += [f"               {text}" for text in f.remarks]
        return "\n".join(lines)

    def json(self) -> str:
        """The report as JSON, without the tensors of its witnesses."""
        return json.dumps(
            {
                "subject": self.subject,
                "verdict": self.verdict(),
                "findings": [
                    {
                        "contract": f.contract.name,
                        "claim": f.claim,
                        "verdict": f.verdict,
                        "scope": f.scope,
                        "method": f.method,
                        "detail": f.detail,
                        "severity": f.severity,
                        "waiver": f.waiver,
                        "seconds": round(f.seconds, 4),
                        "witness": f.witness and {"what": f.witness.what, "coordinates": dict(f.witness.coordinates)},
                    }
                    for f in self.findings
                ],
            },
            indent=2,
        )
