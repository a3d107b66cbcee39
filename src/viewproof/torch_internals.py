"""Every private name of torch that this library uses, each behind one function or constant.

Nothing else in the package touches ``torch._*`` or an attribute that begins with an underscore of a torch object. Each
entry says on which versions it was checked, and what is done where a version of torch lacks the name. What is heavy to
import is imported inside the function, because the core imports this module too.
"""

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction as DisableTorchFunction
from torch._ops import OpOverload as OpOverload
from torch.multiprocessing.reductions import StorageWeakRef as StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map_only as tree_map_only

CHECKED = ("2.13.0", "2.14.1")
"""The versions of torch that the tests were run on."""

# `DisableTorchFunction`, `TorchDispatchMode`, `OpOverload`, `StorageWeakRef`, `tree_leaves` and `tree_map_only` above:
# used by many projects, documented by none of the pages of torch. Checked on CHECKED. Without them data flow cannot be
# followed, and importing `viewproof.certify` fails.


@cache
def has_bfloat16_units() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in hardware (AMX, or AVX512-BF16).

    Checked on 2.13.0 and 2.14.1. Without the names: False, and attention in bfloat16 stays torch's fused one.
    """
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a class or a module, and set it back at the end.

    For the whole process, hence for other threads as well. What somebody else has set meanwhile stays, and may call
    ``value`` later. An ``AttributeError`` says that the owner has no such name.
    """
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if vars(owner).get(name, value) is value:
            setattr(owner, name, original)


def in_transform() -> bool:
    """Whether a transform of `torch.func` runs, such as vmap, in which tensors have no values to look at.

    Checked on CHECKED. Without the name: ``AttributeError``, and no step is watched.
    """
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def size_decisions(program_file: str) -> Iterator[list[tuple[Any, Any]]]:
    """Collect what an exported program decides about symbolic sizes: (sympy expression, result).

    Every decision goes by the hints. Those of an operator's shape or layout rule are not collected; the program is what
    a function ``forward`` of ``program_file`` calls. Two methods of ``ShapeEnv`` are replaced meanwhile: torch keeps
    the guards of an export, but simplifies them and drops what it thinks redundant, so that they are no exact path
    condition, and there is no hook at the place where Python's ``if`` asks.

    Checked on 2.13.0 and 2.14.1. Without one of the methods or of the settings: ``AttributeError``, which a capture
    reports as a failure, and the theorem is UNKNOWN.
    """
    import sympy  # type: ignore[import-untyped]
    from torch._dynamo import config as dynamo_config
    from torch.fx import config as fx_config
    from torch.fx.experimental import _config as shape_config
    from torch.fx.experimental import proxy_tensor
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    decided: list[tuple[Any, Any]] = []
    evaluate, check = ShapeEnv.evaluate_sym_node, ShapeEnv.guard_or_defer_runtime_assert

    def record(self: ShapeEnv, node: Any, *rest: Any, **options: Any) -> Any:
        if not isinstance(node.hint, bool):
            # A size that becomes a number in the graph is one wherever the graph is the program.
            expression = node.expr
            result = evaluate(self, node, *rest, **options)
            decided.append((expression, result))
            return result
        if _asked_by(program_file, sys._getframe(1)):
            decided.append((node.expr, node.hint))
        return sympy.true if node.hint else sympy.false

    def recorded_check(self: ShapeEnv, expression: Any, *rest: Any, **options: Any) -> bool:
        known_sizes = expression.xreplace(self.backed_var_to_val)
        if known_sizes not in (sympy.true, sympy.false):
            return check(self, expression, *rest, **options)
        if _asked_by(program_file, sys._getframe(1)):
            decided.append((expression, bool(known_sizes)))
        return bool(known_sizes)

    with ExitStack() as stack:
        stack.enter_context(replaced(ShapeEnv, "evaluate_sym_node", record))
        stack.enter_context(replaced(ShapeEnv, "guard_or_defer_runtime_assert", recorded_check))
        # Read when torch makes the symbols: sizes of 0 and 1 get one too.
        stack.enter_context(shape_config.patch(backed_size_oblivious=True))  # type: ignore[attr-defined]
        # With symbolic sizes its keys cost more than it saves: captures take half the time without it.
        stack.enter_context(dynamo_config.patch(fake_tensor_cache_enabled=False))
        if hasattr(fx_config, "do_not_emit_stack_traces"):  # not in torch 2.9
            stack.enter_context(replaced(fx_config, "do_not_emit_stack_traces", True))
        # Nobody reads the memory layout that is noted beside each node, and with symbolic sizes it is slow to find out.
        stack.enter_context(replaced(proxy_tensor, "_extract_tensor_metadata", lambda value: None))
        yield decided


