"""Views that show what they hide, lose what they show, or write to their input (C1, C2)."""

from functools import partial

import torch
from torch import Tensor

from viewproof.bits import same_bits
from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Report, Witness, certify_view
from viewproof.masks import Mask, PatchMask
from viewproof.views import patchify

RULE = PatchMask(4, 4, period=3, offset=1)
ViewParts = tuple[Tensor, Tensor, Tensor]
"""What a view returns: the encoder's input x, the target y and the mask of what is hidden."""


def images() -> Tensor:
    """Two images of unequal extents."""
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def on_series(twin: Twin) -> Report:
    """The view on two series of twelve numbers."""
    return certify_view(twin, torch.randn(2, 12, generator=torch.Generator().manual_seed(0)))


def hidden_pixels(x: Tensor) -> Tensor:
    """The pixels that `RULE` hides, ``[C, H, W]``."""
    return RULE.mask(tuple(x.shape[1:])).hidden


def shows(twin: Twin, witness: Witness, parts: tuple[int, ...] = (0,)) -> bool:
    """Whether what the twin returns for the witness's two inputs differs, in each of these parts."""
    before, after = (twin(witness.inputs[name].clone()) for name in ("x", "changed"))
    return not any(same_bits(before[part], after[part]) for part in parts)


def overwrites(twin: Twin, witness: Witness) -> bool:
    """Whether the call changes its input."""
    x = witness.inputs["x"].clone()
    twin(x)
    return not same_bits(x, witness.inputs["x"])


view_bug = partial(specimen, contract=Contract.C1, certify=lambda twin: certify_view(twin, images()), breaks=shows)


@view_bug("mask drawn, not applied", "confirmed", "huggingface/transformers/issues/13235")
def mask_not_applied(x: Tensor, bug: bool) -> ViewParts:
    """The mask is drawn and given to the loss; the encoder gets the input without it.

    Shown: A hidden pixel that changes what the encoder sees.
    Not shown: Which of the model's code paths forgot the argument.
    """
    hidden = hidden_pixels(x)
    return x.clone() if bug else torch.where(hidden, 0.0, x), x, hidden


@view_bug("mask multiplied", "synthetic")
def mask_multiplied(x: Tensor, bug: bool) -> ViewParts:
    """x * keep leaves -0.0 where a hidden value was negative, and NaN where it was NaN or infinite.

    Shown: A hidden value of which the sign, or a NaN, can be read off.
    Not shown: That an encoder makes anything of a negative zero.
    """
    hidden = hidden_pixels(x)
    return x * ~hidden if bug else torch.where(hidden, 0.0, x), x, hidden


@view_bug(
    "neighbourhoods overlap",
    "disputed",
    "Pang-Yatian/Point-MAE/issues/11",
    certify=on_series,
    breaks=partial(shows, parts=(0, 1)),
)
def neighbourhoods_overlap(x: Tensor, bug: bool) -> ViewParts:
    """Groups around centres share members: a point of a hidden group is shown by a visible one.

    Shown: A point of a hidden group that is shown.
    Not shown: That it harms training: the authors hold that overlap is intended. Members are fixed, not found by kNN.
    """
    reach = 2 if bug else 1
    members = (torch.tensor([1, 4, 7, 10])[:, None] + torch.arange(-reach, reach + 1)) % 12
    groups = x[:, members]
    y = groups[:, 1::2]
    return groups[:, 0::2], y, torch.ones(y.shape, dtype=torch.bool)


DAMAGE = torch.zeros(3, 8, 12, dtype=torch.bool)
DAMAGE[:, 2:6, 3:9] = True


def draw_window(generator: torch.Generator) -> tuple[int, int]:
    """Where a crop begins."""
    row, col = torch.randint(1, 8, (2,), generator=generator).tolist()
    return row, col


def crop(x: Tensor, window: tuple[int, int]) -> Tensor:
    """A crop as large as the image, wrapped around its border, as patches of 2 x 2."""
    return patchify(x.roll(window, (2, 3)), 2, 2)


@view_bug(
    "image and mask cropped apart",
    "confirmed",
    "thuanz123/realfill/issues/4",
    certify=lambda twin: certify_view(
        twin, images(), Mask(DAMAGE), target=lambda x: crop(x, draw_window(torch.Generator().manual_seed(3)))
    ),
)
def cropped_apart(x: Tensor, bug: bool) -> ViewParts:
    """The image and the mask of what to hide are cropped by separate random draws.

    Shown: A pixel of the hidden area that is shown.
    Not shown: The original's draws, which lose what lies outside the crop; the view seeds its own generator here.
    """
    generator = torch.Generator().manual_seed(3)
    window = draw_window(generator)
    y = crop(x, window)
    hidden = crop(DAMAGE[None], draw_window(generator) if bug else window).expand(y.shape)
    return torch.where(hidden, 0.0, y), y, hidden


