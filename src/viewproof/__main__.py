"""The entry point: runs the command line, or says which package it lacks."""

import os
import sys


def main() -> int:
    """Run the command line."""
    try:
        from viewproof.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("viewproof"):
            raise
        print(f"viewproof: {error.name} is not installed; pip install 'viewproof[all]'", file=sys.stderr)
        return 2
    try:
        return run()
    except BrokenPipeError:
        # Whoever read the output has enough; Python's last flush would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
