"""Statistics over the samples of all ranks, with the gradient that one rank would have.

`DistributedDataParallel` averages gradients over W ranks. A loss that every rank computes from all rows sends each rank
W times the gradient of its own rows, and the average is the gradient of one rank that holds everything.
"""

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from viewproof.shapes import Float


def world_size() -> int:
    """How many ranks train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_rows(rows: Float[Tensor, "own dims"]) -> Float[Tensor, "all dims"]:
    """The rows of every rank, equally many or not, in the order of the ranks and with gradients.

    >>> all_rows(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """
    world = world_size()
    if world == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    padded = _Gather.apply(F.pad(rows, (0, 0, 0, max(lengths) - len(rows))))  # type: ignore[no-untyped-call]
    return torch.cat([part[:length] for part, length in zip(padded, lengths, strict=True)])


class _Gather(torch.autograd.Function):
    """Tensors of one shape from all ranks, stacked; gradients are summed over all ranks' losses."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def total_count(count: int, device: torch.device) -> int:
    """The sum of a count over all ranks.

    >>> total_count(3, torch.device("cpu"))
    3
    """
    if world_size() == 1:
        return count
    counts = torch.tensor(count, device=device)
    dist.all_reduce(counts)
    return int(counts)


def rank_weight(count: int, device: torch.device) -> float:
    """The weight of a rank's mean over ``count`` things in the mean over all ranks' things.

    The average over ranks of the weighted means is that mean. Exactly 1 where all counts are equal.

    >>> rank_weight(3, torch.device("cpu"))
    1.0
    """
    total = total_count(count, device)
    return world_size() * count / total if total else 1.0


def share_of_mean(total: Float[Tensor, ""], count: int) -> Float[Tensor, ""]:
    """A rank's share of the mean over all ranks, which is the average of the shares.

    The mean is the sum of totals over the sum of counts.

    >>> share_of_mean(torch.tensor(6.0), 3)
    tensor(2.)
    """
    return total / count if world_size() == 1 else total * (world_size() / total_count(count, total.device))
