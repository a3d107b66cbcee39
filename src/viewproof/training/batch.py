"""What a batch holds."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, overload

from torch import Tensor

from viewproof.errors import InvalidArgument


@overload
def read_batch(batch: Any, *, need_ids: Literal[True]) -> tuple[Tensor, Tensor]: ...
@overload
def read_batch(batch: Any, *, need_ids: Literal[False] = False) -> tuple[Tensor, Tensor | None]: ...
def read_batch(batch: Any, *, need_ids: bool = False) -> tuple[Tensor, Tensor | None]:
    """The data ``[N, ...]`` of a batch and its sample ids ``[N]``, or None if it has no ids.

    A batch is a tensor, a sequence ``(x, sample_ids, ...)``, or a mapping ``{"x": x, "sample_ids": ids}``; all but the
    data may be missing. Anything else raises `InvalidArgument`, and so do missing ids with ``need_ids``.

    >>> import torch
    >>> read_batch({"x": torch.zeros(2, 3), "sample_ids": torch.arange(2)})[1]
    tensor([0, 1])
    >>> read_batch([torch.zeros(2, 3)])[1] is None
    True
    """
    x, ids = batch, None
    if isinstance(batch, Mapping):
        x, ids = batch.get("x"), batch.get("sample_ids")
    elif isinstance(batch, Sequence) and batch:
        x, ids = batch[0], batch[1] if len(batch) > 1 else None
    ids = ids if isinstance(ids, Tensor) else None
    if not isinstance(x, Tensor) or (need_ids and ids is None):
        forms = "a tensor, (tensor, ...) or {'x': tensor}"
        if need_ids:
            forms = "(x, sample_ids) or {'x': x, 'sample_ids': ids}: what is drawn is drawn by the sample's id"
        raise InvalidArgument(f"batch of type {type(batch).__name__} must be {forms}")
    return x, ids
