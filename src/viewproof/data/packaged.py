"""Data sets that come inside other packages: nothing is downloaded."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import require
from viewproof.data.dataset import Dataset, Split, make_dataset
from viewproof.data.split import fixed_split
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
            crops = _crops(name, np.asarray(photo.convert("RGB")), size)
        columns = crops.shape[1]
        held_out = min(max(round(columns * test_fraction), 1), columns - 1)
        for part, grid in zip(parts, (crops[:, :-held_out], crops[:, -held_out:]), strict=True):
            part.append(grid.reshape(-1, 3, *size))
    return make_dataset("photos", _labelled(parts[0]), _labelled(parts[1]), tuple(PHOTOS))


def _crops(name: str, photo: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The grid ``[rows, columns, 3, *size]`` of crops of a photograph ``[H, W, 3]``.

    The first lies at the upper left.
    """
    height, width = size
    rows, columns = photo.shape[0] // height, photo.shape[1] // width
    if rows < 1 or columns < 2:
        raise InvalidArgument(
            f"size={size} is too large for the photograph {name!r} of {photo.shape[:2]}; pass a smaller size"
        )
    photo = photo[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    return photo.transpose(0, 2, 4, 1, 3)


def _labelled(grids: list[NDArray[np.uint8]]) -> Split:
    labels = np.repeat(np.arange(len(grids), dtype=np.int64), [len(grid) for grid in grids])
    return Split(np.concatenate(grids), labels)
