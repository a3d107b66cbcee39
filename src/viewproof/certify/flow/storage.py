"""What is known of each element of each storage; tensors lay their strides over it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from viewproof.torch_internals import StorageWeakRef, storage_key


def address(tensor: Tensor) -> int:
    """A number that tells storages apart; 0 for a tensor that has none.

    Such are sparse ones, those batched by vmap, and those not initialised.
    """
    try:
        if tensor.layout != torch.strided or tensor.is_nested or not tensor.untyped_storage().size():
            return 0
    except (RuntimeError, ValueError):
        return 0
    return storage_key(tensor)


@dataclass(eq=False)
class _Planes:
    """The planes of one storage, an entry for every ``unit`` bytes; a missing plane is all zero."""

    ref: StorageWeakRef
    unit: int
    planes: dict[str, Tensor] = field(default_factory=dict)


class Storages:
    """Planes beside every storage that holds anything computed from the input.

    Each keyword names a plane and gives the entry of memory of which nothing is known: a bool for a plane of truth
    values, an int for one of labels. Everywhere else an entry is 0 until it is written. The first plane is the one
    that `depends` asks.

    Truth values are cut where a tensor reads smaller items than were written, and joined by "or" where it reads larger
    ones. A label belongs to a whole item: read in another size it is unknown, and a write in another size makes all of
    the storage unknown.

    >>> storages, x = Storages(tagged=True), torch.zeros(2, 3)
    >>> storages.write(x[:, 1:], tagged=torch.tensor([True, False]))
    ''
    >>> storages.read(x.T, "tagged").tolist()
    [[False, False], [True, True], [False, False]]
    """

    def __init__(self, **unknown: bool | int) -> None:
        self.unknown, self.main = unknown, next(iter(unknown))
        # Whether storages are left out in which no entry of the first plane is set: `derived` is then `depends`.
        self.dependent_only = False
        self._known: dict[int, _Planes] = {}
        self._sweep = 1024

    def __len__(self) -> int:
        return len(self._known)

    def clear(self) -> None:
        """Forget everything."""
        self._known.clear()

    def forget(self, tensor: Tensor) -> None:
        """Forget the tensor's storage."""
        self._known.pop(address(tensor), None)

    def derived(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage holds anything computed from the input, whatever the entries."""
        return address(tensor) in self._known

    def unit(self, tensor: Tensor) -> int:
        """The bytes of an entry of the tensor's storage; 0 if the storage is not known."""
        known = self._known.get(address(tensor))
        return known.unit if known else 0

    def depends(self, tensor: Tensor) -> bool:
        """Whether any of the tensor's entries in the first plane is not 0."""
        known = self._known.get(address(tensor))
        return known is not None and self.main in known.planes and bool(self.read(tensor, self.main).any())

    def read(self, tensor: Tensor, plane: str) -> Tensor:
        """The entry of each of the tensor's elements, in its shape."""
        known = self._known.get(address(tensor))
        if known is None or plane not in known.planes:
            return self._filled(tensor, plane, 0)
        laid = self._laid(known, tensor, plane)
        if laid is None:
            return self._filled(tensor, plane, self.unknown[plane])
        return laid.select(-1, 0) if laid.shape[-1] == 1 else laid.any(-1)

    def write(self, tensor: Tensor, **values: Tensor | bool | int) -> str:
        """Set entries, broadcast to the tensor's shape; return why they cannot be followed, or ``""``."""
        entries = {name: torch.as_tensor(value, device=tensor.device) for name, value in values.items()}
        main = entries[self.main]
        if not address(tensor):
            lost = tensor.numel() and bool(main.any())
            return f"dependent data in a {tensor.layout} tensor, which has no strided storage" if lost else ""
        storage = tensor.untyped_storage()
        known = self._known.get(storage_key(tensor))
        nothing = self.dependent_only and not bool(main.any())
        if known is None and nothing:
            return ""
        if known is None:
            if len(self._known) > self._sweep:
                # The address of a storage that is gone is not used again while a weak reference to it is kept.
                self._known = {key: k for key, k in self._known.items() if not k.ref.expired()}  # type: ignore[no-untyped-call]
                self._sweep = max(1024, 2 * len(self._known))
            known = _Planes(StorageWeakRef(storage), tensor.element_size())  # type: ignore[no-untyped-call]
            self._known[storage_key(tensor)] = known
        for plane, entry in entries.items():
            fits = not entry.dim() or entry.shape == tensor.shape
            if not fits and torch.broadcast_shapes(entry.shape, tensor.shape) != tensor.shape:  # type: ignore[no-untyped-call]
                raise AssertionError(f"{plane} of shape {tuple(entry.shape)} for a tensor of {tuple(tensor.shape)}")
            if plane not in known.planes and not bool(entry.any()):
                continue
            if plane not in known.planes:
                known.planes[plane] = self._filled(tensor, plane, 0, storage.nbytes() // known.unit).clone()
            laid = self._laid(known, tensor, plane)
            if laid is None or any(s == 0 and e > 1 for s, e in zip(laid.stride(), laid.shape, strict=True)):
                known.planes[plane].fill_(self.unknown[plane])
            else:
                # What a function in place gives may be these very entries, of which torch copies none to themselves.
                entry = entry.clone() if address(entry) == address(laid) else entry
                laid.copy_(entry.unsqueeze(-1) if entry.dim() else entry)
        if nothing and not bool(known.planes[self.main].any()):
            self.forget(tensor)
        if self.main in known.planes and not storage.resizable() and bool(main.any()):
            return "dependent data written to memory that is shared with code outside torch"
        return ""

    def _filled(self, tensor: Tensor, plane: str, entry: bool | int, *shape: int) -> Tensor:
        dtype = torch.bool if isinstance(self.unknown[plane], bool) else torch.int64
        return torch.full((), entry, dtype=dtype, device=tensor.device).expand(shape or tensor.shape)

    def _laid(self, known: _Planes, tensor: Tensor, plane: str) -> Tensor | None:
        """A view of the plane in the tensor's shape, and an axis of the entries one element covers.

        None if the plane holds labels of items of another size.
        """
        size = tensor.element_size()
        if size != known.unit and known.planes[plane].dtype != torch.bool:
            return None
        if size < known.unit:
            known.planes = {name: flat.repeat_interleave(known.unit // size) for name, flat in known.planes.items()}
            known.unit = size
        units, flat = size // known.unit, known.planes[plane]
        grown = tensor.untyped_storage().nbytes() // known.unit - len(flat)
        if grown > 0:
            # Fresh memory of a resized storage holds anything.
            flat = known.planes[plane] = torch.cat([flat, flat.new_full((grown,), self.unknown[plane])])
        strides = [step * units for step in tensor.stride()]
        return flat.as_strided((*tensor.shape, units), (*strides, 1), tensor.storage_offset() * units)
