"""A data set: a training and a test part, standardised by the training part's statistics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewproof.data.checks import check_array
from viewproof.data.values import Values, as_float32, moments
from viewproof.errors import InvalidArgument
from viewproof.shapes import Float


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: its values and its labels, if it has any.

    ``values: [N, *shape]`` are as they are stored, ``labels: [N]`` are int64.

    >>> Split(np.zeros((3, 1, 8, 8), np.uint8), np.array([0, 1]))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: labels of shape (2,) do not match 3 samples; pass one label a sample
    """

    values: Values
    labels: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != tuple(self.values.shape[:1]):
            raise InvalidArgument(
                f"labels of shape {self.labels.shape} do not match {len(self)} samples; pass one label a sample"
            )

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test part, standardised by the training part's ``mean`` and ``std``.

    `make_dataset` builds one. Both are float32 and broadcast against one sample: ``[C, 1, 1]`` for images, ``[D]`` for
    tables. ``class_names[k]`` names label ``k``; it is None where there are no labels.

    >>> data = make_dataset("pair", Split(np.array([[0.0, 5], [2, 5]])), Split(np.array([[4.0, 6]])))
    >>> data.fetch("test", [0])
    tensor([[3., 1.]])
    >>> data.restore(data.fetch("test", [0]))
    tensor([[4., 6.]])
    """

    name: str
    train: Split
    test: Split
    mean: Float[Tensor, "..."]
    std: Float[Tensor, "..."]
    class_names: tuple[str, ...] | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, for instance ``(1, 8, 8)``."""
        return tuple(int(extent) for extent in self.train.values.shape[1:])

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where there are no labels."""
        return None if self.class_names is None else len(self.class_names)

    def part(self, name: str) -> Split:
        """The ``"train"`` or ``"test"`` part; any other name raises `InvalidArgument`."""
        if name not in ("train", "test"):
            raise InvalidArgument(f"part={name!r} must be 'train' or 'test'")
        return self.train if name == "train" else self.test

    def fetch(self, part: str, indices: Any) -> Float[Tensor, "batch *sample"]:
        """The standardised float32 samples at ``indices: [B]``, integers in ``0 .. N-1``.

        Indices that are not a vector of such integers raise `InvalidArgument`; negative ones do not wrap.
        """
        values = self.part(part).values
        index = np.asarray(indices.cpu() if isinstance(indices, Tensor) else indices)
        if index.ndim != 1 or (index.dtype.kind not in "iu" and index.size):
            raise InvalidArgument(
                f"indices of shape {index.shape} and dtype {index.dtype} must be a vector of integers"
            )
        if index.size and not 0 <= index.min() <= index.max() < len(values):
            raise InvalidArgument(f"indices {index.min()} to {index.max()} must lie in 0 to {len(values) - 1}")
        index = index.astype(np.int64, copy=False)
        return self.standardize(torch.from_numpy(as_float32(values[index])))

    def standardize(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """``(values - mean) / std`` of ``values: [..., *sample_shape]`` in the units of the source.

        Another shape raises `InvalidArgument`: nothing broadcasts.
        """
        self._check_shape(values)
        return (values - self.mean.to(values.device)) / self.std.to(values.device)

    def restore(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """``values * std + mean``, the inverse of `standardize` up to rounding."""
        self._check_shape(values)
        return values * self.std.to(values.device) + self.mean.to(values.device)

    def _check_shape(self, values: Tensor) -> None:
        shape = self.sample_shape
        if tuple(values.shape[-len(shape) :]) != shape:
            raise InvalidArgument(f"values of shape {tuple(values.shape)} must end in the sample shape {shape}")


def make_dataset(
    name: str, train: Split, test: Split, class_names: Sequence[str] | None = None, source: str | None = None
) -> Dataset:
    """Check both parts, take the statistics of ``train`` and return the `Dataset`.

    Statistics are those of the values rounded to float32, which is what `Dataset.fetch` standardises, accumulated in
    float64 over chunks: larger than memory is fine. ``class_names`` are ``"0"``, ``"1"`` ... unless given. Raises
    `InvalidArgument`, naming ``source`` (``name`` unless given), if a part is empty, has no sample axes or no real
    dtype, if the parts disagree in shape, if a label has no name, or if a value of either part is NaN, infinite or
    beyond float32's range.

    >>> part = Split(np.arange(12.0).reshape(3, 1, 2, 2), np.array([0, 1, 0]))
    >>> data = make_dataset("three", part, part)
    >>> data.sample_shape, data.mean.shape, data.mean.item(), data.class_names
    ((1, 2, 2), torch.Size([1, 1, 1]), 5.5, ('0', '1'))
    """
    source = source or name
    for split in (train, test):
        check_array(source, tuple(split.values.shape), split.values.dtype)
    if train.values.shape[1:] != test.values.shape[1:]:
        raise InvalidArgument(
            f"{source}: training samples of shape {tuple(train.values.shape[1:])} and test samples of shape"
            f" {tuple(test.values.shape[1:])} must have one shape"
        )
    names = None
    if train.labels is not None and test.labels is not None:
        labels = np.concatenate((train.labels, test.labels))
        low, high = int(labels.min()), int(labels.max())
        names = tuple(str(k) for k in range(high + 1)) if class_names is None else tuple(class_names)
        if low < 0 or high >= len(names):
            raise InvalidArgument(f"{source}: labels {low} to {high} must lie in 0 to {len(names) - 1}, the classes")
    elif train.labels is not None or test.labels is not None or class_names is not None:
        raise InvalidArgument(f"{source}: label both parts, or neither and pass no class names")
    mean, std, unusable = moments(train.values)
    unusable += moments(test.values)[2]
    if unusable:
        total = int(np.prod(train.values.shape) + np.prod(test.values.shape))
        raise InvalidArgument(
            f"{source}: {unusable} of {total} values are NaN, infinite or beyond float32's range;"
            " drop or impute them and save the data again"
        )
    return Dataset(name, train, test, torch.from_numpy(mean), torch.from_numpy(std), names)


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
