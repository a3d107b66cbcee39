"""Settles many theorems: those about one program together, each such group in a fresh process of its own.

A solver's time for one goal depends on what else it holds, so a fresh process makes a theorem's time its own; and
several processes use several cores.
"""

import gc
import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import Any

from viewproof.theory import PARTS, registered
from viewproof.theory.registry import Outcome, Settled, Theorem, Verdict, settle

INTERRUPTED = "interrupted from keyboard"
_CONTEXT = multiprocessing.get_context(
    "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
)


def warm_up() -> None:
    """Have the process that the others are copies of import torch, Z3 and the theorems while this one does."""
    if _CONTEXT.get_start_method() == "forkserver":
        forkserver.set_forkserver_preload(PARTS)
        forkserver.ensure_running()


def settle_all(theorems: Sequence[Theorem], processes: int) -> Iterator[Settled]:
    """Every theorem settled, in order; with one process, or one group, all in this process."""
    groups = [list(group) for _, group in itertools.groupby(theorems, key=lambda t: (t.layer, t.program))]
    if min(processes, len(groups)) < 2:
        yield from map(settle_one, theorems)
        return
    pool = ProcessPoolExecutor(processes, _CONTEXT, _stop_at_interrupt, max_tasks_per_child=1)
    try:
        futures = [pool.submit(_answers, [theorem.name for theorem in group]) for group in groups]
        for group, future in zip(groups, futures, strict=True):
            try:
                for theorem, answer in zip(group, future.result(), strict=True):
                    yield Settled(theorem, *answer)
            except BrokenProcessPool as ended:
                for theorem in group:
                    yield Settled(theorem, Outcome(Verdict.UNKNOWN, f"the process that checked it ended: {ended}"), 0.0)
    finally:
        # Whoever takes no more rows waits only for the proofs that are running.
        pool.shutdown(cancel_futures=True)


def _stop_at_interrupt() -> None:
    # Ctrl-C reaches every process; the one that prints says so.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _answers(names: Sequence[str]) -> list[tuple[Any, ...]]:
    """What a group's theorems came to, without the theorems: they do not travel between processes."""
    gc.freeze()
    gc.disable()
    theorems = registered()
    settled = [settle_one(theorems[name]) for name in names]
    return [(s.outcome, s.milliseconds, dict(s.mutants), s.mutant_milliseconds, s.complaints) for s in settled]


def settle_one(theorem: Theorem) -> Settled:
    """The theorem settled; a check that raises leaves it UNKNOWN, Ctrl-C is passed on."""
    start = time.perf_counter()
    try:
        settled = settle(theorem)
    except Exception as problem:
        outcome = Outcome(Verdict.UNKNOWN, f"the check stopped: {type(problem).__name__}: {problem}")
        settled = Settled(theorem, outcome, 1e3 * (time.perf_counter() - start))
    # Z3 takes Ctrl-C for itself and answers "unknown"
    if any(INTERRUPTED in outcome.detail for outcome in (settled.outcome, *settled.mutants.values())):
        raise KeyboardInterrupt
    return settled
