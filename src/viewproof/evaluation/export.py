"""Embeddings in a file that other tools read: npz or parquet."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from viewproof.errors import InvalidArgument
from viewproof.files import check_new, whole_file

SUFFIXES = (".npz", ".parquet")


def check_target(path: Path) -> None:
    """Refuse, before anything is computed, a file that could not be written.

    >>> check_target(Path("embeddings.csv"))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: export='embeddings.csv' must end in .npz or .parquet
    """
    if path.suffix not in SUFFIXES:
        raise InvalidArgument(f"export={str(path)!r} must end in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise InvalidArgument(f"export={str(path)!r} lies in no folder; make {str(path.parent)!r} first")
    check_new(export=path)
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise InvalidArgument(f"export={str(path)!r} needs pyarrow; pip install pyarrow, or export to .npz")


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of one length; a matrix ``[N, D]`` is a column of lists of D numbers.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "embeddings.npz"
    >>> write_table(file, {"embeddings": np.zeros((2, 3), np.float32), "sample_ids": np.arange(2)})
    >>> np.load(file)["embeddings"].shape
    (2, 3)
    """
    check_target(path)
    with whole_file(path, "wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **columns)
            return
        import pyarrow
        import pyarrow.parquet

        arrays = {}
        for name, values in columns.items():
            flat = pyarrow.array(values.reshape(-1))
            matrix = values.ndim == 2
            arrays[name] = pyarrow.FixedSizeListArray.from_arrays(flat, values.shape[1]) if matrix else flat
        pyarrow.parquet.write_table(pyarrow.table(arrays), file)
