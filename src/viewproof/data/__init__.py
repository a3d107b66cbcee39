"""Data: named data sets, arrays and image folders, fetched by one vectorised index a batch."""

from viewproof.data.batches import Batches, EpochSampler, batches
from viewproof.data.dataset import Dataset, Split, make_dataset
from viewproof.data.load import DATASETS, load_dataset
from viewproof.data.values import Values

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "EpochSampler",
    "Split",
    "Values",
    "batches",
    "load_dataset",
    "make_dataset",
]
