"""Images a second of the loader, beside torchvision's with equal transforms and workers.

Needs torchvision: run it with the second environment, ``.venv-peers/bin/python benchmarks/loader.py [FOLDER]``.
Without a folder it writes 1,000 JPEG files of 500 x 375 pixels into a temporary one, cut from scikit-image's.
Both loaders make random resized crops (area 0.2 to 1) of 224 x 224, a flip and a standardised float32 batch of 64. They
are timed in turn over whole epochs, after one that is not counted; medians are printed. Without workers the processor's
time an image is printed too, which other programs on the machine disturb less.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viewproof.data import IMAGENET, batches, load_dataset

SIZE, BATCH = 224, 64


def write_photographs(folder: Path, count: int) -> None:
    from PIL import Image

    data = load_dataset("photos", size=(225, 225))
    crops = data.train.values[np.arange(len(data.train))]
    for k in range(count):
        path = folder / f"class{k % 10}" / f"{k:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(crops[k % len(crops)].transpose(1, 2, 0))
        image.resize((500, 375), Image.Resampling.BICUBIC).rotate(k % 7).save(path, quality=90)


def ours(folder: Path, workers: int) -> Callable[[int], Iterable[Any]]:
    data = load_dataset(folder, size=(SIZE, SIZE), mean=IMAGENET[0], std=IMAGENET[1])
    loader = batches(data, "train", BATCH, num_workers=workers, min_area=0.2, flip=0.5)

    def epoch(number: int) -> Iterable[Any]:
        loader.sampler.set_epoch(number)
        return (x for x, _ in loader)

    return epoch


def torchvisions(folder: Path, workers: int) -> Callable[[int], Iterable[Any]]:
    from torch.utils.data import DataLoader, Subset
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import (
        Compose,
        InterpolationMode,
        Normalize,
        RandomHorizontalFlip,
        RandomResizedCrop,
        ToTensor,
    )

    crop = RandomResizedCrop(SIZE, scale=(0.2, 1), interpolation=InterpolationMode.BICUBIC)
    whole = ImageFolder(str(folder), Compose([crop, RandomHorizontalFlip(), ToTensor(), Normalize(*IMAGENET)]))
    part = Subset(whole, range(round(len(whole) * 0.9)))
    loader = DataLoader(part, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda number: (x for x, _ in loader)


def timed(epoch: Callable[[int], Iterable[Any]], number: int) -> tuple[float, float]:
    """Images a second of one epoch, and milliseconds of this process's CPU time an image."""
    start, used, count = time.perf_counter(), time.process_time(), 0
    for x in epoch(number):
        assert x.shape[1:] == (3, SIZE, SIZE) and x.dtype == torch.float32
        count += len(x)
    return count / (time.perf_counter() - start), 1e3 * (time.process_time() - used) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--count", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        folder = arguments.folder or Path(made)
        if arguments.folder is None:
            write_photographs(folder, arguments.count)
        print("| workers | viewproof, images/s | torchvision, images/s | ratio | CPU ms an image |")
        print("|---|---|---|---|---|")
        for workers in arguments.workers:
            makers = (ours(folder, workers), torchvisions(folder, workers))
            rounds = [[timed(epoch, number) for epoch in makers] for number in range(arguments.epochs + 1)][1:]
            sides = zip(*rounds, strict=True)
            (a, cpu_a), (b, cpu_b) = (map(statistics.median, zip(*side, strict=True)) for side in sides)
            cpu = "" if workers else f"{cpu_a:.2f} and {cpu_b:.2f}, {cpu_b / cpu_a:.2f}"
            print(f"| {workers} | {a:,.0f} | {b:,.0f} | {a / b:.2f} | {cpu} |")


if __name__ == "__main__":
    main()
