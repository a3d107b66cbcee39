"""Equality bit for bit, and the state of the global random generators."""

import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def unlike(a: Tensor, b: Tensor) -> Tensor:
    """Where two tensors of one shape and dtype differ in at least one bit, as a bool tensor.

    >>> unlike(torch.tensor([0.0, float("nan"), 1.0]), torch.tensor([-0.0, float("nan"), 1.0]))
    tensor([ True, False, False])
    """
    if a.dtype == torch.bool:
        return a != b
    if a.is_complex():
        return unlike(*(torch.view_as_real(t.resolve_conj()) for t in (a, b))).any(-1)
    word = _WORDS[a.element_size()]
    return a.detach().contiguous().view(word) != b.detach().contiguous().view(word)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether shape, dtype and every bit agree, NaN payloads and the sign of zero included.

    >>> same_bits(torch.zeros(2), torch.zeros(2)), same_bits(torch.zeros(2), -torch.zeros(2))
    (True, False)
    """
    return a.shape == b.shape and a.dtype == b.dtype and not bool(unlike(a, b).any())


@dataclass(frozen=True)
class GeneratorStates:
    """The states of the global generators of torch (CPU and every CUDA device), NumPy and Python."""

    torch: bytes
    numpy: bytes
    python: Any

    @classmethod
    def now(cls) -> "GeneratorStates":
        """The states at this moment; two are equal iff nothing was drawn or seeded in between.

        >>> before, _, after = GeneratorStates.now(), torch.rand(1), GeneratorStates.now()
        >>> before.torch == after.torch, before.numpy == after.numpy
        (False, True)
        """
        devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        states = [torch.get_rng_state(), *devices]
        torch_state = b"".join(s.cpu().numpy().tobytes() for s in states)
        return cls(torch_state, pickle.dumps(np.random.get_state(legacy=False)), random.getstate())


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start the global generators of torch, NumPy and Python at ``seed``; put them back afterwards.

    >>> with seeded(3):
    ...     a = torch.rand(1)
    >>> with seeded(3):
    ...     torch.equal(a, torch.rand(1))
    True
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:
            # The same, but that notes its callers for devices that may come, which takes milliseconds.
            torch.default_generator.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
