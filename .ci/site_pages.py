"""Writes the pages of the site to build/pages, for `mkdocs build`: run by `make docs`.

Those are the pages of docs/, with links to other files of the repository changed, and generated ones: the start page
(README.md) and the pages beside it, a page a theorem from the registry, and the reference, a page a layer from its
``__all__``. What ``viewproof prove --json`` wrote to build/prove.json is shown with each theorem.
"""

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
import textwrap
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[1]
BESIDE = {"index.md": "README.md", "trust.md": "TRUST.md", "changelog.md": "CHANGELOG.md"}
BESIDE |= {"contributing.md": "CONTRIBUTING.md", "security.md": "SECURITY.md"}
LAYERS = {
    "masks": "Masks and samples",
    "views": "Views",
    "objectives": "Objectives and masked losses",
    "losses": "Batch losses",
    "models": "Models",
    "data": "Data and collators",
    "certify": "Certifiers",
    "watch": "Watch",
    "training": "Training",
    "errors": "Errors",
}

WATCHING = ("_Watch.recording", "lightning_callback.LightningCallback", "trainer_callback.TrainerCallback")
"""What `viewproof.watch`, a module that can be called, has as attributes."""


@cache
def theorems() -> dict[str, Any]:
    """The registry."""
    from viewproof.theorems import registered

    return registered()


def main() -> None:
    """Write all pages."""
    target = ROOT / "build/pages"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.py", "*.ipynb", "__pycache__"))
    for notebook in ROOT.glob("docs/notebooks/*.ipynb"):
        subprocess.run([sys.executable, ROOT / ".ci/notebook.py", notebook, target / "notebooks"], check=True)
    pages = {str(path.relative_to(target)): path.read_text(encoding="utf-8") for path in target.rglob("*.md")}
    pages |= {name: (ROOT / source).read_text(encoding="utf-8") for name, source in BESIDE.items()}
    record = ROOT / "build/prove.json"
    checked = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {"theorems": []}
    answers = {entry["name"]: entry for entry in checked["theorems"]}
    for name, theorem in theorems().items():
        pages[f"theorems/{name}.md"] = theorem_page(theorem, answers.get(name), checked)
    pages |= reference_pages()
    for name, text in pages.items():
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(with_links(name, text), encoding="utf-8")
    print(f"{len(pages)} pages in {target.relative_to(ROOT)}")


def with_links(name: str, text: str) -> str:
    """The page with links to files as links to pages; a link to what is no page becomes text."""
    if name in BESIDE:
        text = re.sub(r"\]\(docs/([^)]*)\)", r"](\1)", text)
        text = re.sub(r"\[docs/([\w-]+)(?:\.md)?\]", r"[\1]", text)
    # On the site a page has a name, not a file.
    text = re.sub(r"\[([\w-]+)\.md\]\(", r"[\1](", text)
    # Commands keep their lines, as code does; what is printed is wrapped.
    text = re.sub(r"^```\n(?=(?:make|viewproof) )", "```sh\n", text, flags=re.M)
    for target, source in BESIDE.items():
        text = re.sub(rf"\]\((?:\.\./)*{re.escape(source)}(#[^)]*)?\)", rf"]({target}\1)", text)
    if name == "theorems.md":
        text = re.sub(r"^### `(\w+)`$", r"### [`\1`](theorems/\1.md) { #\1 }", text, flags=re.M)
    if name == "trust.md":
        text = re.sub(r"(?<!\[)`(\w+)`", lambda m: linked(m[1], "theorems/") or m[0], text)
    # A folder or file of the repository that the site does not have.
    return re.sub(r"\[([^\]]*)\]\((?:\.\./)+(?:examples|tests|src|benchmarks)[^)]*\)", r"\1", text)


def linked(name: str, folder: str) -> str:
    """A link to a theorem's page, or ``""`` if none has this name."""
    return f"[`{name}`]({folder}{name}.md)" if name in theorems() else ""


def theorem_page(theorem: Any, answer: dict[str, Any] | None, checked: dict[str, Any]) -> str:
    """Statement, scope, program, what was answered, and the mutants with their witnesses."""
    # The program of a theorem about lists is a namespace of functions; shown are those that it names, or that
    # its mutants change.
    about = {name for mutant in theorem.mutants for name in changed(theorem.program, mutant.program)}
    about = {name for name in about if name in theorem.statement} or about
    given = "; ".join(theorem.hypotheses) or "nothing"
    facts = {"layer": theorem.layer, "given": given, "scope": theorem.scope, "method": theorem.method}
    facts["solvers"] = solvers(answer, checked)
    parts = [
        f"# `{theorem.name}`\n\n{theorem.statement}",
        "\n".join(f"- **{key}**: {value}" for key, value in facts.items()),
        f"## The program\n\n{program(theorem.program, about)}",
        "## Mutants that must be refuted",
    ]
    witnesses = {mutant["name"]: mutant for mutant in (answer or {}).get("mutants", ())}
    for mutant in theorem.mutants:
        source = program(mutant.program, set(changed(theorem.program, mutant.program)))
        parts.append(f"### {mutant.name}\n\n{mutant.what}.\n\n{source}")
        if (tried := witnesses.get(mutant.name)) is not None:
            shown = "\n".join(f"{key} = {value}" for key, value in (tried["witness"] or {}).items())
            parts.append(f"{tried['verdict']}, replayed on the mutant and on the program:\n\n```text\n{shown}\n```")
    parts.append(
        f"---\n\n`viewproof prove --show {theorem.name}` prints the captured graph and the goals. "
        "[All theorems](../theorems.md), [what a verdict rests on](../trust.md)."
    )
    return "\n\n".join(parts) + "\n"


