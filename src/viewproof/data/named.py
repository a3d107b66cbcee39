"""The named data sets: inside other packages, or in files beside them; nothing is downloaded.

An IDX file, the format of MNIST and its relatives, is two zero bytes, a dtype code, the number of axes, each extent as
a big-endian uint32, then the values, big-endian and row-major (http://yann.lecun.com/exdb/mnist). Fashion-MNIST is by
Xiao, Rasul and Vollgraf (2017, arXiv:1708.07747), CIFAR-10 by Krizhevsky (2009,
https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import check_bytes, require
from viewproof.data.dataset import Dataset, Split, fixed_split, make_dataset
from viewproof.errors import InvalidArgument

PHOTOS = {
    "astronaut": "astronaut.png",
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "galaxies": "hubble_deep_field.jpg",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "tissue": "ihc.png",
}
DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


def load_digits(test_fraction: float) -> Dataset:
    """scikit-learn's 1,797 handwritten digits ``[N, 1, 8, 8]``, values 0..16.

    The split is `fixed_split`'s. A missing scikit-learn raises `InvalidArgument`.
    """
    bunch = require("sklearn.datasets", "data set 'digits'", "scikit-learn").load_digits()
    whole = Split(bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64))
    return make_dataset("digits", *fixed_split("digits", whole, test_fraction))


def load_photos(test_fraction: float, size: tuple[int, int]) -> Dataset:
    """Crops ``[N, 3, *size]`` (0..255) of scikit-image's colour photographs, labelled by photograph.

    Crops lie side by side and do not overlap. The rightmost ``round(columns * test_fraction)`` columns of crops (at
    least one) of each photograph are the test part, so the parts show disjoint regions. Crops so large that a
    photograph has fewer than two columns, and a missing scikit-image, raise `InvalidArgument`.
    """
    folder = Path(require("skimage", "data set 'photos'", "scikit-image").__file__).parent / "data"
    image = require("PIL.Image", "data set 'photos'", "pillow")
    parts: tuple[list[Any], list[Any]] = ([], [])
    for name, file in PHOTOS.items():
        if not (folder / file).is_file():
            raise InvalidArgument(f"this scikit-image does not ship {file}; pip install 'scikit-image>=0.24'")
        with image.open(folder / file) as photo:
            pixels = np.asarray(photo.convert("RGB"))
        rows, columns = pixels.shape[0] // size[0], pixels.shape[1] // size[1]
        if rows < 1 or columns < 2:
            raise InvalidArgument(
                f"size={size} is too large for the photograph {name!r} of {pixels.shape[:2]}; pass a smaller size"
            )
        pixels = pixels[: rows * size[0], : columns * size[1]].reshape(rows, size[0], columns, size[1], 3)
        crops = pixels.transpose(0, 2, 4, 1, 3)
        held_out = min(max(round(columns * test_fraction), 1), columns - 1)
        for part, grid in zip(parts, (crops[:, :-held_out], crops[:, -held_out:]), strict=True):
            part.append(grid.reshape(-1, 3, *size))
    return make_dataset("photos", _labelled(parts[0]), _labelled(parts[1]), tuple(PHOTOS), natural=True)


def _labelled(grids: list[NDArray[np.uint8]]) -> Split:
    labels = np.repeat(np.arange(len(grids), dtype=np.int64), [len(grid) for grid in grids])
    return Split(np.concatenate(grids), labels)


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
    content, damage = _read_damaged(path)
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


def _read_damaged(path: Path) -> tuple[bytes, str]:
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
    return make_dataset(
        "fashion-mnist",
        _fashion_part(folder, "train"),
        _fashion_part(folder, "t10k"),
        FASHION_CLASSES,
        source=str(folder),
    )


def _fashion_part(folder: Path, prefix: str) -> Split:
    image_file, label_file = (
        _find_idx(folder, f"{prefix}-images-idx3-ubyte"),
        _find_idx(folder, f"{prefix}-labels-idx1-ubyte"),
    )
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim != 3 or labels.shape != images.shape[:1] or images.dtype != np.uint8 or labels.dtype != np.uint8:
        raise InvalidArgument(
            f"{image_file} holds {images.dtype} {images.shape} and {label_file.name} {labels.dtype} {labels.shape};"
            " they must be bytes of shape (N, H, W) and (N,)"
        )
    return Split(images[:, None], labels.astype(np.int64))


def _find_idx(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise InvalidArgument(f"{folder}: neither {name} nor {name}.gz is there; copy the four Fashion-MNIST files into it")


def load_cifar10(folder: Path, records: int = 10_000) -> Dataset:
    """CIFAR-10's 50,000 and 10,000 images ``[N, 3, 32, 32]`` (0..255) from its ``.bin`` files.

    Each file has ``records`` records of 3073 bytes: a label, then red, green and blue planes. A missing file, and any
    byte too few or too many, raise `InvalidArgument` naming the file.
    """
    train = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
    return make_dataset(
        "cifar-10",
        _cifar_part(train, records),
        _cifar_part([folder / "test_batch.bin"], records),
        CIFAR_CLASSES,
        source=str(folder),
        natural=True,
    )


def _cifar_part(files: list[Path], records: int) -> Split:
    for file in files:
        if not file.is_file():
            raise InvalidArgument(f"no file {file}; unpack cifar-10-binary.tar.gz and pass 'cifar-10:FOLDER'")
        check_bytes(str(file), records * RECORD, file.stat().st_size)
    data = np.concatenate([np.fromfile(file, np.uint8).reshape(records, RECORD) for file in files])
    return Split(data[:, 1:].reshape(-1, 3, 32, 32), data[:, 0].astype(np.int64))
