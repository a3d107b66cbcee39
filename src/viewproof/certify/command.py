"""The command ``viewproof certify``: find the user's object, certify it, write the report."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from viewproof.certify.annotations import github, place_of, sarif
from viewproof.certify.page import html_page
from viewproof.certify.pipeline import Pipeline, certify
from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.expressions import imported
from viewproof.files import check_new, whole_file
from viewproof.masks import Rule
from viewproof.verdict import Verdict


def run(
    target: str,
    shape: str,
    html: Path | None,
    json: Path | None,
    rule: Rule | None,
    strict: bool = False,
    allow: Sequence[str] = (),
    sarif_file: Path | None = None,
    annotate: bool = False,
) -> int:
    """Certify ``module:object`` on standard normal data; 1 if a finding fails, else 0."""
    waived = dict(text.partition("=")[::2] for text in allow)
    check_new(html=html, json=json, sarif=sarif_file)
    extents = parse_shape(shape)
    subject, place = find(target)
    if not isinstance(subject, Pipeline):
        subject = Pipeline(view=subject, rule=rule)
    elif rule is not None:
        raise InvalidArgument("rule belongs to a view; the pipeline has its own field for it")
    report = certify(subject, torch.randn(extents, generator=torch.Generator().manual_seed(0)), name=target)
    report = report.waive(waived)
    print(report)
    print(f"\n{summary(report)}")
    if annotate:
        print(github(report, place, strict=strict))
    for path, text in (
        (html, html_page),
        (json, lambda report: report.json() + "\n"),
        (sarif_file, lambda report: sarif(report, place, strict=strict) + "\n"),
    ):
        if path is not None:
            with whole_file(path) as file:
                file.write(text(report))
    return 1 if report.failures(strict=strict) else 0


def summary(report: Report) -> str:
    """How many findings have each verdict, and how many of those do not count."""
    counts = {verdict: sum(f.verdict is verdict for f in report.findings) for verdict in Verdict}
    text = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    waived = sum(f.open and bool(f.waiver) for f in report.findings)
    minor = sum(not f.decides() for f in report.findings) - waived
    return text + (f"; of these {minor} not robust and {waived} waived" if minor or waived else "")


def parse_shape(text: str) -> tuple[int, ...]:
    """The extents that a text such as ``8,3,224,224`` names, batch first."""
    try:
        extents = tuple(int(extent) for extent in text.split(","))
    except ValueError:
        extents = ()
    if len(extents) < 2 or min(extents) < 1:
        raise InvalidArgument(f"shape={text!r} must be positive extents with commas between them, such as 8,3,224,224")
    return extents


def find(target: str) -> tuple[Any, str]:
    """The view or `Pipeline` at ``module:object``, and its place; a function without arguments is called."""
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise InvalidArgument(f"object={target!r} must be module:object, such as mypackage.views:mae_view")
    try:
        subject = imported(module, name)
    except InvalidArgument as error:
        raise InvalidArgument(f"object={target!r}: {error}") from error
    place = place_of(module, name, subject)
    if inspect.isfunction(subject) and not inspect.signature(subject).parameters:
        try:
            subject = subject()
        except Exception as error:
            raise InvalidArgument(f"object={target!r}: {name}() raised {type(error).__name__}: {error}") from error
        if not isinstance(subject, Pipeline):
            raise InvalidArgument(
                f"object={target!r}: {name}() returned {type(subject).__name__}, not a Pipeline; a view takes a batch"
            )
    if not callable(subject) and not isinstance(subject, Pipeline):
        raise InvalidArgument(f"object={target!r} is {type(subject).__name__}; name a view function or a Pipeline")
    return subject, place
