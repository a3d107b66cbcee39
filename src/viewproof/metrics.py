"""Reading a run's ``metrics.csv``."""

import csv
from pathlib import Path

from viewproof.errors import InvalidArgument


def read_metrics(path: Path, size: int | None = None) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``, as text by column; none if there is no file.

    An empty cell is a value that was not measured. Only the first ``size`` bytes are read if it is given. A last row
    that a kill cut short is left out. Anything else that is no such table raises `InvalidArgument`.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_bytes()[:size].decode().splitlines()
        rows = list(csv.DictReader(lines, strict=True))
        if rows and None in rows[-1].values():
            rows.pop()
        for row in rows:
            if None in row or None in row.values():
                raise ValueError(f"a row has not the {len(row)} cells of the first line")
            int(row["step"])
            for value in filter(None, row.values()):
                float(value)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InvalidArgument(f"{path} is damaged ({error}); restore a copy, or delete it: the run goes on") from error
    return rows
