"""Data: named data sets, arrays and image folders, fetched by one vectorised index a batch."""

from viewproof.data.batches import Batches, EpochSampler, batches
from viewproof.data.dataset import Dataset, Split, Values, make_dataset
from viewproof.data.load import DATASETS, load_dataset

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
