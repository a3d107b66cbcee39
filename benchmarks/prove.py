"""What `viewproof prove` takes from start to end, every theorem and every mutant; a fresh process."""

import subprocess
import sys
import time


def main() -> list[str]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "viewproof", "prove"], capture_output=True, text=True)
    summary = done.stdout.strip().splitlines()[-1]
    return [f"viewproof prove: {time.perf_counter() - start:.0f} s, exit {done.returncode}; {summary}"]


if __name__ == "__main__":
    print("\n".join(main()))
