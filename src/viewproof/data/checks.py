"""What every loader asks of its input, and the one wording of each complaint."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from viewproof.errors import InvalidArgument


def check_int(name: str, value: object, minimum: int) -> int:
    """Return ``value``; anything but an integer of at least ``minimum`` raises `InvalidArgument`.

    >>> check_int("batch_size", 8, 1)
    8
    >>> check_int("batch_size", 0.5, 1)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: batch_size=0.5 must be an integer of at least 1
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise InvalidArgument(f"{name}={value!r} must be an integer of at least {minimum}")
    return int(value)


def check_fraction(value: object) -> float:
    """Return ``value``; anything but a number strictly between 0 and 1 raises `InvalidArgument`.

    >>> check_fraction(1.0)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: test_fraction=1.0 must lie strictly between 0 and 1
    """
    if not isinstance(value, float) or not 0 < value < 1:
        raise InvalidArgument(f"test_fraction={value!r} must lie strictly between 0 and 1")
    return value


def check_image_size(size: Any, max_pixels: int) -> tuple[int, int] | None:
    """Return ``size=(rows, columns)``, or None.

    Anything else, and too many pixels, raise `InvalidArgument`.

    >>> check_image_size((None, 2), 2**26)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: size[0]=None must be an integer of at least 1
    """
    if size is None:
        return None
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise InvalidArgument(f"size={size!r} must be (H, W), for instance (224, 224)")
    height, width = (check_int(f"size[{axis}]", extent, 1) for axis, extent in enumerate(size))
    if height * width > max_pixels:
        raise InvalidArgument(f"size={size!r} has more pixels than max_pixels={max_pixels}; pass a smaller size")
    return height, width


def check_array(source: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse what is not a non-empty ``[N, *shape]`` of real numbers, with an `InvalidArgument`.

    >>> check_array("x.npy", (10,), np.dtype("float32"))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: x.npy: shape (10,) has no sample axes; save the samples as [N, *shape]
    """
    if dtype.kind not in "biuf":
        raise InvalidArgument(f"{source}: dtype {dtype} is not of real numbers; save integers or floats")
    if len(shape) < 2:
        raise InvalidArgument(f"{source}: shape {shape} has no sample axes; save the samples as [N, *shape]")
    if len(shape) == 4 and dtype == np.uint8 and shape[3] in (1, 3, 4) and shape[1] > 4:
        raise InvalidArgument(
            f"{source}: shape {shape} of bytes has the channels last; save [N, C, H, W]: x.transpose(0, 3, 1, 2)"
        )
    if 0 in shape:
        raise InvalidArgument(f"{source}: shape {shape} is empty; save at least one value of one sample")


def check_bytes(source: str, expected: int, found: int, damage: str = "") -> None:
    """Refuse a file of the wrong length, or one that ended in ``damage``, with an `InvalidArgument`.

    >>> check_bytes("t.bin", expected=8, found=5)
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: t.bin: expected 8 bytes, found 5; the file is damaged, copy it again
    """
    if expected != found or damage:
        reason = f" ({damage})" if damage else ""
        raise InvalidArgument(
            f"{source}: expected {expected} bytes, found {found}{reason}; the file is damaged, copy it again"
        )


def require(module: str, what: str, package: str, extra: str = "train") -> Any:
    """Import ``module`` when it is first needed; a missing one raises `InvalidArgument`.

    >>> require("no_such_module", "data set 'digits'", "no-such-package")
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: data set 'digits' needs no-such-package; pip install 'viewproof[train]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InvalidArgument(f"{what} needs {package}; pip install 'viewproof[{extra}]'") from error
