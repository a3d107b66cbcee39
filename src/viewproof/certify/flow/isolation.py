"""Running a user's function so that nothing of it stays behind: random state, written tensors, train and eval flags."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from viewproof.bits import seeded


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among an operator's arguments or results, those in lists included."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_in(value)
    return found


# Calls that hand a tensor's content to code outside torch, and constructors that read tensors inside lists.
_LEAVING = frozenset(
    (
        *("numpy", "tolist", "item", "data_ptr", "const_data_ptr", "mutable_data_ptr", "storage", "untyped_storage"),
        *("_typed_storage", "__array__", "__dlpack__", "__reduce_ex__", "__bool__", "__int__", "__float__"),
        *("__complex__", "__index__", "__repr__", "__format__", "apply_", "map_", "map2_"),
    )
)
_LISTED = frozenset(("tensor", "as_tensor", "asarray", "new_tensor", "new", "sparse_coo_tensor"))


def leaving(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors whose content a call hands, without any operator, to code outside torch."""
    name = getattr(func, "__name__", "")
    if name in _LISTED:
        # A constructor that is given one tensor copies it by an operator.
        args = [a for a in args if not isinstance(a, Tensor)]
    elif name in ("__getitem__", "__setitem__"):
        args = [i for i in (args[1] if isinstance(args[1], tuple) else args[1:2]) if isinstance(i, list)]
    elif name not in _LEAVING:
        return []
    return tensors_in([*args, *kwargs.values()])


class _Parameter(NamedTuple):
    name: str
    default: Any
    writes: bool
    out: bool


@lru_cache(maxsize=4096)
def _parameters(func: Any) -> tuple[_Parameter, ...]:
    # Batch normalisation writes its running statistics without saying so in its schema.
    silent = ("running_mean", "running_var") if "batch_norm" in str(func) else ()
    found = []
    for a in func._schema.arguments:
        writes = a.name in silent or bool(a.alias_info and a.alias_info.is_write)
        found.append(_Parameter(a.name, a.default_value, writes, writes and a.kwarg_only))
    return tuple(found)


def bound(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """An operator's arguments by name, defaults filled in."""
    named = {p.name: p.default for p in _parameters(func)}
    named.update(zip(named, args, strict=False))
    return {**named, **kwargs}


def written(func: Any, named: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator writes in place."""
    return tensors_in([named[p.name] for p in _parameters(func) if p.writes])


def inputs(func: Any, named: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator reads: all but its ``out`` arguments."""
    return tensors_in([named[p.name] for p in _parameters(func) if not p.out])


class Undo(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While on, copies a tensor made outside before the first in-place write to it; `restore` puts it back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}
        # A dead storage's address is not used again while a weak reference to it is held.
        self._own: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator."""
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        named = bound(func, args, kwargs)
        with torch._C.DisableTorchFunction():
            for tensor in written(func, named):
                self._save(tensor)
        before = {address(t) for t in tensors_in(named.values())}
        out = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            for tensor in tensors_in(out if isinstance(out, list | tuple) else (out,)):
                if (key := address(tensor)) not in before and key not in self._own and key:
                    self._own[key] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        return out

    def _save(self, tensor: Tensor) -> None:
        key = address(tensor)
        if key and key not in self._own and key not in self._saved:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            self._saved[key] = whole, whole.clone()

    def restore(self) -> None:
        """Put back what was written."""
        with torch.inference_mode():
            for whole, copy in self._saved.values():
                whole.copy_(copy)


def address(tensor: Tensor) -> int:
    """What tells storages apart; 0 for a tensor that has none of its own, such as a sparse one."""
    if tensor.layout != torch.strided or tensor.is_nested or not tensor.untyped_storage().size():
        return 0
    return int(tensor.untyped_storage()._cdata)


@contextmanager
def kept(*owners: Any) -> Iterator[None]:
    """Afterwards attributes, parameters, buffers, gradients and flags are as they were, rebound ones too.

    Of modules with all their submodules; of other objects the attributes alone.
    """
    parts = [p for o in owners for p in (o.modules() if isinstance(o, nn.Module) else [o])]
    tables = [vars(p) for p in parts if isinstance(getattr(p, "__dict__", None), dict)]
    modules = [p for p in parts if isinstance(p, nn.Module)]
    tables += [t for m in modules for t in (m._parameters, m._buffers, m._modules)]
    entries = [(t, dict(t)) for t in tables]
    tensors = {id(t): t for o in owners if isinstance(o, nn.Module) for t in (*o.parameters(), *o.buffers())}
    values = [(t, t.data, t.detach().clone(), t.requires_grad) for t in tensors.values()]
    gradients = [(t, t.grad, None if t.grad is None else t.grad.clone()) for t in tensors.values()]
    try:
        yield
    finally:
        for table, before in entries:
            for key in table.keys() - before.keys():
                del table[key]
            table.update(before)
        with torch.no_grad():
            for tensor, storage, value, flag in values:
                tensor.data = storage
                tensor.copy_(value)
                tensor.requires_grad_(flag)
            for tensor, gradient, old in gradients:
                tensor.grad = gradient if gradient is None or old is None else gradient.copy_(old)


@contextmanager
def isolated(function: Any) -> Iterator[None]:
    """Fixed seeds inside; after, random state, tensors that the function wrote and its modules' attributes as before.

    Modules that the function only refers to are known when they are called.
    """
    undo, saved = Undo(), dict[nn.Module, list[tuple[Any, Any]]]()

    def save(module: nn.Module, *_: Any) -> None:
        if module not in saved:
            held = [vars(module), *(v for v in vars(module).values() if isinstance(v, dict | list | set))]
            saved[module] = [(part, part.copy()) for part in held]

    owner = getattr(function, "__self__", function)
    for module in owner.modules() if isinstance(owner, nn.Module) else ():
        save(module)
    with ExitStack() as stack:
        stack.enter_context(register_module_forward_pre_hook(save))
        stack.enter_context(seeded(0))
        if "torch._dynamo" in sys.modules:
            # Compiled code runs below the dispatcher, where nothing can be seen.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            with undo:
                yield
        finally:
            undo.restore()
            for part, before in (pair for pairs in saved.values() for pair in pairs):
                part.clear()
                (part.extend if isinstance(part, list) else part.update)(before)
