"""Which coordinates the encoder may not see: finite masks, and the rules that make them."""

from viewproof.masks.finite import Mask
from viewproof.masks.patches import hidden_patch_idxs, visible_patch_idxs
from viewproof.masks.periodic import (
    BlockMask,
    PatchMask,
    Rotating,
    VectorMask,
    image_patch_hidden,
    image_patch_mask,
    image_pixel,
    vector_mae_hidden_mask,
    vector_mae_mask,
    vector_mae_selected_idxs,
)
from viewproof.masks.rule import Complement, Rule
from viewproof.masks.sample import Sample
from viewproof.masks.seeded import SharedRandomPatchMask

__all__ = [
    "BlockMask",
    "Complement",
    "Mask",
    "PatchMask",
    "Rotating",
    "Rule",
    "Sample",
    "SharedRandomPatchMask",
    "VectorMask",
    "hidden_patch_idxs",
    "image_patch_hidden",
    "image_patch_mask",
    "image_pixel",
    "vector_mae_hidden_mask",
    "vector_mae_mask",
    "vector_mae_selected_idxs",
    "visible_patch_idxs",
]
