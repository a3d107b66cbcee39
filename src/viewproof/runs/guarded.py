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


def record_digests(folder: Path, *names: str) -> None:
    """Write down the SHA-256 of files of a run folder; those of other files stay."""
    digests = _read(folder)
    for name in names:
        with (folder / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    with whole_file(folder / DIGESTS) as file:
        file.write(json.dumps(digests, indent=1, sort_keys=True) + "\n")


def check_digest(folder: Path, name: str) -> None:
    """Refuse a file whose bytes are not those that the run wrote down; one without a digest passes."""
    digest = _read(folder).get(name)
    if digest is None:
        return
    with (folder / name).open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise InvalidArgument(
            f"{folder / name} is damaged: its SHA-256 is not what {DIGESTS} says; restore a copy, or train again"
        )


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

    The system lets go when the process ends, however it ends. Where it has no such locks (Windows) nothing is held.
    """
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
