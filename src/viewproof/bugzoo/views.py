"""Views that show what they hide, lose what they show, or write to what they were given (C1, C2)."""

from collections.abc import Callable

import torch
from torch import Tensor

from viewproof.bugzoo.specimen import Specimen
from viewproof.certify.report import Contract, Report, Witness
from viewproof.certify.view import certify_view
from viewproof.masks import Mask, PatchMask
from viewproof.views import patchify

Returned = tuple[Tensor, Tensor, Tensor]
View = Callable[[Tensor], Returned]

_RULE = PatchMask(4, 4, period=3, offset=1)


def images() -> Tensor:
    """Two images of unequal extents."""
    return torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal shape and bits."""
    words = {4: torch.int32, 8: torch.int64}
    return a.shape == b.shape and torch.equal(*(t.contiguous().view(words[t.element_size()]) for t in (a, b)))


def shows(twin: View, witness: Witness) -> bool:
    """Whether the two inputs, which differ only in hidden content, look different."""
    return not same_bits(twin(witness.inputs["x"].clone())[0], twin(witness.inputs["changed"].clone())[0])


def conceals(twin: View, witness: Witness) -> bool:
    """Whether the two inputs, which differ in visible content, look the same."""
    return not shows(twin, witness)


def shows_a_target(twin: View, witness: Witness) -> bool:
    """Whether what changes between the two inputs is both in x and in y."""
    a, b = twin(witness.inputs["x"].clone()), twin(witness.inputs["changed"].clone())
    return not same_bits(a[0], b[0]) and not same_bits(a[1], b[1])


def overwrites(twin: View, witness: Witness) -> bool:
    """Whether the input is another one after the call."""
    given = witness.inputs["x"].clone()
    twin(given)
    return not same_bits(given, witness.inputs["x"])


def _hidden(x: Tensor) -> Tensor:
    return _RULE.mask(tuple(x.shape[1:])).hidden


def _masked(x: Tensor) -> Returned:
    return torch.where(_hidden(x), 0.0, x), x, _hidden(x)


def _drawn_only(x: Tensor) -> Returned:
    hidden = _hidden(x)
    return x.clone(), x, hidden


def _multiplied(x: Tensor) -> Returned:
    return x * ~_hidden(x), x, _hidden(x)


_SENSORS = torch.arange(12)
_CENTRES = torch.tensor([1, 4, 7, 10])


def _grouped(width: int) -> View:
    """Groups of sensors around four centres; every other group is hidden, its readings are the target."""
    members = (_CENTRES[:, None] + torch.arange(-(width // 2), width // 2 + 1)) % len(_SENSORS)

    def view(x: Tensor) -> Returned:
        groups = x[:, members]
        y = groups[:, 1::2]
        return groups[:, 0::2], y, torch.ones(y.shape, dtype=torch.bool)

    return view


_DAMAGE = torch.zeros(3, 8, 12, dtype=torch.bool)
_DAMAGE[:, 2:6, 3:9] = True


def _window(generator: torch.Generator) -> tuple[int, int]:
    """Where a crop begins."""
    row, col = torch.randint(1, 8, (2,), generator=generator).tolist()
    return row, col


def _crop(x: Tensor, window: tuple[int, int]) -> Tensor:
    """A crop as large as the image, which goes on where it ends, so that nothing is lost; as patches of 2 x 2."""
    return patchify(x.roll(window, (2, 3)), 2, 2)


def _cropped(draws_mask_again: bool) -> View:
    """A crop of an image and of the mask of its damaged area."""

    def view(x: Tensor) -> Returned:
        generator = torch.Generator().manual_seed(3)
        window = _window(generator)
        y = _crop(x, window)
        hidden = _crop(_DAMAGE[None], _window(generator) if draws_mask_again else window).expand(y.shape)
        return torch.where(hidden, 0.0, y), y, hidden

    return view


def _certify_cropped(twin: View) -> Report:
    def target(x: Tensor) -> Tensor:
        return _crop(x, _window(torch.Generator().manual_seed(3)))

    return certify_view(twin, images(), Mask(_DAMAGE), target=target)


def _picture(own_statistics: bool) -> View:
    """A reconstruction drawn over the image: the prediction (here a constant) is brought back to pixel values."""

    def view(x: Tensor) -> Returned:
        hidden = _hidden(x)
        if own_statistics:
            blocks = x.reshape(len(x), 3, 2, 4, 3, 4)
            mean, std = blocks.mean((1, 3, 5), keepdim=True), blocks.std((1, 3, 5), keepdim=True)
            drawn = (0.5 * std + mean).expand(blocks.shape).reshape(x.shape)
        else:
            visible = x[:, ~hidden]
            drawn = (0.5 * visible.std(1) + visible.mean(1)).reshape(-1, 1, 1, 1).expand(x.shape)
        return torch.where(hidden, drawn, x), x, hidden

    return view


def _labels(copied: bool) -> View:
    """Token ids; labels are -100 where the loss asks for nothing."""

    def view(x: Tensor) -> Returned:
        hidden = torch.arange(x.shape[1]) % 3 == 0
        seen = torch.where(hidden, 99, x)
        y = x.clone() if copied else x
        y.masked_fill_(~hidden, -100)
        return seen, y, hidden

    return view


def _certify_labels(twin: View) -> Report:
    hidden = torch.arange(8) % 3 == 0
    return certify_view(twin, torch.arange(16).reshape(2, 8), target=lambda x: torch.where(hidden, x, -100))


_CONTEXT = torch.tensor([[0, 1, 3, 5], [1, 2, 6, 6]])
"""Patches that each of two samples shows; 6 is no patch."""


def _context(cut: bool) -> View:
    """Visible tokens, as many as the sample with the fewest has, or filled up with zeros."""

    def view(x: Tensor) -> Returned:
        tokens = patchify(x, 4, 4)
        hidden = torch.ones(2, 7, dtype=torch.bool).scatter(1, _CONTEXT, False)[:, :6]
        padded = torch.cat([tokens, tokens.new_zeros(len(x), 1, tokens.shape[2])], 1)
        index = _CONTEXT[:, :2] if cut else _CONTEXT
        return padded.gather(1, index[..., None].expand(-1, -1, tokens.shape[2])), tokens, hidden

    return view


def _unused_argument(x: Tensor, frames: int = 16) -> Returned:
    return _masked(x)


def _kept_tokens(x: Tensor) -> dict[str, Tensor]:
    """BERT: of the selected positions some are replaced, and some are left as they are; all are scored."""
    position = torch.arange(x.shape[1])
    selected, kept = position % 3 == 0, position % 6 == 0
    return {"x": torch.where(selected & ~kept, 0.0, x), "y": x, "mask": selected, "kept": kept}


def _on_images(twin: View) -> Report:
    return certify_view(twin, images())


SPECIMENS = (
    Specimen(
        "mask drawn, not applied",
        Contract.C1,
        "https://github.com/huggingface/transformers/issues/13235",
        "confirmed",
        "The mask is drawn and given to the loss; the encoder gets the input without it.",
        "A hidden pixel that changes what the encoder sees.",
        "Which of the model's code paths forgot the argument.",
        _on_images,
        _masked,
        _drawn_only,
        shows,
    ),
    Specimen(
        "mask multiplied",
        Contract.C1,
        "synthetic",
        "synthetic",
        "x * keep leaves -0.0 where a hidden value was negative, and NaN where it was NaN or infinite.",
        "A hidden value of which the sign, or a NaN, can be read off.",
        "That an encoder makes anything of a negative zero.",
        _on_images,
        _masked,
        _multiplied,
        shows,
    ),
    Specimen(
        "neighbourhoods overlap",
        Contract.C1,
        "https://github.com/Pang-Yatian/Point-MAE/issues/11",
        "disputed",
        "Groups around centres share members: a point of a hidden group is shown by a visible one.",
        "A point of a hidden group that is shown.",
        "That it harms training: the authors hold that overlap is by design. Members are fixed here, not found by kNN.",
        lambda twin: certify_view(twin, torch.randn(2, 12, generator=torch.Generator().manual_seed(0))),
        _grouped(3),
        _grouped(5),
        shows_a_target,
    ),
    Specimen(
        "image and mask cropped apart",
        Contract.C1,
        "https://github.com/thuanz123/realfill/issues/4",
        "confirmed",
        "The image and the mask of what to hide are cropped by separate random draws.",
        "A pixel of the hidden area that is shown.",
        "The draws of the original, which lose what lies outside the crop; here a generator seeded in the view draws.",
        _certify_cropped,
        _cropped(False),
        _cropped(True),
        shows,
    ),
    Specimen(
        "picture from hidden statistics",
        Contract.C1,
        "https://github.com/pengzhiliang/MAE-pytorch/issues/40",
        "confirmed",
        "Reconstructions are brought back to pixel values by the hidden patches' own mean and deviation.",
        "A hidden pixel that changes the picture, although the prediction is a constant.",
        "Anything about training: the pictures alone are too good.",
        _on_images,
        _picture(False),
        _picture(True),
        shows,
    ),
    Specimen(
        "target aliases the input",
        Contract.C2,
        "https://github.com/ServiceNow/Fast-LLM/pull/253",
        "confirmed",
        "Labels are the input tensor itself, and are written in place.",
        "The input is another one after the call.",
        "Who reads the input later.",
        _certify_labels,
        _labels(True),
        _labels(False),
        overwrites,
    ),
    Specimen(
        "context cut to the batch's minimum",
        Contract.C2,
        "https://github.com/facebookresearch/ijepa/issues/60",
        "our reading",
        "Index lists of visible patches are cut to the shortest of the batch: what drops out depends on batch mates.",
        "A patch that is neither hidden nor shown.",
        "How often it happens with the published block sizes.",
        lambda twin: certify_view(twin, images(), target=lambda x: patchify(x, 4, 4)),
        _context(False),
        _context(True),
        conceals,
    ),
    Specimen(
        "unused argument",
        Contract.C1,
        "https://github.com/facebookresearch/jepa/issues/32",
        "false alarm",
        "An argument of the mask's maker is never read.",
        "Hidden content stays hidden and the rest passes, whatever the argument.",
        "Whether the argument should be there.",
        _on_images,
        _unused_argument,
    ),
    Specimen(
        "kept tokens",
        Contract.C4,
        "https://github.com/czlwang/BrainBERT/issues/3",
        "false alarm",
        "Some of the selected positions are not replaced, as in BERT, and are scored all the same.",
        "With the kept positions declared, mask and view agree.",
        "Whether keeping tokens helps.",
        lambda twin: certify_view(twin, torch.randn(2, 12, generator=torch.Generator().manual_seed(0))),
        _kept_tokens,
    ),
)
