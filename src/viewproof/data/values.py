"""Collections of samples that may be larger than memory, and their mean and deviation."""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from viewproof.progress import progress

CHUNK = 2**20
"""The most values in memory at once, unless a single sample has more."""


@runtime_checkable
class Values(Protocol):
    """Samples ``[N, *shape]`` read by integer vectors: a numpy array or a lazy collection."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of samples, then the shape of one."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """A real dtype: bool, integer or floating."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: NDArray[np.int64], /) -> NDArray[Any]:
        """The samples ``[B, *shape]`` at ``index: [B]``."""


@runtime_checkable
class Items(Protocol):
    """Anything with ``len`` and ``[k]``, read one by one."""

    def __len__(self) -> int: ...

    def __getitem__(self, k: int, /) -> Any: ...


def as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return the values as contiguous float32, those beyond its range as infinities.

    >>> as_float32(np.array([1, 2], dtype=">i2"))
    array([1., 2.], dtype=float32)
    """
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def moments(values: Values) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Mean, population deviation and number of non-finite ones of float32 ``values: [N, *shape]``.

    Pooled over samples and all axes but the features of ``[N, D]`` and the channels of ``[N, C, *space]``;
    ``[N, H, W]`` has one channel. The results broadcast against one sample. A constant gets deviation 1.

    >>> moments(np.array([[1, 5, 0], [3, 5, 0]]))
    (array([2., 5., 0.], dtype=float32), array([1., 1., 1.], dtype=float32), 0)
    """
    shape = tuple(values.shape)
    feature_axis = -1 if len(shape) == 3 else 1
    pooled = tuple(axis for axis in range(len(shape)) if axis != feature_axis)
    # A value of the data lies within sqrt(count) deviations of the mean, so sums of differences from it lose no
    # digits to cancellation, and those of a constant are exactly zero.
    first = as_float32(values[np.arange(1)]).astype(np.float64)
    shift = first[tuple(slice(None) if axis == feature_axis else slice(1) for axis in range(len(shape)))]
    rows = max(1, CHUNK // math.prod(shape[1:]))
    unusable, total, squares = 0, np.zeros_like(shift), np.zeros_like(shift)

    def sums(start: int) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        chunk = as_float32(values[np.arange(start, min(start + rows, shape[0]))])
        with np.errstate(invalid="ignore"):
            deep = chunk - shift
            whole = deep.sum(pooled, keepdims=True)
            lost = chunk.size - int(np.count_nonzero(np.isfinite(chunk)))
            return lost, whole, np.square(deep, out=deep).sum(pooled, keepdims=True)

    # Decoding runs without Python's lock. The chunks' sums are added in their order, whoever decoded them.
    threads = min(8, os.cpu_count() or 1) if getattr(values, "parallel", False) else 1
    with ThreadPoolExecutor(threads) as pool, np.errstate(invalid="ignore"):
        starts = range(0, shape[0], rows)
        parts = pool.map(sums, starts) if threads > 1 else map(sums, starts)
        for part in progress(parts, "measuring mean and deviation", "chunk", len(starts)):
            unusable, total, squares = unusable + part[0], total + part[1], squares + part[2]
        count = math.prod(shape[axis] for axis in pooled)
        std = np.sqrt(np.maximum(squares / count - np.square(total / count), 0)).astype(np.float32)[0]
        mean = (shift + total / count).astype(np.float32)[0]
    return mean, np.where(std == 0, np.float32(1), std), unusable
