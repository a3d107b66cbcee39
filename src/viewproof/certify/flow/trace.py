"""Where every output coordinate of a program comes from: labels that are moved wherever the program moves data.

A dispatch mode executes each operator a second time, on labels. The label of a coordinate is the flat index ``i`` of
the source coordinate whose bits it holds; ``count + i`` if it was computed from source coordinate ``i`` alone;
`CONSTANT` if no source coordinate took part; `MIXED` otherwise. Operators that only move or select data (gather, cat,
where, writes in place, ...) are executed on the labels themselves; views share the storage that labels are kept by;
pointwise operators join the labels of their operands; reductions join along their axes; every other operator that
touches the source yields `MIXED`, and so does memory that nothing was written to. No value of the source is looked at,
so what the labels say holds for all values at the source's shape, unless the program itself looked (`Trace.lost`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

from viewproof.certify.flow.isolation import leaving

CONSTANT, MIXED, VISIBLE = -1, -2, -3


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# On labels, these operators give the labels of their result: arguments of these names are data, the rest control.
_DATA = frozenset({"self", "src", "source", "values", "value", "other", "tensors"})
_MOVES = {
    name: name
    for name in _names("""as_strided_scatter cat clone constant_pad_nd copy diagonal_scatter fill flip gather index
    index_copy index_fill index_put index_select masked_fill masked_scatter masked_select repeat repeat_interleave
    roll rot90 scatter select_scatter slice_scatter stack take where""")
} | {"_to_copy": "clone", "lift_fresh": "clone", "_index_put_impl": "index_put", "_unsafe_index": "index"}
# Their kernels know no integers, or fill with a zero that is no label.
_MOVES_WITH_ZEROS = _names("""channel_shuffle diag_embed im2col pixel_shuffle pixel_unshuffle reflection_pad1d
    reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d tril triu""")
_SETTINGS = frozenset({"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "out", "generator"})
_REDUCTIONS = _names("sum mean var std amax amin prod logsumexp any all count_nonzero")
_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"})
_SHAPE_ONLY = _names("zeros_like ones_like full_like rand_like randn_like new_zeros new_ones new_full zero")
_OVERWRITES = _names("uniform normal random exponential geometric log_normal cauchy")
# On integers and truth values: what leaves the other operand as it is, and what makes the result a constant.
_UNITS: dict[str, tuple[Any, Any]] = {
    "mul": (1, 0),
    "bitwise_and": (-1, 0),
    "logical_and": (1, 0),
    "bitwise_or": (0, -1),
    "logical_or": (0, 1),
    "add": (0, None),
    "bitwise_xor": (0, None),
    "logical_xor": (0, None),
}


class Trace(TorchDispatchMode):
    """Labels beside every tensor that is made while the mode is on; ``hidden`` marks source coordinates.

    ``lost`` says why the labels are no proof (the program looked at values of the source), or is None; ``wrote``
    whether an operator wrote to the source; ``generators`` holds the state of each generator that was passed to an
    operator, when it was. With ``hidden``, what was
    computed from several coordinates none of which is hidden has the label `VISIBLE` instead of `MIXED`.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> with Trace(x) as trace:
    ...     y = torch.cat([x.flip(1), 2 * x, torch.zeros(2, 1)], 1)
    >>> trace.labels(y)
    tensor([[ 1,  0,  4,  5, -1],
            [ 3,  2,  6,  7, -1]])
    """

    def __init__(self, source: Tensor, hidden: Tensor | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = source.numel()
        self.lost: str | None = None
        self.wrote = False
        self.operators = 0
        self.generators: list[bytes] = []
        # A storage is kept as long as its labels: the address of a freed one may come back as that of another.
        self._held: dict[int, tuple[torch.UntypedStorage, int, Tensor]] = {}
        self._busy = False
        self._escapes: _Escapes | None = None
        # Whether a base label (hidden or not, constant, visible, mixed from the end) may carry hidden content.
        secret = torch.ones(self.count, dtype=torch.bool) if hidden is None else hidden.reshape(-1).cpu()
        self._secret = torch.cat([secret, torch.tensor([False, True, False])]).to(source.device)
        self._source = source.untyped_storage()._cdata
        self._assign(source, torch.arange(self.count, device=source.device).reshape(source.shape))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # What it avoids is the import of the whole compiler, which takes longer than a trace.
        return False

    def __enter__(self) -> "Trace":
        super().__enter__()  # type: ignore[no-untyped-call]
        self._escapes = _Escapes(self)
        self._escapes.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._escapes is not None
        self._escapes.__exit__(*error)  # type: ignore[no-untyped-call]
        self._escapes = None
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def labels(self, tensor: Tensor) -> Tensor:
        """The label of each coordinate: int64, of the tensor's shape."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is None:
            return torch.full((), CONSTANT, device=tensor.device).expand(tensor.shape)
        if held[1] != tensor.element_size():
            self.lost = self.lost or "data is read with another item size than it was written with"
            return torch.full((), MIXED, device=tensor.device).expand(tensor.shape)
        return held[2].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def touches(self, *tensors: Tensor) -> bool:
        """Whether any coordinate of the tensors is not a constant."""
        known = [t for t in tensors if t.untyped_storage()._cdata in self._held]
        return any(bool((self.labels(t) != CONSTANT).any()) for t in known)

    def _assign(self, tensor: Tensor, labels: Tensor | int) -> None:
        storage, size = tensor.untyped_storage(), tensor.element_size()
        count = storage.nbytes() // size
        held = self._held.get(storage._cdata)
        if held is None or held[2].numel() < count:
            whole = torch.full((count,), CONSTANT if held is None else MIXED, device=tensor.device)
            self._held[storage._cdata] = storage, size, whole
        view = self.labels(tensor)
        if self._held[storage._cdata][1] == size:
            view.copy_(labels) if isinstance(labels, Tensor) else view.fill_(labels)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.operators += 1
        generator = kwargs.get("generator")
        if generator is not None:
            self.generators.append(generator.get_state().numpy().tobytes())
        result = func(*args, **kwargs)
        outer, self._busy = self._busy, True
        try:
            self._follow(func, _by_name(func, args, kwargs), result)
        finally:
            self._busy = outer
        return result

    def _follow(self, func: Any, given: dict[str, Any], result: Any) -> None:
        writes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        written = list(_tensors(given.get(name) for name in writes))
        read = list(_tensors(value for name, value in given.items() if name != "out"))
        storages = {t.untyped_storage()._cdata for t in [*read, *written]}
        fresh = [t for t in _tensors([result]) if t.untyped_storage()._cdata not in storages]
        name = func._schema.name.split("::")[-1]
        name = name[:-1] if writes and name.endswith("_") else name
        if any(t.is_conj() or t.is_neg() for t in _tensors([result])):
            self.lost = self.lost or f"aten.{name} changes values without writing them"
        self.wrote |= any(t.untyped_storage()._cdata == self._source for t in written)
        if name in _EMPTY:
            for tensor in fresh:
                self._assign(tensor, MIXED)
        elif not storages.isdisjoint(self._held) and (fresh or written or self._depends(func)):
            self._watch(func, name, given, read)
            outputs = [*written, *fresh]
            for tensor, labels in zip(outputs, self._result(func, name, given, read, outputs), strict=True):
                self._assign(tensor, labels)

    def _depends(self, func: Any) -> bool:
        """Whether a Python number or a shape comes from values."""
        return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags

    def _watch(self, func: Any, name: str, given: dict[str, Any], read: list[Tensor]) -> None:
        if name in _MOVES:
            # The shape turns on which entries are selected or repeated, not on what they hold.
            chosen = list(_tensors(v for k, v in given.items() if k in ("indices", "repeats", "mask")))
            read = [t for t in chosen if name != "index" or t.dtype in (torch.bool, torch.uint8)]
        if self._depends(func) and self.touches(*read):
            self.lost = self.lost or f"the program looks at values: aten.{name}"

    def _result(self, func: Any, name: str, given: dict[str, Any], read: list[Tensor], outputs: list[Tensor]) -> Any:
        """The labels of each output."""
        if name in _SHAPE_ONLY or (name in _OVERWRITES and "self" in given and not self.touches(*read[1:])):
            return [CONSTANT] * len(outputs)
        control = list(_tensors(v for k, v in given.items() if k not in _DATA and k not in _SETTINGS))
        moves = (name in _MOVES or name in _MOVES_WITH_ZEROS) and not _DATA.isdisjoint(given)
        if moves and "reduce" not in given and not given.get("accumulate") and not self.touches(*control):
            return list(_tensors([self._moved(name, given, outputs[0].dtype)]))
        if torch.Tag.pointwise in func.tags and len(outputs) == 1:
            return [self._joined(name, given, read, outputs[0])]
        if name in _REDUCTIONS and len(read) == 1 and len(outputs) == 1:
            return [self._reduced(read[0], given)]
        secret = any(bool(self._is_secret(self.labels(t)).any()) for t in read)
        return [(MIXED if secret else VISIBLE) if self.touches(*read) else CONSTANT] * len(outputs)

    def _moved(self, name: str, given: dict[str, Any], dtype: torch.dtype) -> Any:
        def label(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [label(part) for part in value]
            if not isinstance(value, Tensor):
                return CONSTANT
            labels = self.labels(value)
            return labels if value.dtype == dtype else self._computed(labels)

        moved = {k: label(v) if k in _DATA else v for k, v in given.items() if k not in _SETTINGS}
        if name in _MOVES_WITH_ZEROS:
            # In doubles, with every label positive, so that 0 is free for what the operator fills in.
            moved = {k: (v - VISIBLE + 1).double() if k in _DATA else v for k, v in moved.items()}
            shifted = getattr(torch.ops.aten, name)(**moved).long()
            return torch.where(shifted == 0, CONSTANT, shifted + VISIBLE - 1)
        return getattr(torch.ops.aten, _MOVES[name])(**moved)

    def _joined(self, name: str, given: dict[str, Any], read: list[Tensor], output: Tensor) -> Tensor:
        base = torch.full((), CONSTANT, device=output.device)
        for tensor in read:
            other = self._base(self.labels(tensor)).to(output.device)
            clash = (base != other) & (base != CONSTANT) & (other != CONSTANT)
            mixed = torch.where(self._secret[base] | self._secret[other], MIXED, VISIBLE)
            base = torch.where(clash, mixed, torch.where(base == CONSTANT, other, base))
        labels = self._computed(base).expand(output.shape)
        unit = _UNITS.get(name)
        operands: list[Any] = [given.get("self"), given.get("other")]
        exact = output.dtype == torch.bool or not (output.is_floating_point() or output.is_complex())
        if unit is None or not exact or given.get("alpha", 1) != 1 or any(o is None for o in operands):
            return labels
        for one, other in (operands, operands[::-1]):
            if isinstance(one, Tensor) and one.dtype == output.dtype and not _touched(self, other):
                neutral, absorbing = (bool(u) if one.dtype == torch.bool and u is not None else u for u in unit)
                number = other if isinstance(other, Tensor) else torch.tensor(other, device=output.device)
                labels = torch.where(torch.eq(number, neutral), self.labels(one), labels)
                if absorbing is not None:
                    labels = torch.where(torch.eq(number, absorbing), CONSTANT, labels)
        return labels

    def _reduced(self, x: Tensor, given: dict[str, Any]) -> Tensor:
        labels, axes = self.labels(x), given.get("dim")
        axes = list(range(x.dim())) if axes is None or axes == [] else axes
        secret, constant = self._is_secret(labels), labels == CONSTANT
        keep = bool(given.get("keepdim", False))
        leaks = secret.any(axes, keepdim=keep) if x.dim() else secret
        return torch.where(
            constant.all(axes, keepdim=keep) if x.dim() else constant, CONSTANT, torch.where(leaks, MIXED, VISIBLE)
        )

    def _base(self, labels: Tensor) -> Tensor:
        """The labels without the mark of having been computed."""
        return torch.where(labels >= self.count, labels - self.count, labels)

    def _computed(self, labels: Tensor) -> Tensor:
        return torch.where((labels >= 0) & (labels < self.count), labels + self.count, labels)

    def _is_secret(self, labels: Tensor) -> Tensor:
        return self._secret[self._base(labels)]


class _Escapes(TorchFunctionMode):
    """Sees the calls that no operator stands for."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not self.trace._busy:
            self.trace._busy = True
            if self.trace.touches(*leaving(func, args, kwargs)):
                self.trace.lost = self.trace.lost or f"the program looks at values: {resolve_name(func)}"
            self.trace._busy = False
        return func(*args, **kwargs)


def _touched(trace: Trace, value: Any) -> bool:
    return isinstance(value, Tensor) and trace.touches(value)


def _by_name(func: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by their names in the operator's schema; defaults that are data are spelt out."""
    schema = func._schema.arguments
    given: dict[str, Any] = dict(zip((a.name for a in schema), args, strict=False)) | kwargs
    return given | {a.name: a.default_value for a in schema if a.name == "value" and a.name not in given}


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
