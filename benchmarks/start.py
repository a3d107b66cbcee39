"""Seconds from ``viewproof pretrain FOLDER`` to its first step, of a folder of 20,000 images.

``python benchmarks/start.py [FOLDER]``; without a folder it writes 20,000 JPEG files of 32 x 32 pixels into a temporary
one. While the process imports, a copy of it reads the folder.
"""

import os
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


def measure(folder: Path, out: str) -> None:
    """Run the command up to its first training step, in a process of its own, and print what it took."""
    start = time.time()
    from viewproof import cli

    imported_training = cli.imported_training

    def imported() -> Any:
        train = imported_training()
        imports = time.time() - start
        from viewproof.methods.mae import MaskedPretraining

        def first_step(module: MaskedPretraining, *arguments: Any) -> NoReturn:
            took = f"the first training step begins after {time.time() - start:.1f} s on the clock"
            print(f"\nimports end after {imports:.1f} s, {took}", flush=True)
            os._exit(0)

        MaskedPretraining.training_step = first_step  # type: ignore[method-assign]
        return train

    cli.imported_training = imported
    cli.main(["pretrain", str(folder), "--epochs", "1", "--out", f"{out}/run"])


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(Path(sys.argv[1]), sys.argv[2])
    with tempfile.TemporaryDirectory() as made:
        images = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made, "images")
        if len(sys.argv) == 1:
            write_images(images)
        subprocess.run([sys.executable, __file__, str(images), made], check=True)
