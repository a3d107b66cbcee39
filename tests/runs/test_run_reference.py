"""A run beside the reference curves: a healthy one is as expected, a crippled twin is named."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from viewproof.cli import main
from viewproof.metrics import read_metrics
from viewproof.runs import doctor, train
from viewproof.runs.config import PretrainConfig
from viewproof.runs.doctor import Diagnosis, Evidence, diagnose, read_evidence
from viewproof.runs.folder import prepare, read_config
from viewproof.runs.reference import (
    OPERATION,
    OPTIMIZATION,
    UNTUNED,
    Reference,
    ReferenceCurve,
    comparable,
    compare,
    find_reference,
    shipped,
)  # fmt: skip

BOTH = ["mae", "ijepa", "vicreg", "barlow", "sigreg", "simclr", "dino", "data2vec"]
NAMED = [("digits", method) for method in (*BOTH, "lejepa", "supervised")] + [("photos", method) for method in BOTH]


@pytest.mark.parametrize(("data", "method"), NAMED)
def test_the_default_run_of_a_method_on_named_data_has_a_reference(data: str, method: str, tmp_path: Path) -> None:
    config = prepare(PretrainConfig(data, method=method), tmp_path).config.as_given()
    reference = find_reference(config)
    assert reference is not None and compare(reference, config, {}).differences == ()
    assert len(reference.steps) == 10 and {"val_loss", "val_knn_accuracy", "rank"} >= set(reference.curves)
    assert all(least <= most for band in reference.curves.values() for least, most in band)
    assert all(len(band) == 10 for band in reference.curves.values())
    tuned = replace(config, learning_rate=0.3, epochs=7, seed=5, out="elsewhere")
    assert find_reference(tuned) is reference
    assert compare(reference, tuned, {}).differences[0].startswith("learning_rate=0.3, untuned ")
    assert find_reference(replace(config, dim=32)) is None and find_reference(replace(config, data="x.npy")) is None


def test_settings_are_of_one_kind_and_a_mask_is_compared_without_its_seed() -> None:
    names = set(vars(PretrainConfig("digits")))
    assert names >= OPERATION and names >= OPTIMIZATION and not OPERATION & OPTIMIZATION
    one, other = (comparable(PretrainConfig("digits", mask=f"RandomPatchMask(2, 2, 8, seed={s})")) for s in (0, 7))
    assert one == other != comparable(PretrainConfig("digits", mask="RandomPatchMask(2, 2, 9, seed=0)"))
    assert shipped()


def test_a_reference_is_linear_between_its_steps_and_empty_outside() -> None:
    curves = {"val_loss": [(1.0, 3.0), (0.5, 0.5)], "rank": [(9.0, 9.0)] * 2}
    monitor = ReferenceCurve(Reference({}, [0], [10, 20], curves))
    assert monitor.values == {"val_reference_loss": None}
    for step, value in ((9, None), (10, 2.0), (15, 1.25), (20, 0.5), (21, None)):
        monitor.on_validation_end(SimpleNamespace(global_step=step), None)  # type: ignore[arg-type]
        assert monitor.values == {"val_reference_loss": value}


def run(out: Path, *words: str) -> Diagnosis:
    flags = ["--steps", "75", "--threads", "1", "--online-knn"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "report", lambda run, say: 0)
        patch.setattr(train.plots, "save_figure", lambda figure, path: None)
        patch.setattr(doctor, "certify_run", lambda run: None)
        assert main(["pretrain", "digits", *flags, *words, "--out", str(out)]) == 0
        return diagnose(read_evidence(out))


def test_a_healthy_run_is_as_expected_and_a_crippled_twin_is_named(tmp_path: Path) -> None:
    healthy = run(tmp_path / "healthy")
    assert healthy.answer in ("as expected", "too short") and not any("behind" in line for line in healthy.because)
    assert any(line.startswith("held-out loss") for line in healthy.because) and UNTUNED in healthy.because
    rows = [row for row in read_metrics(tmp_path / "healthy" / "metrics.csv") if row["val_loss"]]
    reference = find_reference(read_config(tmp_path / "healthy"))
    assert reference is not None and rows
    for row in rows:
        place = reference.steps.index(int(row["step"]))
        for own, column in (("val_reference_loss", "val_loss"), ("val_reference_knn_accuracy", "val_knn_accuracy")):
            least, most = reference.curves[column][place]
            assert least <= float(row[own]) <= most
    twin = ["--optimizer", "muon", "--depth", "2", "--learning-rate", "1e-5", "--weight-decay", "0.1"]
    crippled = run(tmp_path / "crippled", *twin)
    assert any(line.startswith("held-out loss") and line.endswith("behind") for line in crippled.because)
    assert "differs from the untuned: learning_rate=1e-05, untuned 0.005" in crippled.because
    assert crippled.answer != "as expected"
    assert read_config(tmp_path / "crippled").learning_rate == 1e-5


REFERENCE = Reference(
    {**comparable(PretrainConfig("digits")), "clip": 2.0},
    (0, 1),
    (10, 20, 30),
    {
        "val_loss": [(1.0, 1.1), (0.6, 0.7), (0.5, 0.5)],
        "val_knn_accuracy": [(0.5, 0.6), (0.6, 0.7), (0.8, 0.9)],
        "rank": [(9.0, 10.0), (8.0, 10.0), (12.0, 14.0)],
    },
)


@pytest.mark.parametrize(
    ("column", "curve", "behind"),
    [
        ("val_loss", [(10, 1.1), (30, 0.52)], False),
        ("val_loss", [(10, 1.1), (30, 0.75)], False),
        ("val_loss", [(10, 1.1), (30, 0.85)], True),
        ("val_loss", [(10, 1.1), (30, float("nan"))], True),
        ("val_loss", [(10, 9.0)], False),
        ("val_loss", [(25, 0.95)], True),
        ("val_loss", [(900, 0.9)], True),
        ("val_loss", [(900, 0.4)], False),
        ("val_knn_accuracy", [(30, 0.71)], False),
        ("val_knn_accuracy", [(30, 0.69)], True),
        ("rank", [(30, 6.1)], False),
        ("rank", [(30, 5.9)], True),
    ],
)
def test_what_counts_as_behind(column: str, curve: Any, behind: bool) -> None:
    found = compare(REFERENCE, PretrainConfig("digits"), {column: curve})
    assert found.behind is behind and len(found.lines) == 1, found
    assert found.differences == ("clip=None, untuned 2.0",)
    loss = [(10 * k, 0.1 + 1 / (1 + k) ** 2) for k in range(20)]
    whole = Evidence(curves={"loss": loss}, planned_steps=190, finished=True, moved=0.3, reference=found)
    answer = diagnose(whole)
    assert answer.answer == ("undecided" if behind else "as expected") and found.lines[0] in answer.because
    assert ("behind an untuned one" in answer.cannot_tell[0]) is behind


def test_a_loss_that_the_reference_does_not_lower_is_not_asked_and_a_rank_not_of_longer_runs() -> None:
    rising = replace(REFERENCE, curves={"val_loss": [(0.5, 0.5), (0.6, 0.7), (0.8, 0.9)], "rank": [(9.0, 9.0)] * 3})
    found = compare(rising, PretrainConfig("digits"), {"val_loss": [(30, 5.0)], "rank": [(70, 1.0)]})
    assert not found.behind and len(found.lines) == 1
    assert compare(REFERENCE, PretrainConfig("digits"), {"val_loss": [(5, 3.0)]}).lines == ()
    taught = replace(REFERENCE, settings={**REFERENCE.settings, "momentum": 0.996})
    assert compare(taught, PretrainConfig("digits"), {"val_loss": [(61, 3.0)]}).lines == ()
    assert compare(taught, PretrainConfig("digits"), {"val_loss": [(60, 3.0)]}).behind
    assert find_reference(PretrainConfig("digits"), [REFERENCE]) is REFERENCE
    assert find_reference(PretrainConfig("digits", dim=8), [REFERENCE]) is None
    older = replace(REFERENCE, settings={k: v for k, v in REFERENCE.settings.items() if k != "keep_tokens"})
    assert find_reference(PretrainConfig("digits"), [older]) is older
    assert find_reference(PretrainConfig("digits", keep_tokens=0.5), [older]) is None


def test_without_a_reference_it_is_said() -> None:
    found = diagnose(
        Evidence(curves={"loss": [(10 * k, 1 / (1 + k)) for k in range(20)]}, planned_steps=190, finished=True)
    )
    assert any("no reference curve" in line for line in found.cannot_tell)
