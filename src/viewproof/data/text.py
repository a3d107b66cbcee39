"""Text files as windows of bytes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from viewproof.data.dataset import Dataset, Split, fixed_split, make_dataset
from viewproof.errors import InvalidArgument

WINDOW = 128
"""Bytes of one sample."""


def load_text(path: Path, test_fraction: float) -> Dataset:
    """The bytes of a text file as samples ``[128]`` of whole numbers from 0 to 255, without labels.

    Windows do not overlap; what is left at the end is dropped. Bytes are the vocabulary: any encoding, no tokenizer, a
    letter outside ASCII is several of them. They are not standardised: mean 0, deviation 1. The split over windows is
    that of `fixed_split`. A file of fewer than two windows raises `InvalidArgument`.
    """
    size = path.stat().st_size // WINDOW
    if size < 2:
        raise InvalidArgument(f"{path}: {path.stat().st_size} bytes must be at least {2 * WINDOW}; pass a longer text")
    values = np.memmap(path, np.uint8, mode="r", shape=(size, WINDOW))
    train, test = fixed_split(str(path), Split(values), test_fraction)
    data = make_dataset(path.stem, train, test, source=str(path))
    return replace(data, mean=torch.zeros_like(data.mean), std=torch.ones_like(data.std))
