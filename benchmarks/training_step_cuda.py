"""A training step on a GPU beside transformers' ViTMAE of equal sizes, in one process.

ViT-Base/16 at 224 x 224, decoder 512 x 8 (16 heads), batch 256, 75 % hidden, fused AdamW, bfloat16 autocast. The peer
draws its own mask on the GPU; ours is drawn there too, by sample id. `python benchmarks/training_step_cuda.py 2` runs
two rounds.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from timing import side_by_side
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import viewproof as vp

SHAPE, PATCH, BATCH = (3, 224, 224), (16, 16), 256
PEER = "transformers ViTMAE"


def step_of(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One training step under autocast, until the GPU is done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        torch.cuda.synchronize()

    return step


def peer_step(images: Tensor) -> Callable[[], None]:
    model = ViTMAEForPreTraining(ViTMAEConfig()).cuda()
    return step_of(model, lambda: model(pixel_values=images).loss)


def our_step(images: Tensor, decoder: str, quarter: bool = False) -> Callable[[], None]:
    options: dict[str, Any] = {"decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16, "decoder": decoder}
    model = vp.MaskedAutoencoder(SHAPE, PATCH, dim=768, depth=12, heads=12, **options).cuda()
    rule: Any = vp.SharedRandomPatchMask(*PATCH, 147)
    rule = vp.ScoredPatches(rule, *PATCH, 49) if quarter else rule
    ids, steps = torch.arange(BATCH, device="cuda"), iter(range(10**9))

    def loss() -> Tensor:
        sample = rule.at(next(steps)).sample(images, sample_ids=ids)
        scored: dict[str, Any] = {"scored": sample.mask} if quarter else {}
        return vp.masked_mse(model(sample.x, sample.view, **scored), sample)

    return step_of(model, loss)


def main(rounds: int = 9) -> list[str]:
    torch.manual_seed(0)
    images = torch.randn(BATCH, *SHAPE, device="cuda")
    contestants: dict[str, Callable[[], Callable[[], None]]] = {
        PEER: lambda: peer_step(images),
        "self-attention decoder": lambda: our_step(images, "self-attention"),
        "cross-attention decoder": lambda: our_step(images, "cross-attention"),
        "cross-attention, a quarter predicted": lambda: our_step(images, "cross-attention", quarter=True),
    }
    steps, memory = {}, {}
    for name, build in contestants.items():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        steps[name] = build()
        for _ in range(2):
            steps[name]()
        memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**30
    seconds = side_by_side(steps, rounds)
    lines = [
        f"Training step on {torch.cuda.get_device_name()}, torch {torch.__version__}: ViT-Base/16 at 224 x 224, batch "
        f"{BATCH}, 75 % hidden, bfloat16 autocast",
        "",
        "| step | ms | images/s | times the peer's speed | peak memory, GiB |",
        "|---|---|---|---|---|",
    ]
    for name, median in seconds.items():
        cells = [name, f"{1e3 * median:.0f}", f"{BATCH / median:.0f}", f"{seconds[PEER] / median:.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{memory[name]:.1f}'])} |")
    return lines


if __name__ == "__main__":
    print("\n".join(main(*map(int, sys.argv[1:]))))
