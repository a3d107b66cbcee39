"""From pixel masks to the patches they hide: row-major patch indices."""

from functools import lru_cache

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, may_keep_tensors
from viewproof.shapes import Bool, Int, check_kind


def hidden_patch_idxs(mask: Mask, patch_h: int, patch_w: int) -> list[int]:
    """The row-major indices of the patches that a mask over ``[C, H, W]`` hides, ascending.

    A mask that hides a part of a patch, or other pixels in one channel than in another, is an `InvalidArgument`.

    >>> from viewproof.masks import PatchMask
    >>> hidden_patch_idxs(PatchMask(2, 2, period=3, offset=1).mask((3, 4, 6)), 2, 2)
    [1, 4]
    """
    return [*split_patches(mask, patch_h, patch_w)[1].tolist()]


def visible_patch_idxs(mask: Mask, patch_h: int, patch_w: int) -> list[int]:
    """The row-major indices of the patches that `hidden_patch_idxs` does not list, ascending.

    >>> from viewproof.masks import PatchMask
    >>> visible_patch_idxs(PatchMask(2, 2, period=3, offset=1).mask((3, 4, 6)), 2, 2)
    [0, 2, 3, 5]
    """
    return [*split_patches(mask, patch_h, patch_w)[0].tolist()]


def split_patches(mask: Mask, patch_h: int, patch_w: int) -> tuple[Int[Tensor, " visible"], Int[Tensor, " hidden"]]:
    """The visible and the hidden patch indices on the mask's device, computed once for each mask."""
    check_kind("mask", mask, Mask)
    for name, value in (("patch_h", patch_h), ("patch_w", patch_w)):
        if check_count(name, value) == 0:
            raise InvalidArgument(f"{name}=0 has no patches to index; pass the encoder's patch size")
    return (_split_once if may_keep_tensors() else _split)(mask, patch_h, patch_w)


def _split(mask: Mask, patch_h: int, patch_w: int) -> tuple[Tensor, Tensor]:
    if mask.per_sample or mask.hidden.dim() != 3:
        raise InvalidArgument(
            f"mask of shape {tuple(mask.hidden.shape)} must lie over [C, H, W]; take mask.row(n) first"
        )
    _, height, width = mask.hidden.shape
    with torch.inference_mode(False):
        rows = torch.arange(height, device=mask.hidden.device) // patch_h
        cols = torch.arange(width, device=mask.hidden.device) // patch_w
        index = rows[:, None] * ((width + patch_w - 1) // patch_w) + cols
        hidden, visible = torch.unique(index[mask.hidden.any(0)]), torch.unique(index[~mask.hidden.all(0)])
    torn = hidden[torch.isin(hidden, visible)]
    if len(torn):
        raise InvalidArgument(
            f"patch_h={patch_h}, patch_w={patch_w}: the mask {mask.rule!r} hides only a part of patch {int(torn[0])}; "
            "use the mask's own patch size or a divisor of it"
        )
    return visible, hidden


# True and 1.0 equal 1 but are no patch sizes: typed, so that they are refused on the second call too.
_split_once = lru_cache(maxsize=128, typed=True)(_split)


def patch_grid(height: int, width: int, patch_h: int, patch_w: int) -> tuple[int, int]:
    """The rows and columns of patches; those that do not divide the image are an `InvalidArgument`."""
    for name, value, extent in (("patch_h", patch_h, height), ("patch_w", patch_w, width)):
        if check_count(name, value) == 0 or check_count("extent", extent, "have no pixels") % value:
            raise InvalidArgument(f"{name}={value} must divide the image's {extent}; pass a divisor or pad the image")
    return height // patch_h, width // patch_w


def patch_cells(
    hidden: Bool[Tensor, "batch channels height width"], patch_h: int, patch_w: int, rule: object
) -> Bool[Tensor, "batch rows cols"]:
    """Whether each patch is hidden; `InvalidArgument`, naming ``rule``, if only a part of one is."""
    # Channels of a mask that was broadcast over them are one and the same memory.
    hidden = hidden if hidden.stride(1) else hidden[:, :1]
    n, channels, height, width = hidden.shape
    rows, cols = patch_grid(height, width, patch_h, patch_w)
    blocks = hidden.reshape(n, channels, rows, patch_h, cols, patch_w)
    whole = blocks[:, :1, :, :1, :, :1]
    if bool((blocks != whole).any()):
        raise InvalidArgument(
            f"patch_h={patch_h}, patch_w={patch_w}: the mask {rule!r} hides only a part of a patch; use the "
            "mask's own patch size or a divisor of it"
        )
    return whole.reshape(n, rows, cols)


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
    check_kind("mask", mask, Mask)
    if not mask.per_sample or mask.hidden.dim() != 4:
        raise InvalidArgument(f"mask of shape {tuple(mask.hidden.shape)} must be one a sample over [C, H, W]")
    cells = patch_cells(mask.hidden, patch_h, patch_w, mask.rule).flatten(1)
    counts = cells.sum(1)
    if len(cells) == 0 or bool((counts != counts[0]).any()):
        raise InvalidArgument(
            f"the samples of the mask made by {mask.rule!r} hide {sorted(set(counts.tolist()))} patches; a batch that "
            "is gathered needs equal counts"
        )
    order, visible = cells.to(torch.uint8).argsort(dim=1, stable=True), cells.shape[1] - int(counts[0])
    return order[:, :visible], order[:, visible:]
