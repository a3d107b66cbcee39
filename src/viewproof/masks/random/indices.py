"""From masks of a batch to the patches they leave and hide, as index vectors of equal length."""

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count
from viewproof.shapes import Int


def split_patches_by_sample(
    mask: Mask, patch_h: int, patch_w: int
) -> tuple[Int[Tensor, "batch visible"], Int[Tensor, "batch hidden"]]:
    """The visible and the hidden patch indices of each sample, ascending.

    Every sample must hide equally many. A mask that hides a part of a patch, or patches that do not divide the image,
    is an `InvalidArgument`.

    >>> from viewproof.masks import RandomPatchMask
    >>> mask = RandomPatchMask(2, 2, count=4).mask((3, 4, 6), sample_ids=torch.arange(2))
    >>> split_patches_by_sample(mask, 2, 2)
    (tensor([[1, 4],
            [1, 5]]), tensor([[0, 2, 3, 5],
            [0, 2, 3, 4]]))
    """
    if not mask.per_sample or mask.hidden.dim() != 4:
        raise InvalidArgument(f"mask of shape {tuple(mask.hidden.shape)} must be one a sample over [C, H, W]")
    # Channels of a mask that was broadcast over them are one and the same memory.
    hidden = mask.hidden if mask.hidden.stride(1) else mask.hidden[:, :1]
    n, channels, height, width = hidden.shape
    for name, value, extent in (("patch_h", patch_h, height), ("patch_w", patch_w, width)):
        if check_count(name, value) == 0 or extent % value:
            raise InvalidArgument(f"{name}={value} must divide the image's {extent}; pass a divisor or pad the image")
    blocks = hidden.reshape(n, channels, height // patch_h, patch_h, width // patch_w, patch_w)
    whole = blocks[:, :1, :, :1, :, :1]
    if bool((blocks != whole).any()):
        raise InvalidArgument(
            f"patch_h={patch_h}, patch_w={patch_w}: the mask {mask.rule!r} hides only a part of a patch; use the "
            "mask's own patch size or a divisor of it"
        )
    cells = whole.reshape(n, (height // patch_h) * (width // patch_w))
    counts = cells.sum(1)
    if n == 0 or bool((counts != counts[0]).any()):
        raise InvalidArgument(
            f"the samples of the mask made by {mask.rule!r} hide {sorted(set(counts.tolist()))} patches; a batch that "
            "is gathered needs equal counts"
        )
    order, visible = cells.to(torch.uint8).argsort(dim=1, stable=True), cells.shape[1] - int(counts[0])
    return order[:, :visible], order[:, visible:]
