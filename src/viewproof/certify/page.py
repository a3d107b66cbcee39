"""A report as one HTML page that needs no other file."""

from base64 import b64encode
from collections.abc import Mapping
from html import escape

from torch import Tensor

from viewproof.certify.pictures import PALETTE, pictures, png
from viewproof.certify.report import Report
from viewproof.shapes import check_kind

STYLE = """
:root { color-scheme: light dark; --text: #1d2530; --soft: #5b6675; --line: #d5dbe3; --back: #ffffff; --panel: #f5f7fa;
  --PROVED: #14713d; --REFUTED: #b3261e; --UNKNOWN: #8a5a00; --VACUOUS: #5b6675; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ef; --soft: #9aa6b5; --line: #39424f; --back: #14181e;
  --panel: #1d232c; --PROVED: #5fce8f; --REFUTED: #ff8a80; --UNKNOWN: #f0b95a; --VACUOUS: #9aa6b5; } }
body { font: 16px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.35rem; overflow-wrap: anywhere; } h2 { font-size: 1.05rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem; border-top: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
td.verdict { font-weight: 650; white-space: nowrap; }
td p { margin: .25rem 0 0; overflow-wrap: anywhere; } .soft { color: var(--soft); font-size: .9rem; }
figure { display: inline-block; margin: .6rem 1rem .6rem 0; padding: .6rem; background: var(--panel);
  border-radius: 6px; vertical-align: top; }
figure img { display: block; image-rendering: pixelated; max-width: 100%; }
figcaption { font-size: .85rem; color: var(--soft); margin-top: .4rem; }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 .6em; border: 1px solid var(--line); }
"""


def html_page(report: Report) -> str:
    """The report as HTML: findings with their witnesses, and pictures of the maps.

    >>> from viewproof.certify.report import Report
    >>> "<h1>a &lt;b&gt;: UNKNOWN</h1>" in html_page(Report("a <b>", ()))
    True
    """
    check_kind("report", report, Report)
    title = escape(f"{report.subject}: {report.verdict()}")
    heads = "".join(f"<th>{head}</th>" for head in ("#", "Verdict", "Contract", "Claim", "Scope and method", "s"))
    rows, sections = [], [_section("What is hidden", report.maps, report)]
    for n, f in enumerate(report.findings, 1):
        texts = []
        for text in f.remarks:
            soft = "" if f.witness is not None and text == f.witness.what else ' class="soft"'
            texts.append(f"<p{soft}>{escape(text)}</p>")
        rows.append(
            f'<tr><td class="soft">{n}</td><td class="verdict" style="color: var(--{f.verdict})">{f.verdict}</td>'
            f'<td title="{escape(f.contract.value)}">{f.contract.name}</td><td>{escape(f.claim)}{"".join(texts)}</td>'
            f'<td class="soft">{escape(f"{f.scope}; {f.method}")}</td><td class="soft">{f.seconds:.2f}</td></tr>\n'
        )
        if f.witness is not None:
            sections.append(_section(f"{n}. {f.contract.name} {f.verdict}: {f.claim}", f.witness.maps, report))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<h1>{title}</h1>\n{report.html_head()}<table><thead><tr>{heads}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody></table>\n{''.join(sections)}{report.html_tail()}</html>\n"
    )


def _section(heading: str, maps: Mapping[str, Tensor], report: Report) -> str:
    """The maps' pictures below a heading; flattened maps are drawn in the source's shape."""
    source, figures = report.maps.get("hidden"), []
    if source is not None:
        flat = (len(source), source[0].numel())
        maps = {name: t.reshape(source.shape) if t.shape == flat else t for name, t in maps.items()}
    for p in pictures(maps):
        caption, image = escape(p.caption), b64encode(png(p.pixels)).decode()
        for word in p.legend:
            caption += f'<br><span class="key" style="background: rgb{PALETTE[word]}"></span>{escape(word)}'
        figures.append(
            f'<figure><img alt="{escape(p.caption)}" src="data:image/png;base64,{image}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f"<h2>{escape(heading)}</h2>\n{''.join(figures)}\n" if maps else ""
