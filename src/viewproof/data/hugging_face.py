"""Data sets of Hugging Face: of the hub, saved folders, imagefolders and parquet files."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import require
from viewproof.data.dataset import Dataset, Statistics
from viewproof.data.indexed import from_indexed
from viewproof.errors import InvalidArgument
from viewproof.progress import progress

TESTS = ("test", "validation", "valid", "val")
LABELS = ("label", "labels", "fine_label", "class", "target")
HUB_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:/(\w[\w.-]*))?(?:@(\w[\w./-]*))?")
"""``NAME[/CONFIG][@REVISION]``; a path that is not there and no such name was meant as a path."""


def load_hugging_face(
    name: str,
    test_fraction: float = 0.1,
    size: tuple[int, int] | None = None,
    max_pixels: int = 2**26,
    statistics: Statistics | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """The data set ``NAME[/CONFIG]`` of the hub, or that of a local path.

    ``@REVISION`` behind a name is a commit, a branch or a tag of its repository; without it the newest commit is taken.
    A path is a folder of ``save_to_disk``, a parquet file, or a folder that ``datasets.load_dataset`` understands (an
    imagefolder, parquet files). ``image_column`` names the samples: by default the first column of images, else of
    recordings, else of arrays, else of bytes, which are taken for the files of images. ``label_column`` is by default
    the first of class labels, or one called ``label`` that holds integers, strings or booleans; ``""`` is for none.
    A part all of whose labels are missing (None, or the -1 of the hub's class labels) has none. The held-out part is
    the split ``test`` or ``validation``, the first that is labelled if ``train`` is, else `fixed_split`'s. No network,
    an unknown column, a column of another kind, missing samples and a part labelled in part raise `InvalidArgument`.
    """
    if not name:
        raise InvalidArgument("hf: names no data; pass hf:PATH, or hf:NAME[/CONFIG][@REVISION] of the hub")
    if "://" in name:
        raise InvalidArgument(f"hf:{name} is an address; pass hf:NAME[/CONFIG], such as hf:owner/name, or a local path")
    hub = require("datasets", f"data set 'hf:{name}'", "datasets", "data")
    title = Path(name).name if Path(name).expanduser().exists() else name.partition("@")[0].split("/")[:2][-1]
    parts = _splits(hub, name)
    train = parts.get("train", next(iter(parts.values())))
    features = train.features
    kinds = {column: _kind(hub, feature) for column, feature in features.items()}
    found = next((c for kind in ("image", "audio", "array", "bytes") for c in kinds if kinds[c] == kind), None)
    column = _checked("image_column", image_column or found, features)
    if kinds[column] is None:
        raise InvalidArgument(f"image_column={column!r} holds {features[column]}, no images, arrays or recordings")
    label = label_column
    if label is None:
        classes = [c for c, feature in features.items() if isinstance(feature, hub.ClassLabel)]
        label = next((c for c in (*classes, *LABELS) if c in features and _names_classes(hub, features[c])), "")
    elif label and not _names_classes(hub, features[_checked("label_column", label, features)]):
        raise InvalidArgument(
            f"label_column={label!r} holds {features[label]}, not one integer, string or boolean a sample; pass another"
            " column, or '' for no labels"
        )
    known = _labels(train, label)
    tests = [
        (part, _labels(part, label))
        for part in (parts.get(key) for key in TESTS)
        if part is not None and part is not train
    ]
    if known is not None:  # a test part whose labels the hub withholds is no test part
        tests = [(part, labels) for part, labels in tests if labels is not None]
    test, test_labels = tests[0] if tests else (None, None)
    undecoded: dict[Any, Any] = {"image": hub.Image(decode=False), "audio": hub.Audio(decode=False)}
    columns = []
    for part in (train, test):
        if part is not None:
            only = part.select_columns([column])
            if missing := only.data.column(column).null_count:
                raise InvalidArgument(f"{column!r}: {missing} of {len(part)} samples are missing; drop these rows")
            if kinds[column] in undecoded:
                only = only.cast_column(column, undecoded[kinds[column]])
            columns.append(only.with_format("numpy") if kinds[column] == "array" else only)
    return from_indexed(
        columns[0],
        columns[1] if len(columns) == 2 else None,
        name=title,
        key=column,
        labels=known,
        test_labels=None if known is None else test_labels,
        class_names=getattr(features[label], "names", None) if known is not None else None,
        kind="image" if kinds[column] == "bytes" else kinds[column],  # type: ignore[arg-type]
        test_fraction=test_fraction,
        size=size,
        max_pixels=max_pixels,
        statistics=statistics,
    )


def _splits(hub: Any, name: str) -> dict[str, Any]:
    """The splits by name; a single one is called ``train``."""
    path, named = Path(name).expanduser(), HUB_NAME.fullmatch(name)
    local = path.exists()
    if not local and (path.suffix.lower() == ".parquet" or named is None):
        raise InvalidArgument(f"hf:{name}: no such file or folder; pass hf:PATH, or hf:NAME[/CONFIG] of the hub")
    if path.is_file() and path.suffix.lower() != ".parquet":
        raise InvalidArgument(f"hf:{name} is a file, but no .parquet file; pass a parquet file or a folder")
    try:
        with _complaints_silenced():
            if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                loaded = hub.load_from_disk(str(path))
            elif path.is_file():
                loaded = hub.load_dataset("parquet", data_files=str(path))
            elif local:
                loaded = hub.load_dataset(str(path))
            else:
                repository, part, revision = named.groups()  # type: ignore[union-attr]
                for _ in progress([name], f"asking the hub for {name}", slow=True):
                    loaded = hub.load_dataset(repository, part, revision=revision)
    except Exception as error:  # of the hub, pyarrow, fsspec and requests
        cause: BaseException = error
        while cause.__cause__ is not None:  # "An error occurred while generating the dataset" says nothing
            cause = cause.__cause__
        reason = " ".join(str(cause).split())[:200]
        remedy = "check or copy it again" if local else "check the name and the network, or pass a local path"
        raise InvalidArgument(f"hf:{name} cannot be loaded ({type(cause).__name__}: {reason}); {remedy}") from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


@contextmanager
def _complaints_silenced() -> Iterator[None]:
    """Load without what the libraries log.

    What goes wrong is said in one line, and the hub's retries alone log a dozen.
    """
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _kind(hub: Any, feature: Any) -> str | None:
    if isinstance(feature, hub.Image):
        return "image"
    if isinstance(feature, hub.Audio):
        return "audio"
    if isinstance(feature, hub.Array2D | hub.Array3D | hub.Array4D):
        return "array"
    if isinstance(feature, dict):  # an image as the library stores it, by a writer that did not say so
        feature = feature.get("bytes")
    if isinstance(feature, hub.Value) and feature.dtype in ("binary", "large_binary"):
        return "bytes"
    inner, depth = feature, 0
    while isinstance(inner, hub.Sequence | hub.List | hub.LargeList | list):
        inner, depth = inner[0] if isinstance(inner, list) else inner.feature, depth + 1
    numbers = ("int", "uint", "float")
    return "array" if depth and getattr(inner, "dtype", "").startswith(numbers) else None


def _names_classes(hub: Any, feature: Any) -> bool:
    """Whether a column holds one integer, string or boolean a sample."""
    kinds = ("int", "uint", "bool", "string", "large_string")
    return isinstance(feature, hub.ClassLabel) or (isinstance(feature, hub.Value) and feature.dtype.startswith(kinds))


def _checked(name: str, column: str | None, features: Any) -> str:
    if column is None or column not in features:
        what = "no column holds images, arrays or recordings" if column is None else f"{name}={column!r} is no column"
        raise InvalidArgument(f"{what}; the columns are {', '.join(features)}")
    return column


def _labels(part: Any, column: str) -> NDArray[Any] | None:
    """The labels of a part, or None if none is known.

    A part of which only some samples are labelled raises `InvalidArgument`.
    """
    if not column or column not in part.features:
        return None
    values = part.with_format(None)[column][:]
    withheld = -1 if hasattr(part.features[column], "names") else None
    missing = sum(value is None or value == withheld for value in values)
    if missing and missing < len(values):
        raise InvalidArgument(
            f"label_column={column!r}: {missing} of {len(values)} samples have no label; drop these rows, or pass"
            " label_column='' for no labels"
        )
    return None if missing else np.asarray(values)
