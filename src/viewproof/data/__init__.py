"""Data: named data sets, arrays, folders, Hugging Face data and shards, fetched by one index vector a batch."""

from viewproof.data.batches import Batches, EpochSampler, batches
from viewproof.data.dataset import Dataset, Split, make_dataset
from viewproof.data.indexed import from_indexed
from viewproof.data.load import DATASETS, IMAGENET, load_dataset
from viewproof.data.values import Values

__all__ = [
    "DATASETS",
    "IMAGENET",
    "Batches",
    "Dataset",
    "EpochSampler",
    "Split",
    "Values",
    "batches",
    "from_indexed",
    "load_dataset",
    "make_dataset",
]
