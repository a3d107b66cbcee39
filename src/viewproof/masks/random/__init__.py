"""Random masks, each a function of (seed, epoch, sample id): a layer above the core.

The core, the other files of `viewproof.masks`, says what a mask, a rule and a sample are and can be read alone. Here
are the rules that draw one mask a sample: `philox` makes the bits in plain integer arithmetic, `draws` turns them into
choices, `rule` is the interface, and every other file is one kind of rule.
"""

from viewproof.masks.random.blocks import RandomBlockMask, RandomPatchMask, SharedRandomPatchMask, TubeMask
from viewproof.masks.random.blockwise import RandomBlockwiseMask
from viewproof.masks.random.draws import ratio_to_count
from viewproof.masks.random.indices import split_patches_by_sample
from viewproof.masks.random.multiblock import MultiBlockMask
from viewproof.masks.random.padded import PaddedMask
from viewproof.masks.random.rule import MaskOfSample, RandomRule
from viewproof.masks.random.spans import SpanMask
from viewproof.masks.random.spectrogram import SpectrogramMask
from viewproof.masks.random.tokens import TokenMask

__all__ = [
    "MaskOfSample",
    "MultiBlockMask",
    "PaddedMask",
    "RandomBlockMask",
    "RandomBlockwiseMask",
    "RandomPatchMask",
    "RandomRule",
    "SharedRandomPatchMask",
    "SpanMask",
    "SpectrogramMask",
    "TokenMask",
    "TubeMask",
    "ratio_to_count",
    "split_patches_by_sample",
]
