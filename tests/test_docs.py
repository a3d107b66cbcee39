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


# The pages that a person wrote; the generated ones, and the one of excerpts, have tests of their own.
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
    if path.name not in ("bugzoo.md", "watch-steps.md", "theorems.md", "public-parts.md")
)


def fences(page):
    """The language and the text of each block of code."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", (ROOT / page).read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if "python" in dict(fences(page))])
def test_every_python_block_runs_and_prints_what_the_page_shows(page):
    names = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", (ROOT / page).read_text(), flags=re.S)
    shows = sum(bool(output) for _, output in blocks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for block, output in blocks:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(block, page, "exec"), names)
            # A page that shows what it prints shows all of it; Lightning's tables and bars are on no page.
            assert printed.getvalue() == output or not shows
    assert page != "docs/certify.md" or shows == 17
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


def test_shown_adapters_are_excerpts_of_the_tests_that_run_them():
    def without_indentation(text):
        return "\n".join(line.strip() for line in text.splitlines())

    files = ("test_public_parts", "test_lightly_and_timm")
    tests = without_indentation("\n".join((ROOT / f"tests/certify/{name}.py").read_text() for name in files))
    blocks = re.findall(r"```python\n(.*?)\n```", (ROOT / "docs/public-parts.md").read_text(), flags=re.S)
    assert len(blocks) == 19
    for block in blocks:
        assert all(without_indentation(part) in tests for part in block.split("\n\n\n")), block


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
    ("name", "printed", "pictures"),
    [("xray", "REFUTED  C1", ["xray-3.png"]), ("own-images", "PROVED   C8", []), ("theorem", "wrong polarity: ", [])],
)
def test_every_notebook_becomes_a_page(name, printed, pictures, tmp_path):
    """In a process of its own, since shapes are checked in this one, and proofs read programs as users have them."""
    notebook = ROOT / f"docs/notebooks/{name}.ipynb"
    assert all(cell.get("outputs", []) == [] for cell in json.loads(notebook.read_text())["cells"])
    command = [sys.executable, ROOT / ".ci/notebook.py", notebook, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / f"{name}.md").read_text()
    assert "\n\n```text\n" in page and printed in page, page
    assert re.findall(r"!\[.*\]\((.*)\)", page) == pictures == [path.name for path in tmp_path.glob("*.png")]
