"""Verdicts on encoders of every kind, witnesses that replay, and nothing left behind."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTMAEConfig, ViTMAEForPreTraining, ViTModel

from viewproof import InvalidArgument, Mask, MaskedAutoencoder, Sample, image_patch_mae_sample, tensor_prefix_mae_sample
from viewproof.certify.encoder import certify_encoder, content_and_mask
from viewproof.certify.report import Contract, Finding
from viewproof.verdict import Verdict

PROVED, REFUTED, UNKNOWN, VACUOUS = Verdict
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SAMPLE = image_patch_mae_sample(IMAGES, 8, 8, period=4, offset=1)
VISIBLE = [i for i in range(16) if i % 4 != 1]
TOKENS = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(0))
PADDING = torch.arange(10) >= torch.tensor([7, 4])[:, None]
PADDED = PADDING[..., None].expand(2, 10, 8)


def visible(features: Tensor) -> Tensor:
    return features.flatten(2)[..., VISIBLE]


def made(make: Callable[[], nn.Module], train: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return make().train(train)


def one(*args: Any, **kwargs: Any) -> Finding:
    finding, *others = certify_encoder(*args, **kwargs).findings
    assert finding.contract is Contract.C10
    assert all(f.contract is Contract.C2 for f in others), "the other finding is about writes to the input"
    return finding


def replays(encoder: Callable[[Tensor], Any], finding: Finding, hidden: Tensor) -> None:
    """The witness differs in one hidden coordinate, and the encoder's output shows it."""
    assert finding.verdict is REFUTED and finding.witness is not None
    first, other = finding.witness.inputs["one"], finding.witness.inputs["other"]
    changed = first != other
    assert int(changed.sum()) == 1 and bool(changed[finding.witness.coordinates["hidden"]])
    assert bool(hidden.expand(first.shape)[changed].all())
    with torch.no_grad():
        assert not torch.equal(encoder(first), encoder(other))
    leak = finding.witness.maps["leak"]
    assert leak.shape == first.shape[1:] and leak[finding.witness.coordinates["hidden"][1:]]


CONVOLUTIONS = made(
    lambda: nn.Sequential(
        nn.Conv2d(3, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 4, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 2, 2)
    )
)
STRIDED = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.GELU(), nn.Conv2d(4, 4, 4, 4)))
NORMALISED = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4)), train=True)


def vit_mae() -> nn.Module:
    config = ViTMAEConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=32, mask_ratio=0.25,
    )  # fmt: skip
    return made(lambda: ViTMAEForPreTraining(config))


NOISE = torch.zeros(2, 16)
NOISE[:, 1::4] = 1


def test_our_masked_autoencoder_never_reads_hidden_pixels() -> None:
    model = made(lambda: MaskedAutoencoder((3, 32, 32), (8, 8), 16, 2, 2, 8, 1, 2))
    finding = one(model, SAMPLE)
    assert finding.verdict is PROVED and finding.scope == "all values at 2x3x32x32, these weights"
    assert isinstance(model, MaskedAutoencoder)
    index = torch.tensor(VISIBLE)
    assert one(lambda x: model.tokens(x, index), SAMPLE).verdict is PROVED
    replays(model.encode, one(model.encode, SAMPLE), SAMPLE.view.hidden)  # type: ignore[union-attr]


def test_transformers_masked_autoencoder_with_given_noise() -> None:
    model = vit_mae()
    assert one(lambda x: model(pixel_values=x, noise=NOISE).logits, SAMPLE).verdict is PROVED
    whole = one(lambda x: model(pixel_values=x, noise=NOISE), SAMPLE)
    assert whole.verdict is REFUTED and whole.witness is not None and "output['loss'][]" in whole.witness.what
    picked = one(lambda x: model(pixel_values=x, noise=NOISE), SAMPLE, visible_outputs=lambda out: out["logits"])
    assert picked.verdict is PROVED
    drawn = one(lambda x: model(pixel_values=x).logits, SAMPLE)
    assert drawn.verdict is REFUTED and "random numbers are drawn: every call ran from seed 0" in drawn.detail


def test_a_bidirectional_transformer_leaks_into_every_token() -> None:
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
                       patch_size=8)  # fmt: skip
    model = made(lambda: ViTModel(config))
    finding = one(model, SAMPLE, visible_outputs=lambda out: out.last_hidden_state[:, [1 + i for i in VISIBLE]])
    assert finding.verdict is REFUTED and finding.witness is not None
    assert torch.equal(finding.witness.maps["leak"], SAMPLE.view.hidden)  # type: ignore[union-attr]


