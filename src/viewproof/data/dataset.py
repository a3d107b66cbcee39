"""A data set: a training and a test part, standardised by the training part's statistics."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
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


Statistics = tuple[Sequence[float], Sequence[float]]
"""Mean and deviation of the channels, or of all of them, in the units of the values."""
FEW = 10_000
"""At most so many samples that must be decoded are read for the statistics."""
FEW_VALUES = 2**26
"""And at most so many of their values."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test part, standardised by the training part's ``mean`` and ``std``.

    `make_dataset` builds one. Both are float32 and broadcast against one sample: ``[C, 1, 1]`` for images, ``[D]`` for
    tables. ``class_names[k]`` names label ``k``; it is None where there are no labels. ``natural``: the samples are
    photographs, for which random crops and flips are the default. ``skipped``: complaints about files left out.

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
    natural: bool = False
    skipped: tuple[str, ...] = ()

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

    def fetch(
        self,
        part: str,
        indices: Any,
        draws: NDArray[np.float64] | None = None,
        min_area: float = 1.0,
        flip: float = 0.0,
    ) -> Float[Tensor, "batch *sample"]:
        """The standardised float32 samples at ``indices: [B]``, integers in ``0 .. N-1``.

        With ``draws: [B, 16]`` in (0, 1): of images in files, random regions, a share ``flip`` of them mirrored; see
        `viewproof.data.folder.ImageFiles.crops`. Indices that are not a vector of such integers raise
        `InvalidArgument`; negative ones do not wrap.
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
        if not getattr(values, "costly", False):
            return self.standardize(torch.from_numpy(as_float32(values[index])))
        samples = values[index] if draws is None else values.crops(index, draws, min_area, flip)  # type: ignore[attr-defined]
        x = torch.from_numpy(np.array(samples, np.float32))
        for row in x:  # one by one, and in place, while a sample lies in the processor's cache
            row.sub_(self.mean).div_(self.std)
        return x

    @property
    def crops_when_read(self) -> bool:
        """Whether `fetch` takes ``draws``: the training samples are decoded one by one, and the region with them."""
        return hasattr(getattr(self.train.values, "base", self.train.values), "crops")

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
    name: str,
    train: Split,
    test: Split,
    class_names: Sequence[str] | None = None,
    source: str | None = None,
    statistics: Statistics | None = None,
    *,
    natural: bool = False,
    skipped: tuple[str, ...] = (),
) -> Dataset:
    """Check both parts, take the statistics of ``train`` and return the `Dataset`.

    Statistics are those of the values rounded to float32, which is what `Dataset.fetch` standardises, accumulated in
    float64 over chunks: larger than memory is fine. Of samples that must be decoded at most 10,000 are read, and at
    most 2**26 values, those that numpy's ``RandomState(0)`` draws; they are checked one by one as they are decoded.
    ``statistics`` gives mean and deviation instead. ``class_names`` are ``"0"``, ``"1"`` ... unless given. Raises
    `InvalidArgument`, naming ``source`` (``name`` unless given), if a part is empty, has no sample axes or no real
    dtype, if the parts disagree in shape, if a label has no name, or if a value of either part is NaN, infinite or
    beyond float32's range.

    >>> part = Split(np.arange(12.0).reshape(3, 1, 2, 2), np.array([0, 1, 0]))
    >>> data = make_dataset("three", part, part)
    >>> data.sample_shape, data.mean.shape, data.mean.item(), data.class_names
    ((1, 2, 2), torch.Size([1, 1, 1]), 5.5, ('0', '1'))
    """
    source = source or name
    if class_names is not None and (isinstance(class_names, str) or not isinstance(class_names, Iterable)):
        raise InvalidArgument(f"class_names={class_names!r} must be a list of names, one a class; or leave it out")
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
    unusable = 0
    if getattr(train.values, "costly", False):
        few = min(FEW, max(1, FEW_VALUES // math.prod(train.values.shape[1:])))
        drawn = np.sort(np.random.RandomState(0).permutation(len(train))[:few])
        if statistics is None:
            mean, std, _ = moments(Rows(train.values, drawn))
        else:
            mean = std = np.zeros(0, np.float32)
    else:
        mean, std, unusable = moments(train.values)
        unusable += moments(test.values)[2]
    if unusable:
        total = int(np.prod(train.values.shape) + np.prod(test.values.shape))
        raise InvalidArgument(
            f"{source}: {unusable} of {total} values are NaN, infinite or beyond float32's range;"
            " drop or impute them and save the data again"
        )
    data = Dataset(name, train, test, torch.from_numpy(mean), torch.from_numpy(std), names, natural, skipped)
    return data if statistics is None else with_statistics(data, statistics)


def with_statistics(data: Dataset, statistics: Statistics) -> Dataset:
    """The data set standardised by given statistics; of integer values these are shares of the dtype's largest."""
    shape, dtype = data.sample_shape, data.train.values.dtype
    axis = -1 if len(shape) == 2 else 0
    scale = np.iinfo(dtype).max if dtype.kind in "iu" else 1
    extents = [1] * len(shape)
    extents[axis] = shape[axis]
    given = []
    if not isinstance(statistics, Sequence) or len(statistics) != 2:
        raise InvalidArgument(f"statistics={statistics!r} must be (mean, std), each one number a channel")
    for name, values in zip(("mean", "std"), statistics, strict=True):
        if not isinstance(values, Sequence | np.ndarray):
            raise InvalidArgument(f"{name}={values!r} must be 1 finite number or {shape[axis]}, one a channel")
        try:
            array = np.asarray(values, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgument(f"{name}={values!r} must be numbers, one a channel; {error}") from error
        if array.ndim != 1 or len(array) not in (1, shape[axis]) or not np.isfinite(array).all():
            raise InvalidArgument(f"{name}={tuple(values)} must be 1 finite number or {shape[axis]}, one a channel")
        if name == "std" and not (array > 0).all():
            raise InvalidArgument(f"std={tuple(values)} must be positive; values are divided by it")
        whole = np.broadcast_to(array * scale, shape[axis]).reshape(extents).astype(np.float32)
        given.append(torch.from_numpy(whole))
    return replace(data, mean=given[0], std=given[1])


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

    @property
    def costly(self) -> bool:
        """Whether the collection decodes its samples."""
        return getattr(self.base, "costly", False)

    @property
    def parallel(self) -> bool:
        """Whether threads may decode different samples at once."""
        return getattr(self.base, "parallel", False)

    def crops(
        self, index: NDArray[np.int64], draws: NDArray[np.float64], min_area: float, flip: float = 0.0
    ) -> NDArray[Any]:
        """The collection's, of these rows."""
        return self.base.crops(self.index[index], draws, min_area, flip)  # type: ignore[attr-defined, no-any-return]


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


def label_codes(vectors: Sequence[NDArray[Any]]) -> tuple[list[NDArray[np.int64]], tuple[str, ...]]:
    """Integers or strings of all parts as codes from 0, in the labels' order, and the text of each.

    >>> label_codes([np.array(["dog", "cat"]), np.array(["dog"])])
    ([array([1, 0]), array([1])], ('cat', 'dog'))
    """
    for vector in vectors:
        if vector.ndim != 1 or vector.dtype.kind not in "biuUS":
            raise InvalidArgument(
                f"labels of shape {vector.shape} and dtype {vector.dtype} must be one integer or string a sample;"
                " convert them, and label all samples or none"
            )
    names, codes = np.unique(np.concatenate(vectors), return_inverse=True)
    split = np.split(codes.astype(np.int64), np.cumsum([len(vector) for vector in vectors])[:-1])
    return split, tuple(str(name) for name in names)
