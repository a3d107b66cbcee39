"""Open findings for other programs: SARIF 2.1.0 files, and the annotations of GitHub Actions.

Only what is REFUTED or UNKNOWN is written: GitHub shows every result of a file as an alert, also one that passed.
"""

import ast
import hashlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from viewproof import __version__
from viewproof.certify.report import Contract, Finding, Report
from viewproof.verdict import Verdict


def sarif(report: Report, place: str, *, strict: bool = False) -> str:
    """The open findings as a SARIF 2.1.0 log.

    ``place`` is where they are shown, such as ``"train.py:7"``. A REFUTED finding is an ``error``, or a ``note`` if it
    is about robustness and not ``strict``. An UNKNOWN one has the kind ``open`` and, as SARIF asks of every kind but
    ``fail``, the level ``none``. Waived findings are suppressed, with the reason. How many findings have each verdict
    stands in the run's properties.

    >>> from viewproof.certify.check import Check
    >>> finding = Check(Contract.C9, "no NaN").unknown("why")
    >>> run = json.loads(sarif(Report("a loss", (finding,)), "train.py:7"))["runs"][0]
    >>> run["results"][0]["kind"], run["results"][0]["message"]["text"]
    ('open', 'a loss: UNKNOWN C9 no NaN. why')
    """
    rules = [{"id": c.name, "name": c.name, "shortDescription": {"text": c.value}} for c in Contract]
    counts = {verdict.value: sum(f.verdict is verdict for f in report.findings) for verdict in Verdict}
    run = {
        "tool": {"driver": {"name": "viewproof", "version": __version__, "rules": rules}},
        # Code scanning takes several files of one tool only if each has a category of its own.
        "automationDetails": {"id": f"viewproof/{report.subject}/"},
        "columnKind": "unicodeCodePoints",
        "results": [_result(report, f, place, strict) for f in report.findings if f.open],
        "properties": {"subject": report.subject, "verdict": report.verdict(strict=strict), "findings": counts},
    }
    schema = "https://json.schemastore.org/sarif-2.1.0-rtm.5.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2)


def _result(report: Report, finding: Finding, place: str, strict: bool) -> dict[str, Any]:
    """One result: its level, message, place, and a fingerprint that stays when lines move."""
    file, line = _split(place)
    absolute = Path(file).is_absolute()
    artifact = {"uri": Path(file).as_uri()} if absolute else {"uri": quote(file), "uriBaseId": "%SRCROOT%"}
    known_by = f"{report.subject}\n{finding.contract.name}\n{finding.claim}"
    result: dict[str, Any] = {
        "ruleId": finding.contract.name,
        "ruleIndex": list(Contract).index(finding.contract),
        "kind": "open" if finding.verdict is Verdict.UNKNOWN else "fail",
        "level": _level(finding, strict, ("error", "note", "none")),
        "message": {"text": _message(report, finding)},
        "locations": [{"physicalLocation": {"artifactLocation": artifact, "region": {"startLine": line}}}],
        "partialFingerprints": {"viewproof/v1": hashlib.sha256(known_by.encode()).hexdigest()},
    }
    if finding.waiver:
        result["suppressions"] = [{"kind": "external", "justification": finding.waiver}]
    return result


def github(report: Report, place: str, *, strict: bool = False) -> str:
    """The open findings, without waived ones, as lines that GitHub turns into annotations.

    >>> from viewproof.certify.check import Check
    >>> finding = Check(Contract.C9, "no NaN").unknown("5%")
    >>> print(github(Report("a loss", (finding,)), "train.py:7"))
    ::warning file=train.py,line=7,title=viewproof C9 UNKNOWN::a loss: UNKNOWN C9 no NaN. 5%25
    """
    file, line = _split(place)
    lines = []
    for f in report.findings:
        if f.open and not f.waiver:
            level = _level(f, strict, ("error", "notice", "warning"))
            title = f"viewproof {f.contract.name} {f.verdict}"
            where = f"file={_escaped(file, ':,')},line={line},title={_escaped(title, ':,')}"
            lines.append(f"::{level} {where}::{_escaped(_message(report, f))}")
    return "\n".join(lines)


def place_of(module: str, name: str, subject: object) -> str:
    """Where ``module:name`` is defined, such as ``"views.py:12"``.

    The path is relative to the working folder if it lies in it. A function or class is looked up by itself, anything
    else by the line that assigns the first part of ``name``.
    """
    file, line = getattr(sys.modules.get(module), "__file__", None) or module, 1
    try:
        unwrapped: Any = inspect.unwrap(subject) if callable(subject) else subject
        file = inspect.getsourcefile(unwrapped) or file
        line = inspect.getsourcelines(unwrapped)[1]
    except (TypeError, OSError):
        try:
            body = ast.parse(Path(file).read_text(encoding="utf-8")).body
        except (OSError, ValueError, SyntaxError):
            body = []
        first = name.split(".")[0]
        for node in body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == first for target in targets):
                line = node.lineno
    path = Path(file).resolve()
    here = Path.cwd().resolve()
    return f"{path.relative_to(here).as_posix() if path.is_relative_to(here) else path}:{max(line, 1)}"


def _split(place: str) -> tuple[str, int]:
    """The file and the line of ``"train.py:7"``."""
    file, _, line = place.rpartition(":")
    return file, int(line)


def _level(finding: Finding, strict: bool, levels: tuple[str, str, str]) -> str:
    """One of ``levels``: for a REFUTED that counts, for one that does not, for an UNKNOWN."""
    if finding.verdict is Verdict.UNKNOWN:
        return levels[2]
    return levels[0] if finding.waiver or finding.decides(strict) else levels[1]


def _message(report: Report, finding: Finding) -> str:
    """The finding in one paragraph."""
    said = f"{report.subject}: {finding.verdict} {finding.contract.name} {finding.claim}"
    return ". ".join([said, *finding.remarks])


def _escaped(text: str, also: str = "") -> str:
    """Text as a workflow command takes it; ``also`` are the characters that end a property."""
    for character in "%\r\n" + also:
        text = text.replace(character, f"%{ord(character):02X}")
    return text
