"""The table of docs/certify.md, from a file of ``viewproof zoo --json``: caught.py zoo.json"""

import json
import sys
from pathlib import Path
from statistics import median
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
    "adapter lines",
    "s",
)


def row(name: str, each: list[dict[str, Any]]) -> str:
    """The counts of some specimens, their median adapter and all their seconds.

    A bug is missed if its contract is neither REFUTED nor UNKNOWN.
    """
    bugs = [one["buggy"] for one in each if one["buggy"] is not None]
    fixed = [one["fixed"] for one in each]
    detected, open_bugs = bugs.count("REFUTED"), bugs.count("UNKNOWN")
    cells = [
        *(name, len(bugs), detected, len(bugs) - detected - open_bugs, open_bugs),
        *(len(fixed), fixed.count("PROVED"), fixed.count("UNKNOWN"), sum(one["false_alarm"] for one in each)),
        f"{median(one['adapter_lines'] for one in each):g}",
        f"{sum(one['seconds'] for one in each):.0f}",
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
    for name, stood in (("its certifier was written with it", False), ("its certifier stood before", True)):
        print(row(name, [one for one in each if one["certifier_stood"] is stood]))


if __name__ == "__main__":
    main()
