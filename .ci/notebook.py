"""Runs a notebook and writes it as a page: text, code, and what each cell prints and shows.

    python .ci/notebook.py docs/notebooks/xray.ipynb build/pages/notebooks

Writes ``xray.md`` and a picture for each cell that ends in one, as Jupyter shows it. A cell that fails ends the program
with its traceback.
"""

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def write_page(notebook: Path, folder: Path) -> None:
    """Run the notebook; write its page and pictures into the folder."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        number += 1
        place = f"cell {number}"
        parts.append(f"```python\n{source}\n```")
        body, value = ast.parse(source), None
        last = body.body.pop() if isinstance(body.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(body, place, "exec"), names)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), place, "eval"), names)
        if hasattr(value, "_repr_png_"):
            picture = folder / f"{notebook.stem}-{number}.png"
            picture.write_bytes(value._repr_png_())
            parts.append(f"![What the cell shows]({picture.name})")
        elif value is not None:
            printed.write(repr(value))
        if printed.getvalue().strip():
            parts.append(f"```text\n{printed.getvalue().rstrip()}\n```")
    parts.append(f"This page is the notebook `docs/notebooks/{notebook.name}`, run when the site was built.")
    (folder / f"{notebook.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
