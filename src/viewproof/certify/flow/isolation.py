"""Running a user's function so that nothing stays behind: random state, tensors, flags."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from viewproof.bits import seeded
from viewproof.certify.flow.call import BoundCall, tensors_in
from viewproof.certify.flow.storage import address
from viewproof.errors import InvalidArgument
from viewproof.torch_internals import BelowModes, OpOverload, StorageWeakRef, TorchDispatchMode, module_tables


class Undo(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While on, copies a tensor before the first in-place write to it; `restore` puts it back."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._saved: dict[int, tuple[Tensor, Tensor]] = {}
        # A dead storage's address is not used again while a weak reference to it is held.
        self._own: dict[int, StorageWeakRef] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            return func(*args, **kwargs)
        with BelowModes():
            call = BoundCall(func, args, kwargs)
            for tensor in call.written:
                self._save(tensor)
        out = func(*args, **kwargs)
        with BelowModes():
            for tensor in tensors_in((out,)):
                if (key := address(tensor)) not in call.places and key not in self._own and key:
                    self._own[key] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        return out

    def _save(self, tensor: Tensor) -> None:
        key = address(tensor)
        if key and key not in self._own and key not in self._saved:
            whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())
            self._saved[key] = whole, whole.clone()

    def changed(self) -> set[int]:
        """The addresses of the written tensors that hold something else now."""
        return {key for key, (whole, copy) in self._saved.items() if not torch.equal(whole, copy)}

    def restore(self) -> None:
        """Put back what was written."""
        with torch.inference_mode():
            for whole, copy in self._saved.values():
                whole.copy_(copy)


def refuse_uninitialised(module: nn.Module) -> None:
    """Raise `InvalidArgument` for a lazy module that was never called: its first call could not be undone."""
    for key, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if is_lazy(tensor):
            raise InvalidArgument(
                f"{type(module).__name__}.{key} has no shape before the first call; call the module on one batch first"
            )


@contextmanager
def kept(*owners: Any) -> Iterator[None]:
    """Afterwards attributes, parameters, buffers, gradients and flags are as before, rebound too.

    Of modules with all their submodules; of other objects the attributes alone.
    """
    parts = [p for o in owners for p in (o.modules() if isinstance(o, nn.Module) else [o])]
    tables = [vars(p) for p in parts if isinstance(getattr(p, "__dict__", None), dict)]
    modules = [p for p in parts if isinstance(p, nn.Module)]
    tables += [t for m in modules for t in module_tables(m)]
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


def uncompiled() -> AbstractContextManager[Any]:
    """Compiled functions run as they were written: compiled code runs where nothing of it can be seen."""
    # flex_attention compiles itself.
    if {"torch._dynamo", "torch.nn.attention.flex_attention"} & sys.modules.keys():
        stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return nullcontext()


@contextmanager
def isolated(function: Any) -> Iterator[None]:
    """Fixed seeds inside; afterwards random state, written tensors and attributes are as before.

    Modules that the function only refers to are known when they are called.
    """
    undo, saved = Undo(), dict[nn.Module, list[tuple[Any, Any]]]()

    def save(module: nn.Module, *_: Any) -> None:
        if module not in saved:
            refuse_uninitialised(module)
            held = [vars(module), *(v for v in vars(module).values() if isinstance(v, dict | list | set))]
            saved[module] = [(part, part.copy()) for part in held]

    owner = getattr(function, "__self__", function)
    for module in owner.modules() if isinstance(owner, nn.Module) else ():
        save(module)
    with ExitStack() as stack:
        stack.enter_context(register_module_forward_pre_hook(save))
        stack.enter_context(seeded(0))
        stack.enter_context(uncompiled())
        try:
            with undo:
                yield
        finally:
            undo.restore()
            for part, before in (pair for pairs in saved.values() for pair in pairs):
                part.clear()
                (part.extend if isinstance(part, list) else part.update)(before)
