"""Where every output coordinate of a program comes from: labels moved with the data.

The label of a coordinate is the flat index ``i`` of the source coordinate whose bits it holds; ``count + i`` if it was
computed from source coordinate ``i`` alone; `CONSTANT` if no source coordinate took part; `MIXED` otherwise. Operators
that only move or select data are executed on the labels themselves; pointwise operators join the labels of their
operands; of all others the table's rule of dependence says which results the source takes part in. No value of the
source is looked at, so what the labels say holds for all values at the source's shape, unless the program itself looked
(`LabelTrace.lost`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call
from viewproof.certify.flow.tracker import Tracker
from viewproof.torch_internals import BelowModes

CONSTANT, MIXED, VISIBLE = -1, -2, -3


class LabelTrace(Tracker):  # type: ignore[no-untyped-call]
    """Labels beside every tensor made while the mode is on; ``hidden`` marks source coordinates.

    ``lost`` says why the labels are no proof (the program looked at values of the source), or is None; ``generators``
    holds the state of each generator that was passed to an operator, when it was. With ``hidden``, what was computed
    from several coordinates none of which is hidden has the label `VISIBLE` instead of `MIXED`.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> with LabelTrace(x) as trace:
    ...     y = torch.cat([x.flip(1), 2 * x, torch.zeros(2, 1)], 1)
    >>> trace.labels(y)
    tensor([[ 1,  0,  4,  5, -1],
            [ 3,  2,  6,  7, -1]])
    """

    def __init__(self, source: Tensor, hidden: Tensor | None = None) -> None:
        # Entries are labels plus 1: what an operator fills with zeros is constant.
        super().__init__(labels=MIXED + 1)
        self.count = source.numel()
        self.generators: list[bytes] = []
        # Whether what has an entry (constant, each coordinate, visible, mixed: from the end) may carry hidden content.
        secret = torch.ones(self.count, dtype=torch.bool) if hidden is None else hidden.reshape(-1).cpu()
        self._all_secret = bool(secret.all())
        self._secret = torch.cat([torch.tensor([False]), secret, torch.tensor([False, True])]).to(source.device)
        self.start(source, torch.arange(1, self.count + 1, device=source.device).reshape(source.shape))

    @property
    def lost(self) -> str | None:
        """Why the labels are no proof."""
        return self.escaped or None

    def labels(self, tensor: Tensor) -> Tensor:
        """The label of each coordinate: int64, of the tensor's shape."""
        with BelowModes():
            self._in_one_size(tensor)
            return self.plane(tensor) - 1

    def touches(self, *tensors: Tensor) -> bool:
        """Whether any coordinate of the tensors is not a constant."""
        with BelowModes():
            return any(map(self.storages.depends, tensors))

    def looks(self, tensors: Any, reason: str) -> None:
        """The program looks at the tensors' values."""
        super().looks(tensors, f"the program looks at values: {reason}")

    def used(self, argument: Tensor) -> None:
        """What holds for some values only is not said of labels."""
        if self.storages.depends(argument):
            raise ValueError("the answer follows from the values of the source")

    def _in_one_size(self, *tensors: Tensor) -> None:
        if any(self.storages.unit(t) not in (0, t.element_size()) for t in tensors):
            self.escape("data is read with another item size than it was written with")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, and set the labels of what it returns and writes."""
        generator = (kwargs or {}).get("generator")
        if generator is not None:
            self.generators.append(generator.get_state().numpy().tobytes())
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _record(self, call: Call, outcome: Any, results: Any) -> None:
        if any(t.is_conj() or t.is_neg() for t in results if isinstance(t, Tensor)):
            self.escape(f"{call.name} changes values without writing them")
        super()._record(call, outcome, results)

    def follow(self, call: Call) -> Any:
        """The labels of what the operator returns."""
        self._in_one_size(*call.read)
        if call.row.labels is not None and (labels := call.row.labels(call)) is not None:
            return labels
        # Which results the source takes part in, and which its hidden part: the rule of dependence says.
        touched = self.by_dependence(call, lambda t: self.plane(t) != 0)
        secret = touched if self._all_secret else self.by_dependence(call, lambda t: self.secret(self.plane(t)))

        def label(touched: Any, secret: Any) -> Tensor:
            touched, secret = torch.as_tensor(touched), torch.as_tensor(secret)
            return torch.where(touched, self.mix(secret), 0)

        return tuple(map(label, touched, secret)) if isinstance(touched, tuple) else label(touched, secret)

    def by_dependence(self, call: Call, plane: Callable[[Tensor], Tensor]) -> Any:
        """What the operator's rule of dependence says of this plane of truth values."""
        call.plane = plane
        outcome = super().follow(call)
        call.plane = self.plane
        call.stored.clear()
        return outcome

    def mixed(self, call: Call) -> int:
        """All of what an operator returns was computed from several coordinates."""
        return (MIXED if any(bool(self.secret(self.plane(t)).any()) for t in call.read) else VISIBLE) + 1

    def mix(self, secret: Tensor) -> Tensor:
        """The entry of what is computed from several coordinates: some of them secret?"""
        return torch.where(secret, MIXED + 1, VISIBLE + 1)

    def store(self, call: Call, tensor: Tensor, entries: Any) -> None:
        """A result of another dtype than what was moved is computed."""
        if isinstance(entries, Tensor) and call.dtype not in (None, tensor.dtype):
            entries = self.computed(entries)
        self.write(tensor, labels=entries)

    def secret(self, entries: Tensor) -> Tensor:
        """Whether what has these entries may carry hidden content."""
        return self._secret[torch.where(entries > self.count, entries - self.count, entries)]

    def computed(self, entries: Tensor) -> Tensor:
        """The entries with the mark of having been computed."""
        return torch.where((entries > 0) & (entries <= self.count), entries + self.count, entries)
