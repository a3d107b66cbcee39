"""Arrays in ``.npy`` and ``.npz`` files, left on disk wherever the format allows it."""

import math
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import check_array, check_bytes
from viewproof.data.dataset import Dataset, Split, fixed_split, label_codes, make_dataset
from viewproof.data.values import Values
from viewproof.errors import InvalidArgument


@dataclass(frozen=True)
class FileArray:
    """An array inside a file, memory-mapped on first use; pickling it copies no data."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False

    @cached_property
    def mapped(self) -> NDArray[Any]:
        """The whole array as a read-only memory map."""
        order: Any = "F" if self.fortran else "C"
        return np.memmap(self.path, self.dtype, mode="r", offset=self.offset, shape=self.shape, order=order)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        return np.asarray(self.mapped[index])

    def __reduce__(self) -> tuple[Any, ...]:
        return FileArray, (self.path, self.dtype, self.shape, self.offset, self.fortran)


def load_npy(path: Path, test_fraction: float) -> Dataset:
    """The samples ``[N, *shape]`` of an ``.npy`` file, memory-mapped, without labels.

    The split is `fixed_split`'s. Truncated files, object arrays and what `make_dataset` refuses raise `InvalidArgument`
    naming the file.
    """
    values = _map_npy(str(path), path, 0, path.stat().st_size)
    check_array(str(path), values.shape, values.dtype)
    train, test = fixed_split(str(path), Split(values), test_fraction)
    return make_dataset(path.stem, train, test, source=str(path))


def load_npz(path: Path, test_fraction: float) -> Dataset:
    """The data set in an ``.npz`` file.

    It is the array ``x`` (labels ``y``), or ``train`` and ``test`` (labels ``train_labels`` and ``test_labels``).
    Members stored without compression are memory-mapped, compressed ones read, at most 4 GiB each; others are not
    touched. The checksums of those that are read must agree. Labels are vectors of integers or
    strings; the k-th smallest becomes label ``k`` and its text the class name. Files that hold neither form, truncated
    ones, object arrays and what `make_dataset` refuses raise `InvalidArgument` naming the file.
    """
    arrays, found = _members(path)
    if ("x" in arrays) == ("train" in arrays and "test" in arrays):
        raise InvalidArgument(f"{path}: holds {sorted(found)}, but must hold either 'x' or both 'train' and 'test'")
    pairs = (("x", "y"),) if "x" in arrays else (("train", "train_labels"), ("test", "test_labels"))
    for name, _ in pairs:
        check_array(f"{path} ({name!r})", arrays[name].shape, arrays[name].dtype)
    parts, class_names = [Split(arrays[name]) for name, _ in pairs], None
    present = [name for _, name in pairs if name in arrays]
    if present:
        if len(present) < len(pairs):
            raise InvalidArgument(f"{path}: holds {present[0]!r} only; label both parts or neither")
        vectors = []
        for samples, name in pairs:
            shape, dtype, size = arrays[name].shape, arrays[name].dtype, arrays[samples].shape[0]
            if shape != (size,) or dtype.kind not in "biuUS":
                raise InvalidArgument(
                    f"{path} ({name!r}): labels of shape {shape} and dtype {dtype} must be {size} integers or strings"
                )
            vectors.append(arrays[name][np.arange(size)])
        labels, class_names = label_codes(vectors)
        parts = [Split(part.values, vector) for part, vector in zip(parts, labels, strict=True)]
    train, test = parts if len(parts) == 2 else fixed_split(str(path), parts[0], test_fraction)
    return make_dataset(path.stem, train, test, class_names, source=str(path))


NAMES = ("x", "y", "train", "test", "train_labels", "test_labels")
INFLATED = 2**32
"""The most bytes that one compressed member may become."""


def _members(path: Path) -> tuple[dict[str, Values], list[str]]:
    """The arrays that make a data set, and the names of all arrays; others are not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {e.filename[:-4]: e for e in archive.infolist() if e.filename.endswith(".npy")}
            return {name: _member(path, archive, e) for name, e in entries.items() if name in NAMES}, list(entries)
    except InvalidArgument:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged bytes
        raise InvalidArgument(f"{path}: not a whole npz file ({error}); save or copy it again") from error


def _member(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Values:
    source = f"{path} ({entry.filename[:-4]!r})"
    if entry.compress_type != zipfile.ZIP_STORED:
        if entry.file_size > INFLATED:
            raise InvalidArgument(
                f"{source}: {entry.file_size} bytes when decompressed are more than {INFLATED}; save it by numpy.savez,"
                " without compression, and it is read from the disk"
            )
        with archive.open(entry) as file:
            shape, _, dtype = _header(source, file)
            check_bytes(source, file.tell() + math.prod(shape) * dtype.itemsize, entry.file_size)
            file.seek(0)
            return np.lib.format.read_array(file, allow_pickle=False)
    with archive.open(entry) as file:
        while file.read(2**20):  # to the end, where zipfile compares the checksum
            pass
    with path.open("rb") as raw:
        # The local header may carry other extra fields than the directory's copy: only its own lengths count.
        raw.seek(entry.header_offset + 26)
        name, extra = int.from_bytes(raw.read(2), "little"), int.from_bytes(raw.read(2), "little")
    return _map_npy(source, path, entry.header_offset + 30 + name + extra, entry.file_size)


def _map_npy(source: str, path: Path, start: int, length: int) -> FileArray:
    with path.open("rb") as file:
        file.seek(start)
        shape, fortran, dtype = _header(source, file)
        offset = file.tell()
    check_bytes(source, offset - start + math.prod(shape) * dtype.itemsize, length)
    return FileArray(path, dtype, shape, offset, fortran)


def _header(source: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # numpy's parser raises many kinds on damaged headers
        raise InvalidArgument(f"{source}: not a whole npy array ({error}); save or copy it again") from error
    if dtype.hasobject:
        raise InvalidArgument(f"{source}: dtype {dtype} is not of real numbers; save integers or floats")
    return shape, fortran, dtype