@contextmanager
def no_unknown_slices() -> Iterator[None]:
    """Let a slice have the size that follows from symbolic sizes, inside `size_decisions`.

    To be used once all symbols exist: where it stays oblivious to sizes 0 and 1, torch makes a new unknown for the size
    of a slice. Checked on 2.13.0 and 2.14.1. Without it: as in `size_decisions`.
    """
    from torch.fx.experimental import _config as shape_config

    with shape_config.patch(backed_size_oblivious=False):  # type: ignore[attr-defined]
        yield


_OPERATOR_RULES = ("_subclasses", "_refs", "_prims", "_prims_common", "_decomp", "_meta_registrations.py", "_ops.py")
"""Where in torch the shape and layout rules of operators lie. A rule elsewhere counts as the program: more paths."""


def _asked_by(program_file: str, frame: FrameType | None) -> bool:
    """Whether a decision is the program's (``if size == 1``), not that of an operator's shape rule."""
    while frame is not None:
        path = frame.f_code.co_filename
        if "/torch/" in path and path.split("/torch/", 1)[1].split("/")[0] in _OPERATOR_RULES:
            return False
        if frame.f_code.co_name == "forward" and path == program_file:
            return True
        frame = frame.f_back
    return False


def has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor is a shape alone: on the device meta, or a fake of `torch.export`'s.

    >>> has_no_values(torch.ones(2)), has_no_values(torch.ones(2, device="meta"))
    (False, True)
    """
    fake = sys.modules.get("torch._subclasses.fake_tensor")
    return tensor.is_meta or (fake is not None and isinstance(tensor, fake.FakeTensor))


def set_versions(tensors: list[Tensor], versions: list[int]) -> None:
    """Set the counters of writes in place, which autograd compares; without torch's function they stay as they are."""
    function = getattr(torch._C._autograd, "_unsafe_set_version_counter", None)
    if function is not None and tensors:
        function(tuple(tensors), tuple(versions))


@contextmanager
def saved_nowhere(here: Callable[[], bool]) -> Iterator[None]:
    """Where ``here()``, `torch.save` writes into memory that is dropped, in the place of a file.

    Its writer is C++ and empties the file before it writes.
    """
    original = torch.serialization._open_zipfile_writer

    def opened(name_or_buffer: Any) -> Any:
        named = isinstance(name_or_buffer, str | os.PathLike)
        return original(io.BytesIO() if named and here() else name_or_buffer)

    with replaced(torch.serialization, "_open_zipfile_writer", opened):
        yield


@contextmanager
def without_recomputation(unseen: Callable[[], AbstractContextManager[Any]] | None = None) -> Iterator[None]:
    """Let checkpointed functions run once and keep their activations, instead of running again in backward.

    A reentrant checkpoint runs its function without gradients, and again with them in backward; what it returns is of
    the first run. Here it returns what the second gives; with ``unseen``, the first is made inside that context, and
    ``RuntimeError`` says if they differ in a bit. One of which no input takes a gradient stays as it is: it gives its
    parameters none. Checked on CHECKED. Without the names: ``AttributeError``.
    """
    from torch.utils import checkpoint

    from viewproof.bits import same_bits

    apply = checkpoint.CheckpointFunction.apply

    def once(function: Any, preserve: bool, *args: Any) -> Any:
        passed = [a for a in args if isinstance(a, Tensor)]
        if torch.is_grad_enabled() and not any(a.requires_grad for a in passed):
            return apply(function, preserve, *args)  # type: ignore[no-untyped-call]
        if unseen is None or not torch.is_grad_enabled():
            return function(*args)
        with unseen(), torch.random.fork_rng(), torch.no_grad():
            alone = function(*args)
        out = function(*args)
        with BelowModes():
            pairs = [(a, b) for a, b in zip(_listed(alone), _listed(out), strict=True) if isinstance(a, Tensor)]
            if not all(isinstance(b, Tensor) and same_bits(a, b) for a, b in pairs):
                raise RuntimeError("a checkpointed function gives other values where gradients are not recorded")
        return out

    def around(
        function: Any, preserve: bool = True, context_fn: Any = checkpoint.noop_context_fn, *rest: Any, **kwargs: Any
    ) -> Iterator[None]:
        with context_fn()[0] if torch.is_grad_enabled() else nullcontext():
            yield

    with (
        replaced(checkpoint.CheckpointFunction, "apply", once),
        replaced(checkpoint, "_checkpoint_without_reentrant_generator", around),
    ):
        yield


def _listed(out: Any) -> Sequence[Any]:
    return out if isinstance(out, tuple | list) else [out]


