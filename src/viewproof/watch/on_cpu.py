"""A script that asks for CUDA runs on the CPU, where a fork of the process is safe."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from viewproof.torch_internals import replaced


class OnCPU(TorchFunctionMode):
    """Tensors that are asked for on CUDA are on the CPU.

    Scripts go on that move with ``.cuda()``, ``.to("cuda")`` or ``device="cuda"`` whatever there is; what is moved is a
    copy, as there. Other uses of the GPU (streams, a CUDA generator, the backend NCCL) raise what they raise on a
    machine without one.

    >>> with OnCPU():
    ...     weight = torch.ones(2, device="cuda")
    ...     weight.cuda().device, torch.nn.Linear(1, 1).cuda().weight.device
    (device(type='cpu'), device(type='cpu'))
    """

    used = False
    """Whether the process has hidden its GPUs."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        words = kwargs or {}
        if function in (Tensor.cuda, Tensor.cpu, Tensor.pin_memory):
            return args[0].clone()
        if function is Tensor.to:
            # Between CPU and GPU a copy is made, which the program may write to; ``x.device`` no longer tells which.
            given = (*args[1:], words.get("device"))
            named = any(isinstance(value, torch.device | str | Tensor) or type(value) is int for value in given)
            copy = {"copy": True} if named and len(args) < 5 else {}
            return _to_cpu(function)(*args, **words | copy)
        return function(*map(_on_cpu, args), **_words(words))


def _to_cpu(to: Callable[..., Any]) -> Callable[..., Any]:
    """``Tensor.to`` or ``Module.to``, whose first argument may be the number of a GPU."""

    def moved(what: Any, *args: Any, **kwargs: Any) -> Any:
        return to(what, *("cpu" if type(value) is int else _on_cpu(value) for value in args), **_words(kwargs))

    return moved


def _words(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, of which ``device`` may be the number of a GPU."""
    return {
        name: "cpu" if name == "device" and type(value) is int else _on_cpu(value) for name, value in kwargs.items()
    }


def _on_cpu(value: Any) -> Any:
    """The CPU for a device of CUDA."""
    kind = value.type if isinstance(value, torch.device) else value.partition(":")[0] if isinstance(value, str) else ""
    return "cpu" if kind == "cuda" else value


@contextmanager
def hide_gpus() -> Iterator[bool]:
    """Inside, tensors are on the CPU; GPUs are hidden for good. Does nothing without a GPU, or if CUDA is in use."""
    if torch.cuda.device_count() and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # The driver looks at the variable when it is asked for the first time, and never again.
        OnCPU.used = not torch.cuda.is_available()
    if not OnCPU.used:
        yield False
        return
    with ExitStack() as stack:
        stack.enter_context(OnCPU())
        stack.enter_context(replaced(nn.Module, "to", _to_cpu(nn.Module.to)))
        for name in ("synchronize", "set_device"):
            # One function each: torch's compiler holds that no two names have the same.
            stack.enter_context(replaced(torch.cuda, name, lambda *_, **__: None))
        yield True
