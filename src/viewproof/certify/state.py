"""What a function can reach and change, such as modules, queues and generators, put back."""

import functools
import os
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from viewproof.bits import GeneratorStates, same_bits
from viewproof.certify.flow.state import runs_on

_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, types.ModuleType, range, slice, torch.dtype,
           torch.device, torch.Size)  # fmt: skip
_MODULE_TABLES = frozenset(vars(nn.Module())) - {"training"}
_LIBRARIES = ("torch", "numpy", "builtins")
_MOST = 200_000
PYTHON = "the global generator of Python"


def _set_environment(before: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(before)


_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "torch.is_grad_enabled()": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch.is_anomaly_enabled()": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "torch.get_default_dtype()": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.get_num_threads()": (torch.get_num_threads, torch.set_num_threads),
    "torch.get_float32_matmul_precision()": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.are_deterministic_algorithms_enabled()": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    "torch.backends.cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "os.environ": (lambda: dict(os.environ), _set_environment),
    **{
        f"torch.is_autocast_enabled({device!r})": (
            functools.partial(torch.is_autocast_enabled, device),
            functools.partial(torch.set_autocast_enabled, device),
        )
        for device in ("cpu", "cuda")
    },
}
"""What a call may leave changed for the whole process: how each is read, and set."""


class ReachedState:
    """Everything mutable that a function reaches, as it is now: see `changes` and `restore`.

    Found by following closures, used globals, bound objects, attributes and containers; ``whole`` says whether to the
    end. Not seen: what lives in C extensions, on disk, in iterators that are under way, and in other processes.

    >>> seen = []
    >>> state = ReachedState(lambda: seen.append(1))
    >>> seen.append(2)
    >>> [(path, kind) for path, kind in state.changes()]
    [('seen', 'state')]
    >>> state.restore()
    >>> seen
    []
    """

    leaves: tuple[type, ...] = _LEAVES
    """Values that hold nothing that is looked at."""

    @staticmethod
    def copied(tensor: Tensor) -> Tensor:
        """What a tensor is put back from."""
        return tensor.detach().clone()

    def __init__(self, *functions: Any) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.modules: dict[str, nn.Module] = {}
        self._owner: dict[int, Any] = {}
        self._tensors: list[tuple[str, str, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, bool]] = []
        self._tables: list[tuple[str, Any, Any]] = []
        self._cells: list[tuple[str, types.CellType, Any]] = []
        self._globals: list[tuple[str, dict[str, Any], Any]] = []
        self._generators: list[tuple[str, Any, Any]] = []
        self._arrays: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._settings = {name: read() for name, (read, _) in _SETTINGS.items()}
        self._global_generators = GeneratorStates.now()
        self._global_states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        pending: deque[tuple[str, Any, str]] = deque(("", f, "") for f in functions)
        while pending and len(self._owner) < _MOST:
            path, value, kind = pending.popleft()
            if not isinstance(value, self.leaves) and id(value) not in self._owner:
                # Kept alive, so that no other object gets its id.
                self._owner[id(value)] = value
                pending.extend(self._visit(path, value, kind))
        self.whole = not pending

    def _visit(self, path: str, value: Any, kind: str) -> Iterator[tuple[str, Any, str]]:
        """Note one object's state; yield what it holds, each with its path and its kind."""

        def inside(key: Any) -> str:
            return f"{path}.{key}" if path else str(key)

        if isinstance(value, Tensor):
            grad = value.grad if value.is_leaf else None
            copies = self.copied(value), grad, None if grad is None else self.copied(grad)
            self.tensors[path] = value
            known = "parameter" if isinstance(value, nn.Parameter) else kind or "state"
            self._tensors.append((path, known, value, value.data, *copies, value.requires_grad))
        elif isinstance(value, np.ndarray):
            self._arrays.append((path, value, value.copy()))
        elif isinstance(value, torch.Generator | np.random.RandomState | np.random.Generator | random.Random):
            self._generators.append((path, value, _generator_state(value)))
        elif isinstance(value, dict):
            self._tables.append((path, value, dict(value)))
            for key, entry in list(value.items()):
                yield f"{path}[{key!r}]" if isinstance(key, str | int) else f"{path}[...]", entry, kind
        elif isinstance(value, list | deque | set):
            self._tables.append((path, value, value.copy()))
            yield from ((f"{path}[{i}]", entry, kind) for i, entry in enumerate(value))
        elif isinstance(value, tuple | frozenset):
            yield from ((f"{path}[{i}]", entry, kind) for i, entry in enumerate(value))
        elif isinstance(value, functools.partial):
            yield from (("", part, "") for part in (value.func, *value.args, *value.keywords.values()))
        elif isinstance(value, types.MethodType):
            yield path, value.__self__, ""
            yield path, value.__func__, ""
        elif isinstance(value, types.FunctionType):
            if (value.__module__ or "").partition(".")[0] in _LIBRARIES:
                return
            for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
                try:
                    self._cells.append((name, cell, cell.cell_contents))
                    yield name, cell.cell_contents, ""
                except ValueError:
                    continue
            codes = [value.__code__]
            for code in codes:
                codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
                for name in code.co_names:
                    if name in value.__globals__ and not isinstance(value.__globals__[name], types.ModuleType | type):
                        self._globals.append((name, value.__globals__, value.__globals__[name]))
                        yield name, value.__globals__[name], ""
            yield from (("", default, "") for default in value.__defaults__ or ())
        elif isinstance(value, nn.Module):
            self.modules[path] = value
            own = vars(value)
            self._tables.append((path, own, dict(own)))
            hooks = [
                (name, table) for name, table in own.items() if name.endswith("_hooks") and isinstance(table, dict)
            ]
            self._tables += [(inside(name), table, dict(table)) for name, table in hooks]
            for table, kind_of in (("_parameters", "parameter"), ("_buffers", "buffer"), ("_modules", "")):
                self._tables.append((path, own[table], dict(own[table])))
                yield from ((inside(key), entry, kind_of) for key, entry in own[table].items())
            yield from ((inside(key), entry, "") for key, entry in own.items() if key not in _MODULE_TABLES)
        elif isinstance(getattr(value, "__dict__", None), dict):
            self._tables.append((path, vars(value), dict(vars(value))))
            yield from ((inside(key), entry, kind) for key, entry in vars(value).items())

    @property
    def iterators(self) -> list[str]:
        """The iterators among what was found that were begun: they go forward and cannot be put back."""
        begun = [o for o in self._owner.values() if runs_on(o)]
        return sorted({f"{type(o).__name__} {getattr(o, '__name__', '')}".strip() for o in begun})

    def changes(self) -> Iterator[tuple[str, str]]:
        """What differs now: path and kind (parameter, buffer, gradient, flag, generator, setting, state)."""
        for path, kind, tensor, _, value, _, grad_value, flag in self._tensors:
            if not same_bits(tensor.detach().to(value.device), value):
                yield path, kind
            grad = tensor.grad if tensor.is_leaf else None
            if (grad is None) != (grad_value is None) or (
                grad is not None and grad_value is not None and not same_bits(grad.to(grad_value.device), grad_value)
            ):
                yield path, "gradient"
            if tensor.requires_grad is not flag:
                yield path, "flag"
        for path, table, before in self._tables:
            if isinstance(table, dict):
                for key in [*before, *(k for k in table if k not in before)]:
                    if key not in table or key not in before or not _same(table[key], before[key]):
                        where = f"{path}.{key}" if path and isinstance(key, str) else (path or str(key))
                        yield where, "flag" if key == "training" else "state"
            elif len(table) != len(before) or not all(map(_same, table, before)):
                yield path, "state"
        for name, cell, before in self._cells:
            if not _same(cell.cell_contents, before):
                yield name, "state"
        for name, table, before in self._globals:
            if name not in table or not _same(table[name], before):
                yield name, "state"
        for path, array, copy in self._arrays:
            if not _same(array, copy):
                yield path, "state"
        for path, generator, before in self._generators:
            if not _same(_generator_state(generator), before):
                yield path, "generator"
        for name, before in self._settings.items():
            if _SETTINGS[name][0]() != before:
                yield name, "setting"
        now = GeneratorStates.now()
        for field in ("torch", "numpy", "python"):
            if getattr(now, field) != getattr(self._global_generators, field):
                yield PYTHON if field == "python" else f"the global generator of {field}", "generator"

    def restore(self) -> None:
        """Put everything back; what fails is raised after the rest is back."""
        failures: list[Exception] = []

        def attempt(put_back: Callable[..., None], *values: Any) -> None:
            try:
                put_back(*values)
            except Exception as error:
                failures.append(error)

        for entry in self._tensors:
            attempt(_put_tensor, *entry[2:])
        for _, table, before in self._tables:
            attempt(_put_table, table, before)
        for _, cell, before in self._cells:
            cell.cell_contents = before
        for name, table, before in self._globals:
            table[name] = before
        for _, array, copy in self._arrays:
            if not _same(array, copy):
                attempt(np.copyto, array, copy)
        for _, generator, before in self._generators:
            attempt(_set_generator, generator, before)
        for name, before in self._settings.items():
            read, write = _SETTINGS[name]
            if read() != before:
                write(before)
        torch.set_rng_state(self._global_states[0])
        np.random.set_state(self._global_states[1])
        random.setstate(self._global_states[2])
        if failures:
            raise failures[0]


