"""Functions called in fresh interpreters: as ranks, or in other surroundings.

Not forked: forked processes hold copied locks and the parent's random state. Not spawned by multiprocessing: that runs
the caller's script again.
"""

import datetime
import importlib.util
import os
import pickle
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from viewproof.errors import InvalidArgument
from viewproof.torch_internals import replaced

SECONDS = 120


def pickled(function: Callable[..., Any]) -> bytes:
    """The function for another process: by cloudpickle, which takes closures, if installed.

    >>> pickle.loads(pickled(len)) is len
    True
    """
    by_value = importlib.util.find_spec("cloudpickle") is not None
    remedy = "define it at the top of an importable module" + ("" if by_value else ", or pip install cloudpickle")
    name = f"{getattr(function, '__module__', None)}:{getattr(function, '__qualname__', type(function).__name__)}"
    if not by_value and getattr(function, "__module__", None) == "__main__":
        raise InvalidArgument(f"{name} must be sent to another process, which cannot import __main__; {remedy}")
    try:
        return bytes((import_module("cloudpickle") if by_value else pickle).dumps(function))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InvalidArgument(
            f"{name} must be sent to another process, and is not pickled ({reason}); {remedy}"
        ) from error


@dataclass(frozen=True)
class Surroundings:
    """What differs in a fresh process: variables, folder, clock shift in seconds, host, threads."""

    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = None
    clock: float = 0.0
    host: str | None = None
    threads: int = 0


def run_all(functions: Sequence[bytes], surroundings: Sequence[Surroundings], folder: str) -> list[Any]:
    """What pickled functions return, each run in its own process, all at once.

    ``folder`` is for their files. A RuntimeError has the last line of what the processes that failed printed.
    """
    path = os.pathsep.join(str(Path(p).resolve()) for p in (entry or os.curdir for entry in sys.path))
    processes = []
    for number, (function, other) in enumerate(zip(functions, surroundings, strict=True)):
        Path(folder, f"{number}.function").write_bytes(pickle.dumps((other, function)))
        with Path(folder, f"{number}.errors").open("w") as errors:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "viewproof.certify.fresh_process", folder, str(number)],
                    env={**os.environ, "PYTHONPATH": path, **other.variables},
                    cwd=other.folder,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                )
            )
    try:
        deadline = time.monotonic() + SECONDS
        while any(p.poll() is None for p in processes) and time.monotonic() < deadline:
            if any(p.returncode for p in processes):
                # The others wait for the one that failed; what they print then says less than its own message.
                deadline = min(deadline, time.monotonic() + 1)
            time.sleep(0.02)
        failed = [n for n, p in enumerate(processes) if p.poll()]
        unfinished = any(p.poll() is None for p in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if failed:
        printed = [Path(folder, f"{n}.errors").read_text().strip().splitlines() or ["no message"] for n in failed]
        raise RuntimeError("; ".join(dict.fromkeys(lines[-1] for lines in printed)))
    if unfinished:
        raise RuntimeError(f"no answer within {SECONDS} seconds")
    return [torch.load(Path(folder, f"{n}.result"), weights_only=False) for n in range(len(processes))]


@contextmanager
def moved_clocks(seconds: float) -> Iterator[None]:
    """The clocks of ``time`` and ``datetime`` moved forward; NumPy's and the system's are not.

    A name that a module took from ``time`` before keeps the old clock.

    >>> with moved_clocks(1e9):
    ...     moved = datetime.datetime.now()
    >>> (moved - datetime.datetime.now()).days
    11574
    """
    day = datetime.date

    def later(clock: Callable[[], Any], name: str) -> Any:
        return clock() + (int(seconds * 1e9) if name.endswith("_ns") else seconds)

    def present() -> float:
        return true_time() + seconds

    def present_local() -> Any:
        return true_localtime(present())

    def at_moved_time(convert: Callable[..., Any], place: int, moment: Callable[[], Any], *given: Any) -> Any:
        if len(given) > place and given[place] is not None:
            return convert(*given)
        return convert(*given[:place], moment())

    true_time, true_localtime, true_datetime = time.time, time.localtime, datetime.datetime

    class AnyDate(type):
        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, true_datetime if issubclass(cls, true_datetime) else day)

    class MovedDatetime(datetime.datetime, metaclass=AnyDate):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return true_datetime.now(tz) + datetime.timedelta(seconds=seconds)

        @classmethod
        def utcnow(cls) -> Any:
            return cls.now(datetime.UTC).replace(tzinfo=None)

        @classmethod
        def today(cls) -> Any:
            return cls.now()

    class MovedDate(datetime.date, metaclass=AnyDate):
        @classmethod
        def today(cls) -> Any:
            return MovedDatetime.now().date()

    with ExitStack() as stack:
        for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
            for clock in (name, f"{name}_ns"):
                stack.enter_context(replaced(time, clock, partial(later, getattr(time, clock), clock)))
        # These show the present if the argument at that place is left out.
        for name, place, moment in (
            ("localtime", 0, present),
            ("gmtime", 0, present),
            ("ctime", 0, present),
            ("asctime", 0, present_local),
            ("strftime", 1, present_local),
        ):
            stack.enter_context(replaced(time, name, partial(at_moved_time, getattr(time, name), place, moment)))
        stack.enter_context(replaced(datetime, "datetime", MovedDatetime))
        stack.enter_context(replaced(datetime, "date", MovedDate))
        yield


def _main(folder: str, number: str) -> None:
    other, function = pickle.loads(Path(folder, f"{number}.function").read_bytes())
    torch.set_num_threads(other.threads or 1)
    with ExitStack() as stack:
        if other.host is not None:
            system = os.uname()
            named = os.uname_result((system.sysname, other.host, *tuple(system)[2:]))
            stack.enter_context(replaced(socket, "gethostname", lambda: other.host))
            stack.enter_context(replaced(os, "uname", lambda: named))
            stack.enter_context(replaced(uuid, "getnode", lambda: 0x02AABBCCDDEE))
        if other.clock:
            stack.enter_context(moved_clocks(other.clock))
        # What the function needs is imported here, after all that.
        result = pickle.loads(function)()
    torch.save(result, Path(folder, f"{number}.result"))


if __name__ == "__main__":
    _main(*sys.argv[1:])
