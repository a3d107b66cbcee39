"""How a certifier is written: claims, each with the function that checks it, and one runner.

A certifier's file reads from top to bottom, one function a claim:

>>> claims = Claims[list[float]](scope="these {case} numbers", method="looked at each")
>>> @claims(Contract.C9, "no number is negative")
... def not_negative(case, check):
...     for index, number in enumerate(case):
...         if number < 0:
...             return check.refuted(f"number {index} is {number}", {"numbers": case}, at={"number": (index,)})
...     return check.proved()
>>> print(claims.run("example", [3.0, -1.0])[0].witness.what)
number 1 is -1.0
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from viewproof.certify.report import Contract, Finding, Severity, Witness
from viewproof.verdict import Verdict

C = TypeVar("C")
ClaimFunction = Callable[[C, "Check"], Finding | None]


@dataclass(frozen=True)
class Check:
    """One claim while it is checked: its methods make the finding that the claim's function returns.

    A finding has the declared ``scope`` and ``method``, a REFUTED one those of a witness, an UNKNOWN or VACUOUS one
    "nothing" and "not run", unless the call says otherwise.
    """

    contract: Contract
    claim: str
    scope: str = "nothing"
    method: str = "not run"
    witness_scope: str = "nothing"
    witness_method: str = "not run"
    severity: Severity = Severity.OBJECTIVE

    def proved(self, detail: str = "", *, scope: str = "", method: str = "") -> Finding:
        """The claim holds."""
        return self._finding(Verdict.PROVED, scope or self.scope, method or self.method, detail)

    def refuted(
        self,
        what: str,
        inputs: Mapping[str, Any],
        at: Mapping[str, tuple[int, ...]] | None = None,
        maps: Mapping[str, Tensor] | None = None,
        *,
        scope: str = "",
        method: str = "",
        detail: str = "",
        severity: Severity | None = None,
    ) -> Finding:
        """The claim is broken on these inputs; see `Witness`. ``severity`` is the claim's own by default."""
        scope, method = scope or self.witness_scope, method or self.witness_method
        witness = Witness(what, inputs, at or {}, maps or {})
        finding = self._finding(Verdict.REFUTED, scope, method, detail, witness)
        return finding if severity is None else replace(finding, severity=severity)

    def unknown(self, reason: str, *, scope: str = "nothing", method: str = "not run") -> Finding:
        """Neither proved nor refuted, and why."""
        return self._finding(Verdict.UNKNOWN, scope, method, reason)

    def undecided(self, reason: str) -> Finding:
        """UNKNOWN although the declared method ran."""
        return self.unknown(reason, scope=self.scope, method=self.method)

    def vacuous(self, reason: str, *, scope: str = "nothing", method: str = "not run") -> Finding:
        """There is nothing that the claim speaks of, and why."""
        return self._finding(Verdict.VACUOUS, scope, method, reason)

    def _finding(
        self, verdict: Verdict, scope: str, method: str, detail: str, witness: Witness | None = None
    ) -> Finding:
        return Finding(
            contract=self.contract,
            claim=self.claim,
            verdict=verdict,
            scope=scope,
            method=method,
            detail=detail,
            witness=witness,
            severity=self.severity,
        )


class Claims(Generic[C]):
    """The claims of a certifier about cases of type ``C``, in the order of their functions.

    An instance is the decorator that declares a claim. The function gets the case and a `Check` and returns one of its
    findings, or None if the claim does not concern the case. Claims and scopes are format strings: ``"{case.count}"``.
    ``scope`` and ``method`` are those of claims that declare none; ``witness_scope`` and ``witness_method`` those of
    their REFUTED findings, if others.
    """

    def __init__(
        self, *, scope: str = "this input", method: str = "run", witness_scope: str = "", witness_method: str = ""
    ) -> None:
        self._defaults = scope, method, witness_scope or scope, witness_method or method
        self._declared: list[tuple[Check, ClaimFunction[C]]] = []

    def __call__(
        self,
        contract: Contract,
        claim: str,
        *,
        scope: str = "",
        method: str = "",
        severity: Severity = Severity.OBJECTIVE,
    ) -> Callable[[ClaimFunction[C]], ClaimFunction[C]]:
        """Declare that the decorated function checks ``claim``; ``severity``: what a failure means."""
        own = (scope, method, scope, method)
        texts = [a or b for a, b in zip(own, self._defaults, strict=True)]
        check = Check(contract, claim, texts[0], texts[1], texts[2], texts[3], severity)

        def declare(function: ClaimFunction[C]) -> ClaimFunction[C]:
            self._declared.append((check, function))
            return function

        return declare

    def __add__(self, other: "Claims[C]") -> "Claims[C]":
        """The claims of both."""
        both = Claims[C]()
        both._declared = self._declared + other._declared
        return both

    def run(
        self, subject: str, *cases: C, around: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> tuple[Finding, ...]:
        """The finding of every claim that concerns the cases, with the seconds that it took.

        Of several cases, the draws of a random view say, the first that refutes a claim speaks for it, else the last
        that leaves it open, else the last that is PROVED.
        ``around()`` is entered for each claim. A function that raises, because the user's code does, makes its claim
        UNKNOWN; the reason names ``subject`` and the error.
        """
        findings = []
        for declared, function in self._declared:
            start, finding = time.perf_counter(), None
            with around():
                for case in cases:
                    before = finding
                    claim, scope, of_witness = (
                        text.format(case=case) for text in (declared.claim, declared.scope, declared.witness_scope)
                    )
                    check = replace(declared, claim=claim, scope=scope, witness_scope=of_witness)
                    try:
                        finding = function(case, check)
                    except Exception as error:
                        finding = check.unknown(failure(subject, error))
                    finding = max(finding, before, key=_speaks) if before and finding else finding or before
                    if finding is not None and finding.verdict is Verdict.REFUTED:
                        break
            if finding is not None:
                findings.append(replace(finding, seconds=time.perf_counter() - start))
        return tuple(findings)

    def unknown(self, reason: str) -> tuple[Finding, ...]:
        """Every claim UNKNOWN for one reason, where there is no case; for claims without format fields."""
        return tuple(check.unknown(reason) for check, _ in self._declared)


def _speaks(finding: Finding) -> int:
    """Which of two cases' findings about one claim stands for both: the higher one."""
    return [Verdict.VACUOUS, Verdict.PROVED, Verdict.UNKNOWN, Verdict.REFUTED].index(finding.verdict)


def failure(called: str, error: Exception) -> str:
    """What a call raised, on one line.

    >>> failure("the view", ValueError("wrong shape\\nand more")), failure("the view", ValueError())
    ('the view raised ValueError: wrong shape', 'the view raised ValueError')
    """
    first, *_ = str(error).strip().splitlines() or [""]
    return f"{called} raised {type(error).__name__}" + (f": {first}" if first else "")


def subject_name(function: object, name: str | None = None) -> str:
    """What a report is about: the given name, else the function's own, else its class's.

    >>> subject_name(3), subject_name(list.sort), subject_name(len, "length")
    ('int', 'list.sort', 'length')
    """
    own = str(getattr(function, "__qualname__", type(function).__name__))
    return name or own.rpartition("<locals>.")[2]
