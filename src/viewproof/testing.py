"""Certificates as tests: one call in a pytest function."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from viewproof.certify.pipeline import Pipeline, certify
from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule


def assert_certified(
    subject: Pipeline | Callable[[Tensor], Any],
    example: Tensor,
    rule: Rule | Mask | None = None,
    *,
    allow_unknown: bool = False,
    strict: bool = False,
    allow: Mapping[str, str] | None = None,
) -> Report:
    """The report on a view or a `Pipeline`; AssertionError if anything is REFUTED or UNKNOWN.

    ``rule`` is what a view must hide, or a pipeline's view if the pipeline has none. With ``allow_unknown`` only
    REFUTED raises. Findings about robustness raise with ``strict`` alone; ``allow`` waives findings, each name (a claim
    or a contract such as "C9") with its reason. VACUOUS, where nothing or everything is hidden, passes: give a mask
    that hides a part.

    >>> import torch, viewproof as vp
    >>> rule, images = vp.PatchMask(4, 4, period=3, offset=1), torch.randn(2, 3, 8, 12)
    >>> _ = assert_certified(rule.sample, images, rule)
    >>> assert_certified(lambda x: (x, x, rule.mask((3, 8, 12))), images, rule)
    Traceback (most recent call last):
    AssertionError: <lambda>
      PROVED   C8  a second call returns the same, ...
    """
    if not isinstance(subject, Pipeline):
        subject = Pipeline(view=subject, rule=rule)
    elif rule is not None:
        if subject.rule is not None:
            raise InvalidArgument(f"rule={rule!r} is given twice; the pipeline has {subject.rule!r}")
        subject = replace(subject, rule=rule)
    report = certify(subject, example).waive(allow or {})
    if report.failures(strict=strict, allow_unknown=allow_unknown):
        raise AssertionError(str(report))
    return report
