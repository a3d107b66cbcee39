"""The action, the hooks and the release files: what they run is run, what they say agrees with the package."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import viewproof

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

VIEWS = """
import viewproof as vp

rule = vp.PatchMask(4, 4, period=3, offset=1)


def good(x):
    return rule.sample(x)


def leaky(x):
    return x, x, rule.mask(tuple(x.shape[1:]))
"""

SCRIPT = "import sys\nprint('arguments', sys.argv[1:])\n"


def run_action(folder: Path, certify: str, watch: str, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's own shell script, with ``viewproof`` as it is here."""
    (folder / "bin").mkdir()
    command = folder / "bin/viewproof"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m viewproof "$@"\n')
    command.chmod(0o755)
    script = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"][-1]["run"]
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "CERTIFY": certify,
        "WATCH": watch,
        "SARIF": "sarif",
        "STRICT": "false",
        **inputs,
    }
    # As GitHub runs a step whose shell is bash.
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_action_certifies_and_watches_every_target(tmp_path: Path) -> None:
    (tmp_path / "acted_views.py").write_text(VIEWS)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = run_action(tmp_path, "acted_views:leaky 2,3,8,12 --allow C1=known\n\n", "script.py --epochs 1\n")
    assert done.returncode == 1 and "::error file=acted_views.py,line=11" in done.stdout, done.stderr
    results = json.loads((tmp_path / "sarif/certify-1.sarif").read_text())["runs"][0]["results"]
    assert {result["ruleId"]: "suppressions" in result for result in results} == {"C1": True, "C4": False}
    # It makes no step, and the script's own arguments reach it.
    assert "arguments ['--epochs', '1']" in done.stdout and "script.py ended before an optimizer" in done.stderr


def test_the_action_passes_what_is_proved_and_runs_no_text_of_its_inputs(tmp_path: Path) -> None:
    (tmp_path / "acted_views.py").write_text(VIEWS)
    done = run_action(tmp_path, "acted_views:good 2,3,8,12", "")
    assert (done.returncode, "::" in done.stdout) == (0, False), done.stdout + done.stderr
    script = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    assert not any("${{" in step.get("run", "") for step in script)


def test_pre_commit_takes_the_hooks() -> None:
    clientlib = pytest.importorskip("pre_commit.clientlib")
    hooks = clientlib.load_manifest(ROOT / ".pre-commit-hooks.yaml")
    assert [hook["entry"] for hook in hooks] == ["viewproof certify", "viewproof watch"]


def test_every_file_has_the_version_and_the_requirements() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    recipe = yaml.safe_load((ROOT / "conda/recipe.yaml").read_text())
    assert citation["version"] == recipe["context"]["version"] == viewproof.__version__
    assert f"## [{viewproof.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    renamed = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    conda = {tuple(line.split()) for line in recipe["requirements"]["run"] if not line.startswith("python ")}
    asked = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"]]
    pip = {(name, f">={low}") for name, low in (line.split(">=") for line in asked)}
    assert {(renamed.get(name, name), low) for name, low in conda} == pip


def test_lock_and_page_of_licences_have_the_packages_that_tests_run_with() -> None:
    texts = [(ROOT / name).read_text().lower().replace("_", "-") for name in ("constraints.txt", "constraints.lock")]
    pins, locked = (set(re.findall(r"^[\w.-]+==[\w.]+", text, flags=re.M)) for text in texts)
    rows = re.findall(r"^\| ([\w.-]+) \| (.+?) \|", (ROOT / "docs/licences.md").read_text(), flags=re.M)
    named = {name.lower().replace("_", "-"): licence for name, licence in rows if name != "package"}
    assert locked == pins and named.keys() == {pin.partition("==")[0] for pin in pins}
    assert "UNKNOWN" not in named.values()


def test_extras_of_doctor_are_those_of_the_project() -> None:
    from viewproof.installed import BRINGS

    users = set(PROJECT["optional-dependencies"]) - {"all", "test", "dev", "peers", "docs"}
    assert set(BRINGS) == users | {"core"}


def test_the_changelog_has_headings_that_are_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    kinds = set(re.findall(r"^### (.*)$", text, flags=re.M))
    assert kinds and kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_dockerfile_copies_what_exists_and_the_workflows_make_what_is_made() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), flags=re.M)
    assert copied and all((ROOT / name).exists() for line in copied for name in line.split())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert {"docs", "release-check"} <= targets
    assert {"run": "make release-check"} in workflow["build"]["steps"]
    # PyPI trusts the job by its identity; the job that builds has none.
    assert workflow["publish"]["permissions"]["id-token"] == "write" and "permissions" not in workflow["build"]
