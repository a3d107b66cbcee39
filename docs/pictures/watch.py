"""Draws the pictures of docs/watch.md: examples/mae.py without and with its planted bug."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Write both pictures beside this file."""
    for name, flags in (("watch-mae", []), ("watch-mae-bug", ["--bug"])):
        script = [str(HERE.parents[1] / "examples/mae.py"), *flags]
        subprocess.run([sys.executable, "-m", "viewproof", "watch", "--picture", str(HERE / f"{name}.png"), *script])


if __name__ == "__main__":
    main()
