"""A Boolean shadow of each storage, and tensors' strides laid over it: views and writes through them need no rule."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from viewproof.certify.flow.isolation import address


@dataclass(eq=False)
class _Shadow:
    """``hidden``: each unit of the storage may depend on tagged input; None for none. ``low``: see `Call.low`."""

    ref: StorageWeakRef
    unit: int
    hidden: Tensor | None = None
    low: Tensor | None = None


class Shadows:
    """What is known of every tensor's elements."""

    def __init__(self) -> None:
        self._shadows: dict[int, _Shadow] = {}
        self._sweep = 1024

    def read(self, tensor: Tensor, plane: str = "hidden") -> Tensor:
        """The tensor's part of its storage's shadow."""
        shadow = self._shadows.get(address(tensor))
        if shadow is None or getattr(shadow, plane) is None:
            return torch.zeros((), dtype=torch.bool, device=tensor.device).expand(tensor.shape)
        laid = self._laid(shadow, tensor, plane)
        return laid.select(-1, 0) if laid.shape[-1] == 1 else laid.any(-1)

    def derived(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage holds anything computed from the input, tagged or not."""
        return address(tensor) in self._shadows

    def depends(self, tensor: Tensor) -> bool:
        """Whether any of the tensor's elements may depend."""
        shadow = self._shadows.get(address(tensor))
        return shadow is not None and shadow.hidden is not None and bool(self.read(tensor).any())

    def write(self, tensor: Tensor, dependence: Tensor | bool, low: Tensor | None = None) -> str:
        """Set the tensor's dependence, broadcast to its shape; return why it can be followed no further, or nothing."""
        dependence = torch.as_tensor(dependence, device=tensor.device)
        if dependence.dim() and torch.broadcast_shapes(dependence.shape, tensor.shape) != tensor.shape:  # type: ignore[no-untyped-call]
            raise AssertionError(f"dependence of shape {tuple(dependence.shape)} for {tuple(tensor.shape)}")
        if not address(tensor):
            lost = tensor.numel() and bool(dependence.any())
            return f"dependent data in a {tensor.layout} tensor, which has no strided storage" if lost else ""
        storage = tensor.untyped_storage()
        shadow = self._shadows.get(storage._cdata)
        if shadow is None:
            self._forget_dead()
            shadow = _Shadow(StorageWeakRef(storage), tensor.element_size())  # type: ignore[no-untyped-call]
            self._shadows[storage._cdata] = shadow
        self._put(shadow, tensor, "hidden", dependence)
        self._put(shadow, tensor, "low", torch.tensor(False) if low is None else low)
        if shadow.hidden is not None and not storage.resizable() and bool(dependence.any()):
            return "dependent data written to memory that is shared with code outside torch"
        return ""

    def _put(self, shadow: _Shadow, tensor: Tensor, plane: str, values: Tensor) -> None:
        flat = getattr(shadow, plane)
        if flat is None:
            if not bool(values.any()):
                return
            size = tensor.untyped_storage().nbytes() // shadow.unit
            setattr(shadow, plane, torch.zeros(size, dtype=torch.bool, device=tensor.device))
        laid = self._laid(shadow, tensor, plane)
        if any(step == 0 and extent > 1 for step, extent in zip(laid.stride(), laid.shape, strict=True)):
            getattr(shadow, plane).logical_or_(values.any())
        else:
            laid.copy_(values.unsqueeze(-1) if values.dim() else values)

    def _laid(self, shadow: _Shadow, tensor: Tensor, plane: str) -> Tensor:
        """A view of the shadow in the tensor's shape, and an axis of the units that one of its elements covers."""
        if tensor.element_size() < shadow.unit:
            parts = shadow.unit // tensor.element_size()
            for name in ("hidden", "low"):
                flat = getattr(shadow, name)
                setattr(shadow, name, None if flat is None else flat.repeat_interleave(parts))
            shadow.unit = tensor.element_size()
        units = tensor.element_size() // shadow.unit
        flat = getattr(shadow, plane)
        grown = tensor.untyped_storage().nbytes() // shadow.unit - len(flat)
        if grown > 0:
            # Fresh memory of a resized storage holds anything.
            flat = torch.cat([flat, flat.new_full((grown,), plane == "hidden")])
            setattr(shadow, plane, flat)
        strides = [step * units for step in tensor.stride()]
        laid: Tensor = flat.as_strided((*tensor.shape, units), (*strides, 1), tensor.storage_offset() * units)
        return laid

    def _forget_dead(self) -> None:
        if len(self._shadows) > self._sweep:
            self._shadows = {key: shadow for key, shadow in self._shadows.items() if not shadow.ref.expired()}  # type: ignore[no-untyped-call]
            self._sweep = max(1024, 2 * len(self._shadows))

    def share(self, tensor: Tensor) -> float:
        """The part of the tensor's elements that may depend."""
        return float(self.read(tensor).sum()) / max(1, tensor.numel())

    def clear(self) -> None:
        """Forget everything."""
        self._shadows.clear()

    def __len__(self) -> int:
        return len(self._shadows)
