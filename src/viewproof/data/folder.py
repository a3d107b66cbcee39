"""A folder of images, decoded when they are fetched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import require
from viewproof.data.dataset import Dataset, Split, fixed_split, make_dataset, take
from viewproof.errors import InvalidArgument

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
GREY = ("1", "L", "LA")


@dataclass(frozen=True)
class ImageFiles:
    """Images ``[N, C, H, W]`` as bytes, decoded on access; ``mode`` is Pillow's ``L`` or ``RGB``."""

    dtype: ClassVar = np.dtype(np.uint8)
    paths: tuple[Path, ...]
    mode: str
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, channels, height and width."""
        return (len(self.paths), 1 if self.mode == "L" else 3, *self.size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        fit = require("PIL.ImageOps", "a folder of images", "pillow").fit
        out = np.empty((len(index), *self.shape[1:]), np.uint8)
        for pixels, k in zip(out, index, strict=True):
            with _opened(self.paths[k]) as image:
                image = image.convert(self.mode)
                if image.size != self.size[::-1]:
                    image = fit(image, self.size[::-1])
                pixels[...] = np.asarray(image) if self.mode == "L" else np.asarray(image).transpose(2, 0, 1)
        return out


def load_folder(folder: Path, test_fraction: float, size: tuple[int, int] | None) -> Dataset:
    """All images under ``folder``, sorted by path, as ``[N, C, H, W]`` (0..255).

    They are grey if all files are, else RGB. With ``size=(H, W)`` each is cut to that aspect about its centre and
    resized (bicubic); without, all must have one size. Sub-folders name the classes. The split is `fixed_split`'s
    unless the folder has exactly the sub-folders ``train`` and ``test``, which then are the parts. Transparency and
    EXIF orientation are ignored; hidden files are skipped. Each image is decoded once here, for the statistics, and
    again whenever it is fetched. A folder without images, an unreadable or 16-bit image, and images beside class
    folders raise `InvalidArgument`.
    """
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(name.startswith(".") for name in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not paths:
        raise InvalidArgument(f"{folder}: no image ({', '.join(SUFFIXES)}) in this folder; pass one that has some")
    inside = [path.relative_to(folder).parts for path in paths]
    divided = {parts[0] for parts in inside if len(parts) > 1} == {"train", "test"}
    held_out = np.array([parts[0] == "test" for parts in inside])
    inside = [parts[1:] if divided else parts for parts in inside]
    names = tuple(sorted({parts[0] for parts in inside if len(parts) > 1}))
    loose = sum(len(parts) == 1 for parts in inside)
    if names and loose:
        raise InvalidArgument(f"{folder}: {loose} images lie beside the class folders {names}; move them into one")
    labels = np.array([names.index(parts[0]) for parts in inside], np.int64) if names else None
    whole = Split(_same_size(paths, size), labels)
    if divided:
        train, test = (take(whole, np.flatnonzero(held_out == side)) for side in (False, True))
    else:
        train, test = fixed_split(str(folder), whole, test_fraction)
    return make_dataset(folder.name, train, test, names or None, source=str(folder))


def _same_size(paths: list[Path], size: tuple[int, int] | None) -> ImageFiles:
    """The files as one collection, after reading each header."""
    mode, first = "L", None
    for path in paths:
        with _opened(path) as image:
            if image.mode[0] in "IF":
                raise InvalidArgument(
                    f"{path}: mode {image.mode} has more than 8 bits; convert it or save an .npy file"
                )
            mode = mode if image.mode in GREY else "RGB"
            found = (image.height, image.width)
        first = first or found
        if size is None and found != first:
            raise InvalidArgument(
                f"{path}: {found} pixels differ from {first} of {paths[0]}; pass size=(H, W) to crop and resize"
            )
    return ImageFiles(tuple(paths), mode, size or first or (0, 0))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    image = require("PIL.Image", "a folder of images", "pillow")
    try:
        with image.open(path) as opened:
            yield opened
    except InvalidArgument:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        raise InvalidArgument(f"{path}: not a readable image ({error}); replace or remove it") from error
