"""Running a step in this process, where a fork is not safe: what it changed is put back from copies."""

import copy
import gc
import io
import logging
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.state import PYTHON, ReachedState
from viewproof.torch_internals import set_versions
from viewproof.watch.alive import Alive, is_empty, is_plain
from viewproof.watch.child import Answer, describe, nothing_written
from viewproof.watch.sources import tensors_of, with_tensors

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))
"""Where classes lie that are not the user's."""


class WholeState(ReachedState):
    """What a step reaches through the user's modules, classes and functions too, and the generators of devices.

    ``lost`` names what cannot be put back: iterators and files, which go on only forwards, objects with ``__slots__``,
    and tensors that are not plain memory.

    >>> draws = iter(range(3))
    >>> WholeState(lambda: next(draws)).lost
    ['draws']
    """

    @staticmethod
    def copied(tensor: Tensor) -> Tensor:
        """What a tensor is put back from, in the CPU's memory: a GPU has no room for every weight a second time."""
        return tensor.detach().to("cpu", copy=True)

    leaves = (*(kind for kind in ReachedState.leaves if kind not in (type, types.ModuleType)), logging.Logger)

    def __init__(self, *roots: Any) -> None:
        self.lost: list[str] = []
        self._spaces: list[tuple[Any, dict[str, Any]]] = []
        self._absent: list[tuple[dict[str, Any], str]] = []
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        super().__init__(*roots)
        tensors = [entry[2] for entry in self._tensors if not entry[2].is_inference()]
        self._versions = tensors, [t._version for t in tensors]

    def _visit(self, path: str, value: Any, kind: str) -> Iterator[tuple[str, Any, str]]:
        if isinstance(value, types.ModuleType | type):
            if _is_users(value):
                self._spaces.append((value, {k: v for k, v in vars(value).items() if not k.startswith("__")}))
                for name, member in self._spaces[-1][1].items():
                    inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                    yield f"{path}.{name}", inner, ""
                    if isinstance(member, types.MemberDescriptorType):
                        self.lost.append(path)
            return
        if isinstance(value, Tensor) and not is_plain(value):
            self.lost.append(path or "a tensor")
            return
        yield from super()._visit(path, value, kind)
        if isinstance(value, Iterator) and not any(value is s for s in vars(sys).values()):
            self.lost.append(path or type(value).__name__)
        yield from ((path, owner, "") for owner in type(value).__mro__)
        if isinstance(value, types.BuiltinMethodType):
            yield path, value.__self__, ""
        elif isinstance(value, types.FunctionType) and _is_users(sys.modules.get(value.__module__ or "")):
            yield path, vars(value), ""
            for name in value.__code__.co_names:
                if name not in value.__globals__:
                    self._absent.append((value.__globals__, name))
                elif isinstance(value.__globals__[name], types.ModuleType | type):
                    yield name, value.__globals__[name], ""
        elif isinstance(value, dict | list | set | deque) and hasattr(value, "__dict__"):
            yield path, vars(value), ""

    def restore(self) -> None:
        """Put everything back; what fails is raised after the rest is back."""
        try:
            super().restore()
        finally:
            for owner, before in self._spaces:
                for name in [name for name in vars(owner) if name not in before and not name.startswith("__")]:
                    delattr(owner, name)
                for name, member in before.items():
                    if vars(owner).get(name) is not member:
                        setattr(owner, name, member)
            for table, name in self._absent:
                table.pop(name, None)
            if self._devices:
                torch.cuda.set_rng_state_all(self._devices)
            # A graph that was built before and is not yet run backward compares them.
            set_versions(*self._versions)


def _is_users(value: Any) -> bool:
    """Whether a module, or the module of a class, is the user's own."""
    module = sys.modules.get(value.__module__) if isinstance(value, type) else value
    file = getattr(module, "__file__", None)
    return getattr(module, "__name__", "") == "__main__" or (file is not None and not file.startswith(LIBRARIES))


class _Enough(BaseException):
    """Ends a run before the step does."""