@view_bug("picture from hidden statistics", "confirmed", "pengzhiliang/MAE-pytorch/issues/40")
def picture_from_hidden_statistics(x: Tensor, bug: bool) -> ViewParts:
    """Reconstructions are brought back to pixel values by the hidden patches' own mean and deviation.

    Shown: A hidden pixel that changes the picture, although the prediction is a constant.
    Not shown: Anything about training: the pictures alone are too good.
    """
    hidden = hidden_pixels(x)
    if bug:
        blocks = x.reshape(len(x), 3, 2, 4, 3, 4)
        mean, std = blocks.mean((1, 3, 5), keepdim=True), blocks.std((1, 3, 5), keepdim=True)
        picture = (0.5 * std + mean).expand(blocks.shape).reshape(x.shape)
    else:
        visible = x[:, ~hidden]
        picture = (0.5 * visible.std(1) + visible.mean(1)).reshape(-1, 1, 1, 1).expand(x.shape)
    return torch.where(hidden, picture, x), x, hidden


EVERY_THIRD_OF_8 = torch.arange(8) % 3 == 0


@view_bug(
    "target aliases the input",
    "confirmed",
    "ServiceNow/Fast-LLM/pull/253",
    contract=Contract.C2,
    certify=lambda twin: certify_view(
        twin, torch.arange(16).reshape(2, 8), target=lambda x: torch.where(EVERY_THIRD_OF_8, x, -100)
    ),
    breaks=overwrites,
)
def target_aliases_the_input(x: Tensor, bug: bool) -> ViewParts:
    """Labels are the input tensor itself, and are written in place.

    Shown: The input is another one after the call.
    Not shown: Who reads the input later.
    """
    masked = torch.where(EVERY_THIRD_OF_8, 99, x)
    labels = x if bug else x.clone()
    labels.masked_fill_(~EVERY_THIRD_OF_8, -100)
    return masked, labels, EVERY_THIRD_OF_8


VISIBLE_PATCHES = torch.tensor([[0, 1, 3, 5], [1, 2, 6, 6]])
"""The patches that each of two samples shows; 6 is no patch."""


@view_bug(
    "context cut to the batch's minimum",
    "our reading",
    "facebookresearch/ijepa/issues/60",
    contract=Contract.C2,
    certify=lambda twin: certify_view(twin, images(), target=lambda x: patchify(x, 4, 4)),
    breaks=lambda twin, witness: not shows(twin, witness),
)
def context_cut(x: Tensor, bug: bool) -> ViewParts:
    """Index lists of visible patches are cut to the shortest of the batch; other patches drop out.

    Shown: A patch that is neither hidden nor shown.
    Not shown: How often it happens with the published block sizes.
    """
    tokens = patchify(x, 4, 4)
    hidden = torch.ones(2, 7, dtype=torch.bool).scatter(1, VISIBLE_PATCHES, False)[:, :6]
    padded = torch.cat([tokens, tokens.new_zeros(len(x), 1, tokens.shape[2])], 1)
    index = VISIBLE_PATCHES[:, :2] if bug else VISIBLE_PATCHES
    return padded.gather(1, index[..., None].expand(-1, -1, tokens.shape[2])), tokens, hidden


@view_bug("unused argument", "false alarm", "facebookresearch/jepa/issues/32")
def unused_argument(x: Tensor, frames: int = 16) -> ViewParts:
    """An argument of the mask's maker is never read.

    Shown: Hidden content stays hidden and the rest passes, whatever the argument.
    Not shown: Whether the argument should be there.
    """
    hidden = hidden_pixels(x)
    return torch.where(hidden, 0.0, x), x, hidden


@view_bug("kept tokens", "false alarm", "czlwang/BrainBERT/issues/3", contract=Contract.C4, certify=on_series)
def kept_tokens(x: Tensor) -> dict[str, Tensor]:
    """Some of the selected positions are not replaced, as in BERT, and are scored all the same.

    Shown: With the kept positions declared, mask and view agree.
    Not shown: Whether keeping tokens helps.
    """
    position = torch.arange(x.shape[1])
    selected, kept = position % 3 == 0, position % 6 == 0
    return {"x": torch.where(selected & ~kept, 0.0, x), "y": x, "mask": selected, "kept": kept}
