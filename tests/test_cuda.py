"""On a GPU: the masks, views and verdicts of a CPU; runs of every method that repeat and resume bit for bit.

VIEWPROOF_TEST_DEVICE=cpu runs the same tests without a GPU.
"""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import viewproof as vp
from viewproof.bits import GeneratorStates
from viewproof.cli import main
from viewproof.evaluation import probe
from viewproof.methods import METHODS
from viewproof.training.augment import Augment, RandomViews, parse_transforms

DEVICE = os.environ.get("VIEWPROOF_TEST_DEVICE", "cuda")
pytestmark = pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a GPU")

IMAGE = (3, 8, 12)
RULES: list[tuple[vp.Rule, tuple[int, ...]]] = [
    (vp.PatchMask(4, 4, period=3, offset=1), IMAGE),
    (~vp.PatchMask(2, 2, period=4, offset=0), IMAGE),
    (vp.RandomPatchMask(2, 2, count=7, seed=3), IMAGE),
    (vp.SharedRandomPatchMask(2, 2, count=7, seed=3), IMAGE),
    (vp.TubeMask(2, 3, count=5, seed=3), (2, 3, 8, 12)),
    (vp.RandomBlockMask((2, None, 3), count=5, seed=3), (5, 2, 7)),
    (vp.RandomBlockwiseMask(2, 2, count=11, min_area=2, seed=3), IMAGE),
    (vp.SpanMask(2, 3, seed=3), (11, 2)),
    (vp.SpectrogramMask(1, 2, 2, 3, seed=3), (8, 12)),
]
SMALL = "--dim 16 --depth 2 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2 --projector-dim 12"
SMALL += f" --threads 1 --batch-size 64 --steps 9 --probe-samples 300 --accelerator {DEVICE}"


@pytest.mark.parametrize(("rule", "shape"), RULES, ids=[repr(rule) for rule, _ in RULES])
def test_a_sample_has_the_bits_of_the_cpu(rule: vp.Rule, shape: tuple[int, ...]) -> None:
    x, ids = torch.randn(20, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(20)
    here, there = rule.sample(x, sample_ids=ids), rule.sample(x.to(DEVICE), sample_ids=ids.to(DEVICE))
    assert there.x.device.type == DEVICE
    for name in ("x", "view", "mask"):
        one, other = getattr(here, name), getattr(there, name)
        one, other = (part.hidden if isinstance(part, vp.Mask) else part for part in (one, other))
        assert torch.equal(one, other.cpu()), name


@pytest.mark.parametrize("loss", [vp.masked_mse, vp.masked_l1, vp.masked_smooth_l1])
def test_a_masked_loss_and_its_gradient_are_those_of_the_cpu(loss: Any) -> None:
    x, ids = torch.randn(20, *IMAGE, dtype=torch.float64), torch.arange(20)
    values = []
    for device in ("cpu", DEVICE):
        sample = RULES[2][0].sample(x.to(device), sample_ids=ids.to(device))
        prediction = torch.sin(5 * sample.y).requires_grad_()
        value = loss(prediction, sample)
        value.backward()
        assert prediction.grad is not None
        hidden = sample.mask.hidden.flatten(1)
        assert prediction.grad[hidden].count_nonzero() == hidden.sum() and not prediction.grad[~hidden].any()
        values.append((value.detach().cpu(), prediction.grad.cpu()))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)


def test_views_are_those_of_the_cpu_and_the_same_alone() -> None:
    x, ids = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(16) + 2**40
    words = "RandomResizedCrop(0.2), Flip(), ColourJitter(), Grey(0.2), Blur(0.5), Solarise(0.2), Affine()"
    transforms: list[Any] = [RandomViews(), Augment(parse_transforms(words))]
    for transform in transforms:
        here, there = (transform(x.to(d), ids.to(d), 3) for d in ("cpu", DEVICE))
        alone = transform(x[5:6].to(DEVICE), ids[5:6].to(DEVICE), 3)
        if isinstance(here, Tensor):
            here, there, alone = (here,), (there,), (alone,)
        for one, other, single in zip(here, there, alone, strict=True):
            torch.testing.assert_close(one, other.cpu(), rtol=0, atol=2e-4)
            torch.testing.assert_close(other[5:6], single, rtol=0, atol=0)


def leaking(x: Tensor) -> tuple[Tensor, Tensor, vp.Mask]:
    """A view that shows the mean of all pixels."""
    mask = RULES[0][0].mask(x.shape[1:], device=x.device)
    return mask.apply(x) + x.mean(), x, mask


def test_certifiers_judge_what_runs_on_the_device() -> None:
    torch.manual_seed(0)
    x, rule = torch.randn(2, *IMAGE, device=DEVICE), RULES[0][0]
    assert vp.certify_view(rule.sample, x, rule).verdict() is vp.Verdict.PROVED
    report = vp.certify_view(leaking, x, rule)
    assert report.verdict(vp.Contract.C1) is vp.Verdict.REFUTED, str(report)
    sample = rule.sample(x)
    pytest.importorskip("z3")
    report = vp.certify_loss(vp.masked_mse, sample, distance=Tensor.square)
    assert report.verdict() is vp.Verdict.PROVED, str(report)
    everywhere = vp.certify_loss(lambda prediction, s: (prediction - s.y).square().mean(), sample)
    assert everywhere.refuted, str(everywhere)


