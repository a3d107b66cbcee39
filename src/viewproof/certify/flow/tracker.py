"""What labels and dependence share: a mode that binds each operator and asks the table.

Whatever is told apart by planes beside the storages, an operator is handled in the same order: which arguments decide
the shape of the result; what the results hold by the operator's row; the operator itself; the entries of its results
and of what it wrote. Operators without a row and without a decomposition are told by the tracker's `mixed`.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from viewproof.certify.flow.call import BoundCall, Call, base_name, tensors_in
from viewproof.certify.flow.rules import fresh, metadata, uninitialised
from viewproof.certify.flow.storage import Storages, address
from viewproof.certify.flow.table import deciding, row_of
from viewproof.torch_internals import (
    BelowModes,
    DisableTorchFunction,
    OpOverload,
    TorchDispatchMode,
    decomposes,
    tree_leaves,
    written_out,
)

_LIBRARIES = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    str(Path(__file__).parents[2] / "watch"),
    "<",
)


class Tracker(TorchDispatchMode):
    """Follows, while it is on, every operator that meets data computed from the input.

    ``escaped`` says why the data can be followed no further, ``wrote`` which operator wrote to the input first; both
    are empty if there is nothing to say.
    """

    supports_higher_order_operators = True
    finite = False

    def __init__(self, **planes: bool | int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages, self.escaped, self.wrote = Storages(**planes), "", ""
        self.sources: set[int] = set()
        self._contexts = ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # What it avoids is the import of the whole compiler, which takes longer than a trace.
        return False

    def __enter__(self) -> Any:
        # Fused attention means what the plain one computes, whose operators have rows.
        self._contexts.enter_context(sdpa_kernel(SDPBackend.MATH))
        self._contexts.enter_context(_Escapes(self))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._contexts.close()

    @contextmanager
    def _again(self) -> Iterator[None]:
        """On within the handling of one operator: for the operators that it is made of."""
        with DisableTorchFunction():
            super().__enter__()  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def plane(self, tensor: Tensor) -> Tensor:
        """The tensor's entries in the first plane."""
        return self.storages.read(tensor, self.storages.main)

    def follow(self, call: Call) -> Any:
        """The first plane of what the operator returns, by its row: of all, or a tuple with one for each."""
        assert call.row.dependence is not None
        return call.row.dependence(call)

    def mixed(self, call: Call) -> bool | int:
        """The same of an operator without a rule."""
        raise NotImplementedError

    def used(self, argument: Tensor) -> None:
        """A rule's answer follows from the argument's values."""
        raise NotImplementedError

    def store(self, call: Call, tensor: Tensor, entries: Any) -> None:
        """Set the entries of a result or of what the operator wrote."""
        raise NotImplementedError

    def start(self, source: Tensor, entries: Tensor) -> None:
        """Follow the source, from these entries of the first plane."""
        with BelowModes():
            self.sources |= {address(source)} - {0}
            self.write(source, **{self.storages.main: entries})

    def write(self, tensor: Tensor, **entries: Tensor | bool | int) -> None:
        """Set the tensor's entries, broadcast to its shape."""
        if reason := self.storages.write(tensor, **entries):
            self.escape(reason)

    def looks(self, tensors: Iterable[Tensor], reason: str) -> None:
        """The program looks at the tensors' values; ``{}`` in the reason stands for what depends."""
        if any(map(self.storages.depends, tensors)):
            self.escape(reason.format("dependent data"))

    def escape(self, reason: str) -> None:
        """From here on the data cannot be followed."""
        self.escaped = self.escaped or reason + place_of_caller()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and set the entries of what it returns and writes."""
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):
            if (plain := written_out(func)) is not None:
                with self._again():
                    return plain(*args, **kwargs)
            with BelowModes():
                if any(
                    isinstance(leaf, Tensor) and self.storages.derived(leaf) for leaf in tree_leaves((args, kwargs))
                ):
                    self.escape(f"{func} has no rule")
            return func(*args, **kwargs)
        row = row_of(func)
        if row.dependence is None and decomposes(func):
            with self._again():
                return func.decompose(*args, **kwargs)
        resizes = base_name(func) in ("resize", "resize_as")
        with BelowModes():
            passed = tensors_in((*args, *kwargs.values()))
            concerned = row.dependence is uninitialised or resizes or any(map(self.storages.derived, passed))
        if not concerned:
            return func(*args, **kwargs)
        with BelowModes():
            call = Call(self, row, func, args, kwargs)
            resized = call.written if resizes else []
            sizes = [t.untyped_storage().nbytes() for t in resized if t.layout == torch.strided]
            outcome = self._outcome(call)
        out = func(*args, **kwargs)
        with BelowModes():
            self._record(call, outcome, out if isinstance(out, list | tuple) else (out,))
            for tensor, size in zip(call.written, sizes, strict=False):
                # Fresh memory holds anything.
                first, items = (b // tensor.element_size() for b in (size, tensor.untyped_storage().nbytes()))
                tail = tensor.new_empty(0).set_(tensor.untyped_storage(), first, (max(0, items - first),), (1,))
                self.store(call, tail, self.storages.unknown[self.storages.main])
        return out

    def _outcome(self, call: Call) -> Any:
        rule = call.row.dependence
        self.looks(deciding(call), f"the shape of what {call.name} returns follows from {{}}")
        if rule is uninitialised:
            return self.storages.unknown[self.storages.main]
        if rule in (fresh, metadata) or not any(map(self.storages.depends, call.read)):
            return False
        if rule is not None:
            try:
                return self.follow(call)
            except (RuntimeError, ValueError, TypeError, LookupError):
                # The rule does not fit these arguments.
                call.low = call.dtype = None
                call.stored.clear()
        if torch.Tag.nondeterministic_seeded in call.func.tags:
            self.escape(f"{call.name} may draw more or fewer random numbers with other data")
        return self.mixed(call)

    def _record(self, call: Call, outcome: Any, results: Sequence[Any]) -> None:
        if not self.wrote and any(address(t) in self.sources for t in call.written):
            self.wrote = f"{call.name}{place_of_caller()}"
        rule, unknown = call.row.dependence, self.storages.unknown[self.storages.main]
        if rule is not fresh and any(isinstance(r, bool | int | float | complex) for r in results):
            self.looks(call.read, f"{call.name} turns {{}} into a number of Python's")
        tensors = list(tensors_in(results))
        if rule is None and not same_shapes(call, tensors):
            self.looks(call.read, f"the shape of what {call.name} returns may follow from {{}}")
        outcomes = [outcome] * len(tensors)
        if isinstance(outcome, tuple):
            # An operator may leave a result undefined.
            outcomes = [o for r, o in zip(results, outcome, strict=False) if isinstance(r, Tensor)]
            outcomes = outcomes if len(outcomes) == len(tensors) else [unknown] * len(tensors)
        unreturned = {id(t): t for t in call.written}
        for tensor, entries in zip(tensors, outcomes, strict=True):
            if unreturned.pop(id(tensor), None) is not None:
                if rule is not metadata:
                    self.store(call, tensor, entries)
            elif address(tensor) in call.places or rule is fresh:
                continue
            elif rule is not metadata:
                self.store(call, tensor, entries)
            elif tensor.numel():
                self.store(call, tensor, unknown)
        if outcome is not False:
            for key, tensor in unreturned.items():
                self.store(call, tensor, call.stored.get(key, unknown))


def same_shapes(call: BoundCall, results: Sequence[Any]) -> bool:
    """Whether the operator returns tensors of these shapes without looking at any value."""

    def shape_of(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [shape_of(v) for v in value]
        if isinstance(value, Tensor):
            return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
        return torch.device("meta") if isinstance(value, torch.device) else value

    try:
        shapes = call.func(**{key: shape_of(value) for key, value in call.args.items()})
    except Exception:
        # An operator of anyone's, which need not know of tensors that have shapes alone.
        return False
    return [t.shape for t in tensors_in(shapes if isinstance(shapes, list | tuple) else (shapes,))] == [
        t.shape for t in results
    ]


# Calls that hand a tensor's content to code outside torch, and constructors that read tensors inside lists.
_LEAVING = frozenset(
    (
        *("numpy", "tolist", "item", "data_ptr", "const_data_ptr", "mutable_data_ptr", "storage", "untyped_storage"),
        *("_typed_storage", "__array__", "__dlpack__", "__reduce_ex__", "__bool__", "__int__", "__float__"),
        *("__complex__", "__index__", "__repr__", "__format__", "apply_", "map_", "map2_"),
    )
)
_LISTED = frozenset(("tensor", "as_tensor", "asarray", "new_tensor", "new", "sparse_coo_tensor"))


def leaving(func: Any, args: Any, kwargs: Any) -> Iterable[Tensor]:
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


class _Escapes(TorchFunctionMode):
    """Sees the calls that hand content to code outside torch without any operator."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function."""
        kwargs = kwargs or {}
        with BelowModes():
            self.tracker.looks(
                leaving(func, args, kwargs), f"{getattr(func, '__name__', func)} takes {{}} out of torch"
            )
        return func(*args, **kwargs)


def place_of_caller() -> str:
    """Where the running function is, outside torch and this package: ``" at file.py:7"``."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARIES) and "jaxtyping" not in name:
            return f" at {Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
