"""Every specimen: refuted under its contract by a witness that replays, its twin spared; and that the zoo can fail."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch

from viewproof.bugzoo import page, run
from viewproof.bugzoo.run import Examined, examine, specimens
from viewproof.bugzoo.specimen import Specimen
from viewproof.certify import Contract, Verdict
from viewproof.cli import main

ROOT = Path(__file__).parents[2]
SPECIMENS = {s.name: s for s in specimens()}
LISTED = [
    "huggingface/transformers/issues/13235",
    "huggingface/lerobot/issues/4153",
    "younggyoseo/MWM/issues/6",
    "Pang-Yatian/Point-MAE/issues/11",
    "yuqinie98/PatchTST/issues/35",
    "thuanz123/realfill/issues/4",
    "pengzhiliang/MAE-pytorch/issues/40",
    "ServiceNow/Fast-LLM/pull/253",
    "facebookresearch/ijepa/issues/60",
    "lucidrains/vit-pytorch/issues/97",
    "gc-os-ai/pyaptamer/issues/461",
    "kaiko-ai/eva/pull/672",
    "Sllambias/asparagus/pull/12",
    "IcarusWizard/MAE/issues/17",
    "huggingface/transformers/issues/16711",
    "huggingface/course/issues/291",
    "huggingface/transformers/issues/11155",
    "huggingface/transformers/pull/12748",
    "allenai/olmoearth_pretrain/pull/457",
    "allenai/olmoearth_pretrain/pull/343",
    "facebookresearch/fairseq/pull/752",
    "facebookresearch/VICRegL/issues/6",
    "MIC-DKFZ/nnssl",
    "Mountchicken/Union14M/issues/12",
    "NVIDIA-NeMo/Speech/pull/2201",
    "lucidrains/byol-pytorch/issues/73",
    "vturrisi/solo-learn/issues/286",
    "lightly-ai/lightly-train/issues/968",
    "facebookresearch/fairseq2/pull/731",
    "jerber/lang-jepa/pull/5",
    "openai/parameter-golf/pull/1581",
    "lightly-ai/lightly/commit/6bd7553b",
    "vturrisi/solo-learn/commit/786b943",
    "lightly-ai/lightly/issues/1977",
    "Project-MONAI/MONAI/issues/8996",
    "pengzhiliang/MAE-pytorch/issues/28",
    "ecmwf/WeatherGenerator/issues/267",
    "CUMLSec/trex/issues/31",
    "pytorch/audio/issues/2242",
    "ecmwf/WeatherGenerator/pull/2717",
    "AshleyLab/OpenMHC/issues/11",
    "TencentAILabHealthcare/scBERT/issues/64",
    "karpathy/nanochat/issues/844",
    "alex-hh/profam/issues/495",
    "sktime/sktime/issues/10685",
    "huggingface/transformers/issues/47394",
    "huggingface/transformers/issues/8409",
    "catalyst-team/catalyst/pull/1278",
    "iacobo/continual/issues/16",
    "meta-pytorch/torchtune/issues/1875",
    "huggingface/transformers/pull/34191",
    "namisan/mt-dnn/pull/37",
    "ServiceNow/Fast-LLM/issues/542",
    "Lightning-Universe/lightning-bolts/issues/630",
    "dragen1860/MAML-Pytorch/issues/4",
    "google-research/text-to-text-transfer-transformer/issues/905",
    "Clay-foundation/model/issues/156",
    "lucidrains/mlm-pytorch/issues/6",
    "dome272/MaskGIT-pytorch/issues/9",
    "CompEpigen/methylbert/issues/28",
    "huggingface/transformers/issues/3108",
    "open-mmlab/mmselfsup/issues/159",
    "galilai-group/stable-worldmodel/issues/293",
    "sktime/pytorch-forecasting/issues/182",
]
FALSE_ALARMS = [
    "facebookresearch/jepa/issues/32",
    "lightly-ai/lightly/issues/559",
    "czlwang/BrainBERT/issues/3",
    "facebookresearch/mae/issues/18",
    "facebookresearch/mae/issues/67",
    "MCG-NJU/VideoMAE/issues/29",
    "facebookresearch/dinov2/issues/546",
]


once = cache(examine)


def examined(name: str) -> Examined:
    return once(SPECIMENS[name])


@pytest.mark.parametrize("name", SPECIMENS)
def test_specimen(name: str) -> None:
    one = examined(name)
    assert not one.complaints
    assert one.witness_text
    if one.specimen.buggy is not None:
        assert one.buggy is Verdict.REFUTED and one.finding is not None


def test_every_known_bug_and_false_alarm_is_here() -> None:
    assert len(SPECIMENS) == len(specimens())
    for sources, alarm in ((LISTED, False), (FALSE_ALARMS, True)):
        for source in sources:
            found = [s for s in SPECIMENS.values() if s.source.startswith(f"https://github.com/{source}")]
            assert found and all((s.standing == "false alarm") is alarm for s in found), source
    known = {s.name for s in SPECIMENS.values() if any(source in s.source for source in LISTED + FALSE_ALARMS)}
    others = [s for s in SPECIMENS.values() if s.name not in known]
    assert all(s.standing == "synthetic" and not s.source for s in others) and len(others) >= 12


def test_disputed_bugs_are_labelled() -> None:
    assert {s.name for s in SPECIMENS.values() if s.standing == "disputed"} == {
        "neighbourhoods overlap",
        "patches with overlapping receptive fields",
        "a series normalised before it is masked",
    }
    assert all(s.mechanism and s.shown and s.not_shown for s in SPECIMENS.values())


@pytest.mark.parametrize(
    "specimen", [s for s in SPECIMENS.values() if s.contract is Contract.C10 and s.buggy], ids=lambda s: s.name
)
def test_a_leak_is_shown_by_one_hidden_coordinate(specimen: Specimen) -> None:
    finding = examined(specimen.name).finding
    assert finding is not None and finding.witness is not None
    one, other = finding.witness.inputs["one"], finding.witness.inputs["other"]
    assert int((one != other).sum()) == 1 and (one != other)[finding.witness.coordinates["hidden"]]
    assert torch.isfinite(other).all()
    assert finding.witness.maps["leak"].shape == one.shape[1:]


def test_the_page_is_current() -> None:
    def numberless(text: str) -> str:
        """The last digits of floating-point results differ from one machine to another."""
        return re.sub(r"-?\d+\.\d+(e-?\d+)?", "#", text)

    made = page.zoo_page([examined(name) for name in SPECIMENS])
    stale = "run python -m viewproof.bugzoo.page"
    assert numberless((ROOT / "docs" / "bugzoo.md").read_text(encoding="utf-8")) == numberless(made), stale


def test_the_table_of_what_is_caught_is_current() -> None:
    page = (ROOT / "docs" / "certify.md").read_text(encoding="utf-8")
    every = [examined(name) for name in SPECIMENS]
    rows = {contract.name: [one for one in every if one.specimen.contract is contract] for contract in Contract}
    rows["all"] = every
    rows["its certifier was written with it"] = [one for one in every if not one.specimen.certifier_stood]
    rows["its certifier stood before"] = [one for one in every if one.specimen.certifier_stood]
    for name, some in rows.items():
        record = run.record(some)
        bugs = [record[key] for key in ("bugs", "detected", "missed", "unknown")]
        correct = [record["correct"][key] for key in ("programs", "proved", "unknown", "false_alarms")]
        lines = median(one.specimen.adapter_lines for one in some)
        assert f"\n| {name} | {' | '.join(map(str, bugs + correct))} | {lines:g} | " in page


def test_ten_pictures_stand_beside_the_page(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page.update(tmp_path, [examined(name) for name in page.PICTURED])
    drawn = sorted((tmp_path / "docs" / "bugzoo").iterdir())
    assert len(drawn) == len(set(page.PICTURED)) == 10
    for path in drawn:
        assert path.read_bytes() == (ROOT / "docs" / "bugzoo" / path.name).read_bytes()
        assert 200 < path.stat().st_size < 40_000
        assert f"](bugzoo/{path.name})" in (tmp_path / "docs" / "bugzoo.md").read_text()


GOOD = SPECIMENS["mask drawn, not applied"]
assert GOOD.buggy is not None


def raises(*_: object) -> Any:
    raise RuntimeError("no answer")


WRONG = {
    "the fixed twin is refuted under C1: hidden source content does not reach x": replace(GOOD, fixed=GOOD.buggy),
    "the buggy twin is not refuted under C1": replace(GOOD, buggy=GOOD.fixed),
    "the buggy twin is not refuted under C7": replace(GOOD, contract=Contract.C7),
    "the fixed twin is UNKNOWN, not PROVED": replace(SPECIMENS["bins too wide"], decidable=True),
    "the witness does not break the buggy twin": replace(GOOD, breaks=lambda twin, witness: False),
    "the witness breaks the fixed twin": replace(GOOD, breaks=lambda twin, witness: True),
    "the witness on the buggy twin raised RuntimeError: no answer": replace(GOOD, breaks=raises),
    "certifying the fixed twin raised RuntimeError: no answer": replace(GOOD, certify=raises),
    "there is no buggy twin": replace(GOOD, buggy=None),
    "the fixed twin is refuted under C4": replace(
        SPECIMENS["kept tokens"], fixed=lambda x: (x, x, torch.ones(12, dtype=torch.bool))
    ),
}


@pytest.mark.parametrize("complaint", WRONG)
def test_a_twin_that_comes_out_wrong_is_a_complaint_and_fails_the_run(
    complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "examine", once)
    assert any(text.startswith(complaint) for text in once(WRONG[complaint]).complaints)
    assert run.run([GOOD, WRONG[complaint]]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"WRONG: {complaint}" in printed and "2 specimens, 1 did not come out as they should" in printed


def test_the_command_prints_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(run, "specimens", lambda: [GOOD, SPECIMENS["unused argument"]])
    assert main(["zoo"]) == 0
    printed = capsys.readouterr().out
    assert (
        "C1  REFUTED  PROVED   confirmed    mask drawn, not applied; huggingface/transformers/issues/13235" in printed
    )
    assert "x at (0, 0, 0, 4) changes with the hidden source coordinate (0, 0, 0, 4)" in printed
    assert "C1  -        PROVED   false alarm  unused argument; facebookresearch/jepa/issues/32" in printed
    assert "2 specimens, all came out as they should" in printed


def test_the_record_counts_what_is_detected_missed_and_falsely_refuted(tmp_path: Path) -> None:
    kept = SPECIMENS["kept tokens"]
    missed = replace(GOOD, buggy=GOOD.fixed)
    unknown = replace(SPECIMENS["bins too wide"], buggy=SPECIMENS["bins too wide"].fixed)
    alarm = replace(kept, fixed=lambda x: (x, x, torch.ones(12, dtype=torch.bool)))
    assert run.run([GOOD, missed, unknown, kept, alarm], json=tmp_path / "zoo.json") == 1
    record = json.loads((tmp_path / "zoo.json").read_text())
    assert [record[key] for key in ("specimens", "bugs", "detected", "missed", "unknown")] == [5, 3, 1, 1, 1]
    assert record["correct"] == {"programs": 5, "proved": 3, "unknown": 1, "false_alarms": 1}
    assert [one["buggy"] for one in record["each"]] == ["REFUTED", "PROVED", "UNKNOWN", None, None]
    assert [one["false_alarm"] for one in record["each"]] == [False, False, False, False, True]
    assert record["seconds"] == pytest.approx(sum(one["seconds"] for one in record["each"]), abs=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.json"]


def test_an_empty_zoo_is_no_success() -> None:
    assert run.run([]) == 1
