"""The surroundings of a user's function: the environment and the global random generators."""

import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from viewproof.bits import GeneratorStates


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
    """Whether a call uses a global generator of torch, NumPy or Python; it may be made twice."""
    before = GeneratorStates.now()
    call()
    after = GeneratorStates.now()
    if (before.torch, before.numpy) != (after.torch, after.numpy) or before.python == after.python:
        return before != after
    # A type checker does not count: beartype draws which item of a container it looks at.
    generator, by_users, profile = getattr(random.random, "__self__", None), list[bool](), sys.getprofile()

    def watch(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and getattr(function, "__self__", None) is generator:
            by_users.append(not frame.f_code.co_filename.startswith("<@beartype"))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(profile)
    return any(by_users)
