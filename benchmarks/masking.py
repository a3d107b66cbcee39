"""`Mask.apply` on 64 x 3 x 224 x 224 float32: against copy_ and torch.where, memory, a fixed rule's cost."""

import resource
import subprocess
import sys
import time

import torch
from timing import side_by_side

import viewproof as vp

SHAPE = (64, 3, 224, 224)
RULE = vp.PatchMask(16, 16, period=4, offset=1)


def speed(rounds: int) -> list[str]:
    x = torch.randn(SHAPE)
    mask, buffer, zero = RULE.mask(SHAPE[1:]), torch.empty(SHAPE), torch.zeros(())
    ready = mask.hidden
    seconds = side_by_side(
        {
            "buffer.copy_(x)": lambda: buffer.copy_(x),
            "mask.apply(x, out=buffer)": lambda: mask.apply(x, out=buffer),
            "torch.where(hidden, zero, x)": lambda: torch.where(ready, zero, x),
            "mask.apply(x)": lambda: mask.apply(x),
        },
        rounds,
    )
    ms = {name: 1e3 * median for name, median in seconds.items()}
    copy, into, where, fresh = ms.values()
    lines = [
        "Masking 64 x 3 x 224 x 224 float32",
        "",
        "| call | ms | speed against | ratio | limit |",
        "|---|---|---|---|---|",
    ]
    lines.append(f"| buffer.copy_(x) | {copy:.1f} | | | |")
    lines.append(f"| mask.apply(x, out=buffer) | {into:.1f} | buffer.copy_(x) | {copy / into:.2f} | >= 0.9 |")
    lines.append(f"| torch.where(hidden, zero, x) | {where:.1f} | | | |")
    lines.append(f"| mask.apply(x) | {fresh:.1f} | torch.where | {where / fresh:.2f} | >= 1 (within noise) |")
    return lines


def memory() -> list[str]:
    """Growth of the process's highest memory over one call, in a process of its own, in outputs."""
    ratio = subprocess.run([sys.executable, __file__, "memory"], capture_output=True, text=True, check=True).stdout
    return [f"Peak extra memory of mask.apply(x): {float(ratio):.2f} outputs (limit 1.05)"]


def measure_memory() -> float:
    x = torch.zeros(16 * SHAPE[0], *SHAPE[1:]).fill_(1.0)  # far above what importing torch has touched
    mask = RULE.mask(SHAPE[1:])
    mask.apply(x[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mask.apply(x)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (after - before) * 1024 / (x.numel() * x.element_size())


def fixed_rule() -> list[str]:
    start = time.perf_counter()
    first_mask = vp.PatchMask(16, 16, period=5, offset=1).mask(SHAPE[1:])
    first = time.perf_counter() - start
    rule = vp.PatchMask(16, 16, period=5, offset=1)
    again = side_by_side({"again": lambda: rule.mask(SHAPE[1:])}, 1001)["again"]
    assert rule.mask(SHAPE[1:]) is first_mask
    return [f"rule.mask: first {1e6 * first:.0f} us, every later step {1e6 * again:.1f} us (the same object)"]


def main(rounds: int = 31) -> list[str]:
    torch.manual_seed(0)
    return [*speed(rounds), "", *memory(), "", *fixed_rule()]


if __name__ == "__main__":
    print(measure_memory() if sys.argv[1:] == ["memory"] else "\n".join(main()))
