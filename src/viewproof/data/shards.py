"""WebDataset tar shards on this machine's disk, read by index."""

import re
import shlex
import tarfile
from collections.abc import Iterator, Mapping
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np

from viewproof.data.audio import AUDIO_SUFFIXES
from viewproof.data.checks import require
from viewproof.data.dataset import Dataset, Statistics
from viewproof.data.folder import SUFFIXES
from viewproof.data.indexed import Kind, from_indexed
from viewproof.errors import InvalidArgument


class Shards:
    """The samples of tar shards, in the shards' order.

    ``self[k]`` maps a member's extension to its bytes. Members that follow one another and have one name up to the
    first dot are a sample, as in WebDataset; hidden files and names without a dot are left out. A shard must hold files
    alone, and the empty block that ends a tar file.
    """

    def __init__(self, paths: list[str]) -> None:
        self.samples: list[tuple[str, str, dict[str, tuple[int, int]]]] = []  # shard, key, extension: (start, size)
        for path in paths:
            key = None
            for member in _whole_members(path):
                folder, _, name = member.name.rpartition("/")
                stem, _, extension = name.partition(".")
                if not stem or not extension:
                    continue
                if f"{folder}/{stem}" != key or extension in self.samples[-1][2]:
                    key = f"{folder}/{stem}"
                    self.samples.append((path, key.removeprefix("/"), {}))
                self.samples[-1][2][extension] = (member.offset_data, member.size)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, k: int) -> dict[str, Any]:
        path, key, members = self.samples[k]
        sample: dict[str, Any] = {"__key__": key}
        with Path(path).open("rb") as file:
            for extension, (start, size) in members.items():
                file.seek(start)
                sample[extension] = file.read(size)
        return sample


def _whole_members(path: str) -> Iterator[tarfile.TarInfo]:
    """The files in a tar shard.

    A damaged or cut shard, and one that holds links, are an `InvalidArgument`.
    """
    with Path(path).open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise InvalidArgument(f"{path}: is compressed and cannot be read by index; decompress it (gunzip)")
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for member in archive:
                    if member.isreg() and not member.issparse():
                        yield member
                    elif not member.isdir():
                        raise InvalidArgument(
                            f"{path}: {member.name!r} is no whole file but a link or the like; write the shard again "
                            "with tar --dereference --hard-dereference"
                        )
        except (tarfile.TarError, ValueError) as error:
            raise InvalidArgument(f"{path}: not a whole tar shard ({error}); copy it again") from error
        # Python ends without a word where a header is cut or damaged.
        file.seek(archive.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if any(end):
            raise InvalidArgument(f"{path}: not a whole tar shard, byte {archive.offset} starts no file; copy it again")
        if len(end) < tarfile.BLOCKSIZE:
            raise InvalidArgument(
                f"{path}: lacks the empty block that ends a tar file: it is cut, or was not closed; copy it again, or "
                f"if nothing is missing add the block: truncate -s +1024 {shlex.quote(path)}"
            )


class Members:
    """Of each sample, the bytes of its one member with an extension of a kind."""

    def __init__(self, shards: Shards, suffixes: tuple[str, ...]) -> None:
        self.shards, self.suffixes = shards, suffixes

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, k: int) -> bytes:
        sample = self.shards[k]
        value = member(sample, self.suffixes)
        if value is None:
            raise InvalidArgument(f"sample {sample['__key__']!r} has none of {', '.join(self.suffixes)}; drop it")
        return value


def member(sample: Mapping[str, Any], suffixes: tuple[str, ...]) -> bytes | None:
    """The bytes of the first member with one of the extensions, as ``.seg.png`` has ``.png``."""
    return next((sample[name] for name in sorted(sample) if f".{name.lower()}".endswith(suffixes)), None)


def load_shards(
    pattern: str,
    test_fraction: float = 0.1,
    size: tuple[int, int] | None = None,
    max_pixels: int = 2**26,
    statistics: Statistics | None = None,
) -> Dataset:
    """The images, or recordings, of the shards that a pattern names.

    Patterns are ``train-{000..009}.tar``, ``*.tar`` or one file.

    Labels are the members ``.cls`` or ``.txt`` if all samples have one, integers or strings; texts of which more than
    half are different name no classes: they are captions. Shards in a folder ``test`` or ``val``, or whose names start
    so, are the test part; without one the split is `fixed_split`'s. Shards are local: missing ones, addresses,
    compressed and damaged ones raise `InvalidArgument`.
    """
    if not pattern:
        raise InvalidArgument("wds: names no shards; pass a pattern such as 'wds:train-{000..009}.tar'")
    if "://" in pattern:
        raise InvalidArgument(f"wds:{pattern} is an address; download the shards and pass their paths")
    braceexpand = require("braceexpand", f"data set 'wds:{pattern}'", "braceexpand", "data").braceexpand
    names = [name for p in braceexpand(pattern) for name in _files(p)]
    if not names:
        raise InvalidArgument(f"wds:{pattern}: no such shard; pass a pattern such as 'train-{{000..009}}.tar'")
    held_out = [name for name in names if _part(name) == "test"]
    groups = [[name for name in names if name not in held_out], held_out]
    parts = [Shards(group) for group in groups if group]
    if not all(len(part) for part in parts):
        raise InvalidArgument(f"wds:{pattern}: shards without samples; pass others")
    first = parts[0][0]
    kind: Kind = "image" if member(first, SUFFIXES) is not None else "audio"
    suffixes = SUFFIXES if kind == "image" else AUDIO_SUFFIXES
    columns = [Members(part, suffixes) for part in parts]
    labels: list[Any] = [None, None]
    if member(first, (".cls", ".txt")) is not None:
        for n, part in enumerate(parts):
            texts = [member(part[k], (".cls", ".txt")) for k in range(len(part))]
            missing = sum(text is None for text in texts)
            if missing:
                raise InvalidArgument(f"wds:{pattern}: {missing} samples have no label .cls or .txt; label all or none")
            try:
                words = [(text or b"").decode().strip() for text in texts]
            except UnicodeDecodeError as error:
                raise InvalidArgument(f"wds:{pattern}: a label is not UTF-8 ({error}); write it again") from error
            whole = all(re.fullmatch("-?[0-9]+", word) for word in words)
            labels[n] = np.array([int(word) for word in words] if whole else words)
        everything = np.concatenate([vector.astype(str) for vector in labels if vector is not None])
        if member(first, (".cls",)) is None and 2 * len(np.unique(everything)) > len(everything):
            labels = [None, None]
    return from_indexed(
        columns[0],
        columns[1] if len(columns) == 2 else None,
        name=Path(names[0]).stem,
        labels=labels[0],
        test_labels=labels[1],
        kind=kind,
        test_fraction=test_fraction,
        size=size,
        max_pixels=max_pixels,
        statistics=statistics,
    )


def _files(pattern: str) -> list[str]:
    path = str(Path(pattern).expanduser())
    found = sorted(glob(path)) if has_magic(path) else [path]  # noqa: PTH207 (a pattern that may be absolute)
    missing = [name for name in found if not Path(name).is_file()]
    if missing and Path(missing[0]).is_dir():
        raise InvalidArgument(f"wds:{pattern}: {missing[0]} is a folder; pass 'wds:{missing[0].rstrip('/')}/*.tar'")
    if missing:
        raise InvalidArgument(f"wds:{pattern}: no shard {missing[0]}; check the pattern")
    return found


def _part(name: str) -> str:
    path = Path(name)
    return "test" if path.parent.name in ("test", "val") or path.name.startswith(("test", "val")) else "train"
