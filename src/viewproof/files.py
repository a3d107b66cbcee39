"""Writing a file so that it appears whole or not at all, whatever stands in its folder."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from viewproof.errors import InvalidArgument


def check_new(**files: Path | None) -> None:
    """Refuse, before any work is done, an output file that exists or that lies in no folder.

    >>> check_new(json=Path("no/such/folder/out.json"))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: json='no/such/folder/out.json' must be in a folder that exists; make ... first
    >>> check_new(out=Path(".", chr(0)))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: out='\\x00' must have no null character; choose another name
    """
    for name, path in files.items():
        if path is not None and not path.absolute().parent.is_dir():
            raise InvalidArgument(
                f"{name}={str(path)!r} must be in a folder that exists; make {str(path.parent)!r} first"
            )
        if "\0" in str(path):
            raise InvalidArgument(f"{name}={str(path)!r} must have no null character; choose another name")
        if path is not None and os.path.lexists(path):
            raise InvalidArgument(f"{name}={str(path)!r} exists; choose another name, nothing is overwritten")


@contextmanager
def whole_file(path: str | os.PathLike[str], mode: str = "w", **how: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that takes the name ``path`` only once everything is on the disk.

    ``mode`` is "w" (UTF-8 text) or "wb"; ``how`` goes to `open`. What is written first lies beside ``path`` under a
    random name, opened so that a link or a file of that name is an error. After an exception it is gone and ``path`` is
    as it was; an `OSError` names ``path``. A link at ``path`` is replaced; what it points to is not touched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with whole_file(f"{folder}/a.txt") as file:
    ...         _ = file.write("whole")
    ...     Path(f"{folder}/a.txt").read_text(), len(os.listdir(folder))
    ('whole', 1)
    """
    path = Path(path)
    if "b" not in mode:
        how = {"encoding": "utf-8", **how}
    # Hidden, and as short as it can be: the name of a long path must not become too long.
    aside = path.parent / f".{secrets.token_hex(8)}.part"
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            with os.fdopen(descriptor, mode, **how) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            with suppress(OSError):
                aside.unlink()
            raise
    except OSError as error:
        # A full disk's error has no name, and the random one says nothing; one without a number would lose its words.
        if error.errno is not None and error.filename in (None, str(aside)):
            error.filename = str(path)
        raise
