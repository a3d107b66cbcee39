"""One real training step read off: ``viewproof.watch(step, batch)`` and ``viewproof.watch.recording()``."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from viewproof.watch.report import WatchReport as WatchReport
    from viewproof.watch.session import Recording
    from viewproof.watch.session import watch as watch

__all__ = ["WatchReport", "watch"]


def __getattr__(name: str) -> Any:
    if name == "WatchReport":
        return import_module("viewproof.watch.report").WatchReport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# `viewproof.watch` is to be a function, and importing any of its submodules makes that name the package: hence the
# package itself can be called, as with `viewproof.certify`.
class _Watch(ModuleType):
    """The package as a function."""

    @property
    def watch(self) -> "_Watch":
        """The module itself, so that ``from viewproof.watch import watch`` is the function."""
        return self

    def __call__(
        self,
        step: Callable[[Any], Any],
        batch: Any,
        *,
        allow: Mapping[str, str] | None = None,
        kept: str = "",
        local_negatives: bool = False,
        name: str | None = None,
    ) -> "WatchReport":
        """`viewproof.watch.session.watch`."""
        watched = import_module("viewproof.watch.session").watch
        declared = {"allow": allow, "kept": kept, "local_negatives": local_negatives}
        report: WatchReport = watched(step, batch, **declared, name=name)
        return report

    def recording(self, **options: Any) -> "Recording":
        """`viewproof.watch.session.Recording`."""
        recording: Recording = import_module("viewproof.watch.session").Recording(**options)
        return recording

    def __getattr__(self, name: str) -> Any:
        """The callbacks, which need the trainer's library and are loaded when asked for."""
        if name == "LightningCallback":
            return import_module("viewproof.watch.lightning_callback").LightningCallback
        if name == "TrainerCallback":
            return import_module("viewproof.watch.trainer_callback").TrainerCallback
        raise AttributeError(f"module 'viewproof.watch' has no attribute {name!r}")


sys.modules[__name__].__class__ = _Watch
