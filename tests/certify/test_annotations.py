"""SARIF files against the schema that GitHub's code scanning uses, and annotations as its workflow commands."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from jsonschema import Draft4Validator

import viewproof as vp
from viewproof.certify.annotations import github, place_of, sarif
from viewproof.certify.check import Check
from viewproof.cli import main

# Microsoft's "@microsoft/jest-sarif" brings the schema of schemastore.org, under the MIT licence.
SCHEMA = json.loads((Path(__file__).parent / "sarif-2.1.0-rtm.5.json").read_text())

C1 = Check(vp.Contract.C1, "hidden, content: 100%")
REPORT = vp.Report(
    "my view",
    (
        C1.refuted("x changes\nwith hidden pixels", {}),
        Check(vp.Contract.C2, "visible").proved(),
        Check(vp.Contract.C4, "the sum").unknown("no loss was given"),
        Check(vp.Contract.C9, "float16").refuted("inf", {}, severity=vp.Severity.ROBUSTNESS),
        Check(vp.Contract.C7, "collapse").vacuous("one view"),
    ),
)

LEAKY = """
import torch
import viewproof as vp

rule = vp.PatchMask(4, 4, period=3, offset=1)
pipeline = vp.Pipeline(view=rule.sample, rule=rule)


def leaky(x):
    return x, x, rule.mask(tuple(x.shape[1:]))
"""

STEP = """
import torch

model = torch.nn.Linear(6, 6)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x in torch.utils.data.DataLoader(torch.randn(12, 6), batch_size=4):
    optimizer.zero_grad()
    loss = (model(x) * float("nan")).mean()
    loss.backward()
    optimizer.step()
"""


def validated(text):
    log = json.loads(text)
    Draft4Validator(SCHEMA).validate(log)
    return log


def test_a_log_is_valid_and_says_what_is_open():
    results = validated(sarif(REPORT, "a folder/views.py:12"))["runs"][0]["results"]
    assert [(r["ruleId"], r["kind"], r["level"]) for r in results] == [
        ("C1", "fail", "error"),
        ("C4", "open", "none"),
        ("C9", "fail", "note"),
    ]
    place = results[0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "a%20folder/views.py", "uriBaseId": "%SRCROOT%"}
    assert place["region"] == {"startLine": 12}
    assert validated(sarif(REPORT, "v.py:1", strict=True))["runs"][0]["results"][2]["level"] == "error"


def test_what_is_waived_is_suppressed_and_not_annotated():
    waived = REPORT.waive({"C1": "known", "C4": "none yet", "C9": "float32 only"})
    results = validated(sarif(waived, "v.py:1"))["runs"][0]["results"]
    assert [r["suppressions"][0]["justification"] for r in results] == ["known", "none yet", "float32 only"]
    assert github(waived, "v.py:1") == ""


def test_fingerprints_stay_when_lines_move():
    prints = [
        [r["partialFingerprints"] for r in json.loads(sarif(REPORT, place))["runs"][0]["results"]]
        for place in ("v.py:1", "v.py:90")
    ]
    assert prints[0] == prints[1] and len({str(p) for p in prints[0]}) == 3


def test_the_validator_rejects_a_broken_log():
    log = json.loads(sarif(REPORT, "v.py:1"))
    log["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError, match="'fatal' is not one of"):
        Draft4Validator(SCHEMA).validate(log)


def test_annotations_are_escaped_workflow_commands():
    lines = github(REPORT, "a,b:c.py:3").splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning", "::notice"]
    assert lines[0] == (
        "::error file=a%2Cb%3Ac.py,line=3,title=viewproof C1 REFUTED::"
        "my view: REFUTED C1 hidden, content: 100%25. x changes%0Awith hidden pixels"
    )


def test_places_are_where_things_are_defined(tmp_path, monkeypatch):
    (tmp_path / "annotated_views.py").write_text(LEAKY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import annotated_views as module

    assert place_of("annotated_views", "leaky", module.leaky) == "annotated_views.py:9"
    assert place_of("annotated_views", "pipeline", module.pipeline) == "annotated_views.py:6"
    assert place_of("annotated_views", "pipeline.view", 3) == "annotated_views.py:6"


def test_certify_writes_and_annotates(tmp_path, monkeypatch, capsys):
    (tmp_path / "certified_leak.py").write_text(LEAKY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["certify", "certified_leak:leaky", "--shape", "2,3,8,12", "--sarif", "out.sarif", "--format", "github"]
    assert main(words) == 1
    assert "::error file=certified_leak.py,line=9,title=viewproof C1 REFUTED::" in capsys.readouterr().out
    results = validated((tmp_path / "out.sarif").read_text())["runs"][0]["results"]
    assert {r["ruleId"] for r in results} == {"C1", "C4"}
    assert main(words) == 2 and "sarif='out.sarif' exists" in capsys.readouterr().err


def test_watch_writes_and_annotates(tmp_path):
    (tmp_path / "nan_step.py").write_text(STEP)
    words = ["-m", "viewproof", "watch", "--sarif", "out.sarif", "--format", "github", "nan_step.py"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "::error file=nan_step.py,line=9,title=viewproof C9 REFUTED::" in done.stdout
    results = validated((tmp_path / "out.sarif").read_text())["runs"][0]["results"]
    assert any(r["ruleId"] == "C9" and r["level"] == "error" for r in results)
