"""Which precision a machine multiplies faster in, measured."""

import statistics
import time
from typing import Literal

import torch

FASTER = 1.2
"""How many times faster bfloat16 must be to be taken: autocast also converts."""


def multiply_seconds(dtype: torch.dtype, device: torch.device, rows: int = 2048, rounds: int = 5) -> float:
    """The median seconds of a product of ``[rows, 512]`` and ``[512, 512]``, after one that warms up."""
    a, b = torch.ones(rows, 512, dtype=dtype, device=device), torch.ones(512, 512, dtype=dtype, device=device)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for _ in range(4):
            c = a @ b
        c[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]) / 4


def faster_precision(accelerator: str) -> Literal["32-true", "bf16-mixed"]:
    """``"bf16-mixed"`` if the device that trains multiplies bfloat16 `FASTER` times faster, else ``"32-true"``.

    >>> faster_precision("cpu") in ("32-true", "bf16-mixed")
    True
    """
    cuda = accelerator != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    for rows, rounds, least in ((64, 1, 0.25), (2048, 5, FASTER)):
        # A small product first: without units for bfloat16 a large one takes a second.
        wide, narrow = (multiply_seconds(dtype, device, rows, rounds) for dtype in (torch.float32, torch.bfloat16))
        if wide < least * narrow:
            return "32-true"
    return "bf16-mixed"
