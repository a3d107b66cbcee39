"""What ``viewproof zoo`` prints: every specimen, both twins certified and the witness replayed."""

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from json import dump
from pathlib import Path
from typing import Any, TypeVar

from viewproof.bugzoo.specimen import REGISTERED, Specimen
from viewproof.certify import Finding, Report, Verdict
from viewproof.files import whole_file

MODULES = (
    *("views", "targets", "losses", "geometry", "target_branches", "monitors", "draws", "model_leaks"),
    *("sequences", "optimization", "contents"),
)
T = TypeVar("T")


def specimens() -> list[Specimen]:
    """Every specimen, contract by contract."""
    found: list[Specimen] = []
    for module in MODULES:
        found += REGISTERED[import_module(f"viewproof.bugzoo.{module}").__name__]
    return sorted(found, key=lambda s: int(s.contract.name[1:]))


@dataclass(frozen=True)
class Examined:
    """A specimen after certifying both twins.

    ``fixed`` and ``buggy`` are the verdicts under the specimen's contract, ``finding`` refutes the buggy twin,
    ``false_alarm`` is whether anything about the fixed twin is refuted, ``complaints`` say what went wrong.
    """

    specimen: Specimen
    fixed: Verdict
    buggy: Verdict | None
    finding: Finding | None
    complaints: tuple[str, ...]
    seconds: float
    false_alarm: bool

    @property
    def witness_text(self) -> str:
        """What the witness against the buggy twin says; of a false alarm, that nothing is refuted."""
        if self.finding is None:
            return "" if self.buggy is not None else "nothing is refuted"
        assert self.finding.witness is not None
        return self.finding.witness.what


def examine(specimen: Specimen) -> Examined:
    """Certify both twins and run the witness on them outside the certifier."""
    complaints: list[str] = []

    def attempt(what: str, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:
            complaints.append(f"{what} raised {type(error).__name__}: {error}")
            return otherwise

    start, contract, nothing = time.perf_counter(), specimen.contract, Report("", ())
    report = attempt("certifying the fixed twin", lambda: specimen.certify(specimen.fixed), nothing)
    fixed, buggy, finding = report.verdict(contract, strict=True), None, None
    false_alarm = bool(report.refuted)
    complaints += [f"the fixed twin is refuted under {f.contract.name}: {f.claim}" for f in report.refuted]
    if specimen.decidable and fixed is not Verdict.PROVED:
        complaints.append(f"the fixed twin is {fixed}, not PROVED")
    buggy_twin, breaks = specimen.buggy, specimen.breaks
    if buggy_twin is not None:
        report = attempt("certifying the buggy twin", lambda: specimen.certify(buggy_twin), nothing)
        buggy, finding = (
            report.verdict(contract, strict=True),
            next((f for f in report.refuted if f.contract is contract), None),
        )
        if finding is None or finding.witness is None or breaks is None:
            complaints.append(f"the buggy twin is not refuted under {contract.name}")
        else:
            witness = finding.witness
            if not attempt("the witness on the buggy twin", lambda: breaks(buggy_twin, witness), True):
                complaints.append("the witness does not break the buggy twin")
            if attempt("the witness on the fixed twin", lambda: breaks(specimen.fixed, witness), False):
                complaints.append("the witness breaks the fixed twin")
    elif specimen.standing != "false alarm":
        complaints.append("there is no buggy twin")
    return Examined(specimen, fixed, buggy, finding, tuple(complaints), time.perf_counter() - start, false_alarm)


def run(chosen: Iterable[Specimen] | None = None, json: Path | None = None) -> int:
    """Examine and print each specimen; return 0 if none has a complaint, else 1.

    The `record` is written to ``json``.
    """
    examined: list[Examined] = []
    print(f"{'':<4}{'buggy':<9}{'fixed':<9}{'standing':<13}{'name and source':<60}")
    for one in map(examine, specimens() if chosen is None else chosen):
        print("\n".join(lines(one)), flush=True)
        examined.append(one)
    if json is not None:
        with whole_file(json) as file:
            dump(record(examined), file, indent=2)
    wrong = sum(bool(one.complaints) for one in examined)
    what = "all came out as they should" if not wrong else f"{wrong} did not come out as they should"
    print(f"\n{len(examined)} specimens, {what}; {sum(one.seconds for one in examined):.0f} s")
    return 1 if wrong or not examined else 0


def record(examined: Sequence[Examined]) -> dict[str, Any]:
    """How many bugs are detected and how many correct programs pass, over all and for each specimen.

    Of the buggy twins: detected (REFUTED under their contract), unknown, or missed, which is any other verdict. Of the
    correct programs, fixed twins and false alarms: proved or unknown under their contract, false alarms if anything is
    refuted. ``seconds`` is the time of both twins and the replays.
    """
    bugs = [one for one in examined if one.buggy is not None]
    return {
        "specimens": len(examined),
        "bugs": len(bugs),
        "detected": sum(one.buggy is Verdict.REFUTED for one in bugs),
        "unknown": sum(one.buggy is Verdict.UNKNOWN for one in bugs),
        "missed": sum(one.buggy not in (Verdict.REFUTED, Verdict.UNKNOWN) for one in bugs),
        "correct": {
            "programs": len(examined),
            "proved": sum(one.fixed is Verdict.PROVED for one in examined),
            "unknown": sum(one.fixed is Verdict.UNKNOWN for one in examined),
            "false_alarms": sum(one.false_alarm for one in examined),
        },
        "seconds": round(sum(one.seconds for one in examined), 1),
        "each": [
            {
                "name": one.specimen.name,
                "contract": one.specimen.contract.name,
                "standing": one.specimen.standing,
                "source": one.specimen.source,
                "buggy": one.buggy,
                "fixed": one.fixed,
                "false_alarm": one.false_alarm,
                "certifier_stood": one.specimen.certifier_stood,
                "adapter_lines": one.specimen.adapter_lines,
                "seconds": round(one.seconds, 3),
                "complaints": one.complaints,
            }
            for one in examined
        ],
    }


def lines(one: Examined) -> Iterator[str]:
    """One specimen's row, what the witness says, and what is wrong."""
    s = one.specimen
    what = "; ".join(text for text in (s.name, s.source.removeprefix("https://github.com/")) if text)
    yield f"{s.contract.name:<4}{one.buggy or '-':<9}{one.fixed:<9}{s.standing:<13}{what}"
    for text in (one.witness_text, *(f"WRONG: {complaint}" for complaint in one.complaints)):
        yield from textwrap.wrap(text, 120, initial_indent=" " * 35, subsequent_indent=" " * 35)
