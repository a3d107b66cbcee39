"""The learning-rate range test: its rule, what it leaves untouched, and the run that takes its rate."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from viewproof.cli import main
from viewproof.plots import loss_figure, rate_figure
from viewproof.runs.config import PretrainConfig
from viewproof.runs.folder import prepare
from viewproof.training.rate_test import DIVERGED, HIGHEST, LOWEST, STEPS, RangeTest, range_test
from viewproof.training.trainer import RunData

RATES = tuple(LOWEST * (HIGHEST / LOWEST) ** (k / (STEPS - 1)) for k in range(STEPS))


def test_the_suggestion_is_a_tenth_of_the_rate_of_the_least_average() -> None:
    losses = tuple(1.0 - k / 100 if k < 80 else 3.0 for k in range(STEPS))
    test = RangeTest(RATES, losses)
    means = [
        sum(0.9 ** (k - i) * losses[i] for i in range(k + 1)) / sum(0.9**i for i in range(k + 1)) for k in range(100)
    ]
    assert test.averages == pytest.approx(means)
    assert test.suggestion == pytest.approx(RATES[means.index(min(means))] / 10, rel=0.05)


@pytest.mark.parametrize("losses", [(1.0, 1.0, 1.0), (1.0, 2.0, 3.0), (math.nan,) * 3, (), (1.0, 0.99, 0.99)])
def test_a_loss_that_does_not_fall_suggests_nothing(losses: tuple[float, ...]) -> None:
    assert RangeTest(RATES[: len(losses)], losses).suggestion is None


def test_numbers_that_overflow_are_not_the_least() -> None:
    test = RangeTest(RATES[:20], tuple([1 - k / 40 for k in range(18)] + [math.inf, math.nan]))
    assert test.suggestion == pytest.approx(RATES[17] / 10, rel=0.05)


SMALL = ["--dim", "16", "--depth", "1", "--heads", "2", "--decoder-dim", "8", "--decoder-depth", "1"]
SMALL += ["--decoder-heads", "2"]


@pytest.mark.parametrize("extra", [{}, {"method": "ijepa", "accumulate": 2, "clip": 1.0}])
def test_it_is_a_function_of_the_seed_and_leaves_the_module_alone(extra: dict[str, object], tmp_path: Path) -> None:
    small = {"dim": 16, "depth": 1, "heads": 2, "decoder_dim": 8, "decoder_heads": 2, "batch_size": 32, **extra}
    run = prepare(PretrainConfig("digits", **small), tmp_path)  # type: ignore[arg-type]
    module, data = run.module(), RunData(run.config, run.dataset, True)
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.random.get_rng_state()
    first, second = (range_test(module, run.config, data) for _ in range(2))
    assert first == second and 2 <= len(first.losses) == len(first.rates) <= STEPS
    assert first.rates == pytest.approx(RATES[: len(first.rates)]) and first.rates[0] == LOWEST
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and not list(tmp_path.iterdir())
    if len(first.losses) < STEPS:
        averages = first.averages
        assert not averages[-1] <= DIVERGED * min(averages) and averages[-2] <= DIVERGED * min(averages)


def test_the_run_is_the_one_with_the_found_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "digits", *SMALL, "--steps", "12", "--rate-rule", "linear"]
    assert main([*words, "--lr-find", "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().out.splitlines()
    (line,) = [line for line in said if line.startswith("learning rate: ")]
    rate = json.loads((tmp_path / "a" / "config.json").read_text())["learning_rate"]
    assert float(line.split()[2].rstrip(",")) == pytest.approx(rate * 64 / 256) and rate != 0.005
    assert f"which is learning_rate={rate:g} times 0.25 by rate_rule='linear'; it is a tenth of" in line
    assert main([*words, "--learning-rate", repr(rate), "--out", str(tmp_path / "b")]) == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    extra = {p.name for p in (tmp_path / "a").iterdir()} - {p.name for p in (tmp_path / "b").iterdir()}
    assert extra == {"learning-rate.png"}
    assert "learning-rate.png" in json.loads((tmp_path / "a" / "sha256.json").read_text())


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_the_picture_shows_the_averages_up_to_the_first_one_of_any_sign(shift: float) -> None:
    averages = [1.0 + shift, 0.6 + shift, 0.4 + shift, 4.0 + shift]
    low, high = rate_figure([1e-4, 1e-3, 1e-2, 1e-1], averages, averages, 1e-3, "test").axes[0].get_ylim()
    assert low < 0.4 + shift and 1.0 + shift < high < 4.0 + shift


def test_a_curve_of_negative_losses_is_not_cut_off(tmp_path: Path) -> None:
    for losses, bottom in (((-1.0, -3.0), -3.0), ((2.0, 1.0), 0.0)):
        rows = "".join(f"{step},{loss},{loss},{loss}\n" for step, loss in enumerate(losses))
        (tmp_path / "metrics.csv").write_text(f"step,loss,val_loss,val_reference_loss\n{rows}")
        axes = loss_figure(tmp_path / "metrics.csv", "test", "loss").axes[0]
        assert axes.get_ylim()[0] <= bottom and len(axes.lines) == 3


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "digits", *SMALL, "--lr-find", "--out", str(tmp_path / "run")]
    for extra, message in (
        (["--learning-rate", "0.1"], "lr_find with learning_rate=0.1 must be alone"),
        (["--devices", "2"], "lr_find with devices=2 must be alone"),
    ):
        assert main([*words, *extra]) == 2
        assert message in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(tmp_path / "run"), "--lr-find"]) == 2
    assert "--lr-find is for a new run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
