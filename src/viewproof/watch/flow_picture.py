"""The flow of a step as a small graph: sources, modules with their roles and shapes, losses."""

import textwrap
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from viewproof.watch.facts import ModuleFacts, Role, StepFacts

BLUE, AMBER = "#2878b5", "#e09a00"
MOST = 8
"""The most modules that the graph shows."""

LOOKS = {
    Role.TRAINED: ("#e3eef8", "#2878b5", "trained"),
    Role.MIXED: ("#e3eef8", "#2878b5", "partly frozen"),
    Role.TEACHER: ("#fdf1d6", "#b57a00", "teacher, no gradient"),
    Role.FROZEN: ("#eceff3", "#5b6675", "frozen"),
    Role.UNUSED: ("#ffffff", "#9aa6b5", "runs, and the loss does not read it"),
}
"""The fill, the frame and the words of a module's box, by its role."""


def shown_modules(modules: tuple[ModuleFacts, ...]) -> dict[str, ModuleFacts]:
    """The modules worth a box, by path: the outermost, and their parts where these differ in role or there is room.

    >>> parts = [("model", Role.MIXED), ("model.student", Role.TRAINED), ("model.teacher", Role.TEACHER)]
    >>> list(shown_modules(tuple(ModuleFacts(path, "Module", role, 1) for path, role in parts)))
    ['model.student', 'model.teacher']
    """
    by_path = {module.path: module for module in modules}

    def parts(path: str) -> list[str]:
        inner = [p for p in by_path if p != path and (not path or p.startswith(f"{path}."))]
        return [p for p in inner if not any(p.startswith(f"{other}.") for other in inner)]

    shown = [p for p in by_path if not any(p != o and (not o or p.startswith(f"{o}.")) for o in by_path)]
    while True:
        for path in shown:
            inner = parts(path)
            mixed = by_path[path].role is Role.MIXED or len({by_path[p].role for p in inner} - {Role.UNUSED}) > 1
            if len(inner) > 1 and len(shown) - 1 + len(inner) <= (MOST if mixed else 3):
                at = shown.index(path)
                shown[at : at + 1] = inner
                break
        else:
            return {path: by_path[path] for path in shown[:MOST]}


def edges(report: StepFacts, shown: dict[str, ModuleFacts]) -> list[tuple[str, str]]:
    """What reads what among the sources, the shown modules and the losses, "loss 0" and so on, each pair once."""
    sources = [source.path for source in report.sources]

    def box(path: str) -> str | None:
        if path in sources:
            return path
        above = [p for p in shown if path == p or not p or path.startswith(f"{p}.")]
        # What an outer module returned was made by the last of its parts.
        parts = [p for p in shown if p.startswith(f"{path}.")]
        return max(above, key=len) if above else parts[-1] if parts else None

    reads = [(box(module.path), path) for module in report.modules for path in module.reads]
    reads += [(f"loss {n}", path) for n, loss in enumerate(report.losses) for path in loss.reads]
    pairs = [(box(path), reader) for reader, path in reads]
    return list(dict.fromkeys((a, b) for a, b in pairs if a is not None and b is not None and a != b))


def depths(nodes: list[str], links: list[tuple[str, str]]) -> dict[str, int]:
    """The column of each node: one more than the largest of what it reads; a link that closes a circle is left out.

    >>> depths(["x", "encoder", "loss"], [("x", "encoder"), ("encoder", "loss"), ("x", "loss")])
    {'x': 0, 'encoder': 1, 'loss': 2}
    """
    column: dict[str, int] = {}

    def visit(node: str, above: tuple[str, ...]) -> int:
        if node not in column:
            reads = [a for a, b in links if b == node and a not in (*above, node)]
            column[node] = max((visit(a, (*above, node)) + 1 for a in reads), default=0)
        return column[node]

    for node in nodes:
        visit(node, ())
    return column


@dataclass(frozen=True)
class Layout:
    """The graph, placed: boxes by node, links, which nodes are on the target path, and inches."""

    report: StepFacts
    boxes: dict[str, "Box"]
    links: list[tuple[str, str]]
    target: set[str]
    width: float
    height: float


@dataclass(frozen=True)
class Box:
    """One node: its centre and size in inches, its lines of text and its colours."""

    x: float
    y: float
    wide: float
    tall: float
    lines: list[str]
    fill: str
    frame: str


