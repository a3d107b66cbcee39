"""One watched run of a script: which steps are recorded, when the script is stopped, and where the reports go."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewproof.errors import InvalidArgument
from viewproof.files import whole_file
from viewproof.watch.allowed import check_allow

if TYPE_CHECKING:
    from viewproof.watch.report import WatchReport
    from viewproof.watch.session import Recording

GREEN, REFUTED, BAD_INPUT, UNKNOWN = 0, 1, 2, 3
"""The exit codes after a report, where the script was stopped."""


class Stopped(BaseException):
    """Ends a script whose step has been watched; a script that catches everything is stopped at its next step."""


class ScriptSession:
    """Records a script's first step, and with ``keep_running`` each ``every``-th after it; prints and writes reports.

    ``picture``, ``html``, ``json`` and ``sarif`` are files for the latest report; ``annotate`` prints what is open as
    GitHub's annotations too, at the line of the first loss if it lies in this folder, else at the top of the file
    ``script``. Raises `InvalidArgument` if a folder is missing.
    """

    def __init__(
        self,
        name: str,
        picture: str | Path | None = None,
        html: str | Path | None = None,
        json: str | Path | None = None,
        strict: bool = False,
        keep_running: bool = False,
        every: int = 0,
        kept: str = "",
        sarif: str | Path | None = None,
        annotate: bool = False,
        script: str = "",
        local_negatives: bool = False,
        allow: Sequence[str] = (),
    ) -> None:
        files = {"picture": picture, "html": html, "json": json, "sarif": sarif}
        for option, path in files.items():
            if path is not None and not Path(path).absolute().parent.is_dir():
                raise InvalidArgument(
                    f"{option}={str(path)!r} must be in a folder that exists; make {str(Path(path).parent)!r} first"
                )
        if every < 0 or (every and not keep_running):
            raise InvalidArgument(f"every={every} must be positive and goes with --keep-running; pass both")
        if kept not in ("", "mlm"):
            raise InvalidArgument(f"kept={kept!r} must be 'mlm'; leave it out if nothing is kept on purpose")
        waived = dict(text.partition("=")[::2] for text in allow)
        if unclear := [name for name, reason in waived.items() if not name or not reason.strip()]:
            raise InvalidArgument(f"allow={unclear[0]!r} must be NAME=REASON; such as --allow 'C4=a metric'")
        check_allow(waived)
        self.local_negatives, self.allow = local_negatives, waived
        self.name, self.strict, self.keep_running, self.every, self.kept = name, strict, keep_running, every, kept
        # A script may change its working folder.
        self.files = {option: path and Path(path).absolute() for option, path in files.items()}
        self.annotate, self._script, self._folder = annotate, script or name, Path.cwd()
        self.report: WatchReport | None = None
        self.failure, self.hidden = "", False
        self.steps: Counter[int] = Counter()
        self._process, self._contexts = os.getpid(), ExitStack()
        self._seen: Recording | None = None
        self._hooks = ExitStack()
        self._opened = 0

    def start(self) -> None:
        """Begin to record, anew if it has been before; torch has been imported."""
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self.end()
        self.steps.clear()
        if not self.keep_running:
            from viewproof.watch.on_cpu import hide_gpus

            self.hidden = self._hooks.enter_context(hide_gpus())
        self._open()
        handle = register_optimizer_step_post_hook(self._stepped)

        def last(optimizer: Any, args: Any, kwargs: Any) -> None:
            # Hooks may be taken away by the last of them only, and the script may have added its own since.
            nonlocal handle
            handle.remove()
            handle = register_optimizer_step_post_hook(self._stepped)

        self._hooks.callback(lambda: handle.remove())
        self._hooks.callback(register_optimizer_step_pre_hook(last).remove)

    def end(self) -> None:
        """Stop recording, take every hook away and report what has been seen; does nothing a second time."""
        if os.getpid() != self._process:
            # A copy of the process that runs the watched step on: the script's end is the step's, and sends its answer.
            self._contexts.close()
            return
        self._close()
        self._hooks.close()

    def finish(self, code: int) -> int:
        """The exit code after a script that was stopped or has ended with ``code``; says why, if there is no report."""
        if self.report is None and not code:
            reason = (
                f"the step of {self.name} could not be read: {self.failure}"
                if self.failure or self.steps
                else f"{self.name} ended before an optimizer of torch made a step in this process, so there is nothing "
                "to report; let it train for a step, in one process"
            )
            print(f"viewproof: {reason}", file=sys.stderr)
        if self.report is None and code and self.hidden:
            advice = "a step that needs the GPU is watched by viewproof.watch(step, batch)"
            print(f"viewproof: {self.name} was run on the CPU, its GPU hidden; {advice}", file=sys.stderr)
        if self.keep_running or code:
            return code
        if self.report is None:
            return BAD_INPUT
        failures = self.report.failures(strict=self.strict)
        if any(finding.verdict == "REFUTED" for finding in failures):
            return REFUTED
        return UNKNOWN if failures or self.report.verdict(strict=self.strict) != "PROVED" else GREEN

    def _stepped(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Count an optimizer's step; at its second, what was recorded is reported and the script stopped."""
        if os.getpid() != self._process:
            return
        self.steps[id(optimizer)] += 1
        step = self.steps[id(optimizer)]
        if self._seen is not None and step - self._opened >= 2:
            self._close()
            if self.keep_running and not self.every:
                self._hooks.close()
        elif self._seen is None and self.every and step % self.every == 0:
            self._opened = step
            self._open()
        if not self.keep_running and step >= 2:
            raise Stopped

    def _open(self) -> None:
        from viewproof.watch.session import Recording

        self._seen = self._contexts.enter_context(
            Recording(name=self.name, allow=self.allow, kept=self.kept, local_negatives=self.local_negatives)
        )

    def _close(self) -> None:
        """Take the engine's hooks away, and print and write the report if there is one."""
        seen, self._seen = self._seen, None
        if seen is None:
            return
        try:
            self._contexts.close()
            report = seen.report
            if report is None:
                return
            self.report = report
            # The script's standard output is its own while it runs on.
            stream = sys.stderr if self.keep_running else sys.stdout
            print(report, file=stream, flush=True)
            if self.files["picture"] is not None:
                report.picture(self.files["picture"])
            if self.files["html"] is not None:
                from viewproof.certify.page import html_page

                with whole_file(self.files["html"]) as file:
                    file.write(html_page(report))
            if self.files["json"] is not None:
                with whole_file(self.files["json"]) as file:
                    file.write(report.json() + "\n")
            if self.annotate or self.files["sarif"] is not None:
                from viewproof.certify.annotations import github, sarif

                places = [loss.place for loss in report.losses]
                of_loss = places and (self._folder / places[0].rpartition(":")[0]).is_file()
                place = places[0] if of_loss else f"{self._script}:1"
                if self.annotate:
                    print(github(report, place, strict=self.strict), file=stream, flush=True)
                if self.files["sarif"] is not None:
                    with whole_file(self.files["sarif"]) as file:
                        file.write(sarif(report, place, strict=self.strict) + "\n")
        except Exception as error:
            # Whatever goes wrong here is not the script's fault, and must not end it.
            self.failure = f"{type(error).__name__}: {error}"
            if self.keep_running:
                print(f"viewproof: a step of {self.name} could not be read: {self.failure}", file=sys.stderr)
