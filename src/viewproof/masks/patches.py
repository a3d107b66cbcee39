"""From a pixel mask to the patches it hides: row-major patch indices."""

from functools import lru_cache

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import Mask, check_count, may_keep_tensors
from viewproof.shapes import Int


def hidden_patch_idxs(mask: Mask, patch_h: int, patch_w: int) -> list[int]:
    """The row-major indices of the patches that a mask over ``[C, H, W]`` hides, ascending.

    A mask that hides a part of a patch, or other pixels in one channel than in another, is an `InvalidArgument`.

    >>> from viewproof.masks import PatchMask
    >>> hidden_patch_idxs(PatchMask(2, 2, period=3, offset=1).mask((3, 4, 6)), 2, 2)
    [1, 4]
    """
    hidden: list[int] = split_patches(mask, patch_h, patch_w)[1].tolist()
    return hidden


def visible_patch_idxs(mask: Mask, patch_h: int, patch_w: int) -> list[int]:
    """The indices of the patches that a mask over ``[C, H, W]`` does not touch, ascending.

    See `hidden_patch_idxs`.

    >>> from viewproof.masks import PatchMask
    >>> visible_patch_idxs(PatchMask(2, 2, period=3, offset=1).mask((3, 4, 6)), 2, 2)
    [0, 2, 3, 5]
    """
    visible: list[int] = split_patches(mask, patch_h, patch_w)[0].tolist()
    return visible


def split_patches(mask: Mask, patch_h: int, patch_w: int) -> tuple[Int[Tensor, " visible"], Int[Tensor, " hidden"]]:
    """The visible and the hidden patch indices, as index vectors on the mask's device.

    They are computed once for each mask.
    """
    return (_split_once if may_keep_tensors() else _split)(mask, patch_h, patch_w)


def _split(mask: Mask, patch_h: int, patch_w: int) -> tuple[Tensor, Tensor]:
    sizes = {"patch_h": patch_h, "patch_w": patch_w}
    for name, value in sizes.items():
        if check_count(name, value) == 0:
            raise InvalidArgument(f"{name}=0 has no patches to index; pass the encoder's patch size")
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