def flow_layout(report: StepFacts, width: float) -> Layout:
    """Where each box of the graph goes: data flow from left to right, targets below; the height is what that needs."""
    shown = shown_modules(report.modules)
    losses = {f"loss {n}": loss for n, loss in enumerate(report.losses)}
    links = edges(report, shown)
    linked = {node for link in links for node in link}
    sources = {s.path: s for s in [s for s in report.sources if s.path in linked or len(report.sources) == 1][:4]}
    nodes = [*sources, *shown, *losses]
    links = [(a, b) for a, b in links if a in nodes and b in nodes]
    column = depths(nodes, links)
    last = max([column[node] + 1 for node in nodes if node not in losses], default=0)
    column |= dict.fromkeys(losses, last)
    # The target path: what no gradient passes through, and below the prediction's.
    target = {path for path, module in shown.items() if module.role in (Role.TEACHER, Role.FROZEN)}
    step = width / (last + 1)
    wide = min(2.35, step - 0.4)
    texts, looks = {}, {}
    for node in nodes:
        if node in losses:
            place = losses[node].place.rsplit("/", 1)[-1]
            lines, looks[node] = [f"loss {losses[node].value:.4g}", place], ("#14181e", "#14181e")
        elif node in shown:
            *colours, words = LOOKS[shown[node].role]
            lines, looks[node] = _module_lines(shown[node], words), (colours[0], colours[1])
        else:
            lines, looks[node] = [node, "x".join(map(str, sources[node].values.shape))], ("white", "#14181e")
        texts[node] = [textwrap.shorten(lines[0], int(wide * 11), placeholder="…")]
        texts[node] += [part for line in lines[1:] for part in textwrap.wrap(line, int(wide * 14))[:3]]
    tall = {node: 0.16 * len(texts[node]) + 0.14 for node in nodes}
    columns = [[node for node in nodes if column[node] == n] for n in range(last + 1)]
    for inside in columns:
        inside.sort(key=lambda node: (node in target, nodes.index(node)))
    # A source that a loss reads directly gets a lane of its own, below all boxes.
    below = 0.4 if any(a in sources and b in losses for a, b in links) else 0.1
    room = max((sum(tall[node] + 0.22 for node in inside) for inside in columns), default=0.3)
    boxes = {}
    for n, inside in enumerate(columns):
        free = (room - sum(tall[node] for node in inside)) / (len(inside) + 1)
        y = room
        for node in inside:
            y -= free + tall[node]
            at = y + tall[node] / 2
            if len(inside) == 1 and 0 < n < last and target:
                # One box in its column stands in the lane of its path.
                at = tall[node] / 2 + 0.1 if node in target else room - tall[node] / 2 - 0.1
            boxes[node] = Box(step * (n + 0.5), at + below + 0.25, wide, tall[node], texts[node], *looks[node])
    return Layout(report, boxes, links, target, width, room + below + 0.3)


def draw_flow(axes: Axes, flow: Layout) -> None:
    """Draw the graph into axes of its size."""
    axes.set(xlim=(0, flow.width), ylim=(0, flow.height))
    axes.axis("off")
    losses = {node for node in flow.boxes if node.startswith("loss ")}
    for node, box in flow.boxes.items():
        axes.add_patch(
            FancyBboxPatch(
                (box.x - box.wide / 2, box.y - box.tall / 2),
                *(box.wide, box.tall),
                boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=box.fill,
                edgecolor=box.frame,
                linewidth=1.6,
                linestyle="--" if node in flow.target else "-",
                zorder=3,
            )
        )
        for row, line in enumerate(box.lines):
            axes.text(
                *(box.x, box.y + box.tall / 2 - 0.15 - 0.16 * row, line.replace("$", r"\$")),
                ha="center",
                va="center",
                zorder=4,
                fontsize=8 if row else 9,
                weight="normal" if row else "bold",
                color="white" if node in losses else "black",
            )
    sources = {source.path for source in flow.report.sources}
    for a, b in flow.links:
        one, other = flow.boxes[a], flow.boxes[b]
        start, end = (one.x + one.wide / 2, one.y), (other.x - other.wide / 2, other.y)
        look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 14, "linewidth": 2, "zorder": 2}
        asked = a in flow.target or b in flow.target or (a in sources and b in losses)
        look["color"] = AMBER if asked else BLUE
        if a in sources and b in losses:
            # Round the boxes, below them.
            start, end = (one.x, one.y - one.tall / 2), (other.x, other.y - other.tall / 2)
            corners = [start, (one.x, 0.45), (other.x, 0.45), end]
            axes.add_patch(FancyArrowPatch(path=Path(corners), **look))
        else:
            bend = 0.0 if end[0] - start[0] < one.wide else 0.2 if asked else -0.15
            axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **look))
    x = 0.11
    for colour, words in ((BLUE, "to the prediction"), (AMBER, "to the target")):
        axes.plot((x, x + 0.35), (0.16, 0.16), color=colour, linewidth=2)
        axes.text(x + 0.43, 0.16, words, fontsize=8, va="center")
        x += 1.8


def _module_lines(module: ModuleFacts, role: str) -> list[str]:
    """What a module's box says: its name, class and size, shapes, role, and what moves it."""
    size = f"{module.parameters / 1e6:.1f} M" if module.parameters >= 1e6 else f"{module.parameters:,}"
    lines = [module.path or module.kind, module.kind] if module.path else [module.kind]
    lines += (
        [" \u2192 ".join("x".join(map(str, shape)) or "scalar" for shape in module.shapes)] if module.shapes else []
    )
    if not module.parameters:
        return [*lines, "no parameters"]
    lines.append(f"{size}, {role}" if module.training or module.role is not Role.TEACHER else f"{size}, {role}, eval")
    return lines + ([f"moves {module.moves}"] if module.moves.startswith("by ") else [module.moves])
