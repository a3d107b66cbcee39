"""Draws the picture of docs/architecture.md: the layers of the package, each on top of what it may import."""

from pathlib import Path

LAYERS = [
    ("cli.py", "the command line", "top"),
    ("runs/", "one run: configuration, folder, training, report", "training"),
    ("evaluation/", "probes, errors by patch, fine-tuning", "training"),
    ("methods/", "one file a method: network, module, defaults, checks", "training"),
    ("training/  data/  plots.py", "trainer, callbacks, EMA; data sets, batches; figures", "training"),
    ("bugzoo/  testing.py", "known bugs beside their correct twins; pytest helper", "proof"),
    ("certify/", "verdicts on a user's own view, encoder, loss, target branch", "proof"),
    ("theorems/", "named statements about our own programs, with mutants", "proof"),
    ("symbolic/", "captured graph, meaning of its operators, Z3", "proof"),
    ("models/", "plain networks, nothing self-supervised inside", "core"),
    ("losses/", "batch losses, each beside its exact contract", "core"),
    ("objectives/", "masked losses; the finite algebra of objectives", "core"),
    ("views.py  expressions.py", "samples, patches; a rule written as text", "core"),
    ("masks/", "Mask, Rule, Sample; periodic and random rules", "core"),
    ("errors  verdict  shapes  files  bits  torch_internals", "one small file each, used by everything", "core"),
]
FILL = {"core": "#dbe9f6", "proof": "#e4f1de", "training": "#fbe9d3", "top": "#eeeeee"}
NEEDS = {"training": "Lightning, scikit-learn", "proof": "Z3 to prove", "core": "torch and numpy"}
WIDTH, LEFT, BOX, HEIGHT, GAP, TOP = 1000, 16, 790, 32, 6, 34


def picture() -> str:
    """The picture as SVG."""
    rows, spans = [], {}
    for place, (name, what, group) in enumerate(LAYERS):
        y = TOP + place * (HEIGHT + GAP)
        spans.setdefault(group, [y, y])[1] = y + HEIGHT
        rows += [
            f'<rect x="{LEFT}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="4" fill="{FILL[group]}" stroke="#7a8794"/>',
            f'<text x="{LEFT + 12}" y="{y + 21}" font-weight="bold">{name}</text>',
            f'<text x="{LEFT + 385}" y="{y + 21}">{what}</text>',
        ]
    side = LEFT + BOX + 12
    for group, needs in NEEDS.items():
        first, last = spans[group]
        rows += [
            f'<path d="M{side},{first} h6 V{last} h-6" fill="none" stroke="#7a8794"/>',
            f'<text x="{side + 12}" y="{(first + last) // 2 + 5}">{needs}</text>',
        ]
    height = TOP + len(LAYERS) * (HEIGHT + GAP) + 4
    note = f'<text x="{LEFT}" y="22">A layer imports only layers below it. Right: the libraries it needs.</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
            ' font-family="Helvetica, Arial, sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            note,
            *rows,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (Path(__file__).parent / "layers.svg").write_text(picture(), encoding="utf-8")
