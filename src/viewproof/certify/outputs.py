"""Outputs of a user's function: the tensors inside, their differences, a loss's gradient."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from viewproof.bits import unlike


def coordinate(index: int | Tensor, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The coordinate of a flat index."""
    return tuple(int(i) for i in np.unravel_index(int(index), shape)) if shape else ()


def first_true(where: Tensor) -> tuple[int, ...] | None:
    """The first coordinate at which a bool tensor is True; None if it is nowhere.

    >>> first_true(torch.tensor([[False, True], [True, True]])), first_true(torch.tensor([False]))
    ((0, 1), None)
    """
    return coordinate(where.reshape(-1).int().argmax(), tuple(where.shape)) if bool(where.any()) else None


def difference(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """The first coordinate where two tensors differ in a bit; () if shapes do; None if nothing does."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return ()
    return first_true(unlike(a, b))


def unequal(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape differ in value, NaN being equal to NaN.

    >>> unequal(torch.tensor([0.0, float("nan"), 1.0]), torch.tensor([-0.0, float("nan"), 2.0]))
    tensor([False, False,  True])
    """
    return (a != b) & ~((a != a) & (b != b))


def tensors_by_path(output: Any, path: str = "output") -> Iterator[tuple[str, Tensor]]:
    """The tensors and numbers of an output, each with the path to it."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, bool | int | float | complex):
        yield path, torch.tensor(output)
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from tensors_by_path(value, f"{path}[{key!r}]")
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from tensors_by_path(value, f"{path}[{index}]")
    elif is_dataclass(output) and not isinstance(output, type):
        for field in fields(output):
            yield from tensors_by_path(getattr(output, field.name), f"{path}.{field.name}")
    elif hasattr(output, "__dict__") and not isinstance(output, type | nn.Module) and not callable(output):
        for key, value in vars(output).items():
            yield from tensors_by_path(value, f"{path}.{key}")


def output_difference(
    a: dict[str, Tensor], b: dict[str, Tensor], bits: bool = False
) -> tuple[str, tuple[int, ...] | None] | None:
    """Path and coordinate of the first difference in value, or with ``bits`` in a bit; else None.

    The outputs are those of `tensors_by_path`; the coordinate is None where path, shape or dtype differ.
    """
    for name in [*a, *(key for key in b if key not in a)]:
        if name not in a or name not in b or a[name].shape != b[name].shape or a[name].dtype != b[name].dtype:
            return name, None
        where = first_true((unlike if bits else unequal)(a[name], b[name]))
        if where is not None:
            return name, where
    return None


def value_and_gradient(loss: Callable[[Tensor], Tensor], prediction: Tensor) -> tuple[Tensor, Tensor]:
    """The value of a loss, and the gradient of its sum with respect to the prediction."""
    leaf = prediction.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(leaf)
        gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
    return value.detach(), torch.zeros_like(leaf) if gradient is None else gradient
