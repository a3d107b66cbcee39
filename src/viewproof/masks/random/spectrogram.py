"""Bands of frequencies and of times: SpecAugment's masks, with exact counts."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.random.draws import Draws
from viewproof.masks.random.rule import RandomRule
from viewproof.masks.random.spans import check_spans, place_spans
from viewproof.shapes import Bool


@dataclass(frozen=True)
class SpectrogramMask(RandomRule):
    """Hides bands of frequencies and of times of each spectrogram ``[N, ..., F, T]``.

    Exactly ``frequencies`` bands of ``height`` rows and ``times`` bands of ``width`` columns, a visible line or more
    between two: ``f * T + t * F - f * t`` places of each plane with ``f = frequencies * height`` and
    ``t = times * width``. ``lengths`` cut the time axis, the last one. After SpecAugment (Park et al. 2019,
    arXiv 1904.08779), which draws the widths too. Bands that do not fit raise `InvalidArgument`.

    >>> rule = SpectrogramMask(frequencies=1, height=2, times=2, width=3)
    >>> rule.mask((8, 20), sample_ids=torch.arange(4)).row(2).count, 2 * 20 + 6 * 8 - 2 * 6
    (76, 76)
    """

    frequencies: int
    height: int
    times: int
    width: int
    seed: int = 0
    may_be_zero: ClassVar[tuple[str, ...]] = ("frequencies", "times", "seed")

    @property
    def padded_axis(self) -> int | None:
        """The time axis."""
        return -1

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The bands, over all leading axes."""
        if len(shape) < 2:
            raise InvalidArgument(f"{self!r} masks spectrograms [N, ..., F, T], got data of shape {shape}")
        bands = []
        times = torch.full_like(draws.sample_ids, shape[-1]) if lengths is None else lengths
        rows = torch.full_like(draws.sample_ids, shape[-2])
        bands_by_axis = (rows, self.frequencies, self.height), (times, self.times, self.width)
        for stream, (length, number, width) in enumerate(bands_by_axis):
            check_spans(self, length, number, width)
            words = draws.words(shape[stream - 2], stream)
            bands.append(place_spans(words, length, torch.full_like(length, number), width))
        hidden = bands[0][:, :, None] | bands[1][:, None]
        return hidden.reshape(len(times), *(1 for _ in shape[2:]), *shape[-2:])
