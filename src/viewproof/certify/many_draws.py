"""Many draws of a mask, by ids and epochs or from the global generators."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask

_AT_ONCE = 64


def all_draws(draw: Any, beside: Any, draws: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """All draws ``[draws, *mask]``, and those of the other operation, made in turn."""
    made: tuple[list[Tensor], list[Tensor]] = [], []
    with seeded(seed):
        done = 0
        while done < draws:
            for function, rows in zip((draw, beside), made, strict=True):
                if function is None:
                    continue
                if _keyed(function):
                    ids = torch.arange(done, min(done + _AT_ONCE, draws))
                    rows.append(_codes(function(ids, epoch=done // _AT_ONCE, seed=seed), len(ids)))
                else:
                    rows.append(_codes(function(), None))
            done += len(made[0][-1])
    return torch.cat(made[0]), torch.cat(made[1]) if made[1] else None


def _keyed(draw: Callable[..., Any]) -> bool:
    """Whether it is called with ids, epoch and seed."""
    try:
        inspect.signature(draw).bind()
    except TypeError:
        return True
    return False


def _codes(returned: Any, rows: int | None) -> Tensor:
    """The draws as a tensor ``[rows, *mask]``."""
    if isinstance(returned, Mask):
        if rows is None and returned.per_sample:
            raise InvalidArgument("draw() must return the mask of one sample; this one has a batch axis")
        returned = (
            returned.hidden
            if rows is None or returned.per_sample
            else returned.hidden.expand(rows, *returned.hidden.shape)
        )
    tensor = torch.as_tensor(returned).detach().cpu()
    if rows is None:
        return tensor.clone()[None]
    if len(tensor) != rows:
        raise InvalidArgument(f"draw of shape {tuple(tensor.shape)} must have one row for each of the {rows} ids")
    return tensor.clone()
