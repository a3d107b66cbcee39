"""Hidden content that reaches the visible outputs inside the model (C10)."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Specimen
from viewproof.certify.encoder import certify_encoder
from viewproof.certify.report import Contract, Report, Witness
from viewproof.masks import PatchMask

Encoder = Callable[[Tensor], Tensor]
Twin = Callable[[], Encoder]

_CONTEXT = 4
_FUTURE = (torch.arange(10) >= _CONTEXT)[:, None].expand(10, 8)
_HIDDEN = PatchMask(8, 8, period=4, offset=1).mask((3, 32, 32))
_VISIBLE_PATCHES = torch.arange(16)[torch.arange(16) % 4 != 1]
_MASKED_STEPS = (torch.arange(24) // 4 % 2 == 1)[:, None].expand(24, 3)
_PADDING = torch.arange(32)[None] >= torch.tensor([20, 12])[:, None]


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _certify(x: Tensor, hidden: Tensor, twin: Twin) -> Report:
    return certify_encoder(twin(), x, hidden=hidden)


def _changes(twin: Twin, witness: Witness) -> bool:
    one, other = (twin()(witness.inputs[name]) for name in ("one", "other"))
    return not torch.equal(one, other)


def _clip(split_before: bool) -> Encoder:
    layer = partial(nn.TransformerEncoderLayer, 8, 2, 16, batch_first=True)
    model = _made(lambda: nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False))
    return (lambda x: model(x[:, :_CONTEXT])) if split_before else (lambda x: model(x)[:, :_CONTEXT])


def _patches(kernel: int) -> Encoder:
    """Three convolutions of stride 2, called patches of 8 pixels; the tokens of visible patches."""
    padding = (kernel - 2) // 2

    def make() -> nn.Module:
        first, second, third = (nn.Conv2d(a, b, kernel, 2, padding) for a, b in ((3, 4), (4, 8), (8, 8)))
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)

    model = _made(make)
    return lambda x: model(x).flatten(2)[..., _VISIBLE_PATCHES]


def _normalised(over_visible: bool) -> Encoder:
    visible = ~_MASKED_STEPS[:, 0]

    def encode(x: Tensor) -> Tensor:
        seen = x[:, visible] if over_visible else x
        return ((x - seen.mean(1, keepdim=True)) / (seen.std(1, keepdim=True) + 1e-5))[:, visible]

    return encode


def _speech(over_valid: bool) -> Encoder:
    """Frames of 4 samples, normalised over time as by a group of one channel; the frames that are not padding."""
    frames = _made(lambda: nn.Conv1d(1, 6, 4, stride=4))
    lengths = (~_PADDING).sum(1).tolist()

    def encode(x: Tensor) -> Tensor:
        rows = []
        for row, length in zip(frames(x[:, None]), lengths, strict=True):
            valid = row[:, : length // 4]
            rows.append(F.group_norm((valid if over_valid else row)[None], 6)[0, :, : length // 4].flatten())
        return torch.cat(rows)

    return encode


def _masked_convolutions(masked_before: bool) -> Encoder:
    first, second = _made(lambda: nn.Conv2d(3, 4, 3, padding=1)), _made(lambda: nn.Conv2d(4, 4, 3, padding=1))
    hidden = _HIDDEN.hidden[0]

    def kept(x: Tensor) -> Tensor:
        return torch.where(hidden, 0.0, x)

    def encode(x: Tensor) -> Tensor:
        features = kept(F.relu(first(kept(x) if masked_before else x)))
        return kept(second(features))

    return encode


def _attended(padding_masked: bool) -> Encoder:
    attention = _made(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
    padding = _FUTURE[:, 0].expand(2, 10)

    def encode(x: Tensor) -> Tensor:
        out: Tensor = attention(x, x, x, key_padding_mask=padding if padding_masked else None)[0]
        return out[:, :_CONTEXT]

    return encode


def _tubes() -> Encoder:
    """VideoMAE's embedding: a convolution in space and time whose stride is its kernel."""
    embed = _made(lambda: nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8)))
    visible = torch.cat([_VISIBLE_PATCHES, 16 + _VISIBLE_PATCHES])
    return lambda x: embed(x).flatten(2)[..., visible]


