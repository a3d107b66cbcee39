"""Data sets of the Hugging Face `datasets` library: of the hub, saved folders, imagefolders and parquet files."""

from pathlib import Path
from typing import Any

import numpy as np

from viewproof.data.checks import require
from viewproof.data.dataset import Dataset, Statistics
from viewproof.data.indexed import from_indexed
from viewproof.errors import InvalidArgument

TESTS = ("test", "validation", "valid", "val")
LABELS = ("label", "labels", "fine_label", "class", "target")


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

    A path is a folder of ``save_to_disk``, a parquet file, or a folder that ``datasets.load_dataset`` understands (an
    imagefolder, parquet files). The held-out part is the split ``test`` or ``validation``, else `fixed_split`'s.
    ``image_column`` names the samples: by default the first column of images, else of recordings, else of arrays.
    ``label_column`` is by default the first of class labels, or one called ``label``. No network, an unknown column
    and a column of another kind raise `InvalidArgument`.
    """
    if not name:
        raise InvalidArgument("hf: names no data; pass hf:PATH, or hf:NAME[/CONFIG] of the hub")
    hub = require("datasets", f"data set 'hf:{name}'", "datasets", "data")
    parts = _splits(hub, name)
    train = parts.get("train", next(iter(parts.values())))
    test = next((parts[key] for key in TESTS if key in parts and parts[key] is not train), None)
    features = train.features
    kinds = {column: _kind(hub, feature) for column, feature in features.items()}
    found = next((c for kind in ("image", "audio", "array") for c in kinds if kinds[c] == kind), None)
    column = _checked("image_column", image_column or found, features)
    if kinds[column] is None:
        raise InvalidArgument(f"image_column={column!r} holds {features[column]}, no images, arrays or recordings")
    classes = (c for c, feature in features.items() if isinstance(feature, hub.ClassLabel))
    label = label_column or next(classes, next((c for c in LABELS if c in features), None))
    labels: list[Any] = [None, None]
    if label is not None:
        _checked("label_column", label, features)
        labels = [None if part is None else _labels(part, label) for part in (train, test)]
    names = getattr(features[label], "names", None) if label is not None else None
    undecoded = {"image": hub.Image(decode=False), "audio": hub.Audio(decode=False)}
    columns = []
    for part in (train, test):
        if part is not None:
            only = part.select_columns([column])
            decode = undecoded.get(str(kinds[column]))
            columns.append(only.with_format("numpy") if decode is None else only.cast_column(column, decode))
    return from_indexed(
        columns[0],
        columns[1] if len(columns) == 2 else None,
        name=Path(name).name,
        key=column,
        labels=labels[0],
        test_labels=labels[1],
        class_names=names,
        kind=kinds[column],  # type: ignore[arg-type]
        test_fraction=test_fraction,
        size=size,
        max_pixels=max_pixels,
        statistics=statistics,
    )


def _splits(hub: Any, name: str) -> dict[str, Any]:
    """The splits by name; a single one is called ``train``."""
    path = Path(name).expanduser()
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = hub.load_from_disk(str(path))
        elif path.is_file():
            if path.suffix != ".parquet":
                raise InvalidArgument(f"hf:{name} is a file, but no .parquet file; pass a parquet file or a folder")
            loaded = hub.load_dataset("parquet", data_files=str(path))
        elif path.is_dir():
            loaded = hub.load_dataset(str(path))
        elif name.startswith((".", "/", "~")):
            raise InvalidArgument(f"hf:{name}: no such file or folder; pass hf:PATH, or hf:NAME[/CONFIG] of the hub")
        else:
            pieces = name.split("/")
            config = "/".join(pieces[2:]) or None
            loaded = hub.load_dataset("/".join(pieces[:2]), config)
    except InvalidArgument:
        raise
    except Exception as error:  # of the hub, pyarrow, fsspec and requests
        reason = " ".join(str(error).split())[:200]
        raise InvalidArgument(
            f"hf:{name} cannot be loaded ({type(error).__name__}: {reason}); check the name and the network, or pass a"
            " local path"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _kind(hub: Any, feature: Any) -> str | None:
    if isinstance(feature, hub.Image):
        return "image"
    if isinstance(feature, hub.Audio):
        return "audio"
    if isinstance(feature, hub.Array2D | hub.Array3D | hub.Array4D):
        return "array"
    inner, depth = feature, 0
    while isinstance(inner, hub.Sequence | hub.List | hub.LargeList | list):
        inner, depth = inner[0] if isinstance(inner, list) else inner.feature, depth + 1
    numbers = ("int", "uint", "float")
    return "array" if depth and getattr(inner, "dtype", "").startswith(numbers) else None


def _checked(name: str, column: str | None, features: Any) -> str:
    if column is None or column not in features:
        what = "no column holds images, arrays or recordings" if column is None else f"{name}={column!r} is no column"
        raise InvalidArgument(f"{what}; the columns are {', '.join(features)}")
    return column


def _labels(part: Any, column: str) -> Any:
    values = part.with_format("numpy")[column][:]
    return np.asarray(values.tolist() if np.asarray(values).dtype.kind == "O" else values)
