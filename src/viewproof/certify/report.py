"""The answers of a certifier: findings, contract by contract, with a witness where a contract is broken."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torch import Tensor

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
    of an UNKNOWN or VACUOUS, or more about the answer; a REFUTED has a ``witness``.
    """

    contract: Contract
    claim: str
    verdict: Verdict
    scope: str
    method: str
    detail: str = ""
    witness: Witness | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.verdict is Verdict.REFUTED and self.witness is None:
            raise AssertionError(f"REFUTED without a witness: {self.claim}")


# The worst of several verdicts, worst first: one broken claim breaks a contract, one unknown claim leaves it open.
_WORST = (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.VACUOUS, Verdict.PROVED)


@dataclass(frozen=True)
class Report:
    """The findings about one subject; ``maps`` are worth drawing whatever the verdicts, such as what is hidden."""

    subject: str
    findings: tuple[Finding, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)

    def verdict(self, contract: Contract | None = None) -> Verdict:
        """The worst verdict of the contract's findings, or of all of them; UNKNOWN if there are none."""
        verdicts = {f.verdict for f in self.findings if contract is None or f.contract is contract}
        return next((verdict for verdict in _WORST if verdict in verdicts), Verdict.UNKNOWN)

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
            lines += [f"               {text}" for text in (f.witness.what if f.witness else "", f.detail) if text]
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
                        "seconds": round(f.seconds, 4),
                        "witness": f.witness and {"what": f.witness.what, "coordinates": dict(f.witness.coordinates)},
                    }
                    for f in self.findings
                ],
            },
            indent=2,
        )
