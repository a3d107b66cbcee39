"""Guards of a run folder: digests by which a changed file is noticed, and a lock against two writers."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewproof.errors import InvalidArgument
from viewproof.files import whole_file

DIGESTS = "sha256.json"


@contextmanager
def recorded(folder: Path, *names: str) -> Iterator[None]:
    """Write files of a run folder inside; at the end the SHA-256 of those there are is written down.

    Meanwhile they have none, so that what a kill leaves half done is not taken for damage. Those of other files stay.
    """
    digests = {name: digest for name, digest in _read(folder).items() if name not in names}
    if digests != _read(folder):
        _write(folder, digests)
    yield
    for name in names:
        if (folder / name).exists():
            with (folder / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    _write(folder, digests)


def check_digest(folder: Path, name: str) -> None:
    """Refuse a file whose bytes are not those that the run wrote down; one without a digest, or absent, passes."""
    digest = _read(folder).get(name)
    if digest is None or not (folder / name).exists():
        return
    with (folder / name).open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise InvalidArgument(
            f"{folder / name} is damaged: its SHA-256 is not what {DIGESTS} says; restore a copy, or delete it and "
            "write it again"
        )


def _write(folder: Path, digests: dict[str, str]) -> None:
    with whole_file(folder / DIGESTS) as file:
        file.write(json.dumps(digests, indent=1, sort_keys=True) + "\n")


def _read(folder: Path) -> dict[str, str]:
    path = folder / DIGESTS
    if not path.exists():
        return {}
    try:
        digests = json.loads(path.read_text())
        if not isinstance(digests, dict):
            raise ValueError("no object")
        return {str(name): str(digest) for name, digest in digests.items()}
    except ValueError as error:
        raise InvalidArgument(f"{path} is damaged ({error}); restore a copy, or train again") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for one writer; a folder that another process holds raises `InvalidArgument`.

    So does a link in it to another folder, through which files elsewhere would be written.
    The system lets go when the process ends, however it ends. Where it has no such locks (Windows) nothing is held.
    """
    for path in folder.iterdir():
        if path.is_symlink() and path.is_dir():
            raise InvalidArgument(f"{path} must not be a link: a run writes into its own folder; put a folder there")
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidArgument(
                f"{folder} is being written by another process; wait for it, or stop it first"
            ) from error
        yield
    finally:
        os.close(descriptor)
