"""Parts of transformers, certified as they are; each adapter is what a user would write."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import viewproof as vp
from viewproof.certify import Contract, Report, Verdict

transformers = pytest.importorskip("transformers")
PROVED, REFUTED, UNKNOWN = Verdict.PROVED, Verdict.REFUTED, Verdict.UNKNOWN
IMAGES = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
SQUARE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
"""ViTMAE takes square images alone."""
# The mask of 24 patches of 4 x 4, four of which are hidden in each row.
HIDDEN = torch.zeros(2, 24, dtype=torch.bool).scatter(1, torch.tensor([[0, 5, 7, 20], [3, 4, 11, 23]]), True)


def pixels(patches: Tensor) -> Tensor:
    """A mask of patches as one of pixels."""
    return patches.reshape(len(patches), 1, 4, -1).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)


def model(name: str, config: str, **options: Any) -> Any:
    torch.manual_seed(0)
    configured = getattr(transformers, config)(**{**TINY, **options})
    return getattr(transformers, name)(configured).eval()


def vit_mae(**options: Any) -> Any:
    decoder = {f"decoder_{key}": value for key, value in TINY.items()}
    return model("ViTMAEForPreTraining", "ViTMAEConfig", **{"image_size": 16, "patch_size": 4, **decoder, **options})


def shown(report: Report) -> str:
    return str(report)


def test_vit_mae_masking_is_a_view_that_draws_from_the_global_generator() -> None:
    embeddings, tokens = vit_mae().vit.embeddings, torch.randn(2, 16, 16)

    def view(tokens: Tensor) -> Any:
        visible, mask, _ = embeddings.random_masking(tokens)
        return visible, tokens, mask.bool()

    report = vp.certify_view(view, tokens, generator="global")
    assert report.verdict() is PROVED, shown(report)
    assert vp.certify_view(view, tokens).verdict(Contract.C8) is REFUTED


def test_vit_mae_encoder_sees_no_hidden_patch() -> None:
    mae, hidden = vit_mae(mask_ratio=4 / 16), HIDDEN[:, :16].scatter(1, torch.tensor([[9], [15]]), True)
    noise = torch.rand(2, 16) / 2 + hidden

    def encoder(x: Tensor) -> Tensor:
        return mae.vit(x, noise=noise).last_hidden_state

    report = vp.certify_encoder(encoder, SQUARE, hidden=pixels(hidden))
    assert report.verdict() is PROVED, shown(report)
    wrong = vp.certify_encoder(encoder, SQUARE, hidden=pixels(hidden.roll(1, 1)))
    assert wrong.verdict() is REFUTED


class Given(torch.nn.Module):
    """A decoder that predicts what it is given."""

    def __init__(self, prediction: Tensor) -> None:
        super().__init__()
        self.prediction = prediction

    def forward(self, *args: Any, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.prediction)


def normalised_error(prediction: Tensor, target: Tensor) -> Tensor:
    mean, variance = target.mean(-1, keepdim=True), target.var(-1, keepdim=True)
    return (prediction - (target - mean) / (variance + 1.0e-6) ** 0.5) ** 2


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_vit_mae_loss_is_the_mean_over_the_hidden_patches(norm_pix_loss: bool) -> None:
    mae, images = vit_mae(norm_pix_loss=norm_pix_loss, image_size=8), SQUARE[..., :8, :8]
    y = mae.patchify(images)

    def three_quarters(number: int) -> Tensor:
        order = torch.rand(2, 4, generator=torch.Generator().manual_seed(number)).argsort(1)
        return (order < 3)[..., None].expand(y.shape)

    def loss(prediction: Tensor, sample: vp.Sample) -> Any:
        # The forward pass masks by the order of the noise: it hides what the sample hides.
        mae.decoder = Given(prediction)
        return mae(mae.unpatchify(sample.y), noise=sample.mask.hidden[..., 0].float()).loss

    sample = vp.Sample(images, y, vp.Mask(three_quarters(9), True))
    options: Any = {"masks": three_quarters, "invariant": (), "dtypes": (torch.float32,)}
    declared, other = (normalised_error, "mse") if norm_pix_loss else ("mse", normalised_error)
    report = vp.certify_loss(loss, sample, distance=declared, **options)
    assert report.verdict() is PROVED, shown(report)
    assert vp.certify_loss(loss, sample, distance=other, **options).verdict() is REFUTED

    def of_shown(prediction: Tensor, sample: vp.Sample) -> Any:
        return loss(prediction, replace(sample, mask=~sample.mask))

    assert vp.certify_loss(of_shown, sample, **options).verdict() is REFUTED


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("Dinov2Model", "Dinov2Config", {"image_size": 24, "patch_size": 4}),
        (
            "Data2VecVisionModel",
            "Data2VecVisionConfig",
            {"image_size": (16, 24), "patch_size": 4, "use_mask_token": True},
        ),
        ("IJepaModel", "IJepaConfig", {"image_size": (16, 24), "patch_size": 4, "use_mask_token": True}),
    ],
)
def test_models_with_a_mask_token_see_no_hidden_patch(name: str, config: str, options: dict[str, Any]) -> None:
    part = model(name, config, **options)
    if getattr(part.embeddings, "mask_token", 0) is None:
        part.embeddings.mask_token = torch.nn.Parameter(torch.randn(1, 1, 16))

    def encoder(x: Tensor) -> Tensor:
        return part(x, bool_masked_pos=HIDDEN).last_hidden_state

    report = vp.certify_encoder(encoder, IMAGES, hidden=pixels(HIDDEN))
    assert report.verdict() is PROVED, shown(report)
    assert vp.certify_encoder(encoder, IMAGES, hidden=pixels(HIDDEN.roll(1, 1))).verdict() is REFUTED


def test_video_mae_sees_no_hidden_tube() -> None:
    part = model("VideoMAEModel", "VideoMAEConfig", image_size=8, patch_size=4, num_frames=4, tubelet_size=2)
    videos, tubes = torch.randn(2, 4, 3, 8, 8), torch.tensor([1, 0, 1, 0] * 2).bool().expand(2, 8)
    hidden = tubes.reshape(2, 2, 1, 2, 2)
    for axis, width in ((1, 2), (3, 4), (4, 4)):
        hidden = hidden.repeat_interleave(width, axis)

    def encoder(x: Tensor) -> Tensor:
        return part(x, bool_masked_pos=tubes).last_hidden_state

    report = vp.certify_encoder(encoder, videos, hidden=hidden.expand(videos.shape))
    assert report.verdict() is PROVED, shown(report)
    assert vp.certify_encoder(encoder, videos, hidden=~hidden.expand(videos.shape)).verdict() is REFUTED


def test_wav2vec2_masks_frames_in_its_input() -> None:
    part = model(
        "Wav2Vec2Model", "Wav2Vec2Config", conv_dim=(8,), conv_stride=(2,), conv_kernel=(2,), num_feat_extract_layers=1
    )
    frames, hidden = torch.randn(2, 7, 16), torch.rand(2, 7, generator=torch.Generator().manual_seed(0)) < 0.5

    def view(frames: Tensor) -> Any:
        return part._mask_hidden_states(frames.clone(), mask_time_indices=hidden), frames, hidden

    report = vp.certify_view(view, frames)
    assert report.verdict() is PROVED, shown(report)

    def without_a_copy(frames: Tensor) -> Any:
        return part._mask_hidden_states(frames, mask_time_indices=hidden), frames.clone(), hidden

    assert vp.certify_view(without_a_copy, frames).verdict(Contract.C2) is REFUTED


def test_wav2vec2_mask_draws_follow_numpys_global_generator() -> None:
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        return torch.from_numpy(_compute_mask_indices((len(ids), 20), mask_prob=0.3, mask_length=2))

    assert vp.certify_reproducible(draw, workers=0).verdict() is REFUTED


def bert_collator(folder: Path) -> Any:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = transformers.BertTokenizerFast(vocab=str(folder / "vocab.txt"), vocab_file=str(folder / "vocab.txt"))
    return transformers.DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm_probability=0.4)


def test_bert_collator(tmp_path: Path) -> None:
    collator = bert_collator(tmp_path)
    ids = torch.randint(5, 45, (4, 12), generator=torch.Generator().manual_seed(0))
    special = torch.zeros(4, 12, dtype=torch.bool)
    special[:, [0, -1]] = True

    def view(ids: Tensor) -> Any:
        state = torch.get_rng_state()
        x, _ = collator.torch_mask_tokens(ids.clone(), special_tokens_mask=special)
        # What is scored and what is kept follows from the draw: it is read off a batch of one id that is no word.
        torch.set_rng_state(state)
        other, labels = collator.torch_mask_tokens(torch.full_like(ids, -1), special_tokens_mask=special)
        mask = labels == -1
        return {"x": x, "y": ids, "mask": mask, "kept": mask & (other == -1)}

    report = vp.certify_view(view, ids, generator="global")
    assert report.verdict() is PROVED, shown(report)

    def without_kept(ids: Tensor) -> Any:
        return {key: value for key, value in view(ids).items() if key != "kept"}

    assert vp.certify_view(without_kept, ids, generator="global").verdict() is REFUTED
