"""Seconds from ``viewproof pretrain FOLDER`` to its first step, of a folder of 20,000 images.

``python benchmarks/start.py [FOLDER]``; without a folder it writes 20,000 JPEG files of 32 x 32 pixels into a temporary
one. Processor time counts the processes that read headers too.
"""

import gc
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

COUNT = 20_000


def write_images(folder: Path) -> None:
    """Small images of ten classes."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for k in range(COUNT):
        path = folder / f"class{k % 10}" / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def processor_time() -> float:
    """Of this process and of those it started, since it started itself."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure(folder: Path, out: str) -> None:
    """Run the command up to its first training step, in a process of its own, and print what it took."""
    start = time.time()
    gc.disable()  # as the command does while it imports
    import viewproof.runs.train  # noqa: F401
    from viewproof.cli import main
    from viewproof.methods.mae import MaskedPretraining

    gc.enable()
    imports = processor_time()

    def first_step(module: MaskedPretraining, *arguments: Any) -> NoReturn:
        print(f"\nimports {imports:.1f} s; first training step after {processor_time():.1f} s of CPU time,", end=" ")
        print(f"{time.time() - start:.1f} s on the clock", flush=True)
        os._exit(0)

    MaskedPretraining.training_step = first_step  # type: ignore[method-assign]
    main(["pretrain", str(folder), "--epochs", "1", "--out", f"{out}/run"])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), sys.argv[2])
    with tempfile.TemporaryDirectory() as made:
        images = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made, "images")
        if len(sys.argv) == 1:
            write_images(images)
        subprocess.run([sys.executable, __file__, str(images), made], check=True)
