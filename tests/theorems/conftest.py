from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def symbols_are_arguments() -> Iterator[None]:
    """The shape checker of the test run refuses a symbol where a signature says int: it is off in the test."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
