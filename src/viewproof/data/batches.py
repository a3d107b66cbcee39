"""Batches: an epoch's order from (seed, epoch), and one vectorised index a batch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.utils.data
from torch import Tensor
from torch.utils.data import DataLoader

from viewproof.data.checks import check_int
from viewproof.data.dataset import Dataset
from viewproof.errors import InvalidArgument
from viewproof.shapes import Float, Int


class Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One part of a data set for a `DataLoader` with ``batch_size=None``: an index vector in, a batch out.

    ``self[indices]`` is ``(x: [B, *sample_shape] float32, standardised, indices: [B] int64)``; the indices are the
    sample ids. Bad ones raise `InvalidArgument`, as in `Dataset.fetch`.

    >>> from viewproof.data import Split, make_dataset
    >>> part = Split(np.array([[0.0], [2.0]]))
    >>> Batches(make_dataset("two", part, part), "train")[torch.tensor([1])]
    (tensor([[1.]]), tensor([1]))
    """

    def __init__(self, dataset: Dataset, part: str) -> None:
        self.dataset, self.part = dataset, part
        self.size = len(dataset.part(part))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, indices: Int[Tensor, "batch"]) -> tuple[Float[Tensor, "batch *sample"], Int[Tensor, "batch"]]:
        return self.dataset.fetch(self.part, indices), indices


class EpochSampler(torch.utils.data.Sampler[Tensor]):
    """Yields the int64 index vectors of one epoch's batches; each index occurs once.

    The order is a function of ``(seed, epoch)`` alone, drawn from a generator of its own: global random state is
    neither read nor moved. ``set_epoch`` chooses the epoch; PyTorch Lightning calls it. Without ``drop_last`` the last
    batch may be smaller. A ``batch_size`` above ``size``, a non-positive or non-integer one, and a negative ``seed``
    raise `InvalidArgument`.

    >>> sampler = EpochSampler(5, batch_size=2, seed=0, shuffle=False, drop_last=False)
    >>> list(sampler), len(sampler)
    ([tensor([0, 1]), tensor([2, 3]), tensor([4])], 3)
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, shuffle: bool = True, drop_last: bool = True) -> None:
        self.size, self.batch_size = check_int("size", size, 1), check_int("batch_size", batch_size, 1)
        self.seed, self.shuffle, self.drop_last, self.epoch = check_int("seed", seed, 0), shuffle, drop_last, 0
        if batch_size > size:
            raise InvalidArgument(
                f"batch_size={batch_size} is larger than the data set's {size} samples; pass batch_size={size} or less"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next pass takes."""
        self.epoch = check_int("epoch", epoch, 0)

    def __len__(self) -> int:
        return self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.size)
        if self.shuffle:
            words = np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)).generate_state(1, np.uint32)
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(int(words[0])))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]


def batches(
    dataset: Dataset,
    part: str,
    batch_size: int,
    seed: int = 0,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """A `DataLoader` of ``(x, indices)`` batches, see `Batches` and `EpochSampler`.

    ``shuffle`` and ``drop_last`` are on for ``"train"`` and off for ``"test"`` unless given. Iterating it does not
    touch global random state. Raises `InvalidArgument` for an unknown part and what `EpochSampler` refuses.

    >>> from viewproof.data import Split, make_dataset
    >>> part = Split(np.arange(6.0).reshape(3, 2))
    >>> [ids.tolist() for x, ids in batches(make_dataset("three", part, part), "test", batch_size=2)]
    [[0, 1], [2]]
    """
    training = part == "train"
    return DataLoader(
        source := Batches(dataset, part),
        batch_size=None,
        sampler=EpochSampler(
            len(source),
            batch_size,
            seed,
            training if shuffle is None else shuffle,
            training if drop_last is None else drop_last,
        ),
        num_workers=check_int("num_workers", num_workers, 0),
        persistent_workers=num_workers > 0,
        # Without a generator of its own, a DataLoader draws its workers' seed from the global one.
        generator=torch.Generator().manual_seed(seed % 2**63),
    )
