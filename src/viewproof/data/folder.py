"""A folder of images or recordings, decoded when they are fetched."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from viewproof.data.audio import AUDIO_SUFFIXES, LogMel, Recordings, frames_for, recording_header
from viewproof.data.dataset import Dataset, Split, Statistics, fixed_split, make_dataset, take
from viewproof.data.images import DEEP, GREY, MAX_PIXELS, ImageForm, looks_whole, opened, upright_size
from viewproof.data.values import Items
from viewproof.errors import InvalidArgument
from viewproof.progress import progress

JPEG, PPM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".pbm", ".pgm", ".pnm", ".ppm")
SUFFIXES = (".png", *JPEG, ".bmp", ".gif", *PPM, ".tif", ".tiff", ".webp")
UNREAD = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".svg", ".psd", ".exr", ".dng", ".cr2", ".nef", ".arw")
SILENT = (".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma")
"""Images and recordings of other formats: those beside files that are read are listed as left out."""
DEFAULT_SIZE = (224, 224)
"""Of images of several sizes."""
MANY = 4096
"""Files from which on their headers are read by several processes."""
TRAINS, TESTS = ("train", "training"), ("test", "testing", "val", "valid", "validation", "dev")
"""Folders that are parts, in any case of letters; an earlier test part wins over a later one."""


@dataclass(frozen=True)
class ImageFiles:
    """Images ``[N, C, H, W]``, decoded on access and brought to one form.

    ``paths[k]`` is a path, or else what `ImageForm.read` takes.
    """

    costly: ClassVar = True
    paths: Items
    form: ImageForm

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the pixels."""
        return self.form.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, channels, height and width."""
        return (len(self.paths), *self.form.shape)

    @property
    def parallel(self) -> bool:
        """Whether threads may decode different images at once: they are files."""
        return isinstance(self.paths, tuple)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[Any]:
        return self.crops(index, None)

    def crops(
        self, index: NDArray[np.int64], draws: NDArray[np.float64] | None, min_area: float = 1.0, flip: float = 0.0
    ) -> NDArray[Any]:
        """The images at ``index: [B]``: of each a drawn region, or the central one.

        Row k of ``draws: [B, 16]`` is for the k-th of them: words 0 to 3 are those of a crop, and word 15 decides
        whether it is mirrored, as `Augment` numbers them.
        """
        out = np.empty((len(index), *self.form.shape), self.dtype)
        for row, (pixels, k) in enumerate(zip(out, index, strict=True)):
            draw = None if draws is None else tuple(draws[row, :4].tolist())
            try:
                image = self.form.read(self.paths[int(k)], draw, min_area)
            except InvalidArgument as error:
                if self.parallel:  # the file is named
                    raise
                raise InvalidArgument(f"sample {int(k)}: {error}") from error
            pixels[...] = image[:, :, ::-1] if draws is not None and draws[row, 15] < flip else image
        return out


def load_folder(
    folder: Path,
    test_fraction: float,
    size: tuple[int, int] | None = None,
    skip_unreadable: bool = False,
    max_pixels: int = MAX_PIXELS,
    statistics: Statistics | None = None,
) -> Dataset:
    """All images under ``folder`` as ``[N, C, H, W]``, or all recordings as spectrograms.

    They are sorted by path. What there is more of is read, and the rest listed in `Dataset.skipped`. Images are grey if
    all files are, else RGB, of bytes (0..255), or of 16 bits (0..65535) if one has so many. Each is cut to the aspect
    of ``size=(H, W)`` about its centre and resized; the default size is the images' own if they have one, else 224 x
    224. EXIF orientation is applied, transparency shown on white, CMYK and palettes converted. Only the formats
    `viewproof.data.images.FORMATS` are decoded.

    Recordings (WAV, FLAC) of one sampling rate become ``[N, 1, 64, frames]`` by `LogMel`, with the least multiple of 16
    frames that holds 95 % of them whole; ``size`` is then (mels, frames).

    Sub-folders name the classes; a class's own sub-folders belong to it. A sub-folder `TRAINS` and one of `TESTS`
    beside it are the parts; a test part without class folders beside a training part that has some counts as none.
    Without a test part the split is `fixed_split`'s; test parts alone raise `InvalidArgument`. Hidden files are
    skipped, links are followed. Every header and every file's end is read here; files whose end says nothing are
    decoded. Those that cannot be read are counted and the first three named, or left out with ``skip_unreadable`` and
    listed in `Dataset.skipped`, as are images of other formats. A folder without images, and images beside class
    folders or parts, raise `InvalidArgument` too.
    """
    found = sorted(files_below(folder))
    images = [parts for parts in found if parts[-1].lower().endswith(SUFFIXES)]
    sounds = [parts for parts in found if parts[-1].lower().endswith(AUDIO_SUFFIXES)]
    inside, rest = (images, sounds) if len(images) >= len(sounds) else (sounds, images)
    if not inside:
        remedy = "pass one that has some"
        if any(folder.rglob("*.parquet")) or any(folder.rglob("*.arrow")):
            remedy = f"pass 'hf:{folder}'"
        elif any(folder.rglob("*.tar")):
            remedy = f"pass 'wds:{folder}/*.tar'"
        raise InvalidArgument(
            f"{folder}: no image ({', '.join(SUFFIXES)}) or recording ({', '.join(AUDIO_SUFFIXES)}) in this folder;"
            f" {remedy}"
        )
    are_images = inside is images
    left_out = UNREAD if are_images else SILENT
    other = ["/".join(parts) for parts in found if parts[-1].lower().endswith(left_out)]
    train, test = part_folders(folder, inside)
    if train:
        inside = [parts for parts in inside if parts[0] in (train, test)]
    paths = [f"{folder}/{'/'.join(parts)}" for parts in inside]
    classes = [parts[1 if train else 0 : -1][:1] for parts in inside]
    names = tuple(sorted({name for found in classes for name in found}))
    if names and () in classes:
        loose = classes.count(())
        raise InvalidArgument(f"{folder}: {loose} images lie beside the class folders {names}; move them into one")
    scan: Callable[[str], Any] = partial(image_header, max_pixels=max_pixels) if are_images else recording_header
    headers, unreadable = scan_all(paths, scan)
    if unreadable and not (skip_unreadable and headers):
        first = "; ".join(list(unreadable.values())[:3])
        remedy = "replace or remove them" + ("" if skip_unreadable else ", or pass skip_unreadable")
        raise InvalidArgument(f"{folder}: {len(unreadable)} of {len(paths)} files cannot be read: {first}; {remedy}")
    readable = [k for k, path in enumerate(paths) if path in headers]
    form = image_form(list(headers.values()), size, max_pixels) if are_images else None
    values = ImageFiles(tuple(headers), form) if form else recordings(headers, size, str(folder))
    labels = np.array([names.index(classes[k][0]) for k in readable], np.int64) if names else None
    whole = Split(values, labels)
    if test:
        held_out = np.array([inside[k][0] == test for k in readable])
        learnt, tested = (take(whole, np.flatnonzero(held_out == side)) for side in (False, True))
    else:
        learnt, tested = fixed_split(str(folder), whole, test_fraction)
    skipped = (
        *(f"{path}: of a format that is not read" for path in other),
        *(f"{'/'.join(parts)}: {'a recording' if are_images else 'an image'}, and most are not" for parts in rest),
        *(complaint.replace(f"{folder}/", "") for complaint in unreadable.values()),
    )
    return make_dataset(
        folder.name, learnt, tested, names or None, str(folder), statistics, natural=are_images, skipped=skipped
    )


def files_below(folder: Path) -> Iterator[tuple[str, ...]]:
    """Each image and recording below a folder, by its name's end, as the parts of its path.

    Links are followed. Objects of class `Path` would cost as much as the headers, and parts sort as paths do.
    """
    suffixes = (*SUFFIXES, *AUDIO_SUFFIXES, *UNREAD, *SILENT)
    start = os.stat(folder)  # noqa: PTH116
    folders: list[tuple[tuple[str, ...], tuple[tuple[int, int], ...]]] = [((), ((start.st_dev, start.st_ino),))]
    while folders:
        within, above = folders.pop()
        with os.scandir(folder.joinpath(*within)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    place = entry.stat()
                    if (place.st_dev, place.st_ino) not in above:  # a link to a folder above it has no end
                        folders.append(((*within, entry.name), (*above, (place.st_dev, place.st_ino))))
                elif entry.name.lower().endswith(suffixes) and (entry.is_file() or entry.is_symlink()):
                    yield *within, entry.name


def part_folders(folder: Path, inside: list[tuple[str, ...]]) -> tuple[str | None, str | None]:
    """The sub-folders that are the training and the test part of the files, as `load_folder` says."""
    top = {parts[0] if len(parts) > 1 else "" for parts in inside}  # "" for files that lie beside
    train = next((name for k in TRAINS for name in sorted(top) if name.lower() == k), None)
    tests = [name for k in TESTS for name in sorted(top) if name.lower() == k]
    others = sorted(top - {train, *tests})
    if train is None and tests and not others:
        raise InvalidArgument(
            f"{folder}: {tests[0]!r} is a test part, and no training part 'train' lies beside it; add one, or pass "
            f"'{folder}/{tests[0]}'"
        )
    if train is None or (others and not tests):  # "train" may be a class among others
        return None, None
    if others:
        beside = repr(others[0]) if others[0] else "a file"
        raise InvalidArgument(f"{folder}: {beside} lies beside the parts {train!r} and {tests[0]!r}; move it elsewhere")
    labelled = {parts[0] for parts in inside if len(parts) > 2}
    return train, next((name for name in tests if train not in labelled or name in labelled), None)


def scan_all(paths: list[str], scan: Callable[[str], Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What ``scan`` returns of each file, and the complaint about each file that it refuses."""
    headers, unreadable = {}, {}
    processes = min(8, os.cpu_count() or 1) if len(paths) >= MANY and hasattr(os, "fork") else 1
    # A header is parsed in Python: threads would wait for its lock, so many files are read by processes.
    ignore = (signal.SIGINT, signal.SIG_IGN)  # the parent stops them
    pools: Any = get_context("fork").Pool(processes, signal.signal, ignore) if processes > 1 else nullcontext()
    with pools as pool:
        shares = [paths[start : start + 256] for start in range(0, len(paths), 256)]
        found = (map if pool is None else pool.imap)(partial(headers_or_complaints, scan), shares)
        bar = progress(chain.from_iterable(found), "reading headers", "file", len(paths))
        for path, (header, complaint) in zip(paths, bar, strict=True):
            if complaint is None:
                headers[path] = header
            else:
                unreadable[path] = complaint
    return headers, unreadable


