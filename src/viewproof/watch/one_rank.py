"""A forked copy of one rank: nothing of it reaches the other ranks, and what would is answered here or refused."""

import os
import stat
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from viewproof.watch.alive import Alive

_SAME = ("allreduce", "allreduce_coalesced", "broadcast", "reduce", "barrier", "monitored_barrier")
_COPIED = ("_allgather_base", "_reduce_scatter_base", "alltoall_base", "alltoall", "allgather", "reduce_scatter")
_COPIED += ("gather", "scatter")
_REFUSED = ("send", "recv", "recv_anysource", "allgather_into_tensor_coalesced", "reduce_scatter_tensor_coalesced")


def ranks() -> int:
    """How many ranks train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def cannot_copy() -> str:
    """Why a copy of this rank would not be a safe place to run in, or ``""``."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_backend() == "gloo":
        return ""
    return f"a process group of {dist.get_backend()} is open, which a copy of one rank cannot leave alone"


def stand_alone() -> None:
    """In a copy: close its sockets, keep gradients on this rank, and answer collectives of a single rank.

    Raises ``RuntimeError`` if parameters are sharded over the ranks, and later where several ranks are needed.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        # What a thread of the process group would have written to the other ranks must not reach them.
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
        except OSError:
            continue
    for module in Alive.now().modules:
        if any(kind.__name__ in ("FullyShardedDataParallel", "FSDPModule") for kind in type(module).__mro__):
            raise RuntimeError(f"parameters of {type(module).__name__} are sharded, which one rank cannot follow")
        if isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_backward_grad_sync = module.require_forward_param_sync = False
    alone = ranks() == 1
    for names, answer in ((_SAME, _same), (_COPIED, _copied), (_REFUSED, None)):
        for name in names:
            if hasattr(dist.ProcessGroup, name):
                setattr(dist.ProcessGroup, name, answer if alone and answer else _refused(name))


class _Done:
    """A collective that is over."""

    def wait(self, *args: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True


def _same(group: Any, *args: Any, **kwargs: Any) -> _Done:
    return _Done()


def _copied(group: Any, out: Any, read: Any, *args: Any, **kwargs: Any) -> _Done:
    for one, other in zip(_flat(out), _flat(read), strict=True):
        with torch.no_grad():
            one.copy_(other.view_as(one))
    return _Done()


def _flat(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else [t for part in tensors for t in _flat(part)]


def _refused(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{name.strip('_')} needs the other ranks, which a copy of one rank cannot ask")

    return refuse
