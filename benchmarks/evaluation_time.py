"""CPU seconds of training and of all that follows it, of a run on a folder of images with labels.

    python benchmarks/evaluation_time.py FOLDER

One epoch is trained with one thread, then the run is evaluated: errors, features of three encoders, probes, pictures,
report. The goal for CIFAR-10's 60,000 images: evaluation takes at most a third of eight epochs' training.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from viewproof.cli import app

EPOCHS = 8


def main(folder: str) -> list[str]:
    ends: list[float] = []

    def fit(trainer: pl.Trainer, *args: Any, _fit: Any = pl.Trainer.fit, **options: Any) -> None:
        ends.append(time.process_time())
        _fit(trainer, *args, **options)
        ends.append(time.process_time())

    pl.Trainer.fit = fit
    with tempfile.TemporaryDirectory() as out:
        flags = "--epochs 1 --decoder cross-attention --decoder-depth 1 --threads 1 --accelerator cpu"
        app(["pretrain", folder, *flags.split(), "--out", str(Path(out) / "run")], result_action="return_value")
    training, after = ends[1] - ends[0], time.process_time() - ends[1]
    share = after / (EPOCHS * training)
    return [f"an epoch {training:.0f} s, what follows {after:.0f} s of CPU: {share:.0%} of {EPOCHS} epochs (goal 33 %)"]


if __name__ == "__main__":
    print("\n".join(main(sys.argv[1])))
