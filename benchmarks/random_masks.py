"""Masks of 64 samples of 196 patches, 147 hidden: against MAE's rand, argsort, argsort, gather."""

import torch
from timing import side_by_side

import viewproof as vp

SAMPLES, SIDE, HIDDEN = 64, 14, 147


def mae() -> torch.Tensor:
    """The mask of ``random_masking`` in the code of He et al. 2021."""
    noise = torch.rand(SAMPLES, SIDE * SIDE)
    restore = torch.argsort(torch.argsort(noise, dim=1), dim=1)
    mask = torch.ones(SAMPLES, SIDE * SIDE)
    mask[:, : SIDE * SIDE - HIDDEN] = 0
    return torch.gather(mask, 1, restore)


def table(threads: int, rounds: int) -> list[str]:
    torch.set_num_threads(threads)
    ids, shape, steps = torch.arange(SAMPLES), (1, SIDE, SIDE), iter(range(10**9))
    own, shared = vp.RandomPatchMask(1, 1, HIDDEN), vp.SharedRandomPatchMask(1, 1, HIDDEN)
    calls = {
        "MAE: rand, argsort, argsort, gather": mae,
        "RandomPatchMask, one mask a sample": lambda: own.mask(shape, sample_ids=ids, epoch=3),
        "SharedRandomPatchMask, one draw a step": lambda: shared.at(next(steps)).mask(shape),
    }
    seconds = side_by_side(calls, rounds)
    theirs = seconds["MAE: rand, argsort, argsort, gather"]
    limits = ["", ">= 1", ">= 20"]
    lines = [f"{threads} thread{'s' * (threads > 1)}:", "", "| masks | us | ratio | limit |", "|---|---|---|---|"]
    for (name, median), limit in zip(seconds.items(), limits, strict=True):
        lines.append(f"| {name} | {1e6 * median:.0f} | {theirs / median:.2f} | {limit} |")
    return [*lines, ""]


def main(rounds: int = 501) -> list[str]:
    before = torch.get_num_threads()
    lines = [f"{SAMPLES} masks of {SIDE * SIDE} patches, {HIDDEN} hidden", ""]
    for threads in (1, 2):
        lines += table(threads, rounds)
    torch.set_num_threads(before)
    return lines


if __name__ == "__main__":
    print("\n".join(main()))
