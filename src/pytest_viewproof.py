"""A pytest plugin: the fixtures ``watch`` and ``certify``, which fail a test whose objective is not as meant.

It is a module beside the package, so that pytest loads nothing of viewproof before a test asks for it.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--viewproof-strict``."""
    group = parser.getgroup("viewproof")
    group.addoption(
        "--viewproof-strict", action="store_true", help="fail as well on what is not robust, such as an overflow"
    )


@pytest.fixture
def watch(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function as `viewproof.watch`: ``watch(step, batch)`` returns the report, or fails the test.

    It fails if anything is REFUTED or, without ``allow_unknown=True``, UNKNOWN; ``allow={"C9": "reason"}`` waives.
    """

    def watch(step: Any, batch: Any, *, allow_unknown: bool = False, **options: Any) -> Any:
        __tracebackhide__ = True
        import viewproof

        report = viewproof.watch(step, batch, **options)
        return _checked(request, report, allow_unknown)

    return watch


@pytest.fixture
def certify(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function ``certify(view_or_pipeline, example, rule=None)`` that returns the report, or fails the test.

    It fails as `watch` does, and takes ``allow_unknown`` and ``allow`` as well.
    """

    def certify(subject: Any, example: Any, rule: Any = None, *, allow_unknown: bool = False, allow: Any = None) -> Any:
        __tracebackhide__ = True
        from viewproof.certify import Pipeline
        from viewproof.certify import certify as certified

        pipeline = subject if isinstance(subject, Pipeline) else Pipeline(view=subject, rule=rule)
        return _checked(request, certified(pipeline, example).waive(allow or {}), allow_unknown)

    return certify


def _checked(request: pytest.FixtureRequest, report: Any, allow_unknown: bool) -> Any:
    """The report, noted for the summary; the test fails if it does."""
    __tracebackhide__ = True
    verdicts = ",".join(str(finding.verdict) for finding in report.findings)
    request.node.user_properties.append(("viewproof", verdicts))
    if report.failures(strict=request.config.getoption("--viewproof-strict"), allow_unknown=allow_unknown):
        pytest.fail(str(report), pytrace=False)
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line: how many reports, and how many findings of each verdict."""
    # The properties of a test travel with its report, from worker processes too.
    reports = [r for rs in terminalreporter.stats.values() for r in rs if getattr(r, "when", "") == "call"]
    texts = [text for r in reports for key, text in r.user_properties if key == "viewproof"]
    if texts:
        counts = Counter(verdict for text in texts for verdict in text.split(",") if verdict)
        words = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        terminalreporter.write_line(f"viewproof: {len(texts)} report{'s' * (len(texts) > 1)}: {words or 'no findings'}")
