"""Muon with AdamW as one optimizer, what is decayed, the average of the weights, and rates that follow the batch."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import viewproof as vp
from viewproof.cli import main
from viewproof.models import MaskedAutoencoder
from viewproof.models.attention import attend, is_plain, plain_attention
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import prepare
from viewproof.training import optimizers, precision
from viewproof.training.base import Pretraining
from viewproof.training.optimizers import build_optimizer, hidden_matrices, is_decayed

SMALL = "--batch-size 8 --epochs 4 --dim 16 --depth 1 --heads 2 --decoder-dim 8 --decoder-depth 1 --decoder-heads 2"
SMALL += " --threads 1 --accelerator cpu --checkpoint-every 3"


def network() -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder((1, 4, 4), (2, 2), 8, 1, 2, 8, 1, 2)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize("units", [True, False])
def test_muon_moves_hidden_matrices_and_adamw_the_rest(units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "has_bfloat16_units", lambda: units)
    kind = torch.optim.Muon if units else optimizers.Float32Muon
    ours, muon, adamw = network(), network(), network()
    names = {id(p): name for name, p in ours.named_parameters()}
    hidden = {names[id(p)] for p in hidden_matrices(ours)}
    assert {"project.weight", "blocks.0.mlp.0.weight", "decoder_blocks.0.attention.out.weight"} <= hidden
    assert not {name for name in hidden if "embed" in name or "head" in name or not name.endswith("weight")}
    optimizer = build_optimizer("muon", ours, 0.01, 0.1)
    references = (
        kind(hidden_matrices(muon), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        build_optimizer("adamw", adamw, 0.01, 0.1),
    )
    for seed in range(3):
        step(ours, optimizer, seed)
        step(muon, references[0], seed)
        step(adamw, references[1], seed)
    for name, parameter in ours.named_parameters():
        reference = (muon if name in hidden else adamw).get_parameter(name)
        assert torch.equal(parameter, reference), name


def test_muon_in_float32_is_torchs_up_to_the_rounding_of_bfloat16() -> None:
    weights = [nn.Parameter(torch.randn(*shape)) for shape in ((8, 24), (24, 8), (8, 8))]
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    options: Any = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = optimizers.Float32Muon(weights, **options), torch.optim.Muon(copies, **options)
    for seed in range(3):
        for pair in zip(weights, copies, strict=True):
            pair[0].grad = pair[1].grad = torch.randn(pair[0].shape, generator=torch.Generator().manual_seed(seed))
        ours.step(), theirs.step()
    for weight, copy_of_it in zip(weights, copies, strict=True):
        torch.testing.assert_close(weight, copy_of_it, atol=0.02, rtol=0)
        assert (weight - copy_of_it).abs().max() > 0


def test_a_saved_and_loaded_optimizer_goes_on_bit_for_bit() -> None:
    straight, stopped = network(), network()
    built = [build_optimizer("muon", model, 0.01, 0.1) for model in (straight, stopped)]
    for seed in range(2):
        for model, optimizer in zip((straight, stopped), built, strict=True):
            step(model, optimizer, seed)
    resumed = copy.deepcopy(stopped)
    loaded = build_optimizer("muon", resumed, 0.5, 0.1)
    loaded.load_state_dict(built[1].state_dict())
    for seed in (2, 3):
        step(straight, built[0], seed)
        step(resumed, loaded, seed)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))
    assert loaded.param_groups[0]["lr"] == 0.01


@pytest.mark.parametrize(
    ("name", "shape", "decayed"),
    [
        ("blocks.0.attention.out.weight", (4, 4), True),
        ("conv.weight", (4, 3, 2, 2), True),
        ("norm.weight", (4,), False),
        ("head.bias", (4,), False),
        ("class_token", (1, 1, 4), False),
        ("register_tokens", (1, 4, 4), False),
        ("mask_token", (1, 1, 4), False),
        ("pos_embed", (1, 9, 4), False),
    ],
)
def test_what_is_decayed(name: str, shape: tuple[int, ...], decayed: bool) -> None:
    assert is_decayed(name, nn.Parameter(torch.zeros(shape))) is decayed


def test_a_model_without_hidden_matrices_refuses_muon() -> None:
    with pytest.raises(vp.InvalidArgument, match=r"optimizer='muon' moves hidden .* ConvAutoencoder has none"):
        Pretraining(vp.ConvAutoencoder(1), vp.masked_mse, optimizer="muon")
    with pytest.raises(vp.InvalidArgument, match="optimizer='sgd' must be 'adamw' or 'muon'"):
        Pretraining(network(), vp.masked_mse, optimizer="sgd")


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_a_run_with_muon_and_an_average_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "images.npy"
    np.save(data, np.random.default_rng(0).normal(size=(50, 1, 8, 8)).astype(np.float32))
    words = ["pretrain", str(data), *SMALL.split(), "--optimizer", "muon", "--ema", "0.9", "--predict", "0.25"]
    assert main([*words, "--out", str(tmp_path / "straight")]) == 0
    whole = Pretraining.optimizer_step

    def stop(module: Pretraining, *arguments: Any, **options: Any) -> None:
        if module.global_step == 8:
            raise KeyboardInterrupt
        whole(module, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "optimizer_step", stop)
        assert main([*words, "--out", str(tmp_path / "stopped")]) == 130
    assert main(["pretrain", "--resume", str(tmp_path / "stopped")]) == 0
    ours, theirs = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("stopped", "straight")
    )
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(ours[part], theirs[part]), part
    weights, state = load_file(tmp_path / "stopped" / "model.safetensors"), theirs["state_dict"]
    assert all(torch.equal(value, state[f"average.{name}"]) for name, value in weights.items())
    assert not all(torch.equal(value, state[f"model.{name}"]) for name, value in weights.items())


def test_the_average_is_the_closed_form() -> None:
    from viewproof.methods.mae import MaskedPretraining

    module = MaskedPretraining(network(), vp.PatchMask(2, 2, 2, 0), ema=0.5)
    first = module.average.embed.weight.clone()  # type: ignore[union-attr]
    assert module.average is not None and not any(p.requires_grad for p in module.average.parameters())
    assert torch.equal(first, module.model.embed.weight)  # type: ignore[arg-type, union-attr]
    names = {name for name in module.state_dict() if name.startswith("average.")}
    assert len(names) == len(list(module.model.state_dict()))
    assert MaskedPretraining(network(), vp.PatchMask(2, 2, 2, 0)).average is None


@pytest.mark.parametrize(("rule", "rate"), [("fixed", 0.002), ("linear", 0.002 / 4), ("sqrt", 0.002 / 2)])
def test_the_rate_follows_the_batch_by_the_rule(rule: str, rate: float, tmp_path: Path) -> None:
    config = PretrainConfig("digits", rate_rule=rule, learning_rate=0.002)  # type: ignore[arg-type]
    run = prepare(config, tmp_path)
    assert run.config.batch_size == 64 and run.module().learning_rate == rate
    assert run.config.as_given().learning_rate == 0.002


def test_auto_takes_the_precision_that_multiplies_faster_and_writes_it_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bf16, chosen in ((0.5, "bf16-mixed"), (0.9, "32-true"), (2.0, "32-true")):
        seconds = {torch.float32: 1.0, torch.bfloat16: bf16}
        monkeypatch.setattr(precision, "multiply_seconds", lambda dtype, *_, s=seconds: s[dtype])
        resolved = prepare(PretrainConfig("digits", precision="auto"), tmp_path).config
        assert resolved.precision == resolved.as_given().precision == chosen


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ema", "1"], "ema=1.0 must be at least 0 and below 1"),
        (["--optimizer", "muon", "--strategy", "fsdp", "--devices", "2"], "optimizer='muon' needs whole matrices"),
        (["--ema", "0.9", "--strategy", "fsdp", "--devices", "2"], "ema=0.9 needs whole matrices"),
        (["--precision", "auto", "--devices", "2"], "precision='auto' is measured"),
        (["--model", "conv", "--optimizer", "muon"], "optimizer='muon' moves hidden matrices"),
    ],
)
def test_what_does_not_work_is_refused_before_training(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", "digits", *flags, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_plain_attention_is_the_fused_one_and_is_taken_by_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (5, 7, 7))
    torch.testing.assert_close(plain_attention(q, k, v), attend(q, k, v))
    cases = {("cpu", torch.bfloat16, 49, True): True, ("cpu", torch.bfloat16, 257, True): False,
             ("cpu", torch.bfloat16, 49, False): False, ("cpu", torch.float32, 49, True): False,
             ("cuda", torch.bfloat16, 49, True): False}  # fmt: skip
    for arguments, plain in cases.items():
        assert is_plain(*arguments) is plain
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.equal(attend(q, k, v), fused)
