"""Hidden content that reaches the visible outputs inside the model (C10)."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Report, Witness, certify_encoder
from viewproof.masks import PatchMask

CONTEXT = 4
FUTURE = (torch.arange(10) >= CONTEXT)[:, None].expand(10, 8)
PATCH_MASK = PatchMask(8, 8, period=4, offset=1).mask((3, 32, 32))
VISIBLE_TOKENS = torch.arange(16)[torch.arange(16) % 4 != 1]
HIDDEN_STEPS = (torch.arange(24) // 4 % 2 == 1)[:, None].expand(24, 3)
PADDING = torch.arange(32)[None] >= torch.tensor([20, 12])[:, None]


def certify_on(shape: tuple[int, ...], hidden: Tensor) -> Callable[[Twin], Report]:
    """`certify_encoder` on random numbers of a shape."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return lambda twin: certify_encoder(twin(), x, hidden=hidden)


on_clips = certify_on((2, 10, 8), FUTURE)
on_images = certify_on((2, 3, 32, 32), PATCH_MASK.hidden)


def changes(twin: Twin, witness: Witness) -> bool:
    """Whether the outputs of the two inputs, which differ in hidden content, differ."""
    one, other = (twin()(witness.inputs[name]) for name in ("one", "other"))
    return not torch.equal(one, other)


Network = TypeVar("Network", bound=nn.Module)


def weights_from_seed_0(make: Callable[[], Network]) -> Network:
    """The module in evaluation, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


leak = partial(specimen, contract=Contract.C10, breaks=changes)


@leak("a clip encoded whole, then split", "confirmed", "huggingface/lerobot/issues/4153", certify=on_clips)
def clip_encoded_whole(bug: bool) -> Twin:
    """A bidirectional encoder sees the whole clip; context and target are cut from its output.

    Shown: A value of a future frame that changes the context tokens.
    Not shown: How much a predictor gains from it.
    """

    def make() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    model = weights_from_seed_0(make)
    return lambda x: model(x)[:, :CONTEXT] if bug else model(x[:, :CONTEXT])


@leak("patches with overlapping receptive fields", "disputed", "younggyoseo/MWM/issues/6", certify=on_images)
def overlapping_receptive_fields(bug: bool) -> Twin:
    """Three convolutions of stride 2 and kernel 4 make tokens of 8 pixels, then tokens are masked.

    Shown: Hidden pixels that the tokens of visible patches depend on, and how far inside they lie.
    Not shown: Whether it harms: the authors chose early convolutions for their features.
    """
    kernel, padding = (4, 1) if bug else (2, 0)
    first, second, third = (partial(nn.Conv2d, a, b, kernel, 2, padding) for a, b in ((3, 4), (4, 8), (8, 8)))
    model = weights_from_seed_0(lambda: nn.Sequential(first(), nn.ReLU(), second(), nn.ReLU(), third()))
    return lambda x: model(x).flatten(2)[..., VISIBLE_TOKENS]


@leak(
    "a series normalised before it is masked",
    "disputed",
    "yuqinie98/PatchTST/issues/35",
    certify=certify_on((2, 24, 3), HIDDEN_STEPS),
)
def normalised_before_masking(bug: bool) -> Twin:
    """Mean and deviation of the whole series, hidden steps included, scale the visible ones.

    Shown: A hidden step that changes every visible one.
    Not shown: Whether it harms: two numbers a series leak, and forecasting normalises in the same way.
    """
    visible = ~HIDDEN_STEPS[:, 0]

    def encode(x: Tensor) -> Tensor:
        series = x if bug else x[:, visible]
        return ((x - series.mean(1, keepdim=True)) / (series.std(1, keepdim=True) + 1e-5))[:, visible]

    return encode


@leak("a group norm over padded time", "reported", "pytorch/audio/issues/2242", certify=certify_on((2, 32), PADDING))
def group_norm_over_padding(bug: bool) -> Twin:
    """The feature extractor's normalisation takes its statistics over padding too.

    Shown: A padded sample that changes the features of real ones.
    Not shown: That features change with the length of the padding, which follows; the size of the effect.
    """
    frames = weights_from_seed_0(lambda: nn.Conv1d(1, 6, 4, stride=4))
    frame_counts = ((~PADDING).sum(1) // 4).tolist()

    def encode(x: Tensor) -> Tensor:
        rows = []
        for row, count in zip(frames(x[:, None]), frame_counts, strict=True):
            # As many groups as channels: each channel is normalised over time.
            normalised = F.group_norm((row if bug else row[:, :count])[None], 6)[0]
            rows.append(normalised[:, :count].flatten())
        return torch.cat(rows)

    return encode


@leak("a convolution over masked patches", "synthetic", certify=on_images)
def convolution_over_masked_patches(bug: bool) -> Twin:
    """Features are masked after each overlapping convolution, the image before the first is not.

    Shown: Hidden pixels along patch borders that reach visible features.
    Not shown: That visible content spreads into hidden places and blurs the mask.
    """
    first = weights_from_seed_0(lambda: nn.Conv2d(3, 4, 3, padding=1))
    second = weights_from_seed_0(lambda: nn.Conv2d(4, 4, 3, padding=1))
    masked = partial(torch.where, PATCH_MASK.hidden[0], 0.0)
    return lambda x: masked(second(masked(F.relu(first(x if bug else masked(x))))))


@leak("padding that is attended", "synthetic", certify=on_clips)
def padding_attended(bug: bool) -> Twin:
    """Attention without its key padding mask: real tokens attend to padding.

    Shown: A value of a padded token that changes a real one.
    Not shown: Padding that is NaN or infinite: it passes the mask too, for 0 times it is NaN.
    """
    attention = weights_from_seed_0(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
    padding = FUTURE[:, 0].expand(2, 10)
    return lambda x: attention(x, x, x, key_padding_mask=None if bug else padding)[0][:, :CONTEXT]


@leak(
    "tubes whose stride is their kernel",
    "false alarm",
    "MCG-NJU/VideoMAE/issues/29",
    certify=certify_on((1, 3, 4, 32, 32), PATCH_MASK.hidden[:, None].expand(3, 4, 32, 32)),
)
def tubes_without_overlap() -> Twin:
    """Patches are embedded before they are masked, but no receptive field crosses a patch.

    Shown: That no visible token depends on a hidden pixel.
    Not shown: Anything after the embedding.
    """
    embed = weights_from_seed_0(lambda: nn.Conv3d(3, 8, (2, 8, 8), stride=(2, 8, 8)))
    visible = torch.cat([VISIBLE_TOKENS, 16 + VISIBLE_TOKENS])
    return lambda x: embed(x).flatten(2)[..., visible]
