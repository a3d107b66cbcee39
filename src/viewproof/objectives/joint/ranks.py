"""Statistics over the samples of all ranks, with the gradient that one rank would have.

`DistributedDataParallel` averages gradients over W ranks. A loss that every rank computes from all rows sends each rank
W times the gradient of its own rows, and the average is the gradient of one rank that holds everything.
"""

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F

from viewproof.shapes import Float


def world_size() -> int:
    """How many ranks train together; 1 without `torch.distributed`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_rows(rows: Float[Tensor, "own dims"]) -> Float[Tensor, "all dims"]:
    """The rows of every rank, in the order of the ranks, differentiable; ranks may hold different numbers of rows.

    >>> all_rows(torch.ones(3, 2)).shape
    torch.Size([3, 2])
    """
    world = world_size()
    if world == 1:
        return rows
    from torch.distributed.nn.functional import all_gather

    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    padded = all_gather(F.pad(rows, (0, 0, 0, max(lengths) - len(rows))))  # type: ignore[no-untyped-call]
    return torch.cat([part[:length] for part, length in zip(padded, lengths, strict=True)])


def rank_mean(total: Float[Tensor, ""], count: int) -> Float[Tensor, ""]:
    """A rank's share of a mean over all ranks: the average of the shares is the sum of totals over that of counts.

    >>> rank_mean(torch.tensor(6.0), 3)
    tensor(2.)
    """
    world = world_size()
    if world == 1:
        return total / count
    counts = torch.tensor(count, device=total.device)
    dist.all_reduce(counts)
    return total * (world / int(counts))
