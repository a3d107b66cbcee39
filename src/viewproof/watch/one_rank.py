"""A forked copy of one rank: it reaches no other rank, and what a group of one rank would answer is answered here."""

import os
import stat
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from viewproof.torch_internals import kernels_of_collectives, leave_gradients_alone, refuse_operators
from viewproof.watch.alive import Alive
from viewproof.watch.run import place

_WITHOUT_OTHERS = ("barrier", "monitored_barrier", "broadcast")
_IN_PLACE = ("allreduce", "allreduce_coalesced", "reduce")
_INTO_OUTPUT = ("allgather", "_allgather_base", "all_gather_single", "gather", "scatter")
_SUMMED_INTO_OUTPUT = ("reduce_scatter", "_reduce_scatter_base", "reduce_scatter_single")
_REFUSED: tuple[str, ...] = (
    "send",
    "recv",
    "recv_anysource",
    "alltoall",
    "alltoall_base",
    "all_to_all_single",
    "allgather_coalesced",
)
_REFUSED += ("allgather_into_tensor_coalesced", "reduce_scatter_tensor_coalesced", "all_gather_single_coalesced")
_REFUSED += ("reduce_scatter_single_coalesced", "split_group", "merge_remote_group", "abort", "shutdown")
_FUNCTIONS = ("init_process_group", "new_group", "isend", "irecv", "batch_isend_irecv")

# Of a copy: where the step asked the other ranks, and which values they are taken to have.
_asked: list[str] = []
_stand_in = 0
# Modules of DistributedDataParallel that ran so that the next backward averages, and whether their last forward did so;
# how many collectives reduced.
_averaged: dict[nn.Module, bool] = {}
_some: set[nn.Module] = set()
_reduced = 0


def ranks() -> int:
    """How many ranks train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def in_group() -> bool:
    """Whether a process group is open."""
    return dist.is_available() and dist.is_initialized()


def cannot_copy() -> str:
    """Why a copy of this rank would not be a safe place to run in, or ``""``."""
    if not in_group():
        return ""
    backend = str(dist.get_backend())
    if "gloo" in backend or backend == "undefined":
        return ""
    return f"a process group of {backend} is open, which a copy of one rank cannot leave alone"


def close_sockets() -> None:
    """In a copy: let go of all sockets, so that nothing reaches the other ranks and no port stays in use."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.dup2(null, descriptor)
        except OSError:
            continue


def stand_alone() -> None:
    """In a copy: answer collectives of a group of one rank, keep gradients on this rank, refuse what is not known.

    The threads of the process group are not in the copy, so that a collective that reached it would never end. Raises
    ``RuntimeError`` if parameters are sharded, or DistributedDataParallel changes gradients or dtypes.
    """
    if not in_group():
        return
    close_sockets()
    refuse_operators(kernels_of_collectives(), _refused("a collective that is called below Python"))
    for name in {*_REFUSED, *_WITHOUT_OTHERS, *_IN_PLACE, *_INTO_OUTPUT, *_SUMMED_INTO_OUTPUT}:
        if hasattr(dist.ProcessGroup, name):
            setattr(dist.ProcessGroup, name, _refused(name) if name in _REFUSED else _answered(name))
    for name in _FUNCTIONS:
        setattr(dist, name, _refused(name))
        setattr(dist.distributed_c10d, name, _refused(name))
    # A script ends its groups, and the copy soon after.
    dist.destroy_process_group = dist.distributed_c10d.destroy_process_group = lambda *args: None
    setattr(dist.Work, "wait", _wait)  # noqa: B010 - a method of torch's
    for module in Alive.now().modules:
        if any(kind.__name__ in ("FullyShardedDataParallel", "FSDPModule") for kind in type(module).__mro__):
            raise RuntimeError(f"parameters of {type(module).__name__} are sharded over ranks (FSDP), not followed")
        if isinstance(module, nn.parallel.DistributedDataParallel):
            leave_gradients_alone(module)
    setattr(nn.parallel.DistributedDataParallel, "forward", _forward)  # noqa: B010 - a method of torch's


def asked() -> list[str]:
    """In a copy: the collectives, with their lines, that have asked other ranks so far."""
    return list(dict.fromkeys(_asked))


def reduced() -> int:
    """In a copy: how many collectives have summed more than one number over the ranks so far."""
    return _reduced


