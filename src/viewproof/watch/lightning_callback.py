"""Watching a Lightning Trainer: a callback that reports on the first training step and then, if asked, on others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewproof.watch.script_session import ScriptSession

if TYPE_CHECKING or "lightning.pytorch" not in sys.modules:
    from pytorch_lightning import Callback
else:
    # Both names of the package exist; a Trainer knows the callbacks of its own.
    from lightning.pytorch import Callback


class LightningCallback(Callback):
    """Reports on the first training step of ``trainer.fit``, and with ``every`` on each ``every``-th after it.

    The report goes to the error stream and to ``report``; ``picture``, ``html`` and ``json`` are files for the latest.

    >>> LightningCallback(picture="missing-folder/xray.png")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: picture='missing-folder/xray.png' must be in a folder that exists; ...
    """

    def __init__(
        self,
        picture: str | Path | None = None,
        html: str | Path | None = None,
        json: str | Path | None = None,
        every: int = 0,
        kept: str = "",
    ) -> None:
        self.session = ScriptSession("trainer.fit", picture, html, json, keep_running=True, every=every, kept=kept)

    @property
    def report(self) -> Any:
        """The latest `WatchReport`, None before the first."""
        return self.session.report

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to record: ``on_train_start`` comes after the loader's first iterator, whose batches are to be seen."""
        self.session.name = f"{type(pl_module).__name__} in trainer.fit"
        self.session.start()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop recording."""
        self.session.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop recording."""
        self.session.end()