def solvers(answer: dict[str, Any] | None, checked: dict[str, Any]) -> str:
    """What each solver said when the site was built."""
    if answer is None:
        return "not asked when this page was built; run `viewproof prove --solver both`"
    second = answer.get("cvc5")
    told = "cvc5 was not asked" if second is None else f"cvc5 agrees on {second['agreed']} of {second['asked']} goals"
    return (
        f"Z3 {checked['z3']}: {answer['verdict']} in {answer['milliseconds']:.0f} ms; {told}; torch {checked['torch']}"
    )


def source_of(function: Any) -> str:
    """The text of a program, or its name where there is none, such as of a partial."""
    function = inspect.unwrap(function) if callable(function) else function
    try:
        text = inspect.cleandoc("\n" + inspect.getsource(function))
        return f'```python title="{function.__module__}"\n{text}\n```'
    except (TypeError, OSError):
        return f"`{getattr(function, '__name__', type(function).__name__)}`"


def changed(program: Any, mutant: Any) -> list[str]:
    """The names of the functions in which two namespaces of functions differ."""
    if not isinstance(program, SimpleNamespace):
        return []
    return [name for name, own in vars(program).items() if getattr(mutant, name, None) is not own]


def program(function: Any, names: set[str]) -> str:
    """The source of a program; of a namespace of functions, the source of those named."""
    if isinstance(function, SimpleNamespace):
        parts = [getattr(function, name) for name in sorted(names)]
        # A mutant calls one function in place of several.
        sources = [source_of(part.func if isinstance(part, partial) else part) for part in parts]
        return "\n\n".join(dict.fromkeys(sources))
    return source_of(function)


def reference_pages() -> dict[str, str]:
    """A page a layer: every public name from where it is defined."""
    rows, pages = [], {}
    for layer, title in LAYERS.items():
        module = import_module(f"viewproof.{layer}")
        parts = [f"# {title}\n\n`viewproof.{layer}`: {first_paragraph(module)}"]
        names = []
        for name in module.__all__:
            thing = getattr(module, name)
            home = getattr(thing, "__module__", None)
            if inspect.ismodule(thing):  # certify and watch, which can be called
                parts.append(f"::: viewproof.{layer}.{'pipeline.certify' if name == 'certify' else 'session.watch'}")
            elif inspect.isclass(thing) or inspect.isfunction(thing):
                parts.append(f"::: {home}.{thing.__qualname__}")
            else:
                parts.append(f"## {name}\n\n```python\n{name} = {textwrap.shorten(repr(thing), 400)}\n```")
            names.append(f"`{name}`")
        if layer == "watch":
            parts += [f"::: viewproof.watch.{path}" for path in WATCHING]
            names += [f"`watch.{path.rpartition('.')[2]}`" for path in WATCHING]
        pages[f"reference/{layer}.md"] = "\n\n".join(parts) + "\n"
        rows.append(f"| [{title}]({layer}.md) | {', '.join(names)} |")
    head = "# Reference\n\nEvery public name, by layer, from its docstring. All but data are `viewproof.NAME` too.\n\n"
    pages["reference/index.md"] = head + "| layer | names |\n|---|---|\n" + "\n".join(rows) + "\n"
    return pages


def first_paragraph(described: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(described) or "").split("\n\n")[0].split())


class Docstrings(griffe.Extension):
    """Docstrings as Markdown: examples in fences, and names of theorems as links to their pages."""

    def on_function_instance(self, *, node: ast.FunctionDef, func: griffe.Function, **_: Any) -> None:
        """Leave the shapes in annotations as they are written: strings, but no references to later names."""
        words = node.args
        for argument in (*words.posonlyargs, *words.args, *words.kwonlyargs, words.vararg, words.kwarg):
            if argument is not None and argument.annotation is not None:
                func.parameters[argument.arg].annotation = griffe.get_expression(
                    argument.annotation, parent=func.parent, parse_strings=False
                )
        if node.returns is not None:
            func.returns = griffe.get_expression(node.returns, parent=func.parent, parse_strings=False)

    def on_attribute_instance(self, *, node: ast.AST, attr: griffe.Attribute, **_: Any) -> None:
        """The same of a dataclass's fields."""
        if isinstance(node, ast.AnnAssign) and isinstance(attr.parent, griffe.Class):
            attr.annotation = griffe.get_expression(node.annotation, parent=attr.parent, parse_strings=False)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """List the members of an enumeration, which have a value and no docstring."""
        if cls.docstring is not None and any("Enum" in str(base) for base in cls.bases):
            members = [f"- `{name} = {member.value}`" for name, member in cls.attributes.items()]
            cls.docstring.value += "\n\n" + "\n".join(members)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the text before it is parsed."""
        if obj.docstring is not None:
            text = re.sub(r"``(\w+)``", lambda m: linked(m[1], "../theorems/") or m[0], obj.docstring.value)
            # From the first prompt to the end of the paragraph: input and output.
            obj.docstring.value = re.sub(
                r"^>>> .*?(?=\n\s*\n(?!>>>)|\Z)", lambda m: f"```pycon\n{m[0]}\n```", text, flags=re.M | re.S
            )


if __name__ == "__main__":
    main()
