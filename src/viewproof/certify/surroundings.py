"""The surroundings of a user's function: global random generators, the environment, attributes of modules."""

import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from viewproof.bits import GeneratorStates


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of a module or an object, and set it back at the end.

    >>> import time
    >>> with replaced(time, "time", lambda: 0.0):
    ...     time.time()
    0.0
    """
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment, and put the whole environment back at the end."""
    original = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(original)


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
