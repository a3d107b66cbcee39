"""The data of a new run, read by a copy of the process while the rest of the program is imported.

Importing Lightning takes seconds of one processor, and so does reading the headers of many files.
"""

import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from typing import Any

from viewproof.data import IMAGENET, Dataset, load_dataset
from viewproof.errors import InvalidArgument
from viewproof.runs.config import PretrainConfig

SLOW = "viewproof.training.trainer"
"""The module that imports Lightning."""


@contextmanager
def reading(config: PretrainConfig) -> Iterator[Callable[[PretrainConfig], Dataset]]:
    """Begin to read a folder; what is given returns the data set of a configuration, once it is read.

    Data that are no folder, and those of another configuration, are read when they are asked for.
    """
    asked = arguments(config)
    if not os.path.isdir(config.data) or not hasattr(os, "fork") or SLOW in sys.modules:  # noqa: PTH112 - it may be no path
        yield read
        return
    receive, send = get_context("fork").Pipe(duplex=False)
    process = get_context("fork").Process(target=_sent, args=(asked, send))
    process.start()
    send.close()

    def dataset(config: PretrainConfig) -> Dataset:
        if arguments(config) != asked:
            return read(config)
        try:
            value = pickle.loads(receive.recv_bytes())
        except EOFError:  # the copy was killed, or has been asked already
            return read(config)
        if isinstance(value, Exception):
            raise value
        return value  # type: ignore[no-any-return]

    try:
        yield dataset
    finally:
        process.terminate()
        process.join()


def read(config: PretrainConfig) -> Dataset:
    """The data set of a configuration."""
    return load_dataset(**arguments(config))


def arguments(config: PretrainConfig) -> dict[str, Any]:
    """What `load_dataset` takes for it."""
    return {
        "name_or_path": config.data,
        "size": parse_size(config.size),
        "skip_unreadable": config.skip_unreadable,
        "max_pixels": config.max_pixels,
        "image_column": config.image_column,
        "label_column": config.label_column,
        **parse_statistics(config.mean, config.std),
    }


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Rows and columns from ``H,W``, or from one number for both."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise InvalidArgument(f"size={text!r} must be H,W in pixels, for instance 224,224")
    return int(parts[0]), int(parts[-1])


def parse_statistics(mean: str | None, std: str | None) -> dict[str, Sequence[float]]:
    """The arguments ``mean`` and ``std`` of `load_dataset` from numbers with commas between them, or ``imagenet``."""
    if mean == "imagenet" and std in (None, "imagenet"):
        return {"mean": IMAGENET[0], "std": IMAGENET[1]}
    values: dict[str, Sequence[float]] = {}
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                values[name] = [float(part) for part in text.split(",")]
            except ValueError:
                raise InvalidArgument(
                    f"{name}={text!r} must be numbers with commas between them, or imagenet"
                ) from None
    return values


def _sent(asked: dict[str, Any], send: Any) -> None:
    """In the copy: send the data set, or what was raised."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process ends it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # with the processes that read headers
    gc.enable()
    try:
        value: Any = load_dataset(**asked)
    except Exception as error:
        value = error
    with suppress(BrokenPipeError):  # the process was killed
        # A tensor's bytes, and not the name of shared memory that ends with this process.
        send.send_bytes(pickle.dumps(value))
