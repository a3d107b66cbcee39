"""Certifiers: any pipeline's callables in, verdicts out, contract by contract.

The module is itself the function that certifies a whole `Pipeline`: ``viewproof.certify(pipeline, example)``. Every
name is loaded when it is asked for.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewproof.certify.accumulation import certify_accumulation as certify_accumulation
    from viewproof.certify.causal import certify_causal as certify_causal
    from viewproof.certify.coverage import certify_coverage as certify_coverage
    from viewproof.certify.dependence import certify_dependence as certify_dependence
    from viewproof.certify.draws import certify_reproducible as certify_reproducible
    from viewproof.certify.encoder import certify_encoder as certify_encoder
    from viewproof.certify.evaluation import certify_evaluation as certify_evaluation
    from viewproof.certify.geometry import certify_geometry as certify_geometry
    from viewproof.certify.guard import check_batch as check_batch
    from viewproof.certify.loss import certify_loss as certify_loss
    from viewproof.certify.monitor import certify_monitor as certify_monitor
    from viewproof.certify.objective import certify_objective as certify_objective
    from viewproof.certify.optimizer import certify_optimizer as certify_optimizer
    from viewproof.certify.page import html_page as html_page
    from viewproof.certify.pairs import certify_pairs as certify_pairs
    from viewproof.certify.pipeline import Pipeline as Pipeline
    from viewproof.certify.pipeline import certify as certify
    from viewproof.certify.ranks import certify_ranks as certify_ranks
    from viewproof.certify.report import Contract as Contract
    from viewproof.certify.report import Finding as Finding
    from viewproof.certify.report import Report as Report
    from viewproof.certify.report import Severity as Severity
    from viewproof.certify.report import Witness as Witness
    from viewproof.certify.sentinels import certify_sentinels as certify_sentinels
    from viewproof.certify.target import TargetBranch as TargetBranch
    from viewproof.certify.target import certify_target_branch as certify_target_branch
    from viewproof.certify.view import certify_view as certify_view
    from viewproof.certify.windows import certify_windows as certify_windows
    from viewproof.verdict import Verdict as Verdict

_NAMES = {
    "viewproof.verdict": ["Verdict"],
    "viewproof.certify.accumulation": ["certify_accumulation"],
    "viewproof.certify.causal": ["certify_causal"],
    "viewproof.certify.coverage": ["certify_coverage"],
    "viewproof.certify.dependence": ["certify_dependence"],
    "viewproof.certify.draws": ["certify_reproducible"],
    "viewproof.certify.encoder": ["certify_encoder"],
    "viewproof.certify.evaluation": ["certify_evaluation"],
    "viewproof.certify.geometry": ["certify_geometry"],
    "viewproof.certify.guard": ["check_batch"],
    "viewproof.certify.loss": ["certify_loss"],
    "viewproof.certify.monitor": ["certify_monitor"],
    "viewproof.certify.objective": ["certify_objective"],
    "viewproof.certify.optimizer": ["certify_optimizer"],
    "viewproof.certify.page": ["html_page"],
    "viewproof.certify.pairs": ["certify_pairs"],
    "viewproof.certify.pipeline": ["Pipeline"],
    "viewproof.certify.ranks": ["certify_ranks"],
    "viewproof.certify.report": ["Contract", "Finding", "Report", "Severity", "Witness"],
    "viewproof.certify.sentinels": ["certify_sentinels"],
    "viewproof.certify.target": ["TargetBranch", "certify_target_branch"],
    "viewproof.certify.view": ["certify_view"],
    "viewproof.certify.windows": ["certify_windows"],
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOMES, "certify"])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# `viewproof.certify` is to be a function, and importing any of its submodules makes that name the package: hence the
# package itself can be called.
class _Certify(ModuleType):
    """The package as a function."""

    @property
    def certify(self) -> "_Certify":
        """The module itself, so that ``from viewproof.certify import certify`` is the function."""
        return self

    def __call__(self, pipeline: Any, example: Any, *, name: str | None = None) -> "Report":
        """`viewproof.certify.pipeline.certify`."""
        report: Report = import_module("viewproof.certify.pipeline").certify(pipeline, example, name=name)
        return report


sys.modules[__name__].__class__ = _Certify