class BelowModes:
    """A context for our own operators: no dispatch mode, function mode or tensor subclass sees them.

    Checked on CHECKED. Without ``_DisableTorchDispatch`` a tracker would follow the operators of its own bookkeeping.
    """

    def __enter__(self) -> None:
        self._guards = torch._C._DisableTorchDispatch(), DisableTorchFunction()
        for guard in self._guards:
            guard.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for guard in reversed(self._guards):
            guard.__exit__(kind, error, trace)


def storage_key(tensor: Tensor) -> int:
    """What tells the tensor's storage from others that are alive or weakly referred to.

    Checked on CHECKED. Without ``_cdata``, ``data_ptr`` tells apart storages that are not empty, as long as they live.
    """
    return int(tensor.untyped_storage()._cdata)


def schema(operator: OpOverload) -> Any:
    """The operator's schema: arguments with names, defaults and aliasing; returns.

    Checked on CHECKED. There is no other way to learn which arguments an operator writes.
    """
    return operator._schema


def decomposes(operator: OpOverload) -> bool:
    """Whether `OpOverload.decompose` writes the operator in terms of others.

    Checked on CHECKED. Without it the answer is no, and the operator mixes all that it reads.
    """
    return bool(operator._can_decompose())


def written_out(operator: Any) -> Callable[..., Any] | None:
    """What a higher-order operator computes, in plain operators: of `flex_attention`, as it runs without a compiler.

    Checked on CHECKED. Of every other one, and without the names: None, and the operator has no rule.
    """
    if getattr(operator, "__name__", "") != "flex_attention":
        return None
    kernel: Callable[..., Any] | None = operator.py_kernels.get(torch._C.DispatchKey.CompositeExplicitAutograd)
    return kernel


def kernels_of_collectives() -> list[str]:
    """The names of the operators that communicate between processes, such as ``c10d::allreduce_``.

    Checked on CHECKED. Without the name: none, and a copy of a rank that calls one below Python ends at its time limit.
    """
    names: list[str] = getattr(torch._C, "_dispatch_get_all_op_names", list)()
    return sorted({n for n in names if n.split("::")[0] in ("c10d", "_c10d_functional")})


def leave_gradients_alone(module: nn.parallel.DistributedDataParallel) -> None:
    """Take away the hooks with which it averages gradients, for good; its forward pass sets none anew.

    Raises ``RuntimeError`` if it also changes dtypes or gradients, so that a step without it is another step.
    Checked on CHECKED. Without the names: ``AttributeError``.
    """
    if module.mixed_precision is not None or module._comm_hooks:
        raise RuntimeError("DistributedDataParallel with mixed precision or a communication hook: not followed")
    module._remove_autograd_hooks()  # type: ignore[no-untyped-call]


_libraries: list[Any] = []


def refuse_operators(names: Iterable[str], refuse: Callable[..., Any]) -> None:
    """Call ``refuse`` wherever this process, a copy that ends soon, runs one of these operators on a CPU.

    ``torch.library`` is public; its registrations last as long as the library object. Checked on CHECKED. What cannot
    be registered stays as it is.
    """
    for name in names:
        space, operator = name.split("::")
        library: Any = torch.library.Library(space, "IMPL")  # type: ignore[no-untyped-call]
        try:
            library.impl(operator, refuse, "CPU", allow_override=True)
        except (RuntimeError, TypeError):
            continue
        _libraries.append(library)


def module_tables(module: nn.Module) -> list[dict[str, Any]]:
    """The tables in which a module keeps its parameters, buffers and submodules.

    Checked on CHECKED. Without them what a module rebinds could not be put back.
    """
    return [module._parameters, module._buffers, module._modules]


def under_transform() -> bool:
    """Whether a transform such as `torch.func.vmap` is running; True where torch does not say.

    True is the safe answer: what is made under a transform must not be kept for later calls.

    >>> torch.func.vmap(lambda x: x + under_transform())(torch.zeros(2)), under_transform()
    (tensor([1., 1.]), False)
    """
    try:
        return torch._C._functorch.peek_interpreter_stack() is not None
    except AttributeError:
        return True


def assert_in_graph(condition: Tensor, message: str) -> None:
    """Make a compiled graph raise ``RuntimeError(message)`` where ``condition`` is False.

    Without ``torch._assert_async`` compilation stops with an AttributeError: no check is left out silently.
    """
    torch._assert_async(condition, message)


def has_hook(parameter: Any) -> bool:
    """Whether a hook of the user's runs where a backward reaches the parameter, or has added to its gradient.

    >>> p = torch.nn.Parameter(torch.zeros(1))
    >>> before, _ = has_hook(p), p.register_hook(lambda gradient: -gradient)
    >>> before, has_hook(p)
    (False, True)
    """
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)
