"""What `--compile` costs and saves, in CPU seconds of the process and its compilers: the steps after which it pays.

Masked autoencoders, self-attention decoder 64 x 2, 75 % hidden, AdamW, one thread; each size in a process of its own
with an empty compile cache. ``python benchmarks/compiled_run.py [SIZE ...]`` prints a row a size.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile

import torch

import viewproof as vp

SIZES = {
    "digits, 64 x 2, batch 64": ((1, 8, 8), 2, 64, 2, 64),
    "Fashion-MNIST, 128 x 4, batch 128": ((1, 28, 28), 4, 128, 4, 128),
    "CIFAR-10, 128 x 4, batch 128": ((3, 32, 32), 4, 128, 4, 128),
}
STEPS = 25


def cpu_seconds() -> float:
    """Of this process and of the children that ended."""
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(name: str, compiled: bool) -> tuple[float, float]:
    """CPU seconds of the first two steps, and the median of the later ones."""
    shape, patch, dim, depth, batch = SIZES[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = vp.MaskedAutoencoder(shape, (patch, patch), dim, depth, 4, 64, 2, 4)
    places = (shape[1] // patch) * (shape[2] // patch)
    rule = vp.SharedRandomPatchMask(patch, patch, count=3 * places // 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images = torch.randn(batch, *shape)
    if compiled:
        model.compile()
    seconds = []
    for step in range(STEPS):
        start = cpu_seconds()
        sample = rule.at(step).sample(images)
        loss = vp.masked_mse(model(sample.x, sample.view), sample)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        seconds.append(cpu_seconds() - start)
    return sum(seconds[:2]), statistics.median(seconds[2:])


def row(name: str) -> str:
    """Both measured in fresh processes; where a compiled step is cheaper, the steps that pay for the warm-up."""
    found = []
    for compiled in (False, True):
        with tempfile.TemporaryDirectory() as cache:
            # Compilers in this process, so that their time is counted; a cache would hide it.
            settings = {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1", "OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, __file__, "--one", name, str(int(compiled))],
                env={**os.environ, **settings}, check=True, capture_output=True, text=True,
            )  # fmt: skip
        found.append([float(part) for part in done.stdout.split()])
    (plain_first, plain), (first, later) = found
    saved = plain - later
    pays = f"pays after {(first - plain_first) / saved:,.0f} steps" if saved > 0 else "never pays"
    return f"{name}: {1000 * plain:.0f} ms a step, compiled {1000 * later:.0f} after {first:.0f} s; {pays}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(*measure(sys.argv[2], bool(int(sys.argv[3]))))
    else:
        for chosen in sys.argv[1:] or SIZES:
            print(row(chosen), flush=True)
