"""The state that a user's function reaches, found and put back: what it closes over, refers to and holds."""

import copy
import functools
import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, ParamSpec

import numpy as np
import torch
from torch import Tensor, nn

from viewproof.certify.flow.isolation import kept, refuse_uninitialised
from viewproof.certify.report import Report

Q = ParamSpec("Q")
_LIBRARIES = ("torch", "numpy", "viewproof", "builtins", "functools", "collections", "jaxtyping", "typing")
_MOST = 20_000
_PLAIN = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    type,
    types.ModuleType,
    torch.dtype,
    torch.device,
    torch.Size,
)
_GENERATORS = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


class _Found:
    """What is reachable: objects with state, and the cells and globals that a function may bind anew."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        self.bindings: list[tuple[Any, Any, Any]] = []

    def visit(self, *values: Any) -> None:
        """Add the values and all that they lead to."""
        todo = list(values)
        while todo and len(self.objects) < _MOST:
            value = todo.pop()
            if isinstance(value, _PLAIN) or id(value) in self.objects:
                continue
            self.objects[id(value)] = value
            todo += self._next(value)

    def _next(self, value: Any) -> list[Any]:
        if isinstance(value, types.MethodType):
            return [value.__self__, value.__func__]
        if isinstance(value, functools.partial):
            return [value.func, value.args, value.keywords]
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, dict):
            return list(value.values())
        if isinstance(value, list | tuple | set | frozenset | deque):
            return list(value)
        if isinstance(value, Tensor | _GENERATORS):
            return []
        if isinstance(value, torch.optim.Optimizer):
            return [g["params"] for g in value.param_groups]
        return list(vars(value).values()) if isinstance(getattr(value, "__dict__", None), dict) else []

    def _of_function(self, function: types.FunctionType) -> list[Any]:
        found: list[Any] = [function.__defaults__, function.__kwdefaults__, vars(function)]
        for cell in function.__closure__ or ():
            try:
                self.bindings.append((cell, None, cell.cell_contents))
            except ValueError:
                continue
            found.append(cell.cell_contents)
        if (function.__module__ or "").split(".")[0] in _LIBRARIES:
            return found
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.bindings.append((function.__globals__, name, function.__globals__[name]))
                found.append(function.__globals__[name])
        return found


def _names(code: types.CodeType) -> set[str]:
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))


@contextmanager
def state_kept(*functions: Any, tensors: bool = True) -> Iterator[list[str]]:
    """Afterwards all that the functions reach is as it was; the list names what could not be put back.

    Modules, parameters, buffers and flags, tensors, optimizers, generators, lists, dicts, sets and queues, attributes
    of objects, and the variables that a closure or a module binds anew. Iterators that were begun cannot be put back.
    Without ``tensors`` modules and tensors are left to others.

    >>> queue = [1]
    >>> step = (lambda reached: lambda: reached.append(2))(queue)
    >>> with state_kept(step):
    ...     step()
    >>> queue
    [1]
    """
    found = _Found()
    found.visit(*functions)
    objects = list(found.objects.values())
    lost = [f"{type(o).__name__} {getattr(o, '__name__', '')}".strip() for o in objects if runs_on(o)]
    undo: list[Callable[[], object]] = []
    modules = [o for o in objects if isinstance(o, nn.Module)]
    for module in modules:
        refuse_uninitialised(module)
    inside = {id(p) for m in modules for p in (*m.parameters(), *m.buffers())}
    for value in objects:
        if not tensors and isinstance(value, Tensor | nn.Module):
            continue
        if (back := _restorer(value)) is not None and id(value) not in inside:
            undo.append(back)
    with ExitStack() as stack:
        if tensors:
            stack.enter_context(kept(*modules))
        try:
            yield lost
        finally:
            for back in undo:
                back()
            for owner, name, value in found.bindings:
                if name is None:
                    owner.cell_contents = value
                else:
                    owner[name] = value


def runs_on(value: Any) -> bool:
    """Whether it is an iterator that goes forward and never back."""
    return isinstance(value, types.GeneratorType) or (
        hasattr(type(value), "__next__") and not hasattr(value, "__dict__") and not isinstance(value, _GENERATORS)
    )


def _restorer(value: Any) -> Callable[[], object] | None:
    """What puts the object back as it is now, if it has state of its own."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        bits, state = value.bit_generator, copy.deepcopy(value.bit_generator.state)
        return lambda: setattr(bits, "state", state)
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, Tensor):
        return _tensor_restorer(value)
    if isinstance(value, torch.optim.Optimizer):
        states = {p: {k: _copied(v) for k, v in s.items()} for p, s in value.state.items()}
        groups = [dict(group) for group in value.param_groups]

        def back() -> None:
            value.state.clear()
            value.state.update(states)
            for group, old in zip(value.param_groups, groups, strict=False):
                group.clear()
                group.update(old)

        return back
    if isinstance(value, list | deque | dict | set):
        return _container_restorer(value)
    attributes = getattr(value, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(value, nn.Module | types.FunctionType):
        return _container_restorer(attributes)
    return None


def _container_restorer(value: Any) -> Callable[[], None]:
    """What puts a list, queue, dict or set back; one that holds the very same objects is not written to."""
    before = value.copy()

    def back() -> None:
        if not _same(value, before):
            value.clear()
            value.extend(before) if isinstance(value, list | deque) else value.update(before)

    return back


def _same(a: Any, b: Any) -> bool:
    """Whether two containers hold the very same objects."""
    if isinstance(a, dict):
        return list(a) == list(b) and all(a[key] is b[key] for key in a)
    return len(a) == len(b) and (a == b if isinstance(a, set) else all(x is y for x, y in zip(a, b, strict=True)))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _tensor_restorer(tensor: Tensor) -> Callable[[], None] | None:
    if (
        tensor.is_inference()
        or tensor.layout != torch.strided
        or tensor.is_meta
        or type(tensor) not in (Tensor, nn.Parameter)
    ):
        return None
    storage, value, version = tensor.data, tensor.detach().clone(), tensor._version
    gradient, slope = tensor.grad, None if tensor.grad is None else tensor.grad.detach().clone()

    def back() -> None:
        with torch.no_grad():
            if tensor._version != version or tensor.data_ptr() != storage.data_ptr():
                tensor.data = storage
                tensor.data.copy_(value)
            if gradient is not None and slope is not None:
                gradient.copy_(slope)
            if tensor.grad is not gradient:
                tensor.grad = gradient

    return back


def puts_back(certifier: Callable[Q, Report]) -> Callable[Q, Report]:
    """The certifier, after which all that its arguments reach is as before; its report names what is not."""

    @functools.wraps(certifier)
    def call(*args: Q.args, **kwargs: Q.kwargs) -> Report:
        with state_kept(*args, *kwargs.values()) as lost:
            report = certifier(*args, **kwargs)
        if not lost:
            return report
        note = f"cannot be put back, and moves on from call to call: {', '.join(sorted(set(lost)))}"
        return replace(
            report,
            findings=tuple(replace(f, detail="; ".join(filter(None, (f.detail, note)))) for f in report.findings),
        )

    return call
