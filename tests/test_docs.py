"""The pages say what runs: every Python block, in order, in one namespace a page; and what it prints."""

import contextlib
import io
import json
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from viewproof.cli import app, script_apart

ROOT = Path(__file__).parents[1]


# The pages that a person wrote; the generated ones have tests of their own.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if path.name not in ("bugzoo.md", "watch-steps.md", "theorems.md")
)


def fences(page):
    """The language and the text of each block of code."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", (ROOT / page).read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in dict(fences(page))])
def test_every_python_block_runs_and_prints_what_the_page_shows(page):
    names, shown = {"__name__": "page"}, 0
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", (ROOT / page).read_text(), flags=re.S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block, output in blocks:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, page, "exec"), names)
            # Lightning prints a table of the model in the guide.
            assert printed.getvalue() == output or (page == "docs/guide.md" and not output)
            shown += bool(output)
    assert page != "docs/certify.md" or shown == 17
    if page == "docs/guide.md":
        assert len(names["curve"]) == 11 and names["features"].shape == (10, 32)


def command_lines(page):
    """The words of every `viewproof ...` in blocks of commands and of sessions."""
    for language, block in fences(page):
        if language in ("sh", "bash", "console") or (page == "README.md" and not language):
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.match(r"(?:\$ )?(?:.* -m |srun .* |\S*/bin/)?viewproof (.*)", line):
                    yield shlex.split(found[1], comments=True)


def test_every_command_on_the_pages_is_taken_by_the_command_line():
    """Names, options and types; the files and data that they name are not here."""
    tried = [words for page in PAGES for words in command_lines(page)]
    assert len(tried) > 50
    for words in tried:
        parse(words)
    with pytest.raises(CycloptsError):
        parse(["pretrain", "digits", "--no-such-option", "1"])


def parse(words):
    words = ["watch", *script_apart(words[1:])] if words[0] == "watch" else words
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    """Run here: python. Parsed here: sh, bash, console. The rest is marked: py needs the reader's own names."""
    ours = {"python", "text", "sh", "bash", "console", "py", "yaml"} | ({""} if page == "README.md" else set())
    assert {language for language, _ in fences(page)} <= ours


def test_the_cookbook_lists_its_pages():
    folder = ROOT / "docs/cookbook"
    listed = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (folder / "index.md").read_text()))
    assert listed == {path.name for path in folder.glob("*.md")} - {"index.md"} and len(listed) == 10
    menu = (ROOT / "mkdocs.yml").read_text()
    assert all(f"cookbook/{name}" in menu for name in listed)


def test_links_point_at_files():
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


def missing_files(text):
    """The files and folders in backticks that are neither in the package nor in the repository."""
    names = re.findall(r"`([\w./-]+(?:\.(?:py|md|toml)|/))`", text)
    assert len(names) > 50
    return [name for name in names if not any((root / name).exists() for root in (ROOT, ROOT / "src/viewproof"))]


def test_every_file_that_the_architecture_names_exists():
    text = (ROOT / "docs/architecture.md").read_text()
    assert missing_files(text) == []
    assert missing_files(text.replace("`masks/rule.py`", "`masks/ruler.py`")) == ["masks/ruler.py"]
    assert missing_files(text.replace("`masks/random/`", "`masks/chance/`")) == ["masks/chance/"]


def test_the_picture_of_the_layers_is_current():
    pictures = ROOT / "docs/pictures"
    drawn = runpy.run_path(str(pictures / "layers.py"))
    assert drawn["picture"]() == (pictures / "layers.svg").read_text()
    for names, _, _ in drawn["LAYERS"]:
        for name in names.split():
            assert any((ROOT / "src/viewproof" / f"{name}{ending}").exists() for ending in ("", ".py")), name


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 90


@pytest.mark.parametrize(
    ("name", "printed"), [("xray", "REFUTED  C1"), ("own-images", "PROVED   C8"), ("theorem", "wrong polarity: ")]
)
def test_every_notebook_runs(name, printed, tmp_path):
    """In a process of its own, since shapes are checked in this one, and proofs read programs as users have them."""
    cells = json.loads((ROOT / f"docs/notebooks/{name}.ipynb").read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] for cell in code)
    (tmp_path / "notebook.py").write_text("\n".join("".join(cell["source"]) for cell in code))
    done = subprocess.run([sys.executable, "notebook.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout, done.stdout
