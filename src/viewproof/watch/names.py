"""Names of modules as the user's code says them: from the variables of the code that runs."""

import sys
from collections.abc import Iterable, Mapping
from types import FrameType, FunctionType, MethodType
from typing import Any

from torch import nn

from viewproof.certify.flow.tracker import _LIBRARIES
from viewproof.watch.alive import is_made


def variables_of(function: Any) -> dict[str, Any]:
    """The variables that a function can read: its object's attributes, its closure, its module's globals."""
    out: dict[str, Any] = {}
    seen = set()
    queue = [function]
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, MethodType):
            out.setdefault("self", one.__self__)
            one = one.__func__
        if isinstance(one, FunctionType):
            names = one.__code__.co_freevars
            cells = {}
            for name, cell in zip(names, one.__closure__ or (), strict=True):
                try:
                    cells[name] = cell.cell_contents
                except ValueError:
                    continue
            used = {n: one.__globals__[n] for n in one.__code__.co_names if n in one.__globals__}
            for name, value in {**cells, **used}.items():
                out.setdefault(name, value)
                if isinstance(value, FunctionType | MethodType):
                    queue.append(value)
        elif hasattr(one, "__dict__") and not isinstance(one, type):
            out.setdefault("self", one)
            if callable(one):
                queue.append(type(one).__call__)
            if hasattr(one, "func"):
                queue.append(one.func)
    return out


def variables_of_callers() -> dict[str, Any]:
    """The variables of all functions that are running, the innermost first, without those of libraries."""
    frame: FrameType | None = sys._getframe(1)
    out: dict[str, Any] = {}
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARIES) and "site-packages" not in name:
            for variables in (frame.f_locals, frame.f_globals):
                for key, value in list(variables.items()):
                    out.setdefault(key, value)
        elif "self" in frame.f_locals:
            # A trainer of a library's: what it holds has names too.
            out.setdefault("trainer", frame.f_locals["self"])
        frame = frame.f_back
    return out


def module_names(variables: Mapping[str, Any]) -> dict[int, str]:
    """The path of every module that the variables lead to, by id; of several paths the one with the fewest parts."""
    found: dict[int, str] = {}

    def note(path: str, module: nn.Module) -> None:
        for name, part in module.named_modules():
            own = f"{path}.{name}" if name else path
            if id(part) not in found or own.count(".") < found[id(part)].count("."):
                found[id(part)] = own

    def look(items: Iterable[tuple[str, Any]], depth: int) -> None:
        later = []
        for path, value in items:
            kind = type(value)
            if issubclass(kind, nn.Module):
                if is_made(value):
                    note(path, value)
            elif issubclass(kind, dict):
                later += [(f"{path}[{k!r}]", v) for k, v in list(value.items())[:64]]
            elif issubclass(kind, list | tuple):
                later += [(f"{path}[{i}]", v) for i, v in enumerate(value[:64])]
            elif kind.__module__ not in ("builtins", "torch") and isinstance(vars_of(value), dict):
                later += [(f"{path}.{k}" if path != "self" else k, v) for k, v in list(vars_of(value).items())[:256]]
        if later and depth:
            look(later, depth - 1)

    look([(k, v) for k, v in variables.items() if not k.startswith("__")], 2)
    return {key: name.removeprefix("self.") for key, name in found.items()}


def name_by_kind(module: nn.Module, names: dict[int, str]) -> None:
    """Add the paths of a module that no variable leads to, as of a step in a closure, by its class and a number.

    Two modules of one path would be taken for one another.

    >>> one, two, names = nn.Tanh(), nn.Tanh(), {}
    >>> name_by_kind(one, names), name_by_kind(two, names), list(names.values())
    (None, None, ['Tanh', 'Tanh 2'])
    """
    kind, taken, number = type(module).__name__, {*names.values()}, 1
    while (path := kind if number == 1 else f"{kind} {number}") in taken:
        number += 1
    for name, part in module.named_modules():
        names.setdefault(id(part), f"{path}.{name}" if name else path)


def vars_of(value: Any) -> Any:
    """The attributes that an object holds, or None."""
    try:
        return None if isinstance(value, type | type(sys)) else value.__dict__
    except Exception:
        return None
