"""Batches: an epoch's order from (seed, epoch), and one vectorised index a batch."""

import os
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
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws
from viewproof.shapes import Float, Int

CROP_STREAM = 14
"""The stream from which crops and other transforms draw; masks draw from 0, two views from 12 and 13."""


class Batches(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """One part of a data set, read by index vectors: for a `DataLoader` with ``batch_size=None``.

    ``self[indices]`` is ``(x: [B, *sample_shape] float32, standardised, indices: [B] int64)``; the indices are the
    sample ids. Bad ones raise `InvalidArgument`, as in `Dataset.fetch`.

    ``self[epoch, indices]`` is that of an epoch: with ``min_area``, for images that are decoded when they are read
    (`Dataset.crops_when_read`), random regions, a share ``flip`` of them mirrored. They are functions of (seed, epoch,
    sample id) and the image, those of `viewproof.training.transforms.RandomResizedCrop` and ``Flip`` that come first.

    >>> from viewproof.data import Split, make_dataset
    >>> part = Split(np.array([[0.0], [2.0]]))
    >>> Batches(make_dataset("two", part, part), "train")[torch.tensor([1])]
    (tensor([[1.]]), tensor([1]))
    """

    def __init__(
        self, dataset: Dataset, part: str, seed: int = 0, min_area: float | None = None, flip: float = 0.0
    ) -> None:
        self.size = len(dataset.part(part))
        if min_area is not None:
            check_count("seed", seed, "draw as by default")
        for name, value in (("min_area", 1.0 if min_area is None else min_area), ("flip", flip)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InvalidArgument(f"{name}={value!r} must be a number from 0 to 1; pass a share")
        self.dataset, self.part, self.seed, self.min_area, self.flip = dataset, part, seed, min_area, flip
        if min_area is not None and not dataset.crops_when_read:
            raise InvalidArgument(
                f"min_area={min_area} crops images as they are read; crop {dataset.name} by a transform"
            )

    def __len__(self) -> int:
        return self.size

    def __getitem__(
        self, key: Int[Tensor, "batch"] | tuple[int, Int[Tensor, "batch"]]
    ) -> tuple[Float[Tensor, "batch *sample"], Int[Tensor, "batch"]]:
        epoch, indices = key if isinstance(key, tuple) else (0, key)
        if self.min_area is None:
            return self.dataset.fetch(self.part, indices), indices
        draws = Draws(self.seed, epoch, indices).uniforms(16, CROP_STREAM).numpy()
        return self.dataset.fetch(self.part, indices, draws, self.min_area, self.flip), indices


class EpochSampler(torch.utils.data.Sampler[Tensor]):
    """Yields the int64 index vectors of one epoch's batches; each index occurs once.

    The order is a function of ``(seed, epoch)`` alone, drawn from a generator of its own: global random state is
    neither read nor moved. ``set_epoch`` chooses the epoch; PyTorch Lightning calls it. ``with_epoch`` yields it beside
    each vector, for data that draw by it in another process. Without ``drop_last`` the last
    batch may be smaller.

    A batch is cut into ``accumulate`` micro-batches (gradient accumulation) and each of them over ``world`` ranks, of
    which this one is ``rank``: micro-batch after micro-batch, rank after rank, the indices are the batch's in its
    order, so that W ranks see the batches that one rank sees. With ``drop_last`` all ranks get equally many, and a
    ``batch_size`` that is no multiple of ``accumulate * world`` raises `InvalidArgument`; without it the numbers differ
    by at most one, and none is 0: a last batch of fewer than ``world`` indices joins the one before. A ``batch_size``
    above ``size``, fewer samples than ranks, non-positive or non-integer numbers, and a negative ``seed`` raise
    `InvalidArgument` too.

    >>> sampler = EpochSampler(5, batch_size=2, seed=0, shuffle=False, drop_last=False)
    >>> list(sampler), len(sampler)
    ([tensor([0, 1]), tensor([2, 3]), tensor([4])], 3)
    >>> [list(EpochSampler(8, batch_size=8, shuffle=False, rank=rank, world=2, accumulate=2)) for rank in (0, 1)]
    [[tensor([0, 1]), tensor([4, 5])], [tensor([2, 3]), tensor([6, 7])]]
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        *,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
    ) -> None:
        self.size, self.batch_size = check_int("size", size, 1), check_int("batch_size", batch_size, 1)
        self.seed, self.shuffle, self.drop_last, self.epoch = check_int("seed", seed, 0), shuffle, drop_last, 0
        self.rank, self.world = check_int("rank", rank, 0), check_int("world", world, 1)
        self.accumulate, self.first = check_int("accumulate", accumulate, 1), 0
        self.with_epoch = False
        if batch_size > size:
            raise InvalidArgument(
                f"batch_size={batch_size} is larger than the data set's {size} samples; pass batch_size={size} or less"
            )
        if rank >= world:
            raise InvalidArgument(f"rank={rank} must be below world={world}, the number of ranks")
        if size < world:
            raise InvalidArgument(f"world={world} is more than the {size} samples; a rank without one has no loss")
        if batch_size % (accumulate * world) and (drop_last or accumulate > 1):
            raise InvalidArgument(
                f"batch_size={batch_size} must be a multiple of {world} ranks times {accumulate} micro-batches, so that"
                f" every share is equal; pass {max(1, batch_size // (accumulate * world)) * accumulate * world}"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, whose order the next pass takes."""
        self.epoch = check_int("epoch", epoch, 0)

    @property
    def batches(self) -> int:
        """The number of batches of an epoch, over all ranks and micro-batches."""
        whole, rest = divmod(self.size, self.batch_size)
        return whole if self.drop_last or (whole and rest < self.world) else whole + bool(rest)

    def __len__(self) -> int:
        return self.batches * self.accumulate

    def __iter__(self) -> Iterator[Any]:
        order = torch.arange(self.size)
        if self.shuffle:
            words = np.random.SeedSequence(self.seed, spawn_key=(self.epoch,)).generate_state(1, np.uint32)
            order = torch.randperm(self.size, generator=torch.Generator().manual_seed(int(words[0])))
        # The first index is read here and now, before a resumed `BatchLoader` sets it back to 0.
        shares = (self._indices(order, *divmod(k, self.accumulate)) for k in range(self.first, len(self)))
        epoch = self.epoch
        return ((epoch, share) for share in shares) if self.with_epoch else shares

    def _indices(self, order: Tensor, batch: int, micro: int) -> Tensor:
        last = batch == self.batches - 1 and not self.drop_last
        whole = order[batch * self.batch_size : None if last else (batch + 1) * self.batch_size]
        return whole.tensor_split(self.accumulate)[micro].tensor_split(self.world)[self.rank]


class BatchLoader(DataLoader[Any]):
    """A `DataLoader` that can be resumed within an epoch.

    ``state_dict`` says how many batches of the epoch were yielded. PyTorch Lightning keeps that state in its
    checkpoints and loads it back. Nothing is fetched before the first batch is asked for, so that ``set_epoch`` still
    counts; also with workers, which fetch ahead.
    """

    sampler: EpochSampler
    yielded = 0

    def __iter__(self) -> Any:
        self.yielded, iterator = self.sampler.first, super().__iter__()
        self.sampler.first = 0
        for batch in iterator:
            self.yielded += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the number of its batches that were yielded."""
        return {"epoch": self.sampler.epoch, "batch": self.yielded}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next pass alone start in that epoch, after as many batches as were yielded."""
        self.sampler.set_epoch(state["epoch"])
        self.yielded = self.sampler.first = check_int("batch", state["batch"], 0)


def batches(
    dataset: Dataset,
    part: str,
    batch_size: int,
    seed: int = 0,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    num_workers: int = 0,
    min_area: float | None = None,
    flip: float = 0.0,
    **share: int,
) -> BatchLoader:
    """A `BatchLoader` of ``(x, indices)`` `Batches`; ``share`` goes to `EpochSampler`, the crop to `Batches`.

    ``shuffle`` and ``drop_last`` are on for ``"train"`` and off for ``"test"`` unless given. Iterating it does not
    touch global random state. Raises `InvalidArgument` for an unknown part and what `EpochSampler` refuses.

    >>> from viewproof.data import Split, make_dataset
    >>> part = Split(np.arange(6.0).reshape(3, 2))
    >>> [ids.tolist() for x, ids in batches(make_dataset("three", part, part), "test", batch_size=2)]
    [[0, 1], [2]]
    """
    if check_int("num_workers", num_workers, 0) > 16 * (os.cpu_count() or 1):
        raise InvalidArgument(
            f"num_workers={num_workers} must be at most 16 times this machine's {os.cpu_count()} processors; pass fewer"
        )
    source = Batches(dataset, part, seed, min_area, flip)
    shuffle = part == "train" if shuffle is None else shuffle
    drop_last = part == "train" if drop_last is None else drop_last
    sampler = EpochSampler(len(source), batch_size, seed, shuffle, drop_last, **share)
    sampler.with_epoch = min_area is not None
    return BatchLoader(
        source,
        batch_size=None,
        sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Without a generator of its own, a DataLoader draws its workers' seed from the global one.
        generator=torch.Generator().manual_seed(int(seed) % 2**63),
    )
