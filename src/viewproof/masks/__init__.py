"""Which coordinates the encoder may not see: finite masks, and the rules that make them."""

from viewproof.masks.finite import Mask
from viewproof.masks.patches import hidden_patch_idxs, split_patches_by_sample, visible_patch_idxs
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
from viewproof.masks.random.blocks import RandomBlockMask, RandomPatchMask, SharedRandomPatchMask, TubeMask
from viewproof.masks.random.blockwise import MultiBlockMask, RandomBlockwiseMask
from viewproof.masks.random.draws import ratio_to_count
from viewproof.masks.random.ranges import MultiRangeMask
from viewproof.masks.random.rule import MaskOfSample, PaddedMask, RandomRule
from viewproof.masks.random.scored import ScoredPatches
from viewproof.masks.random.spans import SpanMask, SpectrogramMask
from viewproof.masks.random.tokens import TokenMask
from viewproof.masks.rule import Complement, Rule
from viewproof.masks.sample import Sample

__all__ = [
    "BlockMask",
    "Complement",
    "Mask",
    "MaskOfSample",
    "MultiBlockMask",
    "MultiRangeMask",
    "PaddedMask",
    "PatchMask",
    "RandomBlockMask",
    "RandomBlockwiseMask",
    "RandomPatchMask",
    "RandomRule",
    "Rotating",
    "Rule",
    "Sample",
    "ScoredPatches",
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
