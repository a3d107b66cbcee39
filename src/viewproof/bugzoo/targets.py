"""Targets that are not the declared, unmasked source (C3)."""

from collections.abc import Callable

import torch
from torch import Tensor

from viewproof.bugzoo.specimen import Specimen
from viewproof.bugzoo.views import Returned, View, images, same_bits
from viewproof.certify.report import Contract, Report, Witness
from viewproof.certify.view import certify_view
from viewproof.masks import PatchMask, visible_patch_idxs
from viewproof.views import patchify

_RULE = PatchMask(4, 4, period=3, offset=1)


def _patches(x: Tensor) -> Tensor:
    return patchify(x, 4, 4)


def _bins(x: Tensor, highest: float) -> Tensor:
    """The bin of each patch's mean, of eight equally wide ones from -1 to ``highest``."""
    width = (highest + 1) / 8
    return torch.bucketize(_patches(x).mean(2), -1 + width * torch.arange(1, 8))


def _binned(highest: float) -> View:
    def view(x: Tensor) -> Returned:
        mask = _RULE.mask(tuple(x.shape[1:])).hidden
        return torch.where(mask, 0.0, x), _bins(x, highest), torch.arange(6) % 3 == 1

    return view


def _certify_bins(twin: View) -> Report:
    ramp = torch.linspace(-1, 1, 2 * 3 * 8 * 12).reshape(2, 3, 8, 12)
    return certify_view(twin, ramp, _RULE, target=lambda x: _bins(x, 1.0))


def _sequence(swapped: bool) -> View:
    """Values of which every third is masked; the pair may come in the wrong order."""

    def view(x: Tensor) -> Returned:
        hidden = torch.arange(x.shape[1]) % 3 == 0
        masked = x.masked_fill(hidden, 0.0)
        return (x, masked, hidden) if swapped else (masked, x, hidden)

    return view


def _features(prefix: int) -> View:
    """An encoder's tokens start with one class and four register tokens; ``prefix`` of them are taken off."""

    def view(x: Tensor) -> Returned:
        tokens = _patches(x)
        out = torch.cat([tokens.new_full((len(x), 5, tokens.shape[2]), 7.0), tokens], 1)
        visible = visible_patch_idxs(_RULE.mask(tuple(x.shape[1:])), 4, 4)
        return tokens[:, visible], out[:, prefix : prefix + tokens.shape[1]], torch.arange(6) % 3 == 1

    return view


def _differs_from(declared: View) -> Callable[[View, Witness], bool]:
    def breaks(twin: View, witness: Witness) -> bool:
        x = witness.inputs["x"]
        y, wanted = twin(x.clone())[1], declared(x.clone())[1]
        return not same_bits(y, wanted)

    return breaks


SPECIMENS = (
    Specimen(
        "bins too wide",
        Contract.C3,
        "https://github.com/lucidrains/vit-pytorch/issues/97",
        "confirmed",
        "The width of a target's bins is computed from a wrong range: every label is the same.",
        "A label that is not the declared one.",
        "That the fixed labels are right for all inputs: they are computed, and the inputs tried agree.",
        _certify_bins,
        _binned(1.0),
        _binned(255.0),
        _differs_from(_binned(1.0)),
        decidable=False,
    ),
    Specimen(
        "masked and unmasked exchanged",
        Contract.C3,
        "https://github.com/gc-os-ai/pyaptamer/issues/461",
        "reported",
        "The unmasked copy is returned as the masked one.",
        "A target coordinate that is the mask's 0 and not the source.",
        "The tokenizer around it.",
        lambda twin: certify_view(twin, torch.randn(2, 9, generator=torch.Generator().manual_seed(0))),
        _sequence(False),
        _sequence(True),
        _differs_from(_sequence(False)),
    ),
    Specimen(
        "register tokens counted as patches",
        Contract.C3,
        "https://github.com/kaiko-ai/eva/pull/672",
        "confirmed",
        "Only the class token is taken off an encoder's output, the register tokens stay: patch features off by four.",
        "A feature that belongs to another patch, or to none.",
        "A real encoder: its tokens are the patches themselves here.",
        lambda twin: certify_view(twin, images(), _RULE, target=_patches),
        _features(5),
        _features(1),
        _differs_from(_features(5)),
    ),
)
