"""Any map-style data set as a `Dataset`: images, arrays or recordings, decoded when they are fetched."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from viewproof.data.audio import LogMel, Recordings, frames_for, recording_header
from viewproof.data.checks import check_fraction, check_image_size
from viewproof.data.dataset import Dataset, Split, Statistics, fixed_split, label_codes, make_dataset
from viewproof.data.folder import ImageFiles, image_form
from viewproof.data.images import MAX_PIXELS, check_max_pixels, opened, upright_size
from viewproof.data.values import Items, Values
from viewproof.errors import InvalidArgument

Kind = Literal["image", "array", "audio"]
HEADERS = 256
"""So many samples, drawn from a fixed seed, say which size and mode the images have and how long recordings are."""


@dataclass(frozen=True, eq=False)
class Column:
    """One column of a map-style data set: ``self[k]`` is something that `ImageForm.read` or numpy takes.

    ``key`` names it in samples that are mappings or says its place in tuples; None is for samples that are the value.
    """

    items: Any
    key: Any = None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> Any:
        try:
            item = self.items[k]
        except (LookupError, TypeError) as error:
            raise InvalidArgument(f"dataset[{k}] fails ({error!r}); pass a data set that has 0 to N - 1") from error
        try:
            value = item if self.key is None else item[self.key]
        except (LookupError, TypeError, AttributeError) as error:
            raise InvalidArgument(f"key={self.key!r} is not in dataset[{k}]; pass one that all samples have") from error
        if isinstance(value, Mapping) and "bytes" in value:  # an undecoded Hugging Face image or recording
            value = value["path"] if value["bytes"] is None else value["bytes"]
        return BytesIO(value) if isinstance(value, bytes) else value


@dataclass(frozen=True, eq=False)
class IndexedArrays:
    """Arrays ``[N, *shape]`` of a column, read one by one."""

    costly: ClassVar = True
    column: Items
    sample_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of arrays, then the shape of one."""
        return (len(self.column), *self.sample_shape)

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(index), *self.sample_shape), self.dtype)
        for row, k in zip(out, index, strict=True):
            value = as_array(self.column[int(k)], int(k))
            if value.shape != self.sample_shape or (value.dtype.kind == "f" and not np.isfinite(value).all()):
                what = f"shape {value.shape}" if value.shape != self.sample_shape else "NaN or infinite values"
                raise InvalidArgument(f"sample {k} has {what}; all must be {self.sample_shape} and finite")
            if self.dtype.kind != "f" and not np.can_cast(value.dtype, self.dtype):
                raise InvalidArgument(f"sample {k} has dtype {value.dtype} where another has {self.dtype}; make it one")
            row[...] = value
        return out