def test_convolutions_leak_as_far_as_their_receptive_field_reaches() -> None:
    hidden = torch.zeros(3, 32, 32, dtype=torch.bool)
    hidden[:, 8:24, 8:24] = True

    def seen(x: Tensor) -> Tensor:
        out: Tensor = CONVOLUTIONS(x)[..., 0]
        return out

    finding = one(lambda x: CONVOLUTIONS(x)[..., 0], IMAGES, hidden=hidden)
    replays(seen, finding, hidden)
    assert finding.witness is not None
    columns = finding.witness.maps["leak"].any(0).any(0).nonzero().flatten()
    # Column 0 of the last features sees pixels -3 to 10.
    assert columns.tolist() == [8, 9, 10]
    assert "the farthest 3 from a visible one" in finding.witness.what
    assert finding.detail.startswith("comes in at convolution at test_encoder.py:")


def test_stride_equal_to_the_kernel_does_not_leak() -> None:
    assert one(STRIDED, SAMPLE, visible_outputs=visible).verdict is PROVED
    assert one(lambda x: STRIDED(x).flatten(2), SAMPLE).verdict is REFUTED


def test_batch_norm_leaks_in_training_only_and_keeps_its_statistics() -> None:
    state = {key: value.clone() for key, value in NORMALISED.state_dict().items()}
    assert one(NORMALISED, SAMPLE, visible_outputs=visible).verdict is REFUTED
    assert one(lambda x: visible(NORMALISED(x)), SAMPLE).verdict is REFUTED
    assert NORMALISED.training
    assert all(torch.equal(value, state[key]) for key, value in NORMALISED.state_dict().items())
    assert one(NORMALISED.eval(), SAMPLE, visible_outputs=visible).verdict is PROVED
    NORMALISED.train()


