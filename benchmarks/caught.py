"""The table of docs/certify.md, from a file of ``viewproof zoo --json``: caught.py zoo.json"""

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "contract",
    "bugs",
    "detected",
    "missed",
    "UNKNOWN",
    "correct programs",
    "PROVED",
    "UNKNOWN",
    "false alarms",
    "s",
)


def row(name: str, each: list[dict[str, Any]]) -> str:
    """The counts of some specimens; a bug is missed if its contract is neither REFUTED nor UNKNOWN."""
    bugs = [one["buggy"] for one in each if one["buggy"] is not None]
    fixed = [one["fixed"] for one in each]
    detected, open_bugs = bugs.count("REFUTED"), bugs.count("UNKNOWN")
    cells = [
        *(name, len(bugs), detected, len(bugs) - detected - open_bugs, open_bugs),
        *(len(fixed), fixed.count("PROVED"), fixed.count("UNKNOWN"), sum(one["false_alarm"] for one in each)),
        f"{sum(one['seconds'] for one in each):.1f}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Print the table."""
    each = json.loads(Path(sys.argv[1]).read_text())["each"]
    contracts = sorted({one["contract"] for one in each}, key=lambda name: int(name[1:]))
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for name in contracts:
        print(row(name, [one for one in each if one["contract"] == name]))
    print(row("all", each))


if __name__ == "__main__":
    main()
