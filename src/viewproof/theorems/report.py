"""What ``viewproof prove`` prints: the theorems, checked one by one.

``python -m viewproof.theorems.report`` writes the pages that are generated from the registry.
"""

import fnmatch
import hashlib
import os
import platform
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from typing import Any

from viewproof import __version__
from viewproof.errors import InvalidArgument
from viewproof.files import check_new, whole_file
from viewproof.theorems import pages, registered
from viewproof.theorems.registry import Checked, Outcome, Theorem
from viewproof.theorems.workers import check_all, warm_up
from viewproof.verdict import Verdict

WIDTH = 120


def run(
    only: str | None = None, json: Path | None = None, show: str | None = None, processes: int = 1, solver: str = "z3"
) -> int:
    """Check the theorems, print the table; 0 if all are green, 1 if not, 2 without a solver.

    ``only`` is a shell pattern or a part of a name, ``show`` one name to print in full, ``json`` a file to write;
    each of the ``processes`` takes up to 0.5 GB. ``solver`` is ``z3``, ``cvc5`` or ``both``.
    """
    check_new(json=json)
    try:
        import z3  # noqa: F401
    except ModuleNotFoundError:
        print("proofs need Z3; pip install 'viewproof[prove]'", file=sys.stderr)
        return 2
    if solver != "z3" and find_spec("cvc5") is None:
        print("a second opinion needs cvc5; pip install 'viewproof[cvc5]'", file=sys.stderr)
        return 2
    if processes > 1 and show is None:
        warm_up()
    theorems = registered()
    if only is not None and show is not None:
        raise InvalidArgument(f"only={only!r} and show={show!r} exclude each other; pass one of them")
    if show is not None and show not in theorems:
        raise InvalidArgument(f"show={show!r} is not a theorem; the nearest is {_nearest(show, theorems)!r}")
    selected = chosen(theorems, only) if show is None else [theorems[show]]
    checked: list[Checked] = []
    start = time.perf_counter()
    try:
        for one in check_all(selected, processes, solver):
            if show is None:
                print(end=heading(one.theorem, checked[-1].theorem if checked else None))
            checked.append(one)
            print(full(one) if show is not None else row(one), flush=True)
    except KeyboardInterrupt:
        print(f"\ninterrupted: {len(checked)} of {len(selected)} checked; {summary(checked, start)}")
        return 130
    print(f"\n{summary(checked, start)}")
    if json is not None:
        with whole_file(json) as file:
            file.write(dumps(record(checked), indent=1, ensure_ascii=False) + "\n")
    return 0 if all(one.green for one in checked) else 1


def chosen(theorems: Mapping[str, Theorem], only: str | None) -> list[Theorem]:
    """The theorems whose names match, layer by layer."""
    order = list(dict.fromkeys(theorem.layer for theorem in theorems.values()))
    matching = [t for t in theorems.values() if only is None or only in t.name or fnmatch.fnmatchcase(t.name, only)]
    if not matching:
        raise InvalidArgument(f"only={only!r} matches no theorem; the nearest is {_nearest(str(only), theorems)!r}")
    return sorted(matching, key=lambda theorem: order.index(theorem.layer))


def _nearest(name: str, theorems: Iterable[str]) -> str:
    return get_close_matches(name, list(theorems), n=1, cutoff=0)[0]


def heading(theorem: Theorem, before: Theorem | None) -> str:
    """The layer and the scope, where they are not those of the row before."""
    lines = [] if before and before.layer == theorem.layer else [*([""] if before else []), theorem.layer]
    if lines or before is None or before.scope != theorem.scope:
        lines += _wrapped(f"scope: {theorem.scope}", 2)
    return "".join(f"{line}\n" for line in lines)


