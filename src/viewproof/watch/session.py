"""Watching: a step that is handed over, or the code inside a ``with`` block."""

from collections.abc import Callable, Mapping
from typing import Any

from viewproof.certify.check import subject_name
from viewproof.watch.child import Answer, Sender, cannot_fork, fork
from viewproof.watch.conclusions import report_of
from viewproof.watch.examine import examine
from viewproof.watch.facts import WatchReport
from viewproof.watch.names import variables_of, variables_of_callers


def watch(
    step: Callable[[Any], Any],
    batch: Any,
    *,
    kept: str | None = None,
    local_negatives: bool = False,
    allow: Mapping[str, str] | None = None,
    name: str | None = None,
) -> WatchReport:
    """What one training step of yours does: ``step(batch)`` is run several times, and nothing of it stays behind."""
    variables = {**variables_of_callers(), **variables_of(step)}
    declared = {"kept": kept, "local_negatives": local_negatives}

    def runner(make: Callable[[Callable[[], Any]], Any], finish: Callable[[Any], Any]) -> Answer:
        side = fork()
        if isinstance(side, Answer):
            return side
        run_in_child(side, make, finish, batch, step)
        raise AssertionError("a child sends and ends")

    examined = examine(runner, batch, variables, declared)
    report = report_of(examined, name or subject_name(step, None))
    return report.waive(allow or {})


def run_in_child(side: Sender, make: Any, finish: Any, batch: Any, step: Callable[[Any], Any]) -> None:
    """Run the step in a child, and send what the run finished with."""
    run = None
    try:
        run = make(lambda: side.send(finish(run)))
        changed = run.batch(batch)
        run.begin()
        step(changed)
        run.end()
        side.send(finish(run))
    except BaseException as error:
        side.send(None, describe(error))


def describe(error: BaseException) -> str:
    """The error with the place in the user's code."""
    import traceback

    from viewproof.certify.flow.tracker import _LIBRARIES

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    ours = [f for f in frames if "/viewproof/" in f.filename]
    users = [f for f in frames if f not in ours]
    last = (users or ours)[-1:] if frames else []
    at = f" at {last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno}" if last else ""
    inside = f" (in {ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno})" if ours else ""
    return f"the step raised {type(error).__name__}: {str(error)[:200]}{at}{inside}"


class Recording:
    """Not yet."""


__all__ = ["Recording", "cannot_fork", "watch"]
