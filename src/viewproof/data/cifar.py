"""CIFAR-10 in its binary version (https://www.cs.toronto.edu/~kriz/cifar.html; Krizhevsky 2009)."""

from pathlib import Path

import numpy as np

from viewproof.data.checks import check_bytes
from viewproof.data.dataset import Dataset, Split, make_dataset
from viewproof.errors import InvalidArgument

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORD = 1 + 3 * 32 * 32


def load_cifar10(folder: Path, records: int = 10_000) -> Dataset:
    """CIFAR-10's 50,000 and 10,000 images ``[N, 3, 32, 32]`` (0..255) from its ``.bin`` files.

    Each file has ``records`` records of 3073 bytes: a label, then red, green and blue planes. A missing file, and any
    byte too few or too many, raise `InvalidArgument` naming the file.
    """
    train = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
    return make_dataset(
        "cifar-10", _part(train, records), _part([folder / "test_batch.bin"], records), CLASSES, source=str(folder)
    )


def _part(files: list[Path], records: int) -> Split:
    for file in files:
        if not file.is_file():
            raise InvalidArgument(f"no file {file}; unpack cifar-10-binary.tar.gz and pass 'cifar-10:FOLDER'")
        check_bytes(str(file), records * RECORD, file.stat().st_size)
    data = np.concatenate([np.fromfile(file, np.uint8).reshape(records, RECORD) for file in files])
    return Split(data[:, 1:].reshape(-1, 3, 32, 32), data[:, 0].astype(np.int64))
