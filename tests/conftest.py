import signal
from collections.abc import Iterator

import plain
import pytest
import torch
from hypothesis import settings

# Tensors here are tiny: a second thread would only wait for the first.
torch.set_num_threads(1)
# A shell starts background jobs with Ctrl-C ignored, and the processes that tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
settings.register_profile("viewproof", deadline=None, derandomize=True, max_examples=50, print_blob=True)
settings.load_profile("viewproof")


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Tests of compiled code trace the plain copy, with no graph or recompile count of an earlier test."""
    torch._dynamo.reset()
    with plain.installed():
        yield
    torch._dynamo.reset()
