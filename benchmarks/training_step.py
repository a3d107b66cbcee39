"""A training step against transformers' ViTMAEForPreTraining with equal sizes.

ViT-Tiny/16 at 224 x 224 (192 x 12, 3 heads), decoder 128 x 4 (4 heads), batch 32, 75 % hidden, fused AdamW,
float32. The peer draws its own random mask with one class token more; ours hides three of four patch classes.
"""

from collections.abc import Callable

import torch
from timing import side_by_side
from transformers import ViTMAEConfig, ViTMAEForPreTraining

import viewproof as vp

SHAPE, PATCH, BATCH = (3, 224, 224), (16, 16), 32


def peer_step(images: torch.Tensor) -> Callable[[], object]:
    config = ViTMAEConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768,
        decoder_hidden_size=128, decoder_num_hidden_layers=4, decoder_num_attention_heads=4,
        decoder_intermediate_size=512, mask_ratio=0.75,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        model(pixel_values=images).loss.backward()
        optimizer.step()

    return step


def our_step(images: torch.Tensor, decoder: str) -> Callable[[], object]:
    model = vp.MaskedAutoencoder(SHAPE, PATCH, decoder=decoder)
    rule = ~vp.PatchMask(*PATCH, period=4, offset=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        sample = rule.sample(images)
        vp.masked_mse(model(sample.x, sample.view), sample).backward()
        optimizer.step()

    return step


def main(rounds: int = 9) -> list[str]:
    torch.manual_seed(0)
    images = torch.randn(BATCH, *SHAPE)
    steps = {
        "transformers ViTMAE": peer_step(images),
        "viewproof, self-attention decoder": our_step(images, "self-attention"),
        "viewproof, cross-attention decoder": our_step(images, "cross-attention"),
    }
    seconds = side_by_side(steps, rounds)
    peer = seconds["transformers ViTMAE"]
    limits = {"viewproof, self-attention decoder": 1.1, "viewproof, cross-attention decoder": 1.35}
    lines = ["Training step, ViT-Tiny/16 at 224 x 224, batch 32, 75 % hidden", ""]
    lines += ["| step | ms | images/s | ratio | limit |", "|---|---|---|---|---|"]
    for name, median in seconds.items():
        limit = f">= {limits[name]}" if name in limits else ""
        lines.append(f"| {name} | {1e3 * median:.0f} | {BATCH / median:.1f} | {peer / median:.2f} | {limit} |")
    return lines


if __name__ == "__main__":
    print("\n".join(main()))
