"""Which elements of every tensor may depend on tagged elements of the input: tracked beside the operators that run.

Each storage has a shadow: one Boolean for each of its elements. A tensor's dependence is its own strides laid over the
shadow, so views need no rule and a write through a view reaches its base. An operator without a rule makes everything
it returns depend on everything it reads; dependent data that leaves torch (``.item()``, ``.numpy()``, the shape of
``nonzero``) makes everything after it depend, for control flow may follow from it.

What is not seen: operators on threads that the function starts itself, and memory that code outside torch keeps from a
DLPack capsule or writes behind a pointer taken in C++.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from viewproof.certify.flow.call import Call, Rule
from viewproof.certify.flow.isolation import address, bound, inputs, leaving, tensors_in, written
from viewproof.certify.flow.rules import fresh, metadata, uninitialised
from viewproof.certify.flow.shadows import Shadows
from viewproof.certify.flow.table import attention, deciding, rule_for

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")


class Dependence(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks, while it is on, which elements depend on those given to `tag`.

    An element of which `of` says False has the same bits whatever the tagged elements hold; with ``finite=True``
    the same value, zeros' signs aside, as long as they and everything computed from them is finite, so that a factor
    of exactly 0 removes dependence; ``scores`` then says whether attention scores were assumed to stay within +-2000
    (a masked key has weight 0 only if no score is so large as to outweigh the mask).

    >>> x = torch.rand(2, 3)
    >>> with Dependence() as tracked:
    ...     tracked.tag(x, torch.tensor([True, False, False]).expand(2, 3))
    ...     sums = x[:, 1:].sum(1), x.sum(1), torch.where(torch.tensor([True, False, False]), 0.0, x)[0]
    >>> [tracked.of(s).tolist() for s in sums]
    [[False, False], [True, True], [False, False, False]]
    """

    supports_higher_order_operators = True

    def __init__(self, finite: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.finite, self.scores = finite, False
        self.escaped = ""
        self.unknown: dict[str, None] = {}
        self.spread = ""
        # Whether a value that follows from the visible input decided something: the answer then holds for it alone.
        self.reads_visible = False
        self.shadows = Shadows()
        self._leaving = _Leaving(self)

    def __enter__(self) -> "Dependence":
        self._leaving.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._leaving.__exit__(*error)  # type: ignore[no-untyped-call]

    @contextmanager
    def _again(self) -> Iterator[None]:
        """On within the handling of one operator: for the operators that it is made of."""
        with torch._C.DisableTorchFunction():
            super().__enter__()  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                super().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def tag(self, x: Tensor, where: Tensor) -> None:
        """Elements of ``x`` from which dependence is followed: ``where``, bool, of the same shape."""
        with _Quiet():
            self.write(x, where)

    def of(self, tensor: Tensor) -> Tensor:
        """Bool, of the tensor's shape: whether each element may depend on tagged elements."""
        if self.escaped:
            return torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
        with _Quiet():
            return self.shadows.read(tensor)

    def write(self, tensor: Tensor, dependence: Tensor | bool, low: Tensor | None = None) -> None:
        """Set the tensor's dependence, broadcast to its shape."""
        if reason := self.shadows.write(tensor, dependence, low):
            self.escape(reason)

    def escape(self, reason: str) -> None:
        """From here on everything may depend."""
        if not self.escaped:
            self.escaped = reason + _place()
            self.shadows.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and set the dependence of what it returns and writes."""
        kwargs = kwargs or {}
        if self.escaped:
            return func(*args, **kwargs)
        if not isinstance(func, torch._ops.OpOverload):
            if any(isinstance(leaf, Tensor) and self.shadows.derived(leaf) for leaf in tree_leaves((args, kwargs))):
                self.escape(f"{func} has no rule")
            return func(*args, **kwargs)
        rule = rule_for(func)
        if rule is None and func._can_decompose():
            with self._again():
                return func.decompose(*args, **kwargs)
        named = bound(func, args, kwargs)
        touched = tensors_in(named.values())
        with _Quiet():
            concerned = rule is uninitialised or any(map(self.shadows.derived, touched))
            call = Call(self, func, named, inputs(func, named)) if concerned else None
        if call is None:
            return func(*args, **kwargs)
        outcome = self._attention(call) if attention(func) else None
        with _Quiet():
            outcome = self._outcome(call, rule) if outcome is None else outcome
            places, mutated = {address(t) for t in touched}, {id(t): t for t in written(func, named)}
        out = func(*args, **kwargs)
        if not self.escaped:
            with _Quiet():
                self._record(call, rule, outcome, out if isinstance(out, list | tuple) else (out,), places, mutated)
        return out

    def _attention(self, call: Call) -> Any:
        """A fused attention means what the plain one computes; its other results serve the backward pass."""
        query, key, value = (call.args[k] for k in ("query", "key", "value"))
        bias = call.args.get("attn_mask", call.args.get("attn_bias"))
        grouped = query.shape[-3] != key.shape[-3]
        with self._again():
            plain, _ = torch.ops.aten._scaled_dot_product_attention_math(
                query, key, value, bias, 0.0, call.args["is_causal"], scale=call.args["scale"], enable_gqa=grouped
            )
        if self.escaped:
            return True
        with _Quiet():
            dependence = self.shadows.read(plain).clone()
        results = sum("Tensor" in str(r.type) for r in call.func._schema.returns)
        return (dependence, *[bool(dependence.any())] * (results - 1))

    def _outcome(self, call: Call, rule: Rule | None) -> Any:
        for tensor in deciding(call):
            if self.shadows.depends(tensor):
                self.escape(f"the shape of what {call.name} returns follows from dependent data")
            self.reads_visible |= self.shadows.derived(tensor)
        if rule is uninitialised:
            return True
        if rule in (fresh, metadata) or not any(map(self.shadows.depends, call.read)):
            return False
        if not self.spread:
            call.before = max(map(self.shadows.share, call.read))
        if rule is not None:
            try:
                return rule(call)
            except (RuntimeError, ValueError, TypeError, IndexError, KeyError):
                rule = None
        if torch.Tag.nondeterministic_seeded in call.func.tags:
            self.escape(f"{call.name} may draw more or fewer random numbers with other data")
        self.unknown.setdefault(f"{call.name}{_place()}")
        return True

    def _record(
        self, call: Call, rule: Rule | None, outcome: Any, results: Any, places: set[int], mutated: dict[int, Tensor]
    ) -> None:
        dependent = outcome is not False
        if any(isinstance(r, bool | int | float | complex) for r in results):
            self.reads_visible = True
            if dependent:
                self.escape(f"{call.name} turns dependent data into a number of Python's")
        tensors = tensors_in(results)
        outcomes = [outcome] * len(tensors)
        if isinstance(outcome, tuple):
            # An operator may leave a result undefined.
            outcomes = [o for r, o in zip(results, outcome, strict=False) if isinstance(r, Tensor)]
            outcomes = outcomes if len(outcomes) == len(tensors) else [True] * len(tensors)
        for index, (tensor, dependence) in enumerate(zip(tensors, outcomes, strict=True)):
            if id(tensor) in mutated:
                mutated.pop(id(tensor))
                if rule is metadata:
                    continue
            elif address(tensor) in places:
                continue
            elif rule in (fresh, metadata):
                if rule is metadata and tensor.numel():
                    self.write(tensor, True)
                continue
            self.write(tensor, dependence, call.low if index == 0 else None)
        if dependent and not call.settled:
            for tensor in mutated.values():
                self.write(tensor, True)
        if call.before < 1 and any(self.shadows.share(t) > call.before for t in tensors):
            self.spread = f"{call.name}{_place()}"


class _Leaving(TorchFunctionMode):
    """Sees the calls that hand content to code outside torch without any operator."""

    def __init__(self, tracker: Dependence) -> None:
        super().__init__()
        self.tracker = tracker

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function."""
        kwargs = kwargs or {}
        with _Quiet():
            tensors = leaving(func, args, kwargs)
            if any(map(self.tracker.shadows.depends, tensors)):
                self.tracker.escape(f"{func.__name__} takes dependent data out of torch")
            self.tracker.reads_visible |= any(map(self.tracker.shadows.derived, tensors))
        return func(*args, **kwargs)


class _Quiet:
    """Our own operators: below every mode."""

    def __enter__(self) -> None:
        self._guards = torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction()
        for guard in self._guards:
            guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        for guard in reversed(self._guards):
            guard.__exit__(*error)


def _place() -> str:
    """Where the running function is, outside torch and this package."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARIES) and "jaxtyping" not in name:
            return f" at {Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""
