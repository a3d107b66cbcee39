"""One watched step beside a plain one: a ViT-Tiny/16 masked autoencoder at 224, batch 8, AdamW.

Goals: at most 15 times a plain step, and at most 2 GB more memory than the process has without it (forked copies
share what they do not write to). `python benchmarks/watch.py 1` runs one round, `python benchmarks/watch.py 1 base` one
of ViT-Base, whose watched step should have at most a quarter more memory than the plain one. With `1 base cuda 64` it
is trained on a GPU, with 64 images a batch, and the GPU's memory is counted.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import viewproof as vp

SHAPE, PATCH, BATCH = (3, 224, 224), (16, 16), 8


def measured(call: Callable[[], object], rounds: int, device: str) -> tuple[float, int]:
    """The median seconds of a call, and the most memory while it ran."""
    seconds = []
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    words = [sys.executable, str(Path(__file__).with_name("memory.py")), str(os.getpid())]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as looking:
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        most = int(looking.communicate()[0])
    return statistics.median(seconds), torch.cuda.max_memory_allocated() if device == "cuda" else most


def main(rounds: int = 3, size: str = "tiny", device: str = "cpu", batch: str = str(BATCH)) -> list[str]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dim, heads = {"tiny": (192, 3), "base": (768, 12)}[size]
    model = vp.MaskedAutoencoder(SHAPE, PATCH, dim=dim, heads=heads).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    rule = ~vp.PatchMask(*PATCH, period=4, offset=1)

    def step(images: Tensor) -> None:
        sample = rule.sample(images.to(device))
        optimizer.zero_grad()
        vp.masked_mse(model(sample.x, sample.view), sample).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    images = torch.randn(int(batch), *SHAPE)
    step(images)
    one, before = measured(lambda: step(images), rounds, device)
    reports: list[vp.WatchReport] = []
    other, during = measured(lambda: reports.append(vp.watch(step, images)), rounds, device)
    verdict = reports[-1].verdict(vp.Contract.C1)
    more = (
        (f"{during / before - 1:.0%}", "<= 25 %")
        if size == "base"
        else (f"{(during - before) / 1e9:.2f} GB", "<= 2 GB")
    )
    return [
        f"Watched step, ViT-{size.title()}/16 at 224 x 224, batch {batch}, one thread, {device}, C1 {verdict.name}",
        "",
        "| | median | goal |",
        "|---|---|---|",
        f"| plain step | {one:.2f} s | |",
        f"| watched step | {other:.2f} s | |",
        f"| ratio | {other / one:.1f} | <= 15 |",
        f"| memory | {before / 1e9:.2f} GB, {during / 1e9:.2f} GB | |",
        f"| more memory | {more[0]} | {more[1]} |",
    ]


if __name__ == "__main__":
    print("\n".join(main(*map(int, sys.argv[1:2]), *sys.argv[2:])))
