"""The modules, optimizers and tensors of the process, found without their names."""

import gc
import weakref
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from viewproof.torch_internals import DisableTorchFunction, has_no_values


@dataclass(frozen=True)
class Alive:
    """What lives in the process; forked copies share it."""

    modules: list[nn.Module]
    optimizers: list[torch.optim.Optimizer]
    tensors: list[Tensor]

    @classmethod
    def now(cls) -> "Alive":
        """One walk over all objects, by their types: asking an object for its class may run code of anyone's."""
        objects = gc.get_objects()
        keys = list(map(id, map(type, objects)))
        types = dict(zip(keys, map(type, objects), strict=True))
        kinds = nn.Module, torch.optim.Optimizer, Tensor
        chosen = {key: [issubclass(found, kind) for kind in kinds] for key, found in types.items()}
        chosen = {key: is_kind for key, is_kind in chosen.items() if any(is_kind)}
        # There are half a million objects, which no loop of Python goes through.
        few = list(compress(zip(objects, keys, strict=True), map(chosen.__contains__, keys)))
        modules, optimizers, tensors = ([o for o, key in few if chosen[key][k]] for k in range(len(kinds)))
        return cls([m for m in modules if is_made(m)], optimizers, tensors)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters among the tensors, those of no module too."""
        return [t for t in self.tensors if issubclass(type(t), nn.Parameter)]  # type: ignore[misc]


def is_made(module: nn.Module) -> bool:
    """Whether it has parameters to ask for: one whose constructor raised lives as long as the exception."""
    try:
        return object.__getattribute__(module, "_parameters") is not None
    except AttributeError:
        return False


class Constants:
    """Small tensors as they were before a batch was made; what stays so is taken to hold nothing of it.

    Numbers for normalising, the scale of a gradient scaler. What is as large as a batch may be its data.
    """

    LARGEST = 4096

    def __init__(self) -> None:
        self._values: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def note(self, largest: int = LARGEST) -> None:
        """Note the tensors of at most ``largest`` elements that live now and are not known."""
        for tensor in Alive.now().tensors:
            if type(tensor) is not Tensor or id(tensor) in self._values:
                continue
            try:
                with DisableTorchFunction():
                    if (
                        tensor.is_floating_point()
                        and not tensor.is_meta
                        and tensor.numel() <= largest
                        and tensor.layout == torch.strided
                        and has_memory(tensor)
                    ):
                        self._values[id(tensor)] = weakref.ref(tensor), tensor.detach().clone()
            except RuntimeError:
                # Of a transform that is over, or without memory: it stays unknown.
                continue

    def unchanged(self, tensor: Tensor) -> bool:
        """Whether the tensor was noted, and holds what it held."""
        reference, value = self._values.get(id(tensor), (None, None))
        if reference is None or value is None or reference() is not tensor:
            return False
        try:
            return torch.equal(tensor, value)
        except RuntimeError:
            return False  # Its memory has gone since.


def has_memory(tensor: Tensor) -> bool:
    """Whether its memory is there: it may have been freed, and reading it would end the process."""
    last = tensor.storage_offset() + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return not tensor.numel() or (last + 1) * tensor.element_size() <= tensor.untyped_storage().nbytes()


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is memory that can be copied and compared."""
    kept = tensor.layout == torch.strided and not (has_no_values(tensor) or tensor.is_quantized or tensor.is_nested)
    return kept and not is_empty(tensor)


def is_empty(tensor: Tensor) -> bool:
    """Whether reading it would fail, or end the process: no shape yet, or memory that has been freed."""
    try:
        lazy = is_lazy(tensor)
        return lazy or not (has_no_values(tensor) or tensor.layout != torch.strided or has_memory(tensor))
    except RuntimeError:
        return True  # Of a transform that is over.
