"""One run of a training step with eyes on it: every call of torch, of a module, of backward and of an optimizer."""

import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.overrides import TorchFunctionMode

from viewproof.torch_internals import DisableTorchFunction, in_transform, replaced, without_recomputation
from viewproof.watch.sources import with_tensors


class Run(TorchFunctionMode):
    """A run of the step, from `begin` to `end`: subclasses look at what happens, and may answer.

    Calls of torch's functions and of modules are numbered in the order in which they return, each from 0; two runs from
    one state number them alike. ``backwards`` counts the losses, ``steps`` the optimizers' steps, ``numbers`` the
    tensors read out as numbers of Python's, so far.
    """

    repeats = False
    """Whether another run was made before, with which this one is compared."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = self.modules = self.backwards = self.steps = self.numbers = 0
        self.calls: list[tuple[int, nn.Module]] = []
        self.instead: dict[int, tuple[Tensor, Tensor]] = {}
        self._contexts, self._in_backward = ExitStack(), False

    def begin(self) -> None:
        """Set the hooks, and turn on."""
        enter = self._contexts.enter_context
        enter(register_module_forward_pre_hook(self._before_module))
        enter(register_module_forward_hook(self._after_module, with_kwargs=True))
        enter(register_optimizer_step_pre_hook(self._before_step))
        enter(register_optimizer_step_post_hook(self._after_step))
        backward, grad = torch.autograd.backward, torch.autograd.grad
        enter(replaced(torch.autograd, "backward", self._counted(backward, self.on_backward)))
        enter(replaced(torch.autograd, "grad", self._counted(grad, self.on_grad)))
        # What runs again in backward has other operators than before, and its graph of gradients is not the step's.
        enter(without_recomputation(self._unseen if self.repeats else None))
        enter(self)

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Look at nothing and number nothing inside, as in backward."""
        before, self._in_backward = self._in_backward, True
        try:
            yield
        finally:
            self._in_backward = before

    def done(self) -> bool:
        """Whether, where the next batch is asked for, the step is over."""
        return self.steps > 0

    def end(self) -> None:
        """Take all of it away."""
        self._contexts.close()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function."""
        args, kwargs = self.replaced_tensors(args, kwargs)
        if in_transform():
            return func(*args, **(kwargs or {}))
        if not self._in_backward and getattr(func, "__name__", "") in _READING and args and isinstance(args[0], Tensor):
            self.numbers += 1
            return self.on_number(self.numbers - 1, args[0], lambda: func(*args, **(kwargs or {})))
        out = func(*args, **(kwargs or {}))
        # What reads attributes, or belongs to an optimizer, is called as often as there are gradients.
        if self._in_backward or not isinstance(out, Tensor | tuple | list) or _uncounted(func, sys._getframe(1)):
            return out
        self.functions += 1
        return self.on_function(self.functions - 1, func, args, kwargs or {}, out)

    def replaced_tensors(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with the tensors of ``instead``, by their ids, in the place of the program's."""
        if not self.instead:
            return args, kwargs
        with DisableTorchFunction():
            new = {key: tensor for key, (_, tensor) in self.instead.items()}
            return with_tensors(args, new), with_tensors(kwargs, new)

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """A function of torch has returned ``out``; return what the program is to get."""
        return out

    def on_number(self, index: int, tensor: Tensor, read: Callable[[], Any]) -> Any:
        """The program reads a tensor out as a number or a text; ``read()`` does it."""
        return read()

    def on_module(self, index: int, module: nn.Module, inputs: Any, out: Any) -> Any:
        """A module has returned ``out``; return what the program is to get."""
        return out

    def before_module(self, index: int, module: nn.Module) -> None:
        """A module is about to run: the ``index``-th to begin."""

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """The program asks for gradients; ``run()`` computes them."""
        return run()

    def on_grad(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """The program asks `torch.autograd.grad`."""
        return run()

    def before_penalty(self, of: list[Tensor]) -> None:
        """The program asks `torch.autograd.grad` for gradients that a loss is to read; these are no losses."""

    def before_step(self, optimizer: Any) -> None:
        """An optimizer is about to step."""

    def after_step(self, optimizer: Any) -> None:
        """An optimizer has stepped."""

    def _before_module(self, module: nn.Module, inputs: Any) -> None:
        if not self._in_backward and not in_transform():
            self.calls.append((self.modules, module))
            with DisableTorchFunction():
                self.before_module(self.modules, module)
            self.modules += 1

    def _after_module(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> Any:
        # What an exception has left on the stack is gone with the module that lies below it.
        while not self._in_backward and not in_transform() and any(m is module for _, m in self.calls):
            index, called = self.calls.pop()
            if called is module:
                with DisableTorchFunction():
                    changed = self.on_module(index, module, [*args, *kwargs.values()], out)
                return None if changed is out else changed
        return None

    def _before_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        with DisableTorchFunction():
            self.before_step(optimizer)

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        self.steps += 1
        with DisableTorchFunction():
            self.after_step(optimizer)

    def _counted(self, original: Callable[..., Any], on: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if self._in_backward:
                return original(*args, **kwargs)
            # Either function may be given all by name.
            name = "outputs" if "outputs" in kwargs else "tensors"
            tensors, args = (kwargs.pop(name), args) if name in kwargs else (args[0], args[1:])
            with DisableTorchFunction():
                losses = [tensors] if isinstance(tensors, Tensor) else list(tensors)

            def run() -> Any:
                self._in_backward = True
                again = self.repeats and on != self.on_backward
                kept = {"retain_graph": True} if again and len(args) < 3 else {}
                try:
                    return original(tensors, *args, **(kwargs | kept))
                except RuntimeError:
                    if not again:
                        raise
                    # Parameters take no gradients in such a run, and nothing does behind held predictions.
                    inputs = args[0] if args else kwargs["inputs"]
                    return tuple(map(torch.zeros_like, [inputs] if isinstance(inputs, Tensor) else inputs))
                finally:
                    self._in_backward = False

            if on == self.on_backward:
                self.backwards += 1
            elif kwargs.get("create_graph", args[3] if len(args) > 3 else False):
                with DisableTorchFunction():
                    self.before_penalty(losses)
                return run()
            with DisableTorchFunction():
                return on(losses, run)

        return asked


def tensors_of_call(value: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results: in lists, mappings and objects with tensors as attributes too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_of_call(part)
    elif isinstance(value, dict) or hasattr(value, "items"):
        yield from tensors_of_call(list(value.values()))
    elif hasattr(value, "__dataclass_fields__"):
        yield from tensors_of_call(list(vars(value).values()))


_READING = ("item", "__float__", "__format__", "tolist")
_TORCH = str(Path(torch.__file__).parent)
_OURS = (_TORCH, str(Path(__file__).parent), str(Path(__file__).parents[1] / "certify"), "<")
_SCRIPT = str(Path(__file__).with_name("script.py"))
_INSTALLED = (str(Path(torch.__file__).parents[1]), sysconfig.get_paths()["stdlib"])
_UPKEEP = tuple(f"{_TORCH}/{part}/" for part in ("optim", "amp", "nn/utils"))


def _uncounted(func: Any, caller: FrameType) -> bool:
    while caller.f_code.co_filename == __file__ or caller.f_code.co_name == "__torch_function__":
        assert caller.f_back is not None
        caller = caller.f_back
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__", "size", "stride", "unbind_"):
        return True
    # A gradient scaler multiplies the loss in `scale`, which the step's own backward starts from.
    return caller.f_code.co_filename.startswith(_UPKEEP) and caller.f_code.co_name not in ("scale", "apply_scale")


def place(users: bool = False) -> str:
    """The line of code that runs outside of torch, ``"train.py:7"``, or ``""``; relative to the working folder.

    Of ``users``: outside of all that is installed, if there is such a line.
    """
    frame: FrameType | None = sys._getframe(1)
    found: FrameType | None = None
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_OURS) and "jaxtyping" not in name:
            found = found or frame
            if not users or not name.startswith(_INSTALLED):
                found = frame
                break
        elif found is not None and name == _SCRIPT:
            break
        frame = frame.f_back
    if found is None:
        return ""
    path = Path(found.f_code.co_filename)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name
    return f"{shown}:{found.f_lineno}"
