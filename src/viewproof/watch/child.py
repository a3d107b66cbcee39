"""Running code in a forked copy of this process: whatever it changes is gone with it, its answer comes back."""

import builtins
import io
import os
import pickle
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from viewproof.watch.one_rank import cannot_copy, in_group, stand_alone


@dataclass(frozen=True)
class Answer:
    """What a child sent: its value, or why there is none."""

    value: Any = None
    failure: str = ""


@dataclass(frozen=True)
class Sender:
    """The end of a child's pipe, in the child."""

    pipe: int

    def send(self, value: Any, failure: str = "") -> NoReturn:
        """Send the value and end this process at once: no handler, no ``finally``, no flush runs."""
        try:
            try:
                data = pickle.dumps(Answer(value, failure))
            except Exception as error:
                data = pickle.dumps(Answer(None, f"{type(error).__name__}: {error}"))
            with os.fdopen(self.pipe, "wb") as file:
                file.write(data)
        finally:
            os._exit(0)


Runner = Callable[[Callable[[Callable[[], Any]], Any], Callable[[Any], Any]], Answer]
"""Runs the step once more from where it was: ``runner(make, finish)`` begins a run and answers what it found."""


def cannot_fork() -> str:
    """Why a forked copy of this process would not be a safe place to run in, or ``""``."""
    if not hasattr(os, "fork"):
        return "this system cannot fork"
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return (
            "CUDA is in use, which does not survive a fork; call viewproof.watch(step, batch), which runs the step in "
            "this process, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    if sys.platform == "darwin":
        return "forks are not safe on macOS"
    return cannot_copy()


def fork(seconds: float = 600.0) -> Sender | Answer:
    """Return twice: in a forked child its `Sender`, and here, once that has sent or died, its `Answer`.

    The child is silent, writes no file, takes no signal of the terminal, and runs on one thread; it is killed after
    ``seconds``, in a process group after a third of that.
    """
    seconds = seconds / 3 if in_group() else seconds
    for stream in (sys.stdout, sys.stderr):
        # What is buffered would be written by both.
        if stream is not None:
            stream.flush()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        side = Sender(writing)
        try:
            _quieten()
            stand_alone()
        except BaseException as error:
            side.send(None, describe(error).removeprefix("the step raised RuntimeError: "))
        return side
    os.close(writing)
    data, end = bytearray(), time.monotonic() + seconds
    try:
        while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(reading, 1 << 20)
            if not part:
                break
            data += part
        else:
            return Answer(failure=f"the step took longer than {seconds:.0f} s")
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not data:
        return Answer(failure=f"the copy of the process that ran the step died (status {status})")
    answer = pickle.loads(bytes(data))
    assert isinstance(answer, Answer)
    return answer


def _quieten() -> None:
    """No output, no file written, no signal of the terminal, nothing compiled, one thread: others die in a fork."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - lives as long as the process
    torch.set_num_threads(1)
    if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
        # What is compiled runs as it was written: a compiled graph shows none of its operators.
        torch.compiler.set_stance("force_eager")
    builtins.open = io.open = reads_only(builtins.open)
    try:
        import resource

        # Files that are open already: a write fails, and what fails is said.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass


def reads_only(original: Any) -> Any:
    """``open``, with nothing in the place of files that are to be written."""

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        writes = isinstance(file, str | os.PathLike) and any(letter in mode for letter in "wax+")
        return original(os.devnull if writes else file, mode.replace("x", "w"), *args, **options)

    return opened


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
        # What a tracked run saw before it broke is no answer.
        side.send(None, describe(error))


def describe(error: BaseException) -> str:
    """The error with the place in the user's code."""
    from viewproof.certify.flow.tracker import _LIBRARIES

    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
    ours = [f for f in frames if "/viewproof/" in f.filename]
    users = [f for f in frames if f not in ours]
    last = (users or ours)[-1:] if frames else []
    at = f" at {last[0].filename.rsplit('/', 1)[-1]}:{last[0].lineno}" if last else ""
    inside = f" (in {ours[-1].filename.rsplit('/', 1)[-1]}:{ours[-1].lineno})" if ours else ""
    return f"the step raised {type(error).__name__}: {str(error)[:200]}{at}{inside}"
