"""What a user's function finds around it: the global random generators, and names of modules that can be replaced."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from viewproof.bits import GeneratorStates


@contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Give a module or an object other attributes, and put back its own afterwards.

    >>> import time
    >>> with replaced(time, time=lambda: 0.0):
    ...     time.time()
    0.0
    """
    before = {name: getattr(owner, name) for name in attributes}
    try:
        for name, value in attributes.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def draws_numbers(call: Callable[[], object]) -> bool:
    """Whether a call uses one of the global generators of torch, NumPy and Python; it may be made twice."""
    before = GeneratorStates.now()
    call()
    after = GeneratorStates.now()
    if (before.torch, before.numpy) != (after.torch, after.numpy):
        return True
    return before.python != after.python and _draws_python_numbers(call)


def _draws_python_numbers(call: Callable[[], object]) -> bool:
    """Whether anything but a type checker does: beartype draws which item of a container it looks at."""
    generator, by_users, before = getattr(random.random, "__self__", None), list[bool](), sys.getprofile()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__self__", None) is generator:
            by_users.append(not frame.f_code.co_filename.startswith("<@beartype"))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(before)
    return any(by_users)
