"""Shape annotations, jaxtyping's where it is installed; and what public functions ask of an argument's kind."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class Shaped:
            """Stands in for jaxtyping: ``Shaped[Tensor, "batch features"]`` is ``Tensor``."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                """Return the tensor type without its shape."""
                return item[0]

        Bool = Float = Int = Shaped

__all__ = ["Bool", "Float", "Int", "Shaped", "check_kind", "check_size", "check_sizes", "check_tensor"]

LARGEST = 2**28
"""Extents of networks, at most: what is larger is a mistake, and would take the machine's memory before it fails."""


def check_kind(name: str, value: object, kind: type) -> None:
    """Refuse what is not of the class.

    >>> check_kind("mask", 3, dict)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: mask of type int must be a dict; pass one
    """
    if not isinstance(value, kind):
        raise InvalidArgument(f"{name} of type {type(value).__name__} must be a {kind.__name__}; pass one")


def check_tensor(name: str, x: object) -> None:
    """Refuse what is not a dense tensor: arrays, lists, sparse, nested and quantised tensors.

    >>> check_tensor("x", torch.eye(2).to_sparse())
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: x is sparse_coo, and must be a dense tensor; convert it
    """
    if not isinstance(x, Tensor):
        raise InvalidArgument(f"{name} of type {type(x).__name__} must be a tensor; convert it by torch.as_tensor")
    if x.is_nested or x.is_quantized or x.layout is not torch.strided:
        kind = "nested" if x.is_nested else "quantised" if x.is_quantized else str(x.layout).removeprefix("torch.")
        raise InvalidArgument(f"{name} is {kind}, and must be a dense tensor; convert it")


def check_size(name: str, value: Any) -> int:
    """Return ``value`` if it is an integer from 1 to `LARGEST`, else raise `InvalidArgument`.

    >>> check_size("dim", 0)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: dim=0 must be an integer from 1 to 268435456; pass the width you mean
    """
    try:
        number = 0 if isinstance(value, (bool, np.bool_, Tensor)) else operator.index(value)
    except TypeError:
        number = 0
    if not 1 <= number <= LARGEST:
        raise InvalidArgument(f"{name}={value!r} must be an integer from 1 to {LARGEST}; pass the width you mean")
    return number


def check_sizes(name: str, values: Any, length: int | None = None) -> tuple[int, ...]:
    """Return ``values`` as a tuple of sizes, ``length`` of them, or any number but none; see `check_size`."""
    sequence = isinstance(values, Sequence) and not isinstance(values, str)
    if not sequence or len(values) != (length or max(1, len(values))):
        raise InvalidArgument(
            f"{name}={values!r} must be {length or 'one or more'} integers, such as {(8,) * (length or 2)}"
        )
    return tuple(check_size(f"{name}[{i}]", value) for i, value in enumerate(values))
