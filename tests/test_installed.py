"""`viewproof doctor --env` and `viewproof completion`."""

import subprocess
import sys

import pytest

from viewproof import installed
from viewproof.cli import main


def test_the_environment_is_one_line_an_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("viewproof ") and lines[1].startswith("devices ")
    assert [line.split()[0] for line in lines[2:]] == list(installed.BRINGS)
    assert "torch " in lines[2]


def test_what_is_missing_comes_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "requires", lambda name: ["torch", "no-such-thing>=2; extra == 'prove'"])
    lines = {line.split()[0]: line for line in installed.environment_lines()}
    assert "missing no-such-thing: pip install 'viewproof[prove]'" in lines["prove"]
    assert "missing" not in lines["core"]


@pytest.mark.parametrize("words", [["doctor"], ["doctor", "somewhere", "--env"]])
def test_doctor_takes_a_run_or_env(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "doctor needs a run folder, or --env alone" in capsys.readouterr().err


def test_bash_takes_the_completion_and_completes() -> None:
    script = subprocess.run([sys.executable, "-m", "viewproof", "completion", "bash"], capture_output=True, text=True)
    assert script.returncode == 0, script.stderr
    ask = "COMP_WORDS=(viewproof cert); COMP_CWORD=1; _viewproof; echo ${COMPREPLY[@]}"
    done = subprocess.run(["bash", "-c", f"{script.stdout}\n{ask}"], capture_output=True, text=True)
    assert done.stdout.split() == ["certify"], done.stderr