def test_key_padding_masks_are_proved_for_finite_values() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = made(lambda: nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    finding = one(lambda x: model(x, src_key_padding_mask=PADDING)[~PADDING], TOKENS, hidden=PADDED)
    assert finding.verdict is PROVED
    assert finding.scope.startswith("all hidden values that keep all that is computed finite at 2x10x8, these weights")
    assert finding.detail.startswith("a NaN or an infinity may pass: 0 * NaN is NaN (")
    replays(lambda x: model(x)[~PADDING], one(lambda x: model(x)[~PADDING], TOKENS, hidden=PADDED), PADDED)
    additive = torch.zeros(2, 1, 10).masked_fill(PADDING[:, None], -1e9)
    eager = one(lambda x: (((x @ x.mT) + additive).softmax(-1) @ x)[~PADDING], TOKENS, hidden=PADDED)
    assert eager.verdict is PROVED and "and attention scores within +-2000" in eager.scope
    weak = additive.clamp_min(-20.0)
    assert one(lambda x: (((x @ x.mT) + weak).softmax(-1) @ x)[~PADDING], TOKENS, hidden=PADDED).verdict is REFUTED


def test_normalisation_before_masking_and_over_padded_time() -> None:
    step = (torch.arange(10) % 2 == 1)[:, None].expand(10, 8)
    assert one(lambda x: (x - x.mean(1, keepdim=True))[:, ::2], TOKENS, hidden=step).verdict is REFUTED
    assert one(lambda x: x[:, ::2] - x[:, ::2].mean(1, keepdim=True), TOKENS, hidden=step).verdict is PROVED
    norm = nn.GroupNorm(1, 8)
    assert one(lambda x: norm(x.mT).mT[~PADDING], TOKENS, hidden=PADDED).verdict is REFUTED


def test_multiplying_by_a_mask_is_proved_for_finite_values_only() -> None:
    keep = ~PADDED
    finding = one(lambda x: (x * keep).sum(1), TOKENS, hidden=PADDED)
    assert finding.verdict is PROVED and "finite" in finding.scope
    assert one(lambda x: torch.where(keep, x, 0.0).sum(1), TOKENS, hidden=PADDED).scope.startswith("all values")


def test_only_a_value_that_is_not_finite_shows_it() -> None:
    finding = one(lambda x: torch.zeros(2) + float(x.abs().sum() >= 0), TOKENS, hidden=PADDED)
    assert finding.verdict is REFUTED and finding.witness is not None
    assert not torch.isfinite(finding.witness.inputs["other"]).all()


def test_dependence_that_no_content_shows_is_unknown_and_says_where_it_comes_in() -> None:
    finding = one(lambda x: torch.ones(2) if (x == 0.123456).any() else torch.zeros(2), TOKENS, hidden=PADDED)
    assert finding.verdict is UNKNOWN
    assert "(__bool__ takes dependent data out of torch at test_encoder.py:" in finding.detail
    assert "no other hidden content changed the output" in finding.detail


class Drifting(nn.Module):
    """No two calls are alike, for one of two reasons: a generator of its own, which is put back, or the time."""

    def __init__(self, clock: bool) -> None:
        super().__init__()
        self.clock, self.generator = clock, torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        # The seconds since the machine started are too many for float32 to show the time between two calls.
        return x.mean() + (time.perf_counter() % 1 if self.clock else torch.rand(3, generator=self.generator))


def test_a_difference_is_blamed_on_hidden_content_only_if_calls_repeat() -> None:
    finding = one(Drifting(clock=True), TOKENS, hidden=PADDED)
    assert finding.verdict is UNKNOWN
    assert "two calls on one input differ from a fixed seed" in finding.detail
    assert one(Drifting(clock=False), TOKENS, hidden=PADDED).verdict is REFUTED


def test_dropout_is_proved_for_one_draw() -> None:
    finding = one(lambda x: F.dropout(x, 0.5)[~PADDING], TOKENS, hidden=PADDED)
    assert finding.verdict is PROVED and finding.scope.endswith(", this random draw")


def test_a_branch_on_visible_content_narrows_the_scope() -> None:
    finding = one(lambda x: x[:, :4] * (2 if x[0, 0, 0] > 0 else 1), TOKENS, hidden=PADDED)
    assert finding.verdict is PROVED and finding.scope.endswith(", these weights, this visible content")


@dataclass
class Output:
    features: Tensor
    parts: dict[str, Any]


@pytest.mark.parametrize(
    ("wrap", "where"),
    [
        (lambda t: (t[:, 0], [t]), "output[1][0]"),
        (lambda t: {"a": t[:, 0], "b": t}, "output['b']"),
        (lambda t: Output(t[:, 0], {"last": t}), "output.parts['last']"),
        (lambda t: {"codes": t.argmax(1)}, "output['codes']"),
        (lambda t: {"score": float(t.sum())}, "output['score']"),
        (lambda t: {"count": int((t > 0).sum())}, "output['count']"),
    ],
)
def test_every_tensor_and_number_of_an_output_counts(wrap: Callable[[Tensor], Any], where: str) -> None:
    finding = one(lambda x: wrap(x), TOKENS, hidden=PADDED)
    assert finding.verdict is REFUTED and finding.witness is not None
    assert f" changes {where}[" in finding.witness.what


def test_a_shape_that_follows_from_hidden_content_is_a_leak() -> None:
    finding = one(lambda x: torch.zeros(int((x > 0).sum())), TOKENS, hidden=PADDED)
    assert finding.verdict is REFUTED and finding.witness is not None and "in shape or type" in finding.witness.what


def test_token_ids_are_other_ids_of_the_sample() -> None:
    ids = torch.arange(20).reshape(2, 10)
    table = made(lambda: nn.Embedding(20, 4))
    assert one(lambda x: table(x)[~PADDING], ids, hidden=PADDING).verdict is PROVED
    finding = one(lambda x: table(x).mean(1), ids, hidden=PADDING)
    assert finding.verdict is REFUTED and finding.witness is not None
    assert int(finding.witness.inputs["other"].max()) < 20


def test_hidden_content_of_a_sample_is_its_source(tmp_path: Path) -> None:
    # What an encoder keeps in a list is put back; a file is not.
    first = tmp_path / "first.pt"

    def encoder(x: Tensor) -> Tensor:
        if not first.exists():
            torch.save(x.clone(), first)
        return x[:, :, :8, :8]

    assert one(encoder, SAMPLE).verdict is PROVED
    assert torch.equal(torch.load(first), IMAGES)
    prefix = tensor_prefix_mae_sample(IMAGES.flatten(1), 100, period=2, offset=0)
    assert one(lambda x: x[:, 1::2], prefix).verdict is PROVED


def test_a_mask_that_hides_nothing_or_everything_is_vacuous() -> None:
    for mask, what in ((Mask.empty((10, 8)), "nothing"), (Mask.all((10, 8)), "everything")):
        finding = one(lambda x: x, TOKENS, hidden=mask)
        assert finding.verdict is VACUOUS and finding.detail == f"the mask hides {what}"


def test_an_encoder_that_raises_or_returns_nothing_is_unknown() -> None:
    def broken(x: Tensor) -> Tensor:
        raise ValueError("no such layer")

    finding = one(broken, TOKENS, hidden=PADDED)
    assert finding.verdict is UNKNOWN and finding.detail == "broken raised ValueError: no such layer"
    assert one(lambda x: None, TOKENS, hidden=PADDED).detail == "the output holds no tensor"


def test_bad_arguments_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"hidden=None: there is no mask over x; pass hidden=, or a Sample with"):
        certify_encoder(lambda x: x, TOKENS)
    with pytest.raises(InvalidArgument, match=r"hidden of shape .*does not lie over a batch of shape"):
        certify_encoder(lambda x: x, TOKENS, hidden=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(InvalidArgument, match=r"sample of type list must be a Sample or a tensor; wrap the encoder"):
        content_and_mask([TOKENS], PADDED)
    y = torch.zeros(2, 3)
    with pytest.raises(InvalidArgument, match="hidden=None: there is no mask over x"):
        certify_encoder(lambda x: x, Sample(TOKENS, y, Mask.all((3,))))


class Meddler(nn.Module):
    """Writes everything it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.eval()
        assert isinstance(self.calls, Tensor)
        self.calls += 1
        with torch.no_grad():
            self.weight.mul_(2)
        random.random()
        np.random.rand()
        torch.rand(1)
        x.zero_()
        return x + self.weight


def test_everything_is_put_back() -> None:
    model, x = Meddler(), TOKENS.clone()
    states = str(np.random.get_state()), torch.get_rng_state().tolist()
    assert one(model, x, hidden=PADDED).verdict is PROVED
    assert one(lambda x: model(x), x, hidden=PADDED).verdict is PROVED
    assert torch.equal(model.weight, torch.ones(8)) and model.calls == 0
    assert torch.equal(x, TOKENS)
    # The type checker of the tests draws from Python's own generator.
    assert (str(np.random.get_state()), torch.get_rng_state().tolist()) == states
    model = Meddler()
    one(model, x, hidden=PADDED)
    assert model.training


def leaks_on_another_thread(x: Tensor) -> Tensor:
    out = torch.zeros(2, 8)
    worker = threading.Thread(target=lambda: out.copy_(x.mean(1)))
    worker.start()
    worker.join()
    return out


def leaks_through_a_capsule(x: Tensor) -> Tensor:
    return torch.utils.dlpack.from_dlpack(torch._C._to_dlpack(x)).sum(1)


@pytest.mark.parametrize("encoder", [leaks_on_another_thread, leaks_through_a_capsule])
def test_what_the_tracker_cannot_see_a_second_input_shows(encoder: Callable[[Tensor], Tensor]) -> None:
    finding = one(encoder, TOKENS, hidden=PADDED)
    assert finding.method == "search, after tracking missed it"
    replays(encoder, finding, PADDED)


def test_compiled_encoders_run_as_written() -> None:
    encoder = torch.compile(lambda x: x[:, :4].sin(), backend="eager")
    encoder(TOKENS)
    assert one(encoder, TOKENS, hidden=PADDED).verdict is PROVED
    leaking = torch.compile(lambda x: x.sum(1).sin(), backend="eager")
    leaking(TOKENS)
    finding = one(leaking, TOKENS, hidden=PADDED)
    assert finding.verdict is REFUTED and finding.method == "search, run again"


def test_the_report_names_its_subject() -> None:
    assert certify_encoder(STRIDED, SAMPLE).subject == "Sequential"
    assert certify_encoder(STRIDED, SAMPLE, name="patches").subject == "patches"


class Keeps(nn.Module):
    """Adds the mean of the first batch it is called with, and rebinds a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}
        self.mean: Tensor | None = None
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1
        self.mean = x.mean() if self.mean is None else self.mean
        return visible(x.unfold(2, 8, 8).unfold(3, 8, 8).sum((-1, -2))) + self.cache.setdefault("m", self.mean)


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_module_keeps_from_one_call_is_gone_before_the_next(wrapped: bool) -> None:
    module = Keeps()
    found = one((lambda x: module(x)) if wrapped else module, SAMPLE)
    assert not module.cache and module.mean is None and module.get_buffer("seen") == 0
    replays(lambda x: Keeps()(x), found, torch.zeros(3, 32, 32).bool() | SAMPLE.view.hidden)


@pytest.mark.parametrize(
    "peek",
    [
        lambda x: "9876" in repr(x[0, 0, 0, 8]),
        lambda x: "9876" in f"{x[0, 0, 0, 8:9]}",
        lambda x: torch.zeros(2).map_(x[0, 0, 0, 8:10], lambda a, b: float(b == 9876)).any(),
        lambda x: torch.arange(3)[None][:, [(x[0, 0, 0, 8] == 9876).long()]].any(),
    ],
)
def test_what_leaves_torch_without_an_operator_is_not_proved(peek: Callable[[Tensor], Any]) -> None:
    def encoder(x: Tensor) -> Tensor:
        return x[..., :8] * 0 if peek(x) else x[..., :8]

    hidden = torch.zeros(3, 32, 32, dtype=torch.bool)
    hidden[..., 8:] = True
    assert one(encoder, IMAGES, hidden=hidden).verdict is not PROVED
