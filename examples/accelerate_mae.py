"""A masked image model by Accelerate: keyed masks, the view certified, the second step watched.

``accelerate launch --cpu --num_processes 2 examples/accelerate_mae.py`` trains on two processes with the same masks;
a step is watched in one process.
``--bug``: the loss is over every pixel, the visible ones too.
"""

import argparse
import sys

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import viewproof as vp


def main() -> None:
    """Certify, train and watch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--bug", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
    numbers = torch.arange(len(images))
    # 12 of 16 patches are hidden, by (seed, epoch, image number): on every rank, in every worker, after a restart.
    rule = vp.RandomPatchMask(2, 2, count=12, seed=0)
    accelerator = Accelerator()
    accelerator.print(vp.certify_view(lambda x: rule.sample(x, sample_ids=numbers[:4]), images[:4]))

    model = vp.ViTReconstructor((1, 8, 8), patch_size=(2, 2), dim=64, depth=2, heads=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(TensorDataset(images, numbers), batch_size=16, shuffle=True, drop_last=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with vp.watch.recording(name="the second step") as watched:
        for epoch in range(arguments.epochs):
            for batch, ids in loader:
                sample = rule.sample(batch, sample_ids=ids, epoch=epoch)
                prediction = model(sample.x)
                loss = vp.masked_mse(prediction, sample, over="all" if arguments.bug else "hidden")
                optimizer.zero_grad()
                accelerator.backward(loss)
                optimizer.step()
            accelerator.print(f"epoch {epoch}: loss {loss.item():.4f}")
    if accelerator.num_processes == 1:
        print(watched.report)
        sys.exit(bool(watched.report.failures()))


if __name__ == "__main__":
    main()
