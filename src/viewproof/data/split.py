"""The fixed split of a source that has no test part of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.dataset import Split
from viewproof.data.values import Values
from viewproof.errors import InvalidArgument


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows ``index`` of a collection that stays where it is.

    >>> Rows(np.arange(8).reshape(4, 2), np.array([3, 1]))[np.array([0])]
    array([[6, 7]])
    """

    base: Values
    index: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, then the shape of one."""
        return (len(self.index), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The collection's dtype."""
        return self.base.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        return self.base[self.index[index]]


def take(whole: Split, index: NDArray[np.int64]) -> Split:
    """The rows ``index`` of ``whole``: a copy of an array, a view of a lazily read collection."""
    values = whole.values[index] if isinstance(whole.values, np.ndarray) else Rows(whole.values, index)
    return Split(values, None if whole.labels is None else whole.labels[index])


def fixed_split(source: str, whole: Split, test_fraction: float) -> tuple[Split, Split]:
    """A disjoint training and test part, the same on every machine and in every run.

    The test part is the first ``round(N * test_fraction)`` entries (at least one, at most ``N - 1``) of
    ``numpy.random.RandomState(0).permutation(N)``, a stream that numpy promises never to change; each part keeps the
    order of the source. Fewer than two samples raise `InvalidArgument`.

    >>> train, test = fixed_split("ten", Split(np.arange(20).reshape(10, 2)), test_fraction=0.2)
    >>> test.values.tolist(), len(train)
    ([[4, 5], [16, 17]], 8)
    """
    size = len(whole)
    if size < 2:
        raise InvalidArgument(f"{source}: {size} sample cannot be split into training and test; at least 2 are needed")
    held_out = min(max(round(size * test_fraction), 1), size - 1)
    order = np.random.RandomState(0).permutation(size).astype(np.int64, copy=False)
    return take(whole, np.sort(order[held_out:])), take(whole, np.sort(order[:held_out]))
