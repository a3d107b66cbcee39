"""Images a second of the loader, beside torchvision's with equal transforms and workers.

Needs torchvision: run it with the second environment, ``.venv-peers/bin/python benchmarks/loader.py [FOLDER]``.
Without a folder it writes 1,000 JPEG files of 500 x 375 pixels into a temporary one, cut from scikit-image's.
Both loaders make random resized crops (area 0.2 to 1) of 224 x 224, a flip and a standardised float32 batch of 64. They
are timed in turn over whole epochs, after one that is not counted; the best of each counts.
"""

import argparse
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


def images_per_second(epoch: Callable[[int], Iterable[Any]], number: int) -> float:
    start, count = time.perf_counter(), 0
    for x in epoch(number):
        assert x.shape[1:] == (3, SIZE, SIZE) and x.dtype == torch.float32
        count += len(x)
    return count / (time.perf_counter() - start)


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
        print("| workers | viewproof, images/s | torchvision, images/s | ratio |\n|---|---|---|---|")
        for workers in arguments.workers:
            makers = (ours(folder, workers), torchvisions(folder, workers))
            best = [0.0, 0.0]
            for number in range(arguments.epochs + 1):
                for k, epoch in enumerate(makers):
                    speed = images_per_second(epoch, number)
                    best[k] = max(best[k], speed) if number else 0.0
            print(f"| {workers} | {best[0]:,.0f} | {best[1]:,.0f} | {best[0] / best[1]:.2f} |")


if __name__ == "__main__":
    main()
