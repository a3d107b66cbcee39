"""From the bytes of an image to pixels of one size: declared formats, modes, orientation, crops."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import check_int, require
from viewproof.errors import InvalidArgument

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What Pillow may decode. Others, such as EPS, for which it starts Ghostscript, are not tried."""
GREY = ("1", "L", "LA", "La")
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
MAX_PIXELS = 2**26
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's transposition that sets an image of an EXIF orientation upright."""


@dataclass(frozen=True)
class ImageForm:
    """The form that images are brought to.

    ``mode`` is ``L`` or ``RGB``, ``size`` is (rows, columns), ``deep`` is for 16 bits a value in place of 8.
    """

    mode: str
    size: tuple[int, int]
    deep: bool = False
    max_pixels: int = MAX_PIXELS

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return (1 if self.mode == "L" else 3, *self.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels: bytes, or 16-bit integers."""
        return np.dtype(np.uint16 if self.deep else np.uint8)

    def read(self, source: Any, draw: tuple[float, ...] | None = None, min_area: float = 1.0) -> NDArray[Any]:
        """The pixels ``[C, H, W]`` of the image in ``source``.

        That is a path, a binary file or an open Pillow image. Without a draw: the largest centred region of the form's
        aspect. With ``draw``, four numbers in (0, 1): the region of `crop_box`. The region is resized, bicubic. EXIF
        orientation is applied, transparent pixels are shown on white, of several frames the first is taken. An image
        that Pillow cannot decode is an `InvalidArgument`.
        """
        if hasattr(source, "getbands"):
            return self._pixels(source, draw, min_area)
        with opened(source, self.max_pixels) as image:
            return self._pixels(image, draw, min_area)

    def _pixels(self, image: Any, draw: tuple[float, ...] | None, min_area: float) -> NDArray[Any]:
        height, width = upright_size(image)
        rows, columns = self.size
        aspect = (columns / rows) / (width / height)
        if draw is None:
            share = (min(1.0, 1 / aspect), min(1.0, aspect))
            top, left, tall, wide = (1 - share[0]) / 2, (1 - share[1]) / 2, *share
        else:
            top, left, tall, wide = crop_box(draw, min_area, aspect)
        if image.format == "JPEG" and self.mode in ("L", "RGB") and image.mode in ("L", "RGB"):
            # Decoding at a half, a quarter or an eighth of the size, while the region keeps all its pixels.
            least = math.ceil(max(rows / tall, 1)), math.ceil(max(columns / wide, 1))
            image.draft(None, least if orientation(image) in (5, 6, 7, 8) else least[::-1])
        image.load()
        turn = TURNS.get(orientation(image))
        image = self._converted(image if turn is None else image.transpose(turn))
        height, width = image.height, image.width
        box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
        if image.size != (columns, rows) or draw is not None:
            image = image.resize((columns, rows), 3, box=box)
        pixels = np.asarray(image)
        if self.deep:
            scaled = pixels if image.mode == "F" else pixels.astype(np.float32) * 257
            pixels = np.clip(np.rint(scaled), 0, 65535).astype(np.uint16)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return pixels if pixels.shape == self.shape else np.broadcast_to(pixels, self.shape)

    def _converted(self, image: Any) -> Any:
        if image.mode in DEEP:
            values = np.asarray(image)
            pillow = require("PIL.Image", "images", "pillow")
            if self.deep:
                return pillow.fromarray(values.astype(np.float32))
            image = pillow.fromarray(np.rint(values / 257).astype(np.uint8))
        if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
            image = image.convert("RGBA")
            white = require("PIL.Image", "images", "pillow").new("RGBA", image.size, "white")
            image = require("PIL.Image", "images", "pillow").alpha_composite(white, image)
        return image if image.mode == self.mode else image.convert(self.mode)


def crop_box(draw: tuple[float, ...], min_area: float, aspect: float = 1.0) -> tuple[float, float, float, float]:
    """Top, left, height and width of a random region, as shares of an image.

    ``draw`` are four numbers in (0, 1). The region's area is uniform from ``min_area`` to all, its aspect between 3/4
    and 4/3 of the picture it becomes, cut where it would be larger than the image, its place uniform. ``aspect``: the
    picture's width over height, divided by the image's.

    >>> crop_box((0.5, 0.5, 0.5, 0.5), min_area=0.5)
    (0.0669872981077807, 0.0669872981077807, 0.8660254037844386, 0.8660254037844386)
    """
    area = min_area + (1 - min_area) * draw[0]
    ratio = math.exp((2 * draw[1] - 1) * math.log(4 / 3)) * aspect
    tall, wide = min(1.0, math.sqrt(area / ratio)), min(1.0, math.sqrt(area * ratio))
    return (1 - tall) * draw[2], (1 - wide) * draw[3], tall, wide


def orientation(image: Any) -> int:
    """The EXIF orientation of an opened image, 1 if it has none; no pixel is decoded."""
    tags = image.getexif() if "exif" in image.info else getattr(image, "tag_v2", None) or {}
    return int(tags.get(274, 1))


def upright_size(image: Any) -> tuple[int, int]:
    """Height and width of an opened image once its orientation is applied."""
    return (image.width, image.height) if orientation(image) in (5, 6, 7, 8) else (image.height, image.width)


@contextmanager
def opened(source: Any, max_pixels: int = MAX_PIXELS) -> Iterator[Any]:
    """Open an image of a declared format.

    What goes wrong inside is an `InvalidArgument` that names it.
    """
    pillow = require("PIL.Image", "images", "pillow")
    name = source if isinstance(source, str | os.PathLike) else "image"
    if source is None:
        raise InvalidArgument(f"{name}: is missing; leave its sample out")
    try:
        with pillow.open(source, formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise InvalidArgument(
                    f"{name}: {image.width} x {image.height} pixels are more than max_pixels={max_pixels}; shrink it,"
                    " or pass a larger max_pixels"
                )
            yield image
    except InvalidArgument:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds on damaged bytes
        reason = "of none of the formats " + ", ".join(FORMATS) if "cannot identify" in str(error) else error
        raise InvalidArgument(f"{name}: not a readable image ({reason}); replace or remove it") from error


def check_max_pixels(max_pixels: int) -> int:
    """Return a bound on an image's pixels; Pillow itself refuses more than 178,956,970."""
    if check_int("max_pixels", max_pixels, 1) > 178_956_970:
        raise InvalidArgument(f"max_pixels={max_pixels} must be at most 178956970, which is Pillow's own bound")
    return max_pixels


def looks_whole(file: Any, kind: str) -> bool:
    """Whether a binary file ends as its format must; False of formats whose end says nothing."""
    file.seek(0)
    head, size = file.read(12), file.seek(0, 2)
    file.seek(max(0, size - 16))
    tail = file.read()
    if kind == "JPEG":
        return bool(tail.rstrip(b"\0").endswith(b"\xff\xd9"))
    if kind == "PNG":
        return bool(tail.endswith(b"IEND\xaeB`\x82"))
    return kind == "WEBP" and int.from_bytes(head[4:8], "little") + 8 <= size