def not_averaged(optimizer: Any) -> tuple[list[int], str, bool]:
    """In a copy: the optimizer's parameters with a gradient that the last backward did not average, by ``id``.

    What to do about it, in words, if a DistributedDataParallel holds one of them, and whether an earlier backward of
    the step has averaged some of it.
    """
    averaged = {id(p) for module, last in _averaged.items() if last for p in module.parameters()}
    given = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    alone = {id(p) for p in given if id(p) not in averaged and bool(p.grad.any())}
    wrapped = [m for m in Alive.now().modules if isinstance(m, nn.parallel.DistributedDataParallel)] if alone else []
    passed = [module for module in wrapped if any(id(p) in alone for p in module.parameters())]
    if not passed:
        return list(alone), "", False
    if passed[0] not in _averaged:
        return list(alone), "call the DistributedDataParallel module, not its `.module`", False
    what = "the last forward before the optimizer's step is inside no_sync(); leave it outside"
    return list(alone), what, passed[0] in _some


def stand_in(number: int) -> None:
    """In a copy: take the other ranks to have the ``number``-th of several values."""
    global _stand_in
    _stand_in = number


def _forward(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Of DistributedDataParallel, without its copies of buffers and its average of gradients."""
    if torch.is_grad_enabled():
        # What was accumulated without is averaged by the next backward with it, and what comes after that is not.
        _averaged[module] = module.require_backward_grad_sync
        if module.require_backward_grad_sync:
            _some.add(module)
    return module.module(*args, **kwargs)


class _Done:
    """A collective that is over."""

    def wait(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True


def _answered(name: str) -> Any:
    def answer(group: Any, *args: Any, **kwargs: Any) -> _Done:
        values = [*args, *kwargs.values()]
        operation = str(getattr(next((v for v in values if hasattr(v, "reduceOp")), None), "reduceOp", "SUM"))
        if "PREMUL" in operation:
            _refused(f"{name} with factors")()
        if group.size() > 1 and "barrier" not in name:
            _asked.append(f"{name.strip('_')} at {place()}")
        if name in _WITHOUT_OTHERS:
            return _Done()
        global _reduced
        _reduced += "reduce" in name and group.size() > 1 and sum(t.numel() for t in _flat(values[0])) > 1
        with torch.no_grad():
            if name in _IN_PLACE:
                for tensor in _flat(values[0]) if group.size() > 1 and "SUM" in operation else ():
                    # Of values that are the same on all ranks, an average or a maximum is as here.
                    tensor.add_(sum(_other(tensor, rank) for rank in range(1, group.size())))
                return _Done()
            out, read = _flat(values[0]), _flat(values[1])
            if len(out) == len(read) == 1 < group.size() and out[0].numel() == read[0].numel() * group.size():
                out = list(torch.split(out[0].view(-1), read[0].numel()))
            own = group.rank()
            if name in _SUMMED_INTO_OUTPUT or name == "scatter":
                parts = read if len(read) > 1 else list(torch.split(read[0].reshape(-1), out[0].numel()))
                out[0].copy_(parts[own if len(parts) > own else 0].reshape(out[0].shape))
                return _Done()
            for rank, one in enumerate(out):
                part = read[0] if rank == own else _other(read[0], rank)
                one.copy_(part.reshape(one.shape))
        return _Done()

    return answer


def _other(tensor: Tensor, rank: int) -> Tensor:
    """What another rank might have: whole numbers and the first stand-in are as here."""
    known = not tensor.is_floating_point() or not tensor.dim()
    return tensor if known else tensor + 0.25 * _stand_in * (rank + 1) * tensor.flip(0)


def _flat(tensors: Any) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else [t for part in tensors for t in _flat(part)]


def _refused(name: str) -> Any:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"{name.strip('_')} in a process group, which a copy of one rank cannot follow")

    return refuse


_wait_before = dist.Work.wait if dist.is_available() else None


def _wait(work: Any, *args: Any, **kwargs: Any) -> Any:
    """Of a collective that was begun before the copy was made."""
    if not work.is_completed():
        raise RuntimeError("a collective was under way where the step begins, which a copy of one rank cannot follow")
    assert _wait_before is not None
    return _wait_before(work, *args, **kwargs)
