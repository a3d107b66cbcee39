"""`certify_view` on 8 x 3 x n x n float32: seconds and growth, and the process's highest memory."""

import resource
import subprocess
import sys
import time

import torch

import viewproof as vp
from viewproof.certify.view import certify_view

SIZES = (32, 64, 128, 224)


def by_product(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, vp.Mask]:
    mask = vp.PatchMask(16, 16, period=4, offset=1).mask(tuple(x.shape[1:]))
    return x * ~mask.hidden, x, mask


def seconds(view: object, size: int, rounds: int) -> float:
    x = torch.randn(8, 3, size, size)
    rule = vp.PatchMask(16, 16, period=4, offset=1)
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        certify_view(view, x, rule)  # type: ignore[arg-type]
        spent.append(time.perf_counter() - start)
    return sorted(spent)[rounds // 2]


def main(rounds: int = 5) -> list[str]:
    rule = vp.PatchMask(16, 16, period=4, offset=1)
    lines = ["certify_view on 8 x 3 x n x n float32 (limit at 224: 2 s, 4 GB)", ""]
    lines += ["| n | proved, s | ns a coordinate | refuted with witnesses, s |", "|---|---|---|---|"]
    for size in SIZES:
        proved, refuted = (seconds(view, size, rounds) for view in (rule.sample, by_product))
        lines.append(f"| {size} | {proved:.3f} | {1e9 * proved / (24 * size * size):.0f} | {refuted:.3f} |")
    peak = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True, check=True).stdout
    return [*lines, "", f"Highest memory of a process that certifies at 224: {float(peak):.2f} GB"]


if __name__ == "__main__":
    if sys.argv[1:] == ["memory"]:
        seconds(by_product, 224, 1)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    else:
        print("\n".join(main()))
