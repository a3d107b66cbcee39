"""Which kernel computes attention: torch's fused one, or a softmax between two matrix products."""

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.shapes import Float
from viewproof.torch_internals import has_bfloat16_units

MOST_KEYS = 256
"""Keys up to which plain attention is taken; its table of scores grows with queries times keys."""
_NATIVE = has_bfloat16_units()


def is_plain(device_type: str, dtype: torch.dtype, keys: int, native: bool = _NATIVE) -> bool:
    """Whether attention is computed as ``softmax(q k') v`` in place of torch's fused kernel.

    On a CPU with units for bfloat16 (``native``), in bfloat16, over at most `MOST_KEYS` keys: the backward pass of
    the fused kernel converts to float32 there and does not use the units. Everywhere else the fused kernel is the
    faster one, and float32 keeps its bits. ``benchmarks/attention.py`` measures both sides of the rule.

    >>> is_plain("cpu", torch.bfloat16, 49, native=True), is_plain("cpu", torch.float32, 49, native=True)
    (True, False)
    """
    return native and device_type == "cpu" and dtype == torch.bfloat16 and keys <= MOST_KEYS


def attend(
    query: Float[Tensor, "batch heads queries width"],
    key: Float[Tensor, "batch heads keys width"],
    value: Float[Tensor, "batch heads keys width"],
) -> Float[Tensor, "batch heads queries width"]:
    """The attended values, ``softmax(query @ key.T / sqrt(width)) @ value``, by the kernel that `is_plain` names.

    >>> attend(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 3, 4), torch.ones(1, 1, 3, 4)).shape
    torch.Size([1, 1, 2, 4])
    """
    if is_plain(query.device.type, query.dtype, key.shape[2]):
        return plain_attention(query, key, value)
    return F.scaled_dot_product_attention(query, key, value)


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention as two matrix products, with the softmax in their dtype between them."""
    scores = query * query.shape[3] ** -0.5 @ key.transpose(2, 3)
    return torch.softmax(scores, 3) @ value
