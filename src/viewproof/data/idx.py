"""IDX files, the format of MNIST and its relatives, and Fashion-MNIST in it.

A file is two zero bytes, a dtype code, the number of axes, each extent as a big-endian uint32, then the values,
big-endian and row-major (http://yann.lecun.com/exdb/mnist). Fashion-MNIST is by Xiao, Rasul and Vollgraf (2017,
arXiv:1708.07747).
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import check_bytes
from viewproof.data.dataset import Dataset, Split, make_dataset
from viewproof.errors import InvalidArgument

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def read_idx(path: Path) -> NDArray[Any]:
    """The array of an IDX file, gzipped if its name ends in ``.gz``, in the file's dtype.

    A wrong magic number, and any byte too few or too many, raise `InvalidArgument` naming the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels")
    ...     _ = file.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 8, 9]))
    ...     read_idx(file)
    array([7, 8, 9], dtype=uint8)
    """
    content, damage = _read(path)
    if len(content) < 4:
        check_bytes(str(path), 4, len(content), damage)
    zeros, code, rank = content[:2], content[2], content[3]
    if zeros != b"\0\0" or code not in DTYPES:
        raise InvalidArgument(f"{path}: magic number {content[:4].hex()} is not IDX's; pass an IDX file")
    start = 4 + 4 * rank
    if len(content) < start:
        check_bytes(str(path), start, len(content), damage)
    shape = tuple(int(extent) for extent in np.frombuffer(content, ">u4", rank, 4))
    dtype = np.dtype(DTYPES[code])
    check_bytes(str(path), start + math.prod(shape) * dtype.itemsize, len(content), damage)
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _read(path: Path) -> tuple[bytes, str]:
    content, damage = bytearray(), ""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            while block := file.read1(2**20):
                content += block
        except (EOFError, OSError, zlib.error) as error:
            damage = str(error)
    return bytes(content), damage


def load_fashion_mnist(folder: Path) -> Dataset:
    """Fashion-MNIST's 60,000 and 10,000 images ``[N, 1, 28, 28]`` (0..255) from ``folder``.

    The files may be gzipped. A missing folder or file, a damaged one, and images and labels that do not match raise
    `InvalidArgument`.
    """
    if not folder.is_dir():
        raise InvalidArgument(
            f"no folder {folder}; install Debian's package dataset-fashion-mnist, or pass 'fashion-mnist:FOLDER'"
        )
    return make_dataset("fashion-mnist", _part(folder, "train"), _part(folder, "t10k"), CLASSES, source=str(folder))


def _part(folder: Path, prefix: str) -> Split:
    image_file, label_file = _find(folder, f"{prefix}-images-idx3-ubyte"), _find(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.shape != images.shape[:1] or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise InvalidArgument(
            f"{image_file} holds {images.dtype} {images.shape} and {label_file.name} {labels.dtype} {labels.shape};"
            " they must be bytes of shape (N, H, W) and (N,)"
        )
    return Split(images[:, None], labels.astype(np.int64))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidArgument(f"{folder}: neither {name} nor {name}.gz is there; copy the four Fashion-MNIST files into it")