def _put_tensor(
    tensor: Tensor, storage: Tensor, value: Tensor, grad: Tensor | None, grad_value: Tensor | None, flag: bool
) -> None:
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.is_leaf:
            tensor.grad = None
        tensor.data = storage
        # Elements of one place, as of an expanded tensor, cannot be written to, and mostly need not be.
        if not same_bits(tensor.detach().to(value.device), value):
            tensor.data.copy_(value)
        if (
            grad is not None
            and grad_value is not None
            and not same_bits(grad.detach().to(grad_value.device), grad_value)
        ):
            grad.data.copy_(grad_value)
        if tensor.is_leaf:
            tensor.grad = grad
            tensor.requires_grad_(flag)


def _put_table(table: Any, before: Any) -> None:
    if isinstance(table, dict):
        if list(map(id, table)) != list(map(id, before)):
            # The order of the keys is state too.
            table.clear()
        table.update(before)
    elif len(table) != len(before) or any(a is not b for a, b in zip(table, before, strict=True)):
        table.clear()
        (table.update if isinstance(table, set) else table.extend)(before)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate() if isinstance(generator, random.Random) else generator.get_state()


def _set_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)


def _same(a: Any, b: Any) -> bool:
    """Whether an entry is what it was: the same object, or one of the same content."""
    if a is b:
        return True
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a.detach(), b.detach())
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(_same, a, b))
    try:
        return bool(a == b)
    except Exception:
        return False