def as_array(value: Any, k: int) -> NDArray[Any]:
    """A sample as an array; one that is none, such as a list of an image and its label, raises `InvalidArgument`."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(
            f"sample {k} of type {type(value).__name__} is no array ({error}); pass key= with the place of one"
        ) from error


def from_indexed(
    dataset: Any,
    test: Any = None,
    *,
    name: str = "indexed",
    key: Any = None,
    labels: Any = None,
    test_labels: Any = None,
    class_names: Sequence[str] | None = None,
    kind: Kind | None = None,
    test_fraction: float = 0.1,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
    statistics: Statistics | None = None,
) -> Dataset:
    """A data set of anything with ``len`` and ``[i]``: torchvision's, Hugging Face's, your own. Ids are the indices.

    A sample is a Pillow image, the bytes or path of an image, an array ``[*shape]``, or a tuple or mapping that holds
    one, at ``key`` (the first of a tuple unless given). Images become ``[N, C, H, W]`` of one ``size``, by default
    their own if the drawn ones agree, else 224 x 224; arrays stay as they are. ``labels`` are integers or strings, by
    default ``dataset.targets``. ``test`` is the held-out part, by default `fixed_split`'s share. ``statistics``: see
    `make_dataset`. What cannot be read, and samples of several shapes, raise `InvalidArgument`, at the latest when they
    are fetched.

    >>> data = from_indexed([(np.full((1, 4, 4), k, np.uint8), k % 2) for k in range(10)], labels=[0, 1] * 5)
    >>> data.sample_shape, len(data.train), data.classes
    ((1, 4, 4), 9, 2)
    """
    check_fraction(test_fraction)
    size = check_image_size(size, check_max_pixels(max_pixels))
    if kind not in (None, *get_args(Kind)):
        raise InvalidArgument(f"kind={kind!r} must be 'image', 'array' or 'audio'; leave it out to have it found")
    parts, columns = [dataset] if test is None else [dataset, test], []
    for part in parts:
        if not hasattr(part, "__getitem__") or not hasattr(part, "__len__") or len(part) == 0:
            raise InvalidArgument(f"dataset of type {type(part).__name__} must have len() of at least 1 and [i]")
        first = Column(part)[0]
        if key is None and isinstance(first, Mapping):
            raise InvalidArgument(f"samples have the columns {sorted(map(str, first))}; pass key= with one of them")
        columns.append(Column(part, 0 if key is None and isinstance(first, tuple) else key))
    values = column_values(columns, kind, size, max_pixels)
    named = zip(parts, (labels, test_labels)[: len(parts)], strict=True)
    vectors = [getattr(part, "targets", None) if y is None else y for part, y in named]
    if all(vector is None for vector in vectors):
        codes: list[Any] = [None] * len(parts)
    else:
        try:
            arrays = [np.asarray(vector) for vector in vectors]
        except ValueError as error:  # rows of several lengths
            raise InvalidArgument(f"labels must be one integer or string a sample; {error}") from error
        if class_names is None:
            codes, class_names = label_codes(arrays)
        elif any(array.dtype.kind not in "biu" for array in arrays):
            raise InvalidArgument("labels must be integers where class_names are given; leave class_names out")
        else:
            codes = [array.astype(np.int64) for array in arrays]
    whole = [Split(value, code) for value, code in zip(values, codes, strict=True)]
    train, held_out = whole if test is not None else fixed_split(name, whole[0], test_fraction)
    natural = isinstance(values[0], ImageFiles)
    return make_dataset(name, train, held_out, class_names, statistics=statistics, natural=natural)


def column_values(
    columns: Sequence[Column], kind: Kind | None, size: tuple[int, int] | None, max_pixels: int
) -> list[Values]:
    """The columns of a data set's parts as values of one form, which a few drawn samples decide."""
    places = [(c, k) for c in columns for k in np.random.RandomState(0).permutation(len(c))[:HEADERS].tolist()]
    drawn = [column[k] for column, k in places]
    if kind is None:
        encoded = hasattr(drawn[0], "getbands") or isinstance(drawn[0], BytesIO | str | os.PathLike)
        kind = "image" if encoded else "array"
    if kind == "image":
        headers = [_header(value, max_pixels, k) for value, (_, k) in zip(drawn, places, strict=True)]
        form = image_form(headers, size, max_pixels)
        return [ImageFiles(column, form) for column in columns]
    if kind == "audio":
        sounds = [recording_header(value) for value in drawn]
        mels, frames = size or (64, frames_for(sounds))
        return [Recordings(column, LogMel(sounds[0][0], frames, mels)) for column in columns]
    if size is not None:
        raise InvalidArgument(f"size={size} does not apply to arrays; leave it out")
    first = as_array(drawn[0], places[0][1])
    dtype = np.dtype(np.float32) if first.dtype.kind == "f" else first.dtype
    return [IndexedArrays(column, first.shape, dtype) for column in columns]


def _header(value: Any, max_pixels: int, k: int) -> tuple[str, tuple[int, int]]:
    if hasattr(value, "getbands"):
        return value.mode, upright_size(value)
    try:
        with opened(value, max_pixels) as image:
            return image.mode, upright_size(image)
    except InvalidArgument as error:
        raise InvalidArgument(f"sample {k}: {error}") from error