class InPlace:
    """Runs ``step(batch)`` in this process, each time from the state in which it is made; see `watch.child.Runner`.

    The step gets the batch on the device where it was; what is looked at and replaced lies on the CPU. The step's
    output and its logs are swallowed, and no file is written (`nothing_written`). ``reason`` says why no run is
    possible.
    """

    place = "in this process, put back from copies"

    def __init__(self, step: Callable[[Any], Any], batch: Any) -> None:
        self.step, self.batch, self.reason = step, batch, ""
        try:
            self._copy(batch)
        except Exception as error:
            self.reason = f"its state cannot be copied ({type(error).__name__}: {str(error)[:200]})"

    def _copy(self, batch: Any) -> None:
        self._devices = {path: t.device for path, t in tensors_of(batch) if t.device.type != "cpu"}
        self.batch = with_tensors(_containers(batch), {id(t): t.detach().cpu() for _, t in tensors_of(batch)})
        reached = WholeState(self.step, batch)
        if reached.lost:
            self.reason = f"{reached.lost[0]} moves on with each run, or holds what cannot be put back"
            return
        if not reached.whole:
            self.reason = "the step reaches more objects than are copied"
            return
        del reached
        # What no name of the step leads to is moved all the same: by hooks, for instance.
        alive = Alive.now()
        for module in alive.modules:
            if any(map(is_empty, [*module.parameters(False), *module.buffers(False)])):
                self.reason = f"a {type(module).__name__} holds tensors without memory or values"
                return
        plain = [t for t in alive.tensors if type(t) in (Tensor, nn.Parameter) and t.is_leaf and is_plain(t)]
        modules = [m for m in alive.modules if not isinstance(m, torch.jit.ScriptModule)]
        self.state = WholeState(self.step, batch, self.batch, *modules, *alive.optimizers, *plain)

    def __call__(self, make: Callable[[Callable[[], Any]], Any], finish: Callable[[Any], Any]) -> Answer:
        """One run, and what it finished with."""
        run: Any = None
        value: list[Any] = []
        gc.collect()  # What the graph of the run before has kept: the next makes its own.

        def stop() -> None:
            value.append(finish(run))
            raise _Enough

        try:
            with ExitStack() as quiet:
                for stream in (redirect_stdout, redirect_stderr):
                    quiet.enter_context(stream(io.StringIO()))
                logs = logging.root.manager.disable
                quiet.callback(logging.disable, logs)
                logging.disable(logging.CRITICAL)
                quiet.enter_context(nothing_written())
                quiet.enter_context(torch.compiler.set_stance("force_eager"))
                run = make(stop)
                changed = run.batch(_containers(self.batch))
                run.begin()
                devices = {id(t): t.to(self._devices[p]) for p, t in tensors_of(changed) if p in self._devices}
                self.step(with_tensors(changed, devices))
                run.end()
                value.append(finish(run))
        except _Enough:
            pass
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            return Answer(failure=describe(error))
        finally:
            if run is not None:
                run.end()
            problem = ""
            try:
                self.state.restore()
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            for tensor in Alive.now().tensors:
                vars(tensor).pop("_viewproof_from", None)
        if problem:
            return Answer(failure=f"what the step changed could not be put back ({problem[:200]})")
        left = [path or kind for path, kind in self.state.changes() if path != PYTHON]
        if left:
            return Answer(failure=f"{left[0]} could not be put back")
        data = io.BytesIO()
        torch.save(value[0], data)
        data.seek(0)
        return Answer(torch.load(data, map_location="cpu", weights_only=False))


def _containers(batch: Any) -> Any:
    """The same tensors and objects in lists and dictionaries of their own, which a run may write to."""
    if isinstance(batch, tuple):
        parts = [_containers(value) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, MutableMapping | MutableSequence) or (is_dataclass(batch) and not isinstance(batch, type)):
        new: Any = copy.copy(batch)
        if isinstance(batch, MutableMapping):
            new.update({key: _containers(value) for key, value in batch.items()})
        elif isinstance(batch, MutableSequence):
            new[:] = [_containers(value) for value in batch]
        else:
            for field in fields(batch):
                object.__setattr__(new, field.name, _containers(getattr(batch, field.name)))
        return new
    return batch
