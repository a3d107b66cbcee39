"""Arithmetic in the prime field of 2**31 - 1 elements, on int64 tensors: numbers, powers, random functions."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

P = 2**31 - 1
UNKNOWN = -1
"""The entry of a number that is no element of the field: infinite, NaN, or read in another size than it was written."""

Entries = Tensor


class NoMeaning(Exception):
    """An operator, or a use of values, that is no expression here; says which."""


def hashed(name: str, *arguments: Any) -> Entries:
    """A random function, another for each name, of the arguments' entries."""
    state = np.uint64(0xCBF29CE484222325)
    with np.errstate(over="ignore"):
        for byte in name.encode():
            state = (state ^ np.uint64(byte)) * np.uint64(0x100000001B3)
    for argument in torch.broadcast_tensors(*map(torch.as_tensor, arguments)):  # type: ignore[no-untyped-call]
        state = _mixed(argument.numpy().astype(np.uint64) ^ state)
    return torch.from_numpy(np.asarray(state % np.uint64(P), dtype=np.int64))


def _mixed(state: Any) -> Any:
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))


def constant(tensor: Tensor) -> Entries:
    """Numbers as elements of the field; -1 for those that are not finite."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor.long() % P
    values, index = np.unique(tensor.detach().double().numpy().reshape(-1), return_inverse=True)
    known = [UNKNOWN if not math.isfinite(v) else _element(Fraction(float(v))) for v in values]
    return torch.tensor(known, dtype=torch.int64)[torch.from_numpy(index)].reshape(tensor.shape)


def _element(number: Fraction) -> int:
    return number.numerator * pow(number.denominator, -1, P) % P


def power(a: Entries, exponent: int) -> Entries:
    """A whole power, by squaring."""
    out, base = torch.ones_like(a), a
    while exponent:
        if exponent & 1:
            out = out * base % P
        base, exponent = base * base % P, exponent >> 1
    return out


def inverse(a: Entries) -> Entries:
    """1 / a."""
    if bool((a == 0).any()):
        raise NoMeaning("something is divided by 0")
    return power(a, P - 2)
