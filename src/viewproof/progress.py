"""A progress bar on the terminal, for loops that may take seconds."""

import sys
from collections.abc import Generator, Iterable
from typing import TypeVar

Item = TypeVar("Item")
DELAY = 2.0
"""Seconds before a bar appears: what is done sooner shows none."""


def progress(
    items: Iterable[Item], what: str, unit: str = "batch", total: int | None = None, *, slow: bool = False
) -> Generator[Item, None, None]:
    """The items, with a bar on the error stream once two seconds have passed, which vanishes at the end.

    A ``slow`` item takes seconds for itself; on a terminal the bar is then there from the start. ``total`` is the
    number of items, where ``len(items)`` does not say. Without tqdm there is no bar.

    >>> list(progress(range(3), "counting"))
    [0, 1, 2]
    """
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield from items
        return
    terminal = sys.stderr.isatty()
    delay, pause = 0.0 if slow and terminal else DELAY, 0.1 if terminal else 10.0
    yield from tqdm(items, desc=what, total=total, unit=unit, delay=delay, leave=False, mininterval=pause)