class Masked(nn.Module):
    """Four frames of six are hidden from the encoder, which with ``leak`` reads the mean of all."""

    def __init__(self, leak: bool) -> None:
        super().__init__()
        self.leak, self.embed, self.mix = leak, nn.Linear(3, 8), nn.Linear(6, 6)
        self.token, self.head, self.dropout = nn.Parameter(torch.randn(8)), nn.Linear(8, 3), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(x.shape[:2], device=x.device).argsort(1) < 4
        tokens = self.embed(x)
        mean = tokens.mean(1, keepdim=True) if self.leak else 0
        tokens = torch.where(hidden[..., None], self.token, tokens) + mean
        return self.head(self.dropout(self.mix(tokens.mT).mT.tanh())), hidden


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("leak", [False, True])
def test_a_step_is_read_off_and_leaves_nothing_behind(leak: bool, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Masked(leak).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters())

    def step(x: Tensor) -> float:
        with torch.autocast(DEVICE, precision, enabled=precision is torch.bfloat16):
            prediction, hidden = model(x)
        loss = (prediction.float() - x).square().mean(-1)[hidden].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    x = torch.randn(3, 6, 3, device=DEVICE)
    step(x)
    gradients = [parameter.grad for parameter in model.parameters()]
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"], x, gradients))
    generators = GeneratorStates.now()
    report = vp.watch(step, x)
    assert report.verdict(vp.Contract.C1) is (vp.Verdict.REFUTED if leak else vp.Verdict.PROVED), str(report)
    after = (model.state_dict(), optimizer.state_dict()["state"], x, [p.grad for p in model.parameters()])
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    now = GeneratorStates.now()
    # What checks types while tests run draws from Python's generator itself.
    assert {**vars(now), "python": None} == {**vars(generators), "python": None}


@pytest.mark.parametrize("leak", [False, True])
def test_an_autoencoder_with_attention_is_read_off(leak: bool) -> None:
    torch.manual_seed(0)
    model = vp.MaskedAutoencoder((3, 16, 16), (4, 4), dim=32, depth=1, heads=2, decoder_dim=16, decoder_depth=1)
    model = model.to(DEVICE)
    optimizer, rule = torch.optim.AdamW(model.parameters()), vp.RandomPatchMask(4, 4, count=12)

    def step(batch: dict[str, Tensor]) -> None:
        x = batch["x"].to(DEVICE)
        sample = rule.sample(x, sample_ids=batch["ids"].to(DEVICE))
        mean = x.mean((1, 2, 3), keepdim=True) if leak else 0
        loss = vp.masked_mse(model(sample.x + mean, sample.view), sample)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    report = vp.watch(step, {"x": torch.randn(4, 3, 16, 16), "ids": torch.arange(4)})
    assert report.verdict(vp.Contract.C1) is (vp.Verdict.REFUTED if leak else vp.Verdict.PROVED), str(report)


@pytest.mark.parametrize("method", [*(m for m in METHODS if m != "mlm"), "mae --optimizer muon --precision bf16-mixed"])
def test_a_run_repeats_and_resumes_bit_for_bit(method: str, tmp_path: Path) -> None:
    words = f"pretrain digits --method {method} {SMALL}".split()
    weights = []
    for name in ("one", "two"):
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    shorter = [*words, "--checkpoint-every", "4", "--out", str(tmp_path / "three")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("viewproof.training.callbacks.MetricsFile.on_train_batch_end", stop_at_step_six)
        assert main(shorter) == 130
    assert main(["pretrain", "--resume", str(tmp_path / "three")]) == 0
    weights.append(load_file(tmp_path / "three" / "model.safetensors"))
    for other in weights[1:]:
        assert weights[0].keys() == other.keys()
        assert all(torch.equal(tensor, other[key]) for key, tensor in weights[0].items())
    scores = json.loads((tmp_path / "one" / "evaluation.json").read_text())
    assert "trained" in json.dumps(scores)


def stop_at_step_six(self: Any, trainer: Any, *_: Any) -> None:
    """End the run as an interrupt does."""
    if trainer.global_step == 6:
        raise KeyboardInterrupt


def test_probes_label_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(900) % 5
    features = torch.randn(900, 12, generator=generator) + torch.randn(5, 12, generator=generator)[labels]
    x, y = features.numpy(), labels.numpy()
    scores = [probe(x[:600], y[:600], x[600:], y[600:], engine="torch", device=d) for d in ("cpu", DEVICE)]
    assert abs(scores[0].knn - scores[1].knn) <= 0.01 and abs(scores[0].linear - scores[1].linear) <= 0.01
