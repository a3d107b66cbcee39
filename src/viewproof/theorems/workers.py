"""Worker processes that prove theorems: a fresh one for each program that theorems are about.

A solver's time for one goal depends on what else it holds, so a fresh process makes a theorem's time its own; and
several processes use several cores. Each is a copy of one that has imported torch, Z3 and the theorems.
"""

import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from viewproof.theorems import PARTS, registered
from viewproof.theorems.registry import Checked, Outcome, Theorem, check
from viewproof.verdict import Verdict

INTERRUPTED = "interrupted from keyboard"
_Answers = Sequence[tuple[Any, ...]]
"""For each theorem of a group what `Checked` holds, without the theorem: it does not travel between processes."""

_SEVERAL = "forkserver" in multiprocessing.get_all_start_methods()


def warm_up() -> None:
    """Start the process that workers are copies of; it imports torch, Z3 and the theorems meanwhile."""
    if _SEVERAL:
        forkserver.set_forkserver_preload([*PARTS, "viewproof.theorems.warm"])
        # Ctrl-C reaches every process of a terminal; this one alone acts on it, and stops the others.
        signals = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def check_all(theorems: Sequence[Theorem], processes: int, solver: str = "z3") -> Generator[Checked, None, None]:
    """Check every theorem, in order; with one process, or one group, all in this process."""
    groups = [list(group) for _, group in itertools.groupby(theorems, key=lambda t: (t.layer, t.program))]
    if min(processes, len(groups)) < 2 or not _SEVERAL:
        for theorem in theorems:
            yield check_one(theorem, solver)
        return
    warm_up()
    lifeline, end = multiprocessing.Pipe(duplex=False)
    # From both ends, since the last groups take longest: the short ones keep all processes busy to the end.
    ends = itertools.chain.from_iterable(zip(range(len(groups)), reversed(range(len(groups))), strict=True))
    with lifeline, ThreadPoolExecutor(processes) as threads, end:
        answers = {
            place: threads.submit(_in_a_fresh_process, lifeline, solver, [theorem.name for theorem in groups[place]])
            for place in itertools.islice(ends, len(groups))
        }
        try:
            for place, group in enumerate(groups):
                for theorem, answer in zip(group, answers[place].result(), strict=True):
                    yield Checked(theorem, *answer)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _in_a_fresh_process(lifeline: Connection, solver: str, names: Sequence[str]) -> _Answers:
    # One pool a group: a process that dies breaks its pool, and would take the other groups' answers with it.
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"), _start, (lifeline,)) as pool:
        try:
            return pool.submit(_answers, names, solver).result()
        except BrokenProcessPool as problem:
            outcome = Outcome(Verdict.UNKNOWN, f"the process that checked it ended: {problem}")
            return [(outcome, 0.0)] * len(names)


def _start(lifeline: Connection) -> None:
    def end_with_parent() -> None:
        # It is readable once its other end is closed: nobody waits for the answers any more, or the parent died.
        lifeline.poll(None)
        os._exit(1)

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=end_with_parent, daemon=True).start()
    gc.freeze()
    gc.disable()


def _answers(names: Sequence[str], solver: str) -> _Answers:
    theorems = registered()
    checked = [check_one(theorems[name], solver) for name in names]
    return [(s.outcome, s.milliseconds, dict(s.mutants), s.mutant_milliseconds, s.complaints) for s in checked]


def check_one(theorem: Theorem, solver: str = "z3") -> Checked:
    """Check the theorem; a check that raises leaves it UNKNOWN, Ctrl-C is passed on.

    ``solver`` is ``z3``, ``cvc5`` or ``both``, see `second_opinion.with_second_opinion`.
    """
    start = time.perf_counter()
    try:
        if solver != "z3":
            from viewproof.theorems.second_opinion import with_second_opinion

            theorem = with_second_opinion(theorem, solver)
        checked = check(theorem)
    except Exception as problem:
        outcome = Outcome(Verdict.UNKNOWN, f"the check stopped: {type(problem).__name__}: {problem}")
        checked = Checked(theorem, outcome, 1e3 * (time.perf_counter() - start))
    # Z3 takes Ctrl-C for itself and answers "unknown"
    if any(INTERRUPTED in outcome.detail for outcome in (checked.outcome, *checked.mutants.values())):
        raise KeyboardInterrupt
    return checked
