"""Draws the pictures of docs/masks.md: four samples of each rule, hidden is dark. Run it from this folder."""

from pathlib import Path

import torch
from matplotlib.figure import Figure

import viewproof as vp

IDS, IMAGE = torch.arange(4), (1, 14, 14)
BLOCKS = vp.MultiBlockMask(1, 1, context=60, target_area=(29, 39), context_area=(167, 196))
LENGTHS = torch.tensor([48, 40, 30, 24])
RULES = {
    "random-patch": (vp.RandomPatchMask(1, 1, count=147), IMAGE, None),
    "random-blockwise": (vp.RandomBlockwiseMask(1, 1, count=75), IMAGE, None),
    "span": (vp.SpanMask(spans=10, width=2, per=48), (48,), LENGTHS),
    "span-random-widths": (vp.SpanMask(spans=4, width=4, equal=False), (48,), None),
    "token": (vp.TokenMask(masked=24, replaced=3, kept=3, mask_id=103, vocabulary=30522, per=200), (48,), LENGTHS),
    "spectrogram": (vp.SpectrogramMask(frequencies=2, height=3, times=2, width=5), (20, 40), None),
    "padded": (vp.PaddedMask(vp.BlockMask((2,), period=2, offset=0)), (48,), LENGTHS),
}


def draw(name: str, planes: list[torch.Tensor], columns: int) -> None:
    """One picture: 1 hidden, 0 visible, and any grey between."""
    rows = -(-len(planes) // columns)
    height, width = planes[0].shape
    figure = Figure(
        figsize=(1.6 * columns if columns > 1 else 6.4, 0.15 + max(1.6 * rows * height / width, 0.3 * rows)),
        layout="constrained",
    )
    for axes, plane in zip(figure.subplots(rows, columns, squeeze=False).flat, planes, strict=True):
        axes.imshow(1 - plane.double(), cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.savefig(Path(__file__).parent / f"{name}.png", dpi=80)


def main() -> None:
    """Write every picture beside this file."""
    for name, (rule, shape, lengths) in RULES.items():
        hidden = rule.mask(shape, sample_ids=IDS, lengths=lengths).hidden
        planes = [row.reshape(1, -1) if row.dim() == 1 else row.reshape(row.shape[-2:]) for row in hidden]
        if lengths is not None:
            padding = torch.arange(shape[0]) >= lengths[:, None]
            planes = [torch.where(p, 0.25, plane) for p, plane in zip(padding, planes, strict=True)]
        draw(name, planes, 1 if len(shape) == 1 else 4)
    tube = vp.TubeMask(1, 1, count=147).mask((1, 4, 14, 14), sample_ids=IDS[:1]).hidden
    draw("tube", list(tube[0, 0]), 4)
    context, targets = BLOCKS.blocks(IMAGE, sample_ids=IDS)
    shown = [context.hidden.double() * 0.5, *(target.hidden for target in targets)]
    draw("multi-block", [part[n, 0] for n in range(2) for part in shown], 5)


if __name__ == "__main__":
    main()
