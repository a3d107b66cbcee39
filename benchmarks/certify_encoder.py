"""`certify_encoder` on ViT-Tiny/16's encoder and on an overlapping convolutional one, 8 images a batch, by size."""

import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import viewproof as vp
from viewproof.certify.encoder import certify_encoder


def vit(side: int) -> Callable[[Tensor], Tensor]:
    model = vp.MaskedAutoencoder((3, side, side), (16, 16), decoder_depth=1)
    index = torch.tensor(vp.visible_patch_idxs(RULE.mask((3, side, side)), 16, 16))
    return lambda x: model.tokens(x, index)


def convolutions(side: int) -> Callable[[Tensor], Tensor]:
    layers = [nn.Conv2d(3, 32, 4, 2, 1), nn.GELU(), nn.Conv2d(32, 64, 4, 2, 1), nn.GELU(), nn.Conv2d(64, 192, 4, 4)]
    model = nn.Sequential(*layers)
    index = torch.tensor(vp.visible_patch_idxs(RULE.mask((3, side, side)), 16, 16))
    return lambda x: model(x).flatten(2)[..., index]


RULE = ~vp.PatchMask(16, 16, period=4, offset=1)


def main(sides: tuple[int, ...] = (32, 64, 128, 224)) -> list[str]:
    torch.manual_seed(0)
    certify_encoder(vit(32), RULE.sample(torch.rand(8, 3, 32, 32)))  # first calls load parts of torch
    lines = [
        "certify_encoder, batch 8, 3 channels, 75 % hidden",
        "",
        "| side | encoder | verdict | s | us a coordinate |",
    ]
    lines.append("|---|---|---|---|---|")
    for side in sides:
        sample = RULE.sample(torch.rand(8, 3, side, side))
        for name, encoder in (
            ("ViT-Tiny/16, visible patches", vit(side)),
            ("overlapping convolutions", convolutions(side)),
        ):
            start = time.perf_counter()
            verdict = certify_encoder(encoder, sample).verdict()
            seconds = time.perf_counter() - start
            lines.append(f"| {side} | {name} | {verdict} | {seconds:.2f} | {1e6 * seconds / sample.x.numel():.1f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [*lines, "", f"Limits at 224: 10 s and 4 GB; highest memory of the process so far: {peak:.1f} GB"]


if __name__ == "__main__":
    print("\n".join(main()))
