"""What the HTML page of a watched step shows beside its findings: the x-ray, and tables of what was read off."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

from viewproof.watch.facts import StepFacts
from viewproof.watch.flow_picture import LOOKS
from viewproof.watch.picture import xray


def image(report: StepFacts) -> str:
    """The x-ray as an ``img`` element that holds its own bytes."""
    file = BytesIO()
    xray(report).savefig(file, format="png", dpi=120, bbox_inches="tight")
    words = "What each sample shows the model and what the loss asks for; below it the flow from batch to loss."
    data = b64encode(file.getvalue()).decode()
    return f'<img alt="{words}" style="max-width: 100%; background: white" src="data:image/png;base64,{data}">\n'


def tables(report: StepFacts) -> str:
    """The modules that ran, the losses and the ledger, each as a table; what is empty is left out."""
    modules = [
        (
            module.path,
            module.kind,
            f"{LOOKS[module.role][2]}, {'train' if module.training else 'eval'} mode",
            f"{module.parameters:,}",
            " \u2192 ".join("x".join(map(str, shape)) or "scalar" for shape in module.shapes),
            module.moves,
            ", ".join(module.reads),
        )
        for module in report.modules
    ]
    losses = [(f"{loss.value:.6g}", loss.place, ", ".join(loss.reads)) for loss in report.losses]
    ledger = [(topic, line) for topic, lines in report.ledger.items() for line in lines]
    return (
        _table("Modules", ("Module", "Class", "Role", "Parameters", "Shapes", "Moves", "Reads"), modules)
        + _table("Losses", ("Value", "Line", "Reads"), losses)
        + _table("Ledger", ("Topic", "What was read off"), ledger)
    )


def _table(heading: str, heads: Iterable[str], rows: Sequence[tuple[str, ...]]) -> str:
    """A heading and a table, or nothing if there are no rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{head}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f"<h2>{heading}</h2>\n<table><thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table>\n"
