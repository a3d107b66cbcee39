"""Running code in a forked copy of this process: whatever it changes is gone with it, its answer comes back."""

import builtins
import ctypes
import io
import os
import pickle
import random
import select
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from viewproof.torch_internals import replaced, saved_nowhere
from viewproof.watch.one_rank import cannot_copy, in_group, stand_alone

_FOR_GOOD = ExitStack()
"""Of a child, what holds until it ends."""


_IDLE = 30.0
"""So many seconds without a moment on a CPU, and a copy waits for what it does not have."""


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
    if torch.cuda.is_available() and (torch.cuda.is_initialized() or _autograd_has_threads()):  # type: ignore[no-untyped-call]
        return (
            "CUDA is in use, which does not survive a fork; call viewproof.watch(step, batch), which runs the step in "
            "this process, or hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    if sys.platform == "darwin":
        return "forks are not safe on macOS"
    return cannot_copy()


def _autograd_has_threads() -> bool:
    """Whether backward has run beside a GPU, also of a network on the CPU: a copy could not run it again."""
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):
            if name.read_text().startswith("pt_autograd"):
                return True
    return False


def copy_of_process() -> int:
    """As `os.fork`, and the copy draws what the process would: Python seeds `random` anew in each."""
    state = random.getstate()
    pid = os.fork()
    if pid == 0:
        random.setstate(state)
    return pid


def fork(seconds: float = 600.0) -> Sender | Answer:
    """Return twice: in a forked child its `Sender`, and here, once that has sent or died, its `Answer`.

    The child is silent, writes no file, takes no signal of the terminal, and runs on one thread; it is killed after
    ``seconds``, in a process group after a third of that, and if it does nothing for `_IDLE`: it has no other threads,
    as those of a pool of processes, and would wait for them.
    """
    seconds = seconds / 3 if in_group() else seconds
    for stream in (sys.stdout, sys.stderr):
        # What is buffered would be written by both.
        if stream is not None:
            stream.flush()
    reading, writing = os.pipe()
    pid = copy_of_process()
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
    ticks, since = -1.0, time.monotonic()
    try:
        while True:
            if select.select([reading], [], [], max(0.0, min(end - time.monotonic(), _IDLE / 8)))[0]:
                part = os.read(reading, 1 << 20)
                if not part:
                    break
                data += part
                since = time.monotonic()
            elif time.monotonic() >= end:
                return Answer(failure=f"the step took longer than {seconds:.0f} s")
            elif (now := _ticks(pid)) != ticks:
                ticks, since = now, time.monotonic()
            elif time.monotonic() - since > _IDLE:
                waits = (
                    f"waited {_IDLE:.0f} s for another thread or process, which a copy of this process does not have"
                )
                return Answer(failure=f"the step {waits}; make its pools and queues in the step")
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if not data:
        return Answer(failure=f"the copy of the process that ran the step died (status {status})")
    answer = pickle.loads(bytes(data))
    assert isinstance(answer, Answer)
    return answer


def _ticks(pid: int) -> float:
    """The time on a CPU that a process and its children have had; NaN, which is like nothing, where it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return float("nan")
    return int(fields[11]) + int(fields[12]) + sum(map(_ticks, map(int, children)))


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
    _FOR_GOOD.enter_context(nothing_written())
    seal_files()
    try:
        import resource

        # Files that are open already: a write fails, and what fails is said.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    except (ImportError, ValueError, OSError):
        pass


@contextmanager
def nothing_written() -> Iterator[None]:
    """On this thread no file is written, moved or removed: what is opened to be written is the null device.

    Other threads write as before. What C code opens by itself is not seen here, but for torch and safetensors.

    >>> with nothing_written():
    ...     torch.save(torch.ones(2), "no such folder/weights.pt")
    """
    thread, here = threading.get_ident(), threading.get_ident

    def null_for_writers(original: Any) -> Any:
        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            writes = isinstance(file, str | bytes | os.PathLike) and any(letter in mode for letter in "wax+")
            if here() != thread or not writes:
                return original(file, mode, *args, **options)
            return original(os.devnull, mode.replace("x", "w"), *args, **options)

        return opened

    def opened_low(path: Any, flags: int, *args: Any, **options: Any) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if here() != thread or not writes:
            return open_low(path, flags, *args, **options)
        return open_low(os.devnull, flags & (os.O_WRONLY | os.O_RDWR))

    def skipped(original: Any) -> Any:
        return lambda *args, **options: None if here() == thread else original(*args, **options)

    open_low = os.open
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(saved_nowhere(lambda: here() == thread))
        for owner in (builtins, io):
            enter(replaced(owner, "open", null_for_writers(builtins.open)))
        enter(replaced(os, "open", opened_low))
        for name in ("remove", "unlink", "rename", "replace", "rmdir", "truncate", "link", "symlink"):
            enter(replaced(os, name, skipped(getattr(os, name))))
        if "safetensors.torch" in sys.modules:
            rust = sys.modules["safetensors.torch"]
            enter(replaced(rust, "serialize_file", skipped(rust.serialize_file)))
        yield


def seal_files() -> None:
    """Of this process and its children, refuse by the kernel to write, make or remove files outside ``/dev``.

    By Linux's Landlock, whose system calls have the same numbers everywhere; without it nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    call = ctypes.CDLL(None, use_errno=True).syscall
    create, add, restrict, version_flag, by_path, no_new_privileges = 444, 445, 446, 1, 1, 38
    version = call(create, None, 0, version_flag)
    # Write, remove a folder, remove a file, make a file; truncate, from the third version on.
    rights = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | (1 << 14 if version >= 3 else 0)
    if version < 1:
        return
    handled = struct.pack("Q", rights)
    ruleset = call(create, ctypes.c_char_p(handled), len(handled), 0)
    if ruleset < 0:
        return
    devices = os.open("/dev", os.O_PATH)
    call(add, ruleset, by_path, ctypes.c_char_p(struct.pack("=Qi", rights, devices)), 0)
    ctypes.CDLL(None).prctl(no_new_privileges, 1, 0, 0, 0)
    call(restrict, ruleset, 0)
    os.close(devices)
    os.close(ruleset)


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
