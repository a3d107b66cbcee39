"""A folder of recordings as log-mel spectrograms, computed when they are fetched."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from viewproof.data.checks import require
from viewproof.data.values import Items
from viewproof.errors import InvalidArgument

AUDIO_SUFFIXES = (".wav", ".flac")
WINDOW_SECONDS, HOP_SECONDS, FLOOR = 0.025, 0.010, 1e-9


@dataclass(frozen=True)
class LogMel:
    """The log-mel spectrogram ``[mels, frames]`` of a recording at ``rate`` samples a second.

    Hann windows of 25 ms every 10 ms, the first centred on the first sample; the power spectrum, each window
    zero-padded to a power of two; ``mels`` triangular filters of equal width on O'Shaughnessy's mel scale ``2595
    log10(1 + f / 700)`` from 0 to half the rate; natural logarithm of the filters' mean power plus 1e-9 (full scale is
    1). A longer recording is cut about its centre, a shorter one gets silence at both ends.

    >>> mel = LogMel(rate=8000, frames=32, mels=16)
    >>> tone = np.sin(2 * np.pi * 1000 * np.arange(4000) / 8000)
    >>> mel(tone).shape, int(mel(tone)[:, 16].argmax()), round(float(mel(np.zeros(10)).max()), 2)
    ((16, 32), 7, -20.72)
    """

    rate: int
    frames: int
    mels: int = 64

    @property
    def window(self) -> int:
        """Samples of a window."""
        return round(WINDOW_SECONDS * self.rate)

    @property
    def hop(self) -> int:
        """Samples from one window to the next."""
        return round(HOP_SECONDS * self.rate)

    @cached_property
    def filters(self) -> NDArray[np.float64]:
        """The weight of each frequency in each filter, ``[mels, frequencies]``; each row sums to 1."""
        size = 1 << (self.window - 1).bit_length()
        top = 2595 * np.log10(1 + self.rate / 1400)
        edges = 700 * (10 ** (np.linspace(0, top, self.mels + 2) / 2595) - 1)
        frequency = np.arange(size // 2 + 1) * self.rate / size
        rise = (frequency - edges[:-2, None]) / np.diff(edges)[:-1, None]
        fall = (edges[2:, None] - frequency) / np.diff(edges)[1:, None]
        weights = np.maximum(0, np.minimum(rise, fall))
        # A filter narrower than the distance of two frequencies takes the nearest one.
        nearest = np.abs(frequency - edges[1:-1, None]).argmin(1)
        empty = np.flatnonzero(weights.sum(1) == 0)
        weights[empty, nearest[empty]] = 1
        return np.asarray(weights / weights.sum(1, keepdims=True))

    def __call__(self, wave: NDArray[Any]) -> NDArray[np.float32]:
        """The spectrogram of ``wave: [samples]``."""
        length = (self.frames - 1) * self.hop + self.window
        surplus = len(wave) - ((self.frames - 1) * self.hop + 1)
        if surplus > 0:
            wave = wave[surplus // 2 : len(wave) - (surplus - surplus // 2)]
        before = (length - len(wave)) // 2
        wave = np.pad(wave, (before, length - len(wave) - before))
        windows = np.lib.stride_tricks.sliding_window_view(wave, self.window)[:: self.hop]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self.window) + 0.5) / self.window)
        size = 1 << (self.window - 1).bit_length()
        power = np.square(np.abs(np.fft.rfft(windows * hann, size))) / np.square(hann.sum() / 2)
        return np.asarray(np.log(self.filters @ power.T + FLOOR), np.float32)


@dataclass(frozen=True)
class Recordings:
    """Spectrograms ``[N, 1, mels, frames]`` of files (paths, or binary files), read on access."""

    costly: ClassVar = True
    dtype: ClassVar = np.dtype(np.float32)
    paths: Items
    transform: LogMel

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of files, one channel, mel filters and frames."""
        return (len(self.paths), 1, self.transform.mels, self.transform.frames)

    @property
    def parallel(self) -> bool:
        """Whether threads may decode different recordings at once: they are files."""
        return isinstance(self.paths, tuple)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        out = np.empty((len(index), *self.shape[1:]), np.float32)
        for spectrogram, k in zip(out, index, strict=True):
            spectrogram[...] = self.transform(read_wave(self.paths[int(k)], self.transform.rate))
        return out


def read_wave(source: Any, rate: int) -> NDArray[np.float64]:
    """The samples of a recording, from -1 to 1, its channels averaged.

    A recording of another ``rate``, and a file that is none, raise `InvalidArgument`.
    """
    sound, name = _library_for(source), _name(source)
    try:
        wave, found = sound.read(source, always_2d=True)
    except Exception as error:  # libsndfile's errors are RuntimeErrors of many texts
        raise InvalidArgument(f"{name}: not a readable recording ({error}); replace or remove it") from error
    if found != rate or not np.isfinite(wave).all():
        what = f"{found} Hz where others have {rate}" if found != rate else "NaN or infinite samples"
        raise InvalidArgument(f"{name}: a recording with {what}; convert or remove it")
    return np.asarray(wave.mean(1))


def recording_header(source: Any) -> tuple[int, int]:
    """Sampling rate and number of samples of a recording."""
    sound = _library_for(source)
    try:
        info = sound.info(source)
    except Exception as error:  # as in read_wave
        raise InvalidArgument(f"{_name(source)}: not a readable recording ({error}); replace or remove it") from error
    if not info.frames:
        raise InvalidArgument(f"{_name(source)}: a recording of no samples; replace or remove it")
    return info.samplerate, info.frames


def frames_for(headers: Sequence[tuple[int, int]]) -> int:
    """The least multiple of 16 frames that holds 95 % of the recordings whole.

    >>> frames_for([(8000, 4000)] * 99 + [(8000, 80_000)])
    64
    """
    longest = float(np.quantile([samples / round(HOP_SECONDS * rate) for rate, samples in headers], 0.95))
    return 16 * max(1, int(np.ceil(longest / 16)))


def _library_for(source: Any) -> Any:
    """soundfile, which also takes numbers as open files: what is no recording is an `InvalidArgument` before."""
    if not isinstance(source, str | os.PathLike) and not hasattr(source, "read"):
        raise InvalidArgument(
            f"a recording of type {type(source).__name__} must be a path, bytes or a binary file; pass kind='array' "
            "for arrays"
        )
    return require("soundfile", "recordings", "soundfile", "data")


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else "recording"
