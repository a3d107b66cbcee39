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
from viewproof.masks.random import (
    MaskOfSample,
    MultiBlockMask,
    PaddedMask,
    RandomBlockMask,
    RandomBlockwiseMask,
    RandomPatchMask,
    RandomRule,
    SharedRandomPatchMask,
    SpanMask,
    SpectrogramMask,
    TokenMask,
    TubeMask,
    ratio_to_count,
    split_patches_by_sample,
)
from viewproof.masks.rule import Complement, Rule
from viewproof.masks.sample import Sample

__all__ = [
    "BlockMask",
    "Complement",
    "Mask",
    "MaskOfSample",
    "MultiBlockMask",
    "PaddedMask",
    "PatchMask",
    "RandomBlockMask",
    "RandomBlockwiseMask",
    "RandomPatchMask",
    "RandomRule",
    "Rotating",
    "Rule",
    "Sample",
    "SharedRandomPatchMask",
    "SpanMask",
    "SpectrogramMask",
    "TokenMask",
    "TubeMask",
    "VectorMask",
    "hidden_patch_idxs",
    "image_patch_hidden",
    "image_patch_mask",
    "image_pixel",
    "ratio_to_count",
    "split_patches_by_sample",
    "vector_mae_hidden_mask",
    "vector_mae_mask",
    "vector_mae_selected_idxs",
    "visible_patch_idxs",
]
