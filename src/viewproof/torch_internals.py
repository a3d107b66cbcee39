"""Every private name of torch that this library uses: the versions it was checked on, and what is done without it.

Nothing else in the package touches ``torch._*`` or an attribute that begins with an underscore of a torch object.
"""

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DisableTorchFunction as DisableTorchFunction
from torch._ops import OpOverload as OpOverload
from torch.multiprocessing.reductions import StorageWeakRef as StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from torch.utils._pytree import tree_leaves as tree_leaves

CHECKED = ("2.13.0", "2.14.1")
"""The versions of torch that the tests were run on."""

# `DisableTorchFunction`, `TorchDispatchMode`, `OpOverload`, `StorageWeakRef` and `tree_leaves` above: used by many
# projects, documented by none of the pages of torch. Checked on CHECKED. Without them data flow cannot be followed, and
# importing `viewproof.certify` fails.


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


def module_tables(module: nn.Module) -> list[dict[str, Any]]:
    """The tables in which a module keeps its parameters, buffers and submodules.

    Checked on CHECKED. Without them what a module rebinds could not be put back.
    """
    return [module._parameters, module._buffers, module._modules]
