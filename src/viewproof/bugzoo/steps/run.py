"""What ``viewproof zoo --steps`` prints: every step watched without a declaration, both twins."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from json import dump
from pathlib import Path
from typing import Any

import torch

from viewproof.bugzoo.steps.step import REGISTERED, StepSpecimen
from viewproof.certify.report import Finding, Report
from viewproof.files import whole_file
from viewproof.verdict import Verdict
from viewproof.watch import watch

MODULES = ("autoencoders", "pixels", "latent", "teachers", "joint", "tokens", "signals", "correct")


def step_specimens() -> list[StepSpecimen]:
    """Every step, file by file."""
    for module in MODULES:
        import_module(f"viewproof.bugzoo.steps.{module}")
    return list(REGISTERED)


@dataclass(frozen=True)
class Watched:
    """A specimen after both twins were watched.

    ``finding`` refutes the buggy twin under one of its contracts, ``others`` under another; ``alarms`` refute the
    correct twin, ``unknown`` are its open findings; ``errors`` say what raised.
    """

    specimen: StepSpecimen
    finding: Finding | None
    others: tuple[Finding, ...]
    alarms: tuple[Finding, ...]
    unknown: tuple[Finding, ...]
    errors: tuple[str, ...]
    seconds: float

    @property
    def buggy(self) -> str:
        """In a word: "caught", "missed", "raised", or what one step on one rank lacks."""
        if self.specimen.standing == "false alarm":
            return ""
        if self.finding is not None:
            return "caught"
        return (self.specimen.needs and f"needs {self.specimen.needs}") or ("raised" if self.errors else "missed")

    @property
    def correct(self) -> str:
        """In a word: "raised", "false alarm", "unknown" or "nothing refuted"."""
        if any(error.startswith("correct") for error in self.errors):
            return "raised"
        return "false alarm" if self.alarms else "unknown" if self.unknown else "nothing refuted"


def examine_step(specimen: StepSpecimen) -> Watched:
    """Watch both twins."""
    start, errors, nothing = time.perf_counter(), [], Report("", ())

    def report(bug: bool) -> Report:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                step, batch = specimen.build(bug)
                return watch(step, batch)
        except Exception as error:
            errors.append(f"{'buggy' if bug else 'correct'} twin: {type(error).__name__}: {error}")
            return nothing

    correct = report(False)
    buggy = nothing if specimen.standing == "false alarm" else report(True)
    return Watched(
        specimen,
        next((f for f in buggy.refuted if f.contract in specimen.contracts), None),
        tuple(f for f in buggy.refuted if f.contract not in specimen.contracts),
        correct.refuted,
        tuple(f for f in correct.findings if f.verdict is Verdict.UNKNOWN),
        tuple(errors),
        time.perf_counter() - start,
    )


def run_steps(chosen: Iterable[StepSpecimen] | None = None, json: Path | None = None) -> int:
    """Print the table; exit code 0 if no correct step is refuted, nothing raises, and 9 of 10 bugs are caught."""
    watched: list[Watched] = []
    for specimen in step_specimens() if chosen is None else chosen:
        one = examine_step(specimen)
        watched.append(one)
        print(f"{one.buggy:<20}{one.correct:<17}{one.seconds:5.1f} s  {specimen.name}", flush=True)
        shown = [one.finding] if one.finding else []
        for label, findings in (("", shown), ("other: ", one.others), ("WRONG: ", one.alarms), ("open: ", one.unknown)):
            for f in findings:
                print(f"{'':<20}{label}{f.contract.name} {f.claim}: {'; '.join(f.remarks)}"[:240])
        for error in one.errors:
            print(f"{'':<20}WRONG: {error}")
    result = record(watched)
    if json is not None:
        with whole_file(json) as file:
            dump(result, file, indent=2)
    print(
        f"\n{result['visible']} bugs that one step can show: {result['caught']} caught, {result['missed']} missed; "
        f"{result['programs']} correct steps: {result['false_alarms']} false alarms, "
        f"{result['unknown']} with something unknown; {result['errors']} raised; {result['seconds']} s"
    )
    good = result["programs"] and not result["false_alarms"] and not result["errors"]
    return 0 if good and result["caught"] * 10 >= result["visible"] * 9 else 1


def record(watched: Sequence[Watched]) -> dict[str, Any]:
    """Counts over all, and a line for each specimen."""
    bugs = [one for one in watched if one.buggy]
    visible = [one for one in bugs if not one.specimen.needs]
    return {
        "bugs": len(bugs),
        "visible": len(visible),
        "caught": sum(one.buggy == "caught" for one in visible),
        "missed": sum(one.buggy != "caught" for one in visible),
        "programs": len(watched),
        "false_alarms": sum(bool(one.alarms) for one in watched),
        "unknown": sum(bool(one.unknown) for one in watched),
        "errors": sum(bool(one.errors) for one in watched),
        "seconds": round(sum(one.seconds for one in watched), 1),
        "each": [
            {
                "name": one.specimen.name,
                "source": one.specimen.source,
                "contracts": [contract.name for contract in one.specimen.contracts],
                "needs": one.specimen.needs,
                "buggy": one.buggy,
                "refuted": one.finding and f"{one.finding.contract.name} {one.finding.claim}",
                "correct": one.correct,
                "errors": one.errors,
                "seconds": round(one.seconds, 2),
            }
            for one in watched
        ],
    }
