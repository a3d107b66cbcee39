"""Tensors as the bits that they are: ``==`` would call -0.0 equal to 0.0 and NaN unequal to itself."""

import torch
from torch import Tensor

INTEGER_OF_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SMALL_FLOATS = [
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    # from torch 2.7
    *([torch.float8_e8m0fnu] if hasattr(torch, "float8_e8m0fnu") else []),
]
INTEGERS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.bool]
# torch 2.9 does not select between values of these on the CPU
LARGE_UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
if torch.__version__ >= (2, 10):
    INTEGERS += LARGE_UNSIGNED


def bits(x: Tensor) -> Tensor:
    return x.detach().clone(memory_format=torch.contiguous_format).view(INTEGER_OF_SIZE[x.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def is_masked_copy(masked: Tensor, x: Tensor, hidden: Tensor) -> bool:
    """Visible coordinates hold x's very bits, hidden ones none at all: +0.0 is the pattern of zeros."""
    expected = bits(x)
    expected[hidden.expand(x.shape)] = 0
    return masked.dtype == x.dtype and masked.shape == x.shape and torch.equal(bits(masked), expected)


def arbitrary_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.empty((), dtype=dtype).element_size()
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    raw = torch.randint(0, 256, (*shape, size), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def special_values(dtype: torch.dtype) -> Tensor:
    """Zeros, infinities, subnormals, and NaNs quiet and signalling of both signs and several payloads."""
    patterns = {
        torch.float64: (52, 11, torch.int64),
        torch.float32: (23, 8, torch.int32),
        torch.float16: (10, 5, torch.int16),
        torch.bfloat16: (7, 8, torch.int16),
    }
    mantissa, exponent, integer = patterns[dtype]
    ones = (2**exponent - 1) << mantissa
    quiet = 1 << (mantissa - 1)
    positive = [
        0,
        1,
        quiet,
        ones - 1,
        ones,
        ones | 1,
        ones | (quiet - 1),
        ones | quiet,
        ones | quiet | 5,
        ones + quiet * 2 - 1,
    ]
    sign = 1 << (mantissa + exponent)
    patterns_of_both_signs = positive + [p | sign for p in positive]
    wrapped = [p - 2 * sign if p >= sign else p for p in patterns_of_both_signs]
    return torch.tensor(wrapped, dtype=integer).view(dtype)