def headers_or_complaints(scan: Callable[[str], Any], paths: list[str]) -> list[tuple[Any, str | None]]:
    """What ``scan`` returns of each file, or the complaint with which it refuses it."""
    found: list[tuple[Any, str | None]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about large images and odd EXIF data
        for path in paths:
            try:
                found.append((scan(path), None))
            except InvalidArgument as error:
                found.append((None, str(error)))
    return found


def image_header(path: str, max_pixels: int) -> tuple[str, tuple[int, int]]:
    """Mode and upright size of an image; a file that does not end as its format must is decoded."""
    with opened(path, max_pixels) as image:
        if image.mode in ("I", "F"):
            raise InvalidArgument(f"{path}: mode {image.mode} has 32 bits a value; save an .npy file")
        header = image.mode, upright_size(image)
        if not looks_whole(image.fp, image.format):
            image.load()
        return header


def image_form(headers: list[tuple[str, tuple[int, int]]], size: tuple[int, int] | None, max_pixels: int) -> ImageForm:
    """The form that holds all images without loss of colour or bits."""
    modes, sizes = {mode for mode, _ in headers}, {upright for _, upright in headers}
    mode = "L" if modes <= {*GREY, *DEEP} else "RGB"
    return ImageForm(
        mode, size or (sizes.pop() if len(sizes) == 1 else DEFAULT_SIZE), bool(modes & set(DEEP)), max_pixels
    )


def recordings(headers: dict[str, tuple[int, int]], size: tuple[int, int] | None, source: str) -> Recordings:
    """The recordings, of one sampling rate, as spectrograms of one length."""
    rates = sorted({rate for rate, _ in headers.values()})
    if len(rates) > 1:
        raise InvalidArgument(f"{source}: sampling rates {rates[0]} and {rates[1]} Hz in one folder; convert to one")
    if size is None:
        size = (64, frames_for(list(headers.values())))
    return Recordings(tuple(headers), LogMel(rates[0], size[1], size[0]))
