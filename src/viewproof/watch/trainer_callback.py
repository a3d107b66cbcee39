"""Watching a Hugging Face Trainer: a callback that reports on the first training step and then, if asked, on others."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback as Base

from viewproof.watch.script_session import ScriptSession


class TrainerCallback(Base):
    """Reports on the first training step of ``Trainer.train``, and with ``every`` on each ``every``-th after it.

    The report goes to the error stream and to ``report``; ``picture``, ``html`` and ``json`` are files for the latest.
    A Trainer does not tell its callbacks of an error: after one before the report, ``stop`` takes the hooks away.
    """

    def __init__(
        self,
        picture: str | Path | None = None,
        html: str | Path | None = None,
        json: str | Path | None = None,
        every: int = 0,
        kept: str = "",
    ) -> None:
        self.session = ScriptSession("Trainer.train", picture, html, json, keep_running=True, every=every, kept=kept)

    @property
    def report(self) -> Any:
        """The latest `WatchReport`, None before the first."""
        return self.session.report

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to record."""
        self.session.name = f"{type(kwargs['model']).__name__} in Trainer.train"
        self.session.start()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop recording."""
        self.session.end()

    def stop(self) -> None:
        """Stop recording, after training that raised."""
        self.session.end()
