"""Inputs for a user's function: a batch, masks spread over it, and the batch with other contents."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks import Mask

# A NaN of each width whose payload arithmetic does not preserve.
_PAYLOADS = {
    torch.float16: (torch.int16, 0x7D01),
    torch.float32: (torch.int32, 0x7FA00001),
    torch.float64: (torch.int64, 0x7FF4000000000001),
}


def require_batch(example: object) -> None:
    """Raise `InvalidArgument` unless ``example`` is a non-empty tensor ``[N, *data]``."""
    if not isinstance(example, Tensor) or example.dim() == 0 or example.numel() == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InvalidArgument(f"example of shape {shape} must be a batch [N, *data] that is not empty")


def spread_mask(name: str, mask: Any, tensor: Tensor) -> Tensor:
    """The mask over every coordinate of a batch, from one over some of its axes.

    >>> spread_mask("mask", torch.tensor([True, False]), torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    hidden = mask.hidden if isinstance(mask, Mask) else mask
    if not isinstance(hidden, Tensor) or hidden.dtype != torch.bool:
        kind = hidden.dtype if isinstance(hidden, Tensor) else type(hidden).__name__
        raise InvalidArgument(f"{name} of type {kind} must be a Mask or a bool tensor, True = hidden")
    shape, own = tuple(tensor.shape), tuple(hidden.shape)
    if isinstance(mask, Mask):
        batched = mask.per_sample
    else:
        batched = own == shape or (own != shape[1:] and len(own) > 1 and own == shape[: len(own)])
    # Of symbolic sizes, in a capture, nothing is asked: it would be one more path.
    numbers = all(type(extent) is int for extent in shape)
    partial = not isinstance(mask, Mask) and numbers and 1 < len(own) < len(shape)
    if partial and own == shape[: len(own)] == shape[1 : len(own) + 1]:
        raise InvalidArgument(
            f"{name} of shape {own} may lie over the first axes of the batch or of one sample, in a batch of shape "
            f"{shape}; pass a Mask, which says if it is per_sample, or a mask over all axes"
        )
    axes = shape if batched else shape[1:]
    if own != axes[: len(own)] or (not own and axes):
        raise InvalidArgument(
            f"{name} of shape {own} does not lie over a batch of shape {shape}; mask all its axes, those of one "
            "sample, or the first of either"
        )
    return hidden.reshape(own + (1,) * (len(axes) - len(own))).expand(shape)


def flat_mask(mask: Mask) -> Mask:
    """The mask over the flattened samples."""
    return Mask(mask.hidden.flatten(int(mask.per_sample)), mask.per_sample, mask.rule)


def other_contents(x: Tensor) -> Iterator[Tensor]:
    """Tensors like ``x``: its own values in another order, then new ones, finite ones first."""
    generator = torch.Generator().manual_seed(0)
    if x.is_complex():
        yield from (torch.view_as_complex(part.contiguous()) for part in other_contents(torch.view_as_real(x)))
        return
    order = torch.randperm(x.numel(), generator=generator).to(x.device)
    yield x.reshape(-1)[order].reshape(x.shape)
    if x.dtype == torch.bool:
        yield ~x
    elif x.is_floating_point():
        noise = torch.randn(x.shape, generator=generator).to(x)
        yield noise
        yield -x
        for number in (1e4, float("nan"), float("inf"), -0.0, -1.0):
            yield torch.where(noise > 0, torch.full_like(x, number), x)
        if x.dtype in _PAYLOADS:
            word, payload = _PAYLOADS[x.dtype]
            yield torch.full_like(x, payload, dtype=word).view(x.dtype)
    else:
        low, high = int(x.min()), int(x.max())
        yield torch.randint(low, high + 1, x.shape, generator=generator).to(x)


def other_hidden_contents(x: Tensor, hidden: Tensor) -> Iterator[Tensor]:
    """``x`` with other content where ``hidden``, and unchanged elsewhere."""
    for other in other_contents(x):
        yield torch.where(hidden, other, x)
    numbers: tuple[float, ...] = ()
    if x.is_floating_point():
        numbers = float("nan"), float("-inf"), -1.0, 1.0, 0.0
    elif x.dtype != torch.bool and not x.is_complex():
        numbers = int(x.min()), int(x.max())
    for number in numbers:
        yield torch.where(hidden, torch.full_like(x, number), x)
