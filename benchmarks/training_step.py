"""A training step beside transformers' ViTMAEForPreTraining, with equal sizes, in one process.

ViT-Tiny/16 at 224 x 224 (192 x 12, 3 heads), decoder 128 x 4 (4 heads), batch 32, 75 % hidden, fused AdamW. The peer
draws its own random mask with one class token more; ours hides three of four patch classes, or draws with
`viewproof.SharedRandomPatchMask` where a quarter of all patches is predicted. Rows in bfloat16 run under autocast and
are compared with the peer under autocast, and are measured only where the machine multiplies faster in bfloat16; every
other ratio is to the peer in float32. `python benchmarks/training_step.py 2` runs two rounds.
"""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from timing import side_by_side
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import viewproof as vp
from viewproof.training.precision import faster_precision

SHAPE, PATCH, BATCH = (3, 224, 224), (16, 16), 32
PEER = "transformers ViTMAE"
LIMITS = {
    "self-attention decoder": ">= 1.15",
    "cross-attention, a quarter predicted": ">= 1.35",
    "self-attention decoder, bf16": ">= 2.2 to float32",
    "cross-attention, a quarter predicted, bf16": ">= 4.0 to float32, 3.2 to bf16",
    "cross-attention, a quarter predicted, bf16, compiled": ">= 4.0 to float32, 3.2 to bf16",
}
"""Goals; those of bfloat16 are for CPUs with units for it."""


def step_of(model: nn.Module, loss: Callable[[], Tensor], bf16: bool) -> Callable[[], None]:
    """One training step: the loss under autocast or not, its gradient, and AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            value = loss()
        value.backward()
        optimizer.step()

    return step


def peer_step(images: Tensor, bf16: bool = False) -> Callable[[], None]:
    config = ViTMAEConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        decoder_hidden_size=128, decoder_num_hidden_layers=4, decoder_num_attention_heads=4,
        decoder_intermediate_size=512, mask_ratio=0.75,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config)
    return step_of(model, lambda: model(pixel_values=images).loss, bf16)


def our_step(
    images: Tensor, decoder: str, bf16: bool = False, quarter: bool = False, compiled: bool = False
) -> Callable[[], None]:
    model = vp.MaskedAutoencoder(SHAPE, PATCH, decoder=decoder)  # type: ignore[arg-type]
    if compiled:
        model.compile()
    fixed, ids = ~vp.PatchMask(*PATCH, period=4, offset=1), torch.arange(BATCH)
    partial_rule, steps = vp.ScoredPatches(vp.SharedRandomPatchMask(*PATCH, 147), *PATCH, 49), iter(range(10**9))

    def loss() -> Tensor:
        rule = partial_rule.at(next(steps)) if quarter else fixed
        sample = rule.sample(images, sample_ids=ids)
        scored: dict[str, Any] = {"scored": sample.mask} if quarter else {}
        return vp.masked_mse(model(sample.x, sample.view, **scored), sample)

    return step_of(model, loss, bf16)


def main(rounds: int = 9) -> list[str]:
    torch.manual_seed(0)
    images = torch.randn(BATCH, *SHAPE)
    ours = partial(our_step, images)
    steps = {
        PEER: peer_step(images),
        f"{PEER}, bf16": peer_step(images, bf16=True),
        "self-attention decoder": ours("self-attention"),
        "cross-attention decoder": ours("cross-attention"),
        "cross-attention, a quarter predicted": ours("cross-attention", quarter=True),
        "self-attention decoder, bf16": ours("self-attention", bf16=True),
        "cross-attention decoder, bf16": ours("cross-attention", bf16=True),
        "cross-attention, a quarter predicted, bf16": ours("cross-attention", bf16=True, quarter=True),
        "cross-attention, a quarter predicted, bf16, compiled": ours(
            "cross-attention", bf16=True, quarter=True, compiled=True
        ),
    }
    if faster_precision("cpu") == "32-true":
        # Without units for bfloat16 such a step takes minutes, and nobody would train so.
        steps = {name: step for name, step in steps.items() if "bf16" not in name}
    seconds = side_by_side(steps, rounds)
    lines = [
        "Training step, ViT-Tiny/16 at 224 x 224, batch 32, 75 % hidden; ratios to the peer in float32 and bf16",
        "",
    ]
    lines += ["| step | ms | images/s | to float32 | to bf16 | goal |", "|---|---|---|---|---|---|"]
    for name, median in seconds.items():
        ratios = [f"{seconds[peer] / median:.2f}" if peer in seconds else "" for peer in (PEER, f"{PEER}, bf16")]
        cells = [name, f"{1e3 * median:.0f}", f"{BATCH / median:.1f}", *ratios, LIMITS.get(name, "")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(main(*map(int, sys.argv[1:]))))
