"""Settles many theorems: those about one program together, each such group in a fresh process of its own.

A solver's time for one goal depends on what else it holds, so a fresh process makes a theorem's time its own; and
several processes use several cores. Each is a copy of one that has imported torch, Z3 and the theorems.
"""

import gc
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from multiprocessing import connection, forkserver
from typing import Any

from viewproof.theorems import PARTS, registered
from viewproof.theorems.registry import Checked, Outcome, Theorem, check
from viewproof.verdict import Verdict

INTERRUPTED = "interrupted from keyboard"
_EXIT_INTERRUPTED = 130
_Answers = Sequence[tuple[Any, ...]]
"""For each theorem of a group what `Checked` holds, without the theorem: it does not travel between processes."""

_SEVERAL = "forkserver" in multiprocessing.get_all_start_methods()


def warm_up() -> None:
    """Have the process that the others are copies of import torch, Z3 and the theorems while this one does."""
    if _SEVERAL:
        forkserver.set_forkserver_preload([*PARTS, "viewproof.theorems.warm"])
        with _interrupts_held():
            forkserver.ensure_running()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    # Ctrl-C reaches every process of a terminal. Those that start here are deaf to it, and this one, which ends them,
    # hears it only once it knows them.
    signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def settle_all(theorems: Sequence[Theorem], processes: int) -> Generator[Checked, None, None]:
    """Every theorem settled, in order; with one process, or one group, all in this process."""
    groups = [list(group) for _, group in itertools.groupby(theorems, key=lambda t: (t.layer, t.program))]
    if min(processes, len(groups)) < 2 or not _SEVERAL:
        yield from map(settle_one, theorems)
        return
    warm_up()
    answers: dict[int, _Answers] = {}
    with closing(_answered([[theorem.name for theorem in group] for group in groups], processes)) as arriving:
        for place, group in enumerate(groups):
            while place not in answers:
                answers.update([next(arriving)])
            yield from (Checked(theorem, *answer) for theorem, answer in zip(group, answers.pop(place), strict=True))


def _answered(groups: Sequence[Sequence[str]], processes: int) -> Generator[tuple[int, _Answers], None, None]:
    """The place of each group and its answers, as they arrive; whoever takes no more ends what is running."""
    # From both ends, since the last groups take longest: the short ones keep all processes busy to the end.
    ends = itertools.chain.from_iterable(zip(range(len(groups)), reversed(range(len(groups))), strict=True))
    waiting = list(itertools.islice(ends, len(groups)))[::-1]
    running: dict[Any, tuple[int, Any]] = {}
    context = multiprocessing.get_context("forkserver")
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_serve, args=(theirs, _answers, groups[waiting[-1]]))
                with _interrupts_held():
                    process.start()
                    running[ours] = waiting.pop(), process
                theirs.close()
            for pipe in connection.wait(list(running)):
                place, process = running[pipe]
                yield place, _received(pipe, process) or [(_ended(process), 0.0)] * len(groups[place])
                del running[pipe]
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _received(pipe: Any, process: Any) -> Any:
    """What the process sent, or nothing if it ended before."""
    with pipe:
        try:
            return pipe.recv()
        except (EOFError, OSError):
            return None
        finally:
            process.join()


def _ended(process: Any) -> Outcome:
    if process.exitcode == _EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return Outcome(Verdict.UNKNOWN, f"the process that checked it ended with exit code {process.exitcode}")


def _serve(pipe: Any, answers: Callable[[Sequence[str]], _Answers], names: Sequence[str]) -> None:
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    gc.freeze()
    gc.disable()
    try:
        pipe.send(answers(names))
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _answers(names: Sequence[str]) -> _Answers:
    theorems = registered()
    settled = [settle_one(theorems[name]) for name in names]
    return [(s.outcome, s.milliseconds, dict(s.mutants), s.mutant_milliseconds, s.complaints) for s in settled]


def settle_one(theorem: Theorem) -> Checked:
    """The theorem settled; a check that raises leaves it UNKNOWN, Ctrl-C is passed on."""
    start = time.perf_counter()
    try:
        settled = check(theorem)
    except Exception as problem:
        outcome = Outcome(Verdict.UNKNOWN, f"the check stopped: {type(problem).__name__}: {problem}")
        settled = Checked(theorem, outcome, 1e3 * (time.perf_counter() - start))
    # Z3 takes Ctrl-C for itself and answers "unknown"
    if any(INTERRUPTED in outcome.detail for outcome in (settled.outcome, *settled.mutants.values())):
        raise KeyboardInterrupt
    return settled
