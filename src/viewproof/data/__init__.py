"""Data sets by name, of files, folders, Hugging Face or shards, fetched by one index vector a batch."""

from viewproof.data.batches import Batches, EpochSampler, batches
from viewproof.data.collators import MLMCollator, SpanCollator, Wav2Vec2Collator
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
    "MLMCollator",
    "SpanCollator",
    "Split",
    "Values",
    "Wav2Vec2Collator",
    "batches",
    "from_indexed",
    "load_dataset",
    "make_dataset",
]
