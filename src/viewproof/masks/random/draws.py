"""Random words by a counter-based generator, and exact counts and bounded integers from them."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count, may_keep_tensors
from viewproof.shapes import Bool, Float, Int

_LAST = 2**63 - 1
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
WORD = 0xFFFFFFFF


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[Any, Any, Any, Any]:
    """Four random 32-bit words from a counter of four and a key of two such words.

    Philox4x32-10 (Salmon et al. 2011). The counter holds integers, or int64 tensors or arrays that broadcast.

    >>> [hex(word) for word in philox((0, 0, 0, 0), key=(0, 0))]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        # A 32-bit product may wrap around int64 and shifts keep its sign: "& WORD" leaves the right bits all the same.
        left, right = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1 = ((right >> 32) ^ c1 ^ k0) & WORD, right
        c2, c3 = ((left >> 32) ^ c3 ^ k1) & WORD, left
        k0, k1 = k0 + 0x9E3779B9 & WORD, k1 + 0xBB67AE85 & WORD
    return c0, c1 & WORD, c2, c3 & WORD


@dataclass(frozen=True, eq=False)
class Draws:
    """The random words of a batch, each a function of (seed, epoch, sample id, stream, index).

    ``sample_ids`` is an integer tensor ``[N]`` (64 bits count), ``epoch`` is below 2**32, ``seed`` below 2**63.

    >>> draws = Draws(seed=0, epoch=0, sample_ids=torch.tensor([7, 3]))
    >>> draws.words(2)
    tensor([[3522976733, 2522621249],
            [4037610172,  291018424]])
    """

    seed: int
    epoch: int
    sample_ids: Int[Tensor, " batch"]

    def __post_init__(self) -> None:
        ids = self.sample_ids
        whole = isinstance(ids, Tensor) and not ids.is_nested
        if not whole or ids.dim() != 1 or ids.dtype not in _INTEGERS:
            what = f"{ids.dtype} {tuple(ids.shape)}" if whole else type(ids).__name__
            raise InvalidArgument(f"sample_ids of {what} must be an integer tensor [N] with one entry per sample")
        if check_count("epoch", self.epoch, "draw the first epoch's masks") > WORD:
            raise InvalidArgument(f"epoch={self.epoch} must be below 2**32; count epochs from 0")

    def words(self, count: int, stream: int = 0) -> Int[Tensor, "batch count"]:
        """The first ``count`` words of a stream (0 to 15), integers from 0 to 2**32 - 1."""
        if count >= 2**30:
            raise InvalidArgument(
                f"{count} random words a sample are more than the 2**30 of a stream; mask larger patches"
            )
        ids, key = self.sample_ids.to(torch.int64), (self.seed & WORD, self.seed >> 32)
        blocks = torch.arange(-(-count // 4), device=ids.device) + (stream << 28)
        counter: Any = (
            blocks,
            (ids >> 32 & WORD)[:, None],
            (ids & WORD)[:, None],
            torch.full((), self.epoch, device=ids.device),
        )
        if ids.is_cpu and may_keep_tensors():
            # The same arithmetic, with less overhead on small arrays.
            arrays = philox(tuple(part.numpy() for part in counter), key)
            return torch.from_numpy(np.stack(arrays, -1)).flatten(1)[:, :count]
        return torch.stack(philox(counter, key), -1).flatten(1)[:, :count]

    def uniforms(self, count: int, stream: int = 0) -> Float[Tensor, "batch count"]:
        """Float64 numbers in (0, 1), one of each word: the middles of 2**32 equal parts."""
        return (self.words(count, stream).double() + 0.5) / 2**32


def below(words: Int[Tensor, "*places"], bound: int | Int[Tensor, "*places"]) -> Int[Tensor, "*places"]:
    """Integers from 0 to ``bound - 1``, every one reached, with a probability off by at most 2**-32.

    >>> below(torch.tensor([0, 2**31, 2**32 - 1]), 14)
    tensor([ 0,  7, 13])
    """
    return words * bound >> 32


def ranked(
    words: Int[Tensor, "batch places"], eligible: Bool[Tensor, "batch places"] | None = None
) -> Int[Tensor, "batch places"]:
    """Integer keys that sort the places by their words, then by index; places not eligible come last."""
    keys = words * 2**31 + torch.arange(words.shape[1], device=words.device)
    return keys if eligible is None else keys.masked_fill(~eligible, _LAST)


def among_first(keys: Int[Tensor, "batch places"], count: int | Int[Tensor, "batch 1"]) -> Bool[Tensor, "batch places"]:
    """Whether each place is among the ``count`` places with the smallest keys.

    ``count`` is one number, or one a row. No two keys are equal, so exactly ``count`` places are. Theorems, for one
    count: ``exactly_count_places_are_first``, ``only_eligible_places_are_first``.

    >>> among_first(torch.tensor([[30, 10, 20]]), 2)
    tensor([[False,  True,  True]])
    """
    if keys.shape[1] == 0 or (not isinstance(count, Tensor) and count == 0):
        return torch.zeros_like(keys, dtype=torch.bool)
    if isinstance(count, Tensor):
        last = keys.sort(1).values.gather(1, (count - 1).clamp(min=0))
        return (keys <= last) & (count > 0)
    return keys <= keys.kthvalue(count, 1, keepdim=True).values


def count_by_length(count: int, lengths: Int[Tensor, " batch"], per: int | None) -> Int[Tensor, " batch"]:
    """``count`` for every row, or ``count * length // per`` if ``per`` is a number."""
    return torch.full_like(lengths, count) if per is None else lengths * count // per


def ratio_to_count(ratio: float, total: int) -> int:
    """``ratio * total`` rounded to the nearest integer, a tie to the even one.

    >>> ratio_to_count(0.75, 196), ratio_to_count(0.5, 5)
    (147, 2)
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        raise InvalidArgument(f"ratio={ratio!r} must be a number from 0 to 1; pass the share that is hidden")
    count: int = check_count("total", total)
    return round(Fraction(ratio) * count)