_CLIPS = partial(_certify, _random(2, 10, 8), _FUTURE)
_IMAGES = partial(_certify, _random(2, 3, 32, 32), _HIDDEN.hidden)

SPECIMENS = (
    Specimen(
        "a clip encoded whole, then split",
        Contract.C10,
        "https://github.com/huggingface/lerobot/issues/4153",
        "confirmed",
        "A bidirectional encoder sees the whole clip; context and target are cut from its output.",
        "A value of a future frame that changes the context tokens.",
        "How much a predictor gains from it.",
        _CLIPS,
        partial(_clip, split_before=True),
        partial(_clip, split_before=False),
        _changes,
    ),
    Specimen(
        "patches with overlapping receptive fields",
        Contract.C10,
        "https://github.com/younggyoseo/MWM/issues/6",
        "disputed",
        "Three convolutions of stride 2 and kernel 4 make tokens of 8 pixels, which are masked afterwards.",
        "Hidden pixels that the tokens of visible patches depend on, and how far inside they lie.",
        "Whether it harms: the authors chose early convolutions for their features.",
        _IMAGES,
        partial(_patches, kernel=2),
        partial(_patches, kernel=4),
        _changes,
    ),
    Specimen(
        "a series normalised before it is masked",
        Contract.C10,
        "https://github.com/yuqinie98/PatchTST/issues/35",
        "disputed",
        "Mean and deviation of the whole series, hidden steps included, scale the visible ones.",
        "A hidden step that changes every visible one.",
        "Whether it harms: two numbers a series leak, and forecasting normalises in the same way.",
        partial(_certify, _random(2, 24, 3), _MASKED_STEPS),
        partial(_normalised, over_visible=True),
        partial(_normalised, over_visible=False),
        _changes,
    ),
    Specimen(
        "a group norm over padded time",
        Contract.C10,
        "https://github.com/pytorch/audio/issues/2242",
        "reported",
        "The feature extractor's normalisation takes its statistics over padding too.",
        "A padded sample that changes the features of real ones.",
        "That features change with the length of the padding, which follows; the size of the effect.",
        partial(_certify, _random(2, 32), _PADDING),
        partial(_speech, over_valid=True),
        partial(_speech, over_valid=False),
        _changes,
    ),
    Specimen(
        "a convolution over masked patches",
        Contract.C10,
        "synthetic",
        "synthetic",
        "Feature maps are masked after each overlapping convolution, but the image before the first is not.",
        "Hidden pixels along patch borders that reach visible features.",
        "That visible content spreads into hidden places and blurs the mask, the other fault of dense convolutions.",
        _IMAGES,
        partial(_masked_convolutions, masked_before=True),
        partial(_masked_convolutions, masked_before=False),
        _changes,
    ),
    Specimen(
        "padding that is attended",
        Contract.C10,
        "synthetic",
        "synthetic",
        "Attention without its key padding mask: real tokens attend to padding.",
        "A value of a padded token that changes a real one.",
        "Padding that is NaN or infinite: it passes the mask too, for 0 times it is NaN.",
        _CLIPS,
        partial(_attended, padding_masked=True),
        partial(_attended, padding_masked=False),
        _changes,
    ),
    Specimen(
        "tubes whose stride is their kernel",
        Contract.C10,
        "https://github.com/MCG-NJU/VideoMAE/issues/29",
        "false alarm",
        "Patches are embedded before they are masked, but no receptive field crosses a patch.",
        "That no visible token depends on a hidden pixel.",
        "Anything after the embedding.",
        partial(_certify, _random(1, 3, 4, 32, 32), _HIDDEN.hidden[:, None].expand(3, 4, 32, 32)),
        _tubes,
    ),
)
