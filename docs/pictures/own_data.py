"""Draws the picture of docs/own-data.md, run from this folder: photographs and what a run sees."""

import shutil
import tempfile
from pathlib import Path

import skimage
import torch
from matplotlib.figure import Figure
from PIL import Image

import viewproof as vp
from viewproof.data.batches import Batches

NAMES = ("chelsea.png", "coffee.png", "hubble_deep_field.jpg", "logo.png", "rocket.jpg")
COLUMNS = ("the file", "evaluation", "epoch 0", "epoch 1", "epoch 1, masked")


def main() -> None:
    """Write the picture beside this file: one row a photograph."""
    source = Path(skimage.__file__).parent / "data"
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            shutil.copy(source / name, folder)
        data = vp.data.load_dataset(folder, size=(96, 96), test_fraction=0.2)
        paths = data.train.values.base.paths  # type: ignore[union-attr]
        rows = list(range(4))
        names = [Path(paths[data.train.values.index[k]]).name for k in rows]  # type: ignore[union-attr]
        ids = torch.tensor(rows)
        crops = Batches(data, "train", seed=0, min_area=0.2, flip=0.5)
        views = [data.fetch("train", ids), crops[0, ids][0], crops[1, ids][0]]
        mask = vp.RandomPatchMask(16, 16, 27).mask(data.sample_shape, sample_ids=ids, epoch=1)
        files = []
        for name in names:
            with Image.open(source / name) as image:
                files.append((f"{image.height} x {image.width} {image.mode}", image.convert("RGBA")))
    pictures = [data.restore(x).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy() for x in views]
    hidden = mask.hidden.permute(0, 2, 3, 1).numpy()
    pictures.append(pictures[2] * ~hidden + 128 * hidden)
    figure = Figure(figsize=(1.7 * len(COLUMNS), 1.75 * len(rows)), layout="constrained")
    for n, axes in enumerate(figure.subplots(len(rows), len(COLUMNS))):
        axes[0].imshow(files[n][1])
        axes[0].set_xlabel(files[n][0], fontsize=8)
        for column, axis in enumerate(axes):
            if column:
                axis.imshow(pictures[column - 1][n].astype("uint8"))
            axis.set_xticks([])
            axis.set_yticks([])
            if n == 0:
                axis.set_title(COLUMNS[column], fontsize=9)
    figure.savefig(Path(__file__).parent / "own-data.png", dpi=80)


if __name__ == "__main__":
    main()
