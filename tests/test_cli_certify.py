"""`viewproof certify` as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from viewproof.cli import main

SOURCE = """
import torch
import viewproof as vp

rule = vp.PatchMask(4, 4, period=3, offset=1)
number = 3
pipeline = vp.Pipeline(view=rule.sample, rule=rule)


def good(x):
    return rule.sample(x)


def leaky(x):
    return x, x, rule.mask(tuple(x.shape[1:]))


def unknown(x):
    return rule.mask(tuple(x.shape[1:])).apply(x * 2), x, rule.mask(tuple(x.shape[1:]))


def nothing(x):
    return vp.PatchMask(4, 4, period=0, offset=0).sample(x)


def make():
    return vp.Pipeline(view=leaky, loss=vp.masked_mse, rule=rule)


def fails():
    raise RuntimeError("no pipeline today")


def returns_a_number():
    return 3


class Views:
    best = staticmethod(good)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "certified_views.py").write_text(SOURCE)
    (tmp_path / "broken_module.py").write_text("import no_such_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("certified_views", "broken_module"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def certify(*words: str) -> int:
    return main(["certify", *words])


RULE = "PatchMask(4, 4, period=3, offset=1)"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["certified_views:good"], 0, "6 PROVED"),
        (["certified_views:good", "--rule", RULE], 0, "7 PROVED"),
        (["certified_views:Views.best"], 0, "6 PROVED"),
        (["certified_views:pipeline"], 0, "7 PROVED"),
        (["certified_views:nothing"], 0, "4 PROVED, 2 VACUOUS"),
        (["certified_views:leaky"], 1, "x at (0, 0, 0, 4) changes with the hidden source coordinate (0, 0, 0, 4)"),
        (["certified_views:leaky"], 1, "4 PROVED, 2 REFUTED"),
        (["certified_views:unknown", "--rule", RULE], 1, "REFUTED  C2"),
        (["certified_views:good", "--rule", "PatchMask(4, 4, period=3, offset=0)"], 1, "which the rule denies"),
        (["certified_views:make"], 1, "C4  no visible coordinate has a gradient"),
    ],
)
def test_the_exit_code_says_whether_all_is_proved(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert certify(*words, "--shape", "2,3,8,12") == code
    printed = capsys.readouterr().out
    assert said in printed and printed.startswith(words[0])


def test_a_waiver_is_printed_and_needs_a_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("certified_views:leaky", "--shape", "2,3,8,12", "--allow", "C1=known")
    assert certify(*words) == 1
    assert certify(*words, "--allow", "C4=a=b", "--strict") == 0
    printed = capsys.readouterr().out
    assert "waived: a=b" in printed and "2 REFUTED; of these 0 not robust and 2 waived" in printed
    assert certify(*words, "--allow", "C4") == 2
    assert "allow='C4' must have a reason" in capsys.readouterr().err


def test_the_report_is_written_as_a_page_and_as_data(folder: Path) -> None:
    words = ("certified_views:leaky", "--shape", "2,3,8,12", "--html", "report.html", "--json", "report.json")
    assert certify(*words) == 1
    page, data = (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())
    assert page.startswith("<!doctype html>") and "certified_views:leaky: REFUTED" in page and "image/png" in page
    assert data["verdict"] == "REFUTED" and {f["contract"] for f in data["findings"]} >= {"C1", "C8"}
    names = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert names == {"certified_views.py", "broken_module.py", "report.html", "report.json"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certified_views", "--shape", "2,3,8,12"], "object='certified_views' must be module:object, such as"),
        (["no_such_module:view", "--shape", "2,3"], "no_such_module cannot be imported: ModuleNotFoundError"),
        (["broken_module:view", "--shape", "2,3"], "broken_module cannot be imported: ModuleNotFoundError: No module"),
        (["certified_views:absent", "--shape", "2,3"], "has no attribute 'absent'"),
        (["certified_views:number", "--shape", "2,3"], "is int; name a view function or a Pipeline"),
        (["certified_views:fails", "--shape", "2,3"], "fails() raised RuntimeError: no pipeline today"),
        (["certified_views:returns_a_number", "--shape", "2,3"], "returns_a_number() returned int, not a Pipeline"),
        (["certified_views:good", "--shape", "2,x"], "shape='2,x' must be positive extents with commas between them"),
        (["certified_views:good", "--shape", "8"], "shape='8' must be positive extents"),
        (["certified_views:good", "--shape", "0,3,8,8"], "shape='0,3,8,8' must be positive extents"),
        (["certified_views:good", "--shape", "2,-3,8"], "shape='2,-3,8' must be positive extents"),
        (["certified_views:good"], "--shape"),
        (
            ["certified_views:good", "--shape", "2,3,8,12", "--html", "no/report.html"],
            "html='no/report.html' must be in",
        ),
        (
            ["certified_views:good", "--shape", "2,3,8,12", "--json", "no/report.json"],
            "json='no/report.json' must be in",
        ),
        (["certified_views:good", "--shape", "2,3,8,12", "--rule", "PatchMusk(4)"], "did you mean PatchMask"),
        (["certified_views:pipeline", "--shape", "2,3,8,12", "--rule", RULE], "rule belongs to a view"),
        (
            ["certified_views:good", "--shape", "2,3,8,12", "--rule", "RandomPatchMask(4, 4, 3)"],
            "draws a mask for every sample",
        ),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert certify(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("viewproof: ") and error.count("\n") == 1


def test_the_installed_command_finds_the_current_folder(folder: Path) -> None:
    command = [
        str(Path(sys.executable).with_name("viewproof")),
        "certify",
        "certified_views:good",
        "--shape",
        "2,3,8,12",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "") and "6 PROVED" in done.stdout


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from viewproof.cli import app; app([{!r}, '--help'], result_action='return_value'); "
        "heavy = {{'torch', 'numpy', 'PIL', 'z3', 'matplotlib', 'pytorch_lightning'}} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    for command in ("certify", "zoo"):
        shown = subprocess.run([sys.executable, "-c", code.format(command)], check=True, capture_output=True, text=True)
        assert f"Usage: viewproof {command}" in shown.stdout
