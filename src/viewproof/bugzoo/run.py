"""What ``viewproof zoo`` prints: every specimen, both twins certified and the witness replayed."""

import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

from viewproof.bugzoo.specimen import REGISTERED, Specimen
from viewproof.certify import Finding, Report, Verdict

MODULES = ("views", "targets", "losses", "geometry", "target_branches", "monitors", "draws", "model_leaks")
T = TypeVar("T")


def specimens() -> list[Specimen]:
    """Every specimen, contract by contract."""
    found: list[Specimen] = []
    for module in MODULES:
        found += REGISTERED[import_module(f"viewproof.bugzoo.{module}").__name__]
    return sorted(found, key=lambda s: int(s.contract.name[1:]))


@dataclass(frozen=True)
class Examined:
    """A specimen after certifying both twins; ``complaints`` say what did not come out as it should."""

    specimen: Specimen
    fixed: Verdict
    buggy: Verdict | None
    finding: Finding | None
    complaints: tuple[str, ...]

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

    contract, nothing = specimen.contract, Report("", ())
    fixed = attempt("certifying the fixed twin", lambda: specimen.certify(specimen.fixed), nothing)
    verdict = fixed.verdict(contract)
    complaints += [f"the fixed twin is refuted under {f.contract.name}: {f.claim}" for f in fixed.refuted]
    if specimen.decidable and verdict is not Verdict.PROVED:
        complaints.append(f"the fixed twin is {verdict}, not PROVED")
    buggy_twin, breaks = specimen.buggy, specimen.breaks
    if buggy_twin is None:
        if specimen.standing != "false alarm":
            complaints.append("there is no buggy twin")
        return Examined(specimen, verdict, None, None, tuple(complaints))
    buggy = attempt("certifying the buggy twin", lambda: specimen.certify(buggy_twin), nothing)
    finding = next((f for f in buggy.refuted if f.contract is contract), None)
    if finding is None or finding.witness is None or breaks is None:
        complaints.append(f"the buggy twin is not refuted under {contract.name}")
    else:
        witness = finding.witness
        if not attempt("the witness on the buggy twin", lambda: breaks(buggy_twin, witness), True):
            complaints.append("the witness does not break the buggy twin")
        if attempt("the witness on the fixed twin", lambda: breaks(specimen.fixed, witness), False):
            complaints.append("the witness breaks the fixed twin")
    return Examined(specimen, verdict, buggy.verdict(contract), finding, tuple(complaints))


def run(chosen: Iterable[Specimen] | None = None) -> int:
    """Examine and print one after the other; 0 if none has a complaint, else 1."""
    start, wrong, count = time.perf_counter(), 0, 0
    print(f"{'':<4}{'buggy':<9}{'fixed':<9}{'standing':<13}{'name and source':<60}")
    for one in map(examine, specimens() if chosen is None else chosen):
        print("\n".join(lines(one)), flush=True)
        count, wrong = count + 1, wrong + bool(one.complaints)
    what = "all came out as they should" if not wrong else f"{wrong} did not come out as they should"
    print(f"\n{count} specimens, {what}; {time.perf_counter() - start:.0f} s")
    return 1 if wrong or not count else 0


def lines(one: Examined) -> Iterator[str]:
    """One specimen's row, what the witness says, and what is wrong."""
    s = one.specimen
    what = "; ".join(text for text in (s.name, s.source.removeprefix("https://github.com/")) if text)
    yield f"{s.contract.name:<4}{one.buggy or '-':<9}{one.fixed:<9}{s.standing:<13}{what}"
    for text in (one.witness_text, *(f"WRONG: {complaint}" for complaint in one.complaints)):
        yield from textwrap.wrap(text, 120, initial_indent=" " * 35, subsequent_indent=" " * 35)
