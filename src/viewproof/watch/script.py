"""The command ``viewproof watch``: run a script as Python itself would, and report on a training step of it.

Nothing of torch is imported here before the script imports it, so that what a script sets first still counts.
"""

import atexit
import builtins
import importlib.abc
import importlib.machinery
import importlib.util
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from io import open_code
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from viewproof.errors import InvalidArgument
from viewproof.watch.script_session import ScriptSession, Stopped


def run(words: Sequence[str], module: bool, session: ScriptSession) -> int:
    """Run the script with its arguments; the exit code is the script's where it runs on, else the report's.

    From here on the process is the script's: ``sys.argv``, ``sys.path[0]`` and ``__main__`` are and stay as the script
    finds them under ``python``. What the script raises is printed as Python prints it.
    """
    script, *arguments = words
    if not module and not Path(script).is_file():
        raise InvalidArgument(f"script={script!r} must be a file; for a module of a package pass -m before its name")
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd()) if module else os.path.dirname(os.path.realpath(script))  # noqa: PTH120
    interrupted = False

    def die_of_interrupt() -> None:
        # As Python does after a KeyboardInterrupt: whoever started the process sees that a signal ended it.
        if interrupted:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)

    # Registered before the script's own handlers, it runs after them.
    atexit.register(die_of_interrupt)
    code = 0
    after_import("torch", session.start)
    if not session.keep_running:
        # Two steps are not worth compiling, and a compiled graph calls no modules.
        after_import("torch._dynamo", run_as_written)
    try:
        _execute(script, module)
    except Stopped:
        pass
    except SystemExit as stop:
        session.end()
        code = exit_code(stop)
    except BaseException as error:
        session.end()
        strip(error)
        if module and error.__traceback__ is None and isinstance(error, ImportError):
            raise InvalidArgument(f"module={script!r} must be a module that can be run: {error}") from None
        sys.excepthook(type(error), error, error.__traceback__)
        interrupted, code = isinstance(error, KeyboardInterrupt), 1
    session.end()
    return session.finish(code)


def exit_code(stop: SystemExit) -> int:
    """The exit code that Python gives to a process that ends so; a message is printed."""
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def after_import(name: str, call: Callable[[], None]) -> None:
    """Call once the module has been imported for the first time, at once if it has been."""
    if name in sys.modules:
        call()
        return

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, found: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
            if found != name:
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def exec_module(module: ModuleType) -> None:
                    execute(module)
                    call()

                spec.loader.exec_module = exec_module  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Finder())


def run_as_written() -> None:
    """What is compiled runs as it was written, from here on."""
    import torch

    if hasattr(torch.compiler, "set_stance"):
        torch.compiler.set_stance("force_eager")


def strip(error: BaseException | None) -> None:
    """Take the frames of this package's watch and of runpy out of the tracebacks of an error and of its causes."""
    ours = (str(Path(__file__).parent), runpy.__file__, "<frozen runpy>")
    known: set[int] = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        frames, tb = [], error.__traceback__
        while tb is not None:
            if not tb.tb_frame.f_code.co_filename.startswith(ours):
                frames.append(tb)
            tb = tb.tb_next
        for frame in reversed(frames):
            tb = TracebackType(tb, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
        error.__traceback__ = tb
        error = error.__cause__ or error.__context__


def _execute(script: str, module: bool) -> None:
    """Run the script, or the module, as ``__main__``."""
    if module:
        runpy.run_module(script, run_name="__main__", alter_sys=True)
        return
    # As Python has it: absolute, and otherwise as it was typed.
    path = os.path.join(Path.cwd(), script)  # noqa: PTH118
    main = ModuleType("__main__")
    main.__dict__.update(
        __file__=path,
        __builtins__=builtins,
        __loader__=importlib.machinery.SourceFileLoader("__main__", path),
        __cached__=None,
        __annotations__={},
    )
    sys.modules["__main__"] = main
    with open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)
