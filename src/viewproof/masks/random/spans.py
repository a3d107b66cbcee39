"""Spans along axes: wav2vec 2.0's of equal width, T5's of random widths, SpecAugment's bands."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws, among_first, count_by_length, ranked
from viewproof.masks.random.rule import RandomRule
from viewproof.shapes import Bool, Int


def place_spans(
    words: Int[Tensor, "batch extent"],
    lengths: Int[Tensor, " batch"],
    number: Int[Tensor, " batch"],
    width: int,
    cuts: Int[Tensor, "batch hidden"] | None = None,
) -> Bool[Tensor, "batch extent"]:
    """Random spans in each row: ``number`` of ``width`` places, before the row's length.

    A visible place or more lies between two. All ways to place them are equally likely. With ``cuts`` (words) the
    widths are ``width`` on average: all ways to share out the hidden places are equally likely. The spans must fit:
    ``number * (width + 1) <= length + 1``.
    """
    extent, hidden = words.shape[1], number * width
    most = max(extent + 1, 0) // (width + 1)
    # The visible places of a row leave a gap before, between and after them; a gap holds one span or none.
    gap = torch.arange(extent, device=words.device)
    holds = among_first(ranked(words, gap <= (lengths - hidden)[:, None]), number[:, None])
    # Span n has as many visible places before it as the n-th gap that holds one has.
    before = torch.where(holds, gap, extent).sort(1).values[:, :most]
    inside = torch.arange(most * width, device=words.device)
    span = (inside // width).expand(len(words), -1)
    if cuts is not None and most > 0:
        apart = among_first(ranked(cuts, inside[1:] < hidden[:, None]), (number - 1).clamp(min=0)[:, None])
        span = torch.cat([apart.new_zeros(len(words), 1), apart], 1).cumsum(1)
    place = inside + before.gather(1, span)
    # What a row does not need goes to a place of its own, which is then cut off.
    place = torch.where(inside < hidden[:, None], place, extent)
    return holds.new_zeros(len(words), extent + 1).scatter(1, place, True)[:, :-1]


def check_spans(rule: RandomRule, lengths: Tensor, number: int, width: int) -> None:
    """Every row must be long enough for its spans and the visible places between them."""
    need = number * (width + 1) - 1
    short = (lengths < need) & (need > 0)
    if bool(short.any()):
        n = int(short.nonzero()[0])
        raise InvalidArgument(
            f"length {int(lengths[n])} of sample {n}: {rule!r} needs {need} places for {number} spans of {width} with "
            "a visible place between two; pass fewer or shorter spans, or per= for a number that grows with the length"
        )


@dataclass(frozen=True)
class SpanMask(RandomRule):
    """Hides ``spans`` spans of ``width`` places along the first data axis of ``[N, T, ...]``.

    Exactly ``spans * width`` places are hidden and a visible one lies between two spans. ``equal=False`` lets the
    widths vary around their mean, as T5 does (Raffel et al. 2020); equal ones are wav2vec 2.0's (Baevski et al. 2020),
    whose spans may overlap. All placements are equally likely, so the places at the ends are hidden less often than the
    others, but all are.

    With ``lengths`` padding is never drawn, and the mask does not depend on how far a row is padded. ``per`` makes
    the number of spans grow with the length: ``spans * length // per``. Spans that do not fit raise `InvalidArgument`.

    >>> rule = SpanMask(spans=2, width=3)
    >>> rule.mask((12,), sample_ids=torch.arange(2), lengths=torch.tensor([12, 8])).hidden.int()
    tensor([[1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1, 0],
            [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0]], dtype=torch.int32)
    """

    spans: int
    width: int
    seed: int = 0
    equal: bool = True
    per: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        need = self.spans * (self.width + 1)
        if self.per is not None and check_count("per", self.per) < need:
            raise InvalidArgument(f"per={self.per} must be at least {need}: the places of {self.spans} spans and gaps")

    @property
    def padded_axis(self) -> int | None:
        """The axis that spans lie along."""
        return 0

    def draw(self, shape: tuple[int, ...], draws: Draws, lengths: Tensor | None = None) -> Bool[Tensor, "batch *shape"]:
        """The spans, over all other axes."""
        if not shape or shape[0] == 0:
            raise InvalidArgument(
                f"{self!r} masks sequences [N, T, ...], got data of shape {shape}: nothing to draw from"
            )
        if lengths is None:
            lengths = torch.full_like(draws.sample_ids, shape[0], dtype=torch.int64)
        if self.per is None:
            check_spans(self, lengths, self.spans, self.width)
        number = count_by_length(self.spans, lengths, self.per)
        most = (shape[0] + 1) // (self.width + 1)
        cuts = None if self.equal else draws.words(max(most * self.width - 1, 0), stream=1)
        hidden = place_spans(draws.words(shape[0]), lengths, number, self.width, cuts)
        return hidden.reshape(len(lengths), shape[0], *(1 for _ in shape[1:]))


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
