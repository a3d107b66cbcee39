"""Writes docs/licences.md: the licences that the packages of constraints.txt state.

    python reliability/licences.py

Run it where all of them are installed (``make licences``). A package that is missing ends it with exit code 1.
"""

import re
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
# Their metadata name no licence; it stands in the licence file of the release.
IN_A_FILE = {"cvc5": "BSD-3-Clause"}


def pinned() -> list[str]:
    """The names in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line.partition("==")[0].strip() for line in lines if "==" in line and not line.startswith("#")]


def direct() -> set[str]:
    """The names that pyproject.toml asks for, in lower case with hyphens."""
    names = re.findall(r'"([A-Za-z][\w.-]*)(?:[<>=][^"]*)?"', (ROOT / "pyproject.toml").read_text())
    return {name.lower().replace("_", "-") for name in names}


def licence(name: str) -> str:
    """What a package says of its licence: an expression, else a short text, else its classifiers."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    text = metadata.get("License") or ""
    if text in ("", "UNKNOWN") or "\n" in text or len(text) > 60:
        classifiers = metadata.get_all("Classifier") or []
        text = "; ".join(c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::"))
    return text.replace("|", "/") or IN_A_FILE[name]


def main() -> int:
    """Write the page."""
    rows, missing, asked = [], [], direct()
    for name in pinned():
        try:
            rows.append((name, licence(name), "yes" if name.lower().replace("_", "-") in asked else ""))
        except (PackageNotFoundError, KeyError):
            missing.append(name)
    if missing:
        print(f"not installed, or without a licence in the metadata: {', '.join(missing)}", file=sys.stderr)
        return 1
    lines = ["# Licences", "", "viewproof is MIT. These are the packages it is tested with, by their own metadata;"]
    lines += ["`make licences` writes this page. *direct*: viewproof asks for it, in one of its extras.", ""]
    lines += ["| package | licence | direct |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    PAGE.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
