"""The fused kernel and plain attention, forward and backward: the rule of models/attention.py.

For each dtype and length the rule's choice is marked, and where it is not the faster one the row says so. `python
benchmarks/attention.py 2` runs two rounds.
"""

import sys
from collections.abc import Callable

import torch
from timing import side_by_side
from torch import Tensor
from torch.nn import functional as F

from viewproof.models.attention import is_plain, plain_attention

SIZES = [(32, 3, 49, 49, 64), (32, 4, 49, 49, 32), (32, 4, 147, 49, 32), (32, 4, 196, 196, 32), (8, 3, 400, 400, 64)]
"""Batch, heads, queries, keys, width: encoder and decoders of a ViT-Tiny/16 at 224 with 75 % hidden, and longer."""
TIE = 1.1
"""A choice that is slower by less than this is no mistake."""


def both_passes(kernel: Callable[[Tensor, Tensor, Tensor], Tensor], parts: list[Tensor]) -> Callable[[], None]:
    def call() -> None:
        kernel(*parts).sum().backward()

    return call


def main(rounds: int = 9) -> list[str]:
    lines = ["Attention, forward and backward, milliseconds", ""]
    lines += [
        "| dtype | batch, heads, queries, keys, width | fused | plain | the rule takes |",
        "|---|---|---|---|---|",
    ]
    for dtype in (torch.float32, torch.bfloat16):
        for batch, heads, queries, keys, width in SIZES:
            parts = [
                torch.randn(batch, tokens, heads, width).transpose(1, 2).to(dtype).requires_grad_()
                for tokens in (queries, keys, keys)
            ]
            kernels = {"fused": F.scaled_dot_product_attention, "plain": plain_attention}
            seconds = side_by_side({name: both_passes(kernel, parts) for name, kernel in kernels.items()}, rounds)
            chosen = "plain" if is_plain("cpu", dtype, keys) else "fused"
            slower = seconds[chosen] / min(seconds.values())
            remark = f", {slower:.1f} times slower" if slower > TIE else ""
            sizes = f"{batch}, {heads}, {queries}, {keys}, {width}"
            cells = [str(dtype).removeprefix("torch."), sizes, *(f"{1e3 * s:.1f}" for s in seconds.values())]
            lines.append(f"| {' | '.join([*cells, chosen + remark])} |")
    return lines


if __name__ == "__main__":
    print("\n".join(main(*map(int, sys.argv[1:]))))
