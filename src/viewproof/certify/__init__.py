"""Certifiers: any pipeline's callables in, verdicts out, contract by contract.

The module is itself the function that certifies a whole `Pipeline`: ``viewproof.certify(pipeline, example)``. Every
name is loaded when it is asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewproof.certify.draws import certify_reproducible
    from viewproof.certify.encoder import certify_encoder
    from viewproof.certify.geometry import certify_geometry
    from viewproof.certify.guard import check_batch
    from viewproof.certify.loss import certify_loss
    from viewproof.certify.monitor import certify_monitor
    from viewproof.certify.objective import certify_objective
    from viewproof.certify.page import html_page
    from viewproof.certify.pipeline import Pipeline, certify
    from viewproof.certify.ranks import certify_ranks
    from viewproof.certify.report import Contract, Finding, Report, Witness
    from viewproof.certify.target import TargetBranch, certify_target_branch
    from viewproof.certify.view import certify_view
    from viewproof.verdict import Verdict

_HOMES = {
    "Contract": "certify.report",
    "Finding": "certify.report",
    "Pipeline": "certify.pipeline",
    "Report": "certify.report",
    "TargetBranch": "certify.target",
    "Verdict": "verdict",
    "Witness": "certify.report",
    "certify_encoder": "certify.encoder",
    "certify_geometry": "certify.geometry",
    "certify_loss": "certify.loss",
    "certify_monitor": "certify.monitor",
    "certify_objective": "certify.objective",
    "certify_ranks": "certify.ranks",
    "certify_reproducible": "certify.draws",
    "certify_target_branch": "certify.target",
    "certify_view": "certify.view",
    "check_batch": "certify.guard",
    "html_page": "certify.page",
}

__all__ = [
    "Contract",
    "Finding",
    "Pipeline",
    "Report",
    "TargetBranch",
    "Verdict",
    "Witness",
    "certify",
    "certify_encoder",
    "certify_geometry",
    "certify_loss",
    "certify_monitor",
    "certify_objective",
    "certify_ranks",
    "certify_reproducible",
    "certify_target_branch",
    "certify_view",
    "check_batch",
    "html_page",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"viewproof.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Certify(ModuleType):
    """A module that is called: the package and its main function have one name."""

    @property
    def certify(self) -> "_Certify":
        """The module itself, so that ``from viewproof.certify import certify`` is the function."""
        return self

    def __call__(self, pipeline: Any, example: Any, *, name: str | None = None) -> "Report":
        """`viewproof.certify.pipeline.certify`."""
        report: Report = import_module("viewproof.certify.pipeline").certify(pipeline, example, name=name)
        return report


sys.modules[__name__].__class__ = _Certify
