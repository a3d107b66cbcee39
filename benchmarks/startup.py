"""What importing viewproof costs beyond torch, and how soon ``--help`` appears; fresh processes."""

import statistics
import subprocess
import sys
import time

IMPORT = """
import time, torch
start = time.perf_counter()
import viewproof
viewproof.Mask, viewproof.masked_mse
print(time.perf_counter() - start)
"""


def main(rounds: int = 5) -> list[str]:
    beyond = [float(subprocess.check_output([sys.executable, "-c", IMPORT], text=True)) for _ in range(rounds)]
    shown = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "viewproof", "pretrain", "--help"], check=True, capture_output=True)
        shown.append(time.perf_counter() - start)
    return [
        f"import viewproof and its masks and losses, beyond torch: {statistics.median(beyond):.2f} s (limit 0.2)",
        f"viewproof pretrain --help: {statistics.median(shown):.2f} s (limit 0.5)",
    ]


if __name__ == "__main__":
    print("\n".join(main()))