def row(checked: Checked) -> str:
    """A theorem in the table: verdict, time, name, mutants, statement, and what is wrong."""
    theorem, outcome = checked.theorem, checked.outcome
    mutants = f"{sum(one.verdict is Verdict.REFUTED for one in checked.mutants.values())}/{len(theorem.mutants)}"
    line = f"  {outcome.verdict:<8} {checked.milliseconds:>7.0f} ms  {theorem.name}"
    line = f"{line:<100} mutants {mutants}" if outcome.second is None else f"{line:<86} mutants {mutants:<6}"
    line += "" if outcome.second is None else f" cvc5 {outcome.second}"
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        line = f"\x1b[{32 if checked.green else 31}m{line}\x1b[0m"
    lines = [line, *_wrapped(theorem.statement)]
    if outcome.verdict is not Verdict.PROVED:
        lines += _wrapped(f"{outcome.detail} {_plain(outcome.witness or {})}")
    opinions = [] if outcome.second is None else [*outcome.second.disagreed, *outcome.second.unsettled]
    return "\n".join([*lines, *(line for text in (*checked.complaints, *opinions) for line in _wrapped(text))])


def _wrapped(text: str, indent: int = 23) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent)


def summary(checked: list[Checked], start: float) -> str:
    """One line: how many are what, and how long it took."""
    verdicts = [one.outcome.verdict for one in checked]
    counts = [f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts]
    mutants = [outcome.verdict for one in checked for outcome in one.mutants.values()]
    counts.append(f"{mutants.count(Verdict.REFUTED)} of {len(mutants)} mutants REFUTED")
    second = [one.outcome.second for one in checked if one.outcome.second is not None]
    if second:
        counts.append(f"cvc5 agrees on {sum(s.agreed for s in second)} of {sum(s.asked for s in second)} goals")
    red = sum(not one.green for one in checked)
    end = f"{red} NOT GREEN" if red else "all green"
    return f"{', '.join(counts)}; {end}; {time.perf_counter() - start:.1f} s"


def full(checked: Checked) -> str:
    """Everything about one theorem."""
    theorem, outcome = checked.theorem, checked.outcome
    sections = {
        "says": [theorem.statement],
        "given": list(theorem.hypotheses) or ["nothing"],
        "scope": [theorem.scope],
        "method": [theorem.method],
        "verdict": [f"{outcome.verdict}, {checked.milliseconds:.0f} ms", outcome.detail, *checked.complaints],
        **({} if outcome.second is None else {"cvc5": [outcome.second.text]}),
        "captured graph": list(outcome.graphs) or ["none: the Python function is run with symbolic entries"],
        "goals": list(outcome.goals) or ["none"],
        "mutants": [],
    }
    for mutant in theorem.mutants:
        tried = checked.mutants.get(mutant.name, Outcome(Verdict.UNKNOWN, "not tried"))
        witness = [f"  {key} = {value}" for key, value in _plain(tried.witness or {}).items()]
        sections["mutants"] += [f"{mutant.name}: {mutant.what}", f"  {tried.verdict}: {tried.detail}", *witness]
    lines = [theorem.name]
    for title, texts in sections.items():
        lines += [f"\n{title}", *(textwrap.indent(text, "  ") for text in texts if text)]
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """The value as JSON can hold it; exact fractions and tables as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return {
        "verdict": str(outcome.verdict),
        "detail": outcome.detail,
        "witness": None if outcome.witness is None else _plain(outcome.witness),
    }


def record(checked: list[Checked]) -> dict[str, Any]:
    """The report as data: versions, and for each theorem what was asked and answered."""
    versions = {"python": platform.python_version(), "torch": version("torch"), "z3": version("z3-solver")}
    return {"viewproof": __version__, **versions, "theorems": [_entry(one) for one in checked]}


def _entry(one: Checked) -> dict[str, Any]:
    theorem = one.theorem
    return {
        **{key: getattr(theorem, key) for key in ("name", "layer", "statement", "scope", "method")},
        "hypotheses": list(theorem.hypotheses),
        **_outcome(one.outcome),
        "green": one.green,
        "complaints": list(one.complaints),
        "milliseconds": round(one.milliseconds, 1),
        "mutant_milliseconds": round(one.mutant_milliseconds, 1),
        "graphs_sha256": [hashlib.sha256(graph.encode()).hexdigest() for graph in one.outcome.graphs],
        **({} if one.outcome.second is None else {"cvc5": asdict(one.outcome.second)}),
        "mutants": [
            {"name": mutant.name, "what": mutant.what, **_outcome(one.mutants[mutant.name])}
            for mutant in theorem.mutants
            if mutant.name in one.mutants
        ],
    }


if __name__ == "__main__":
    pages.update(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd())
