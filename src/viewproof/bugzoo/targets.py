"""Targets that are not the declared, unmasked source (C3)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from viewproof.bits import same_bits
from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.bugzoo.views import RULE, ViewParts, hidden_pixels, images
from viewproof.certify import Contract, Witness, certify_view
from viewproof.masks import visible_patch_idxs
from viewproof.views import patchify

target_bug = partial(specimen, contract=Contract.C3)
HIDDEN_PATCHES = torch.arange(6) % 3 == 1


def differs_from(declared: Twin) -> Callable[[Twin, Witness], bool]:
    """Whether a twin's target is another than that of ``declared``."""

    def breaks(twin: Twin, witness: Witness) -> bool:
        x = witness.inputs["x"]
        return not same_bits(twin(x.clone())[1], declared(x.clone())[1])

    return breaks


def binned_means(x: Tensor, highest: float) -> Tensor:
    """The bin of each patch's mean, of eight equally wide ones from -1 to ``highest``."""
    width = (highest + 1) / 8
    return torch.bucketize(patchify(x, 4, 4).mean(2), -1 + width * torch.arange(1, 8))


@target_bug(
    "bins too wide",
    "confirmed",
    "lucidrains/vit-pytorch/issues/97",
    certify=lambda twin: certify_view(
        twin, torch.linspace(-1, 1, 576).reshape(2, 3, 8, 12), RULE, target=partial(binned_means, highest=1.0)
    ),
    breaks=differs_from(lambda x: (x, binned_means(x, 1.0))),
    decidable=False,
)
def bins_too_wide(x: Tensor, bug: bool) -> ViewParts:
    """The width of a target's bins is computed from a wrong range: every label is the same.

    Shown: A label that is not the declared one.
    Not shown: That the fixed labels are right for all inputs: they are computed, and the inputs tried agree.
    """
    return torch.where(hidden_pixels(x), 0.0, x), binned_means(x, 255.0 if bug else 1.0), HIDDEN_PATCHES


@target_bug(
    "masked and unmasked exchanged",
    "reported",
    "gc-os-ai/pyaptamer/issues/461",
    certify=lambda twin: certify_view(twin, torch.randn(2, 9, generator=torch.Generator().manual_seed(0))),
    breaks=differs_from(lambda x: (x, x)),
)
def masked_and_unmasked_exchanged(x: Tensor, bug: bool) -> ViewParts:
    """The unmasked copy is returned as the masked one.

    Shown: A target coordinate that is the mask's 0 and not the source.
    Not shown: The tokenizer around it.
    """
    hidden = torch.arange(x.shape[1]) % 3 == 0
    masked = x.masked_fill(hidden, 0.0)
    return (x, masked, hidden) if bug else (masked, x, hidden)


@target_bug(
    "register tokens counted as patches",
    "confirmed",
    "kaiko-ai/eva/pull/672",
    certify=lambda twin: certify_view(twin, images(), RULE, target=lambda x: patchify(x, 4, 4)),
    breaks=differs_from(lambda x: (x, patchify(x, 4, 4))),
)
def register_tokens_counted(x: Tensor, bug: bool) -> ViewParts:
    """Only the class token is removed, four register tokens stay: patch features are off by four.

    Shown: A feature that belongs to another patch, or to none.
    Not shown: A real encoder: its tokens are the patches themselves here.
    """
    tokens = patchify(x, 4, 4)
    output = torch.cat([tokens.new_full((len(x), 5, tokens.shape[2]), 7.0), tokens], 1)
    prefix = 1 if bug else 5
    visible = visible_patch_idxs(RULE.mask(tuple(x.shape[1:])), 4, 4)
    return tokens[:, visible], output[:, prefix : prefix + tokens.shape[1]], HIDDEN_PATCHES
