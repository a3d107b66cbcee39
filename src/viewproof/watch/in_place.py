"""Running a step in this process, where a fork is not safe: what it changed is put back from copies."""

import builtins
import copy
import io
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.state import PYTHON, ReachedState
from viewproof.torch_internals import replaced
from viewproof.watch.alive import Alive, has_memory
from viewproof.watch.child import Answer, describe, reads_only
from viewproof.watch.sources import tensors_of, with_tensors

LIBRARIES = (*(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")), str(Path(__file__).parents[1]))
"""Where classes lie that are not the user's."""


class WholeState(ReachedState):
    """What a step reaches through methods and attributes of the user's classes too, and CUDA's generators.

    ``lost`` names what cannot be put back: iterators, which go on only forwards, and objects with ``__slots__``.

    >>> draws = iter(range(3))
    >>> WholeState(lambda: next(draws)).lost
    ['draws']
    """

    def __init__(self, *roots: Any) -> None:
        self.lost: list[str] = []
        self._classes: dict[type, dict[str, Any]] = {}
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        super().__init__(*roots)

    def _visit(self, path: str, value: Any, kind: str) -> Iterator[tuple[str, Any, str]]:
        yield from super()._visit(path, value, kind)
        if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
            self.lost.append(path or type(value).__name__)
        for owner in type(value).__mro__:
            file = getattr(sys.modules.get(owner.__module__), "__file__", None)
            if owner in self._classes or file is None or file.startswith(LIBRARIES):
                continue
            if any(isinstance(member, types.MemberDescriptorType) for member in vars(owner).values()):
                self.lost.append(path or owner.__name__)
            self._classes[owner] = {}
            for name, member in list(vars(owner).items()):
                inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if isinstance(inner, types.FunctionType):
                    yield name, inner, ""
                elif not name.startswith("__") and not hasattr(member, "__get__"):
                    self._classes[owner][name] = member
                    yield f"{owner.__name__}.{name}", member, ""

    def restore(self) -> None:
        """Put everything back."""
        super().restore()
        for owner, before in self._classes.items():
            for name, member in before.items():
                if vars(owner).get(name) is not member:
                    setattr(owner, name, member)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)


class _Enough(BaseException):
    """Ends a run before the step does."""


class InPlace:
    """Runs ``step(batch)`` in this process, each time from the state in which it is made; see `watch.child.Runner`.

    The step gets the batch on the device where it was; what is looked at and replaced lies on the CPU. The step's
    output is swallowed, and Python opens no file for it to write. ``reason`` says why no run is possible.
    """

    place = "in this process, put back from copies"

    def __init__(self, step: Callable[[Any], Any], batch: Any) -> None:
        self._devices = {path: t.device for path, t in tensors_of(batch) if t.device.type != "cpu"}
        self.batch = with_tensors(_containers(batch), {id(t): t.detach().cpu() for _, t in tensors_of(batch)})
        self.step, alive = step, Alive.now()
        plain = [t for t in alive.tensors if type(t) in (Tensor, nn.Parameter) and _can_be_copied(t)]
        self.state = WholeState(step, batch, self.batch, *alive.modules, *alive.optimizers, *plain)
        self.reason = ""
        if self.state.lost:
            self.reason = f"{self.state.lost[0]} moves on with each run, or holds what cannot be put back"
        elif not self.state.whole:
            self.reason = "the step reaches more objects than are copied"

    def __call__(self, make: Callable[[Callable[[], Any]], Any], finish: Callable[[Any], Any]) -> Answer:
        """One run, and what it finished with."""
        run: Any = None
        value: list[Any] = []

        def stop() -> None:
            value.append(finish(run))
            raise _Enough

        try:
            with ExitStack() as quiet:
                for stream in (redirect_stdout, redirect_stderr):
                    quiet.enter_context(stream(io.StringIO()))
                for owner in (builtins, io):
                    quiet.enter_context(replaced(owner, "open", reads_only(builtins.open)))
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
            self.state.restore()
            for tensor in Alive.now().tensors:
                if type(tensor) is Tensor:
                    vars(tensor).pop("_viewproof_from", None)
        left = [path or kind for path, kind in self.state.changes() if path != PYTHON]
        if left:
            return Answer(failure=f"{left[0]} could not be put back")
        data = io.BytesIO()
        torch.save(value[0], data)
        data.seek(0)
        return Answer(torch.load(data, map_location="cpu", weights_only=False))


def _containers(batch: Any) -> Any:
    """The same tensors in lists and dictionaries of their own, which a run may write to."""
    return copy.deepcopy(batch, {id(t): t for _, t in tensors_of(batch)})


def _can_be_copied(tensor: Tensor) -> bool:
    try:
        return tensor.is_leaf and not tensor.is_meta and tensor.layout == torch.strided and has_memory(tensor)
    except RuntimeError:
        return False  # Of a transform that is over, or without memory.
