"""What ``viewproof zoo`` prints: every specimen, its twin and every false alarm, certified and replayed.

``python -m viewproof.bugzoo.run [FOLDER]`` writes the page and pictures in ``docs`` of the repository in FOLDER.
"""

import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from viewproof.bugzoo.specimen import Specimen
from viewproof.certify.report import Finding, Report
from viewproof.verdict import Verdict

PARTS = ("views", "targets", "losses", "tokens", "geometry", "target_branches", "monitors", "draws", "model_leaks")
WIDTH = 120


def specimens() -> list[Specimen]:
    """Every specimen, contract by contract."""
    found = [s for part in PARTS for s in import_module(f"viewproof.bugzoo.{part}").SPECIMENS]
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
    def said(self) -> str:
        """What the witness against the buggy twin says; of a false alarm, what its report says."""
        if self.finding is None:
            return "" if self.buggy is not None else "nothing is refuted"
        assert self.finding.witness is not None
        return self.finding.witness.what


def examine(specimen: Specimen) -> Examined:
    """Certify both twins and run the witness on them outside the certifier."""
    complaints: list[str] = []

    def tried(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            complaints.append(f"{what} raised {type(error).__name__}: {error}")
            return None

    nothing = Report("", ())
    fixed: Report = tried("certifying the fixed twin", lambda: specimen.certify(specimen.fixed)) or nothing
    verdict = fixed.verdict(specimen.contract)
    complaints += [f"the fixed twin is refuted under {f.contract.name}: {f.claim}" for f in fixed.refuted]
    if specimen.decidable and verdict is not Verdict.PROVED:
        complaints.append(f"the fixed twin is {verdict}, not PROVED")
    if specimen.buggy is None:
        if specimen.standing != "false alarm":
            complaints.append("there is no buggy twin")
        return Examined(specimen, verdict, None, None, tuple(complaints))
    buggy: Report = tried("certifying the buggy twin", lambda: specimen.certify(specimen.buggy)) or nothing
    finding = next((f for f in buggy.refuted if f.contract is specimen.contract), None)
    if finding is None or specimen.breaks is None:
        complaints.append(f"the buggy twin is not refuted under {specimen.contract.name}")
    else:
        for twin, name, wanted in ((specimen.buggy, "buggy", True), (specimen.fixed, "fixed", False)):
            broken = tried(f"the witness on the {name} twin", lambda: specimen.breaks(twin, finding.witness))  # type: ignore[misc, arg-type]  # noqa: B023
            if broken is not None and broken is not wanted:
                complaints.append(f"the witness {'breaks' if broken else 'does not break'} the {name} twin")
    return Examined(specimen, verdict, buggy.verdict(specimen.contract), finding, tuple(complaints))


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
    source = s.source.removeprefix("https://github.com/") if s.source != s.standing else ""
    what = f"{s.name}; {source}" if source else s.name
    yield f"{s.contract.name:<4}{one.buggy or '-':<9}{one.fixed:<9}{s.standing:<13}{what}"
    for text in (one.said, *(f"WRONG: {complaint}" for complaint in one.complaints)):
        yield from textwrap.wrap(text, WIDTH, initial_indent=" " * 35, subsequent_indent=" " * 35)


if __name__ == "__main__":
    from viewproof.bugzoo import page

    page.update(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd(), list(map(examine, specimens())))
