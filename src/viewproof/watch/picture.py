"""The x-ray of a training step as one PNG: what of each sample is seen and scored, and how the data flow.

Blue is what the model sees, amber what the loss asks for, red with a cross hatch what leaks, grey neither. Where seeing
and asking for the same is meant, as in joint-embedding methods, both colours alternate in stripes.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from viewproof.certify.report import Contract
from viewproof.errors import InvalidArgument
from viewproof.plots import save_figure
from viewproof.verdict import Verdict
from viewproof.watch.facts import Source, StepFacts
from viewproof.watch.flow_picture import draw_flow, flow_layout

SAMPLES, SOURCES, FRAMES, CHANNELS, LINES = 4, 3, 4, 3, 3
"""The most samples, sources, frames of a video, channels of a series and lines of text that are drawn."""

WIDTH, SIDE = 11.0, 2.35
"""Inches: the picture's width, and the height of an image."""

NEITHER, SEEN, SCORED, BOTH = 0, 1, 2, 3
WORDS = {Verdict.REFUTED: "#c8102e", Verdict.UNKNOWN: "#8a5a00", Verdict.VACUOUS: "#5b6675"}
COLOURS = {NEITHER: "#b9c0ca", SEEN: "#2878b5", SCORED: "#f5b52e", BOTH: "#c8102e"}
"""The colours of the four states; they differ in lightness, so that they differ for every reader."""


def draw(report: StepFacts, path: str | Path) -> Path:
    """Write the x-ray of a step to a PNG file and return its path; an old file of that name is replaced.

    Raises `InvalidArgument` if the folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise InvalidArgument(f"picture={str(path)!r} must be in a folder that exists; make {str(path.parent)!r} first")
    save_figure(xray(report), path)
    return path


def xray(report: StepFacts) -> Figure:
    """The x-ray of a step as a matplotlib figure."""
    sources, verdict, leaks = choose(report.sources), report.verdict(), leak_verdict(report)
    refuted = leaks is Verdict.REFUTED
    heights = [_height(source) * (0.72 if len(sources) > 1 else 1) for source in sources]
    flow = flow_layout(report, WIDTH * 0.98)
    # The worst findings are named where the verdict stands.
    worst = [f for f in report.findings if f.verdict is verdict and f.decides()] if verdict in WORDS else []
    notes = [f"{f.contract.name} {f.claim}: {'; '.join(f.remarks)}" for f in worst[:2]]
    # The file's name is enough in a picture, which others look at elsewhere.
    notes = [re.sub(r"/\S*/(?=[^/\s]+:\d)", "", note) for note in notes]
    lines = [line for note in notes for line in textwrap.wrap(note, 125)[:2]]
    total = 0.95 + 0.22 * len(lines) + sum(height + 0.62 for height in heights) + 0.1 + flow.height
    figure = Figure(figsize=(WIDTH, total), facecolor="white")
    top = total - 0.28

    def say(text: str, y: float, **look: Any) -> None:
        figure.text(0.02, y / total, text.replace("$", r"\$"), va="center", **look)

    say(f"{report.subject}: {verdict}", top, fontsize=14, weight="bold", color=WORDS.get(verdict, "#14713d"))
    for line in lines:
        top -= 0.22
        say(line, top - 0.06, fontsize=9, color=WORDS[verdict])
    if sources:
        _legend(figure, sources, (top - 0.38) / total, total, leaks)
    else:
        say("No tensor of the batch was found that carries content.", top - 0.38, fontsize=10)
    top -= 0.6
    for source, height in zip(sources, heights, strict=True):
        more = len(report.sources) - len(sources) if source is sources[-1] else 0
        note = "" if source.followed else "  (not followed to the end: grey may be seen or asked for too)"
        note += f"  (and {more} more sources)" if more else ""
        leaky = refuted and bool(source.leak.any())
        say(source.path, top - 0.12, fontsize=10, weight="bold")
        say(sentence(source, refuted) + note, top - 0.34, fontsize=10, color=WORDS[Verdict.REFUTED] if leaky else "k")
        _panels(figure, source, (0.02, (top - 0.5 - height) / total, 0.96, height / total), refuted)
        top -= height + 0.62
    draw_flow(figure.add_axes((0.01, 0, 0.98, flow.height / total)), flow)
    return figure


def leak_verdict(report: StepFacts) -> Verdict:
    """What was found about leaks: the worst verdict that is not waived, PROVED if all are; UNKNOWN if none was made."""
    findings = [f for f in report.findings if f.contract is Contract.C1]
    verdicts = {Verdict.PROVED if f.open and f.waiver else f.verdict for f in findings} or {Verdict.UNKNOWN}
    return next(v for v in (Verdict.REFUTED, Verdict.UNKNOWN, Verdict.VACUOUS, Verdict.PROVED) if v in verdicts)


def choose(sources: tuple[Source, ...]) -> list[Source]:
    """At most three sources, in their order: of each distinct state the first, then the rest."""
    states = [(bool(s.seen.any()), bool(s.scored.any()), bool(s.leak.any())) for s in sources]
    fresh = [i for i, state in enumerate(states) if state not in states[:i]]
    order = fresh + [i for i in range(len(sources)) if i not in fresh]
    return [sources[i] for i in sorted(order[:SOURCES])]


def unit(source: Source) -> str:
    """What a group of the source is called."""
    if is_text(source):
        return "tokens"
    if len(source.grid) > 1:
        return "patches" if source.grid != tuple(source.values.shape[-len(source.grid) :]) else "pixels"
    return "frames" if source.grid[0] < source.values[0].numel() else "values"


def sentence(source: Source, refuted: bool) -> str:
    """In words: how much of a source the model sees, and how much of it the loss asks for."""
    seen, scored, leak = (float(plane.double().mean()) for plane in (source.seen, source.scored, source.leak))
    name = unit(source)
    if leak and refuted:
        return (
            f"LEAK: of {int(source.scored.sum())} {name} that the loss asks for, the model already sees "
            f"{int(source.leak.sum())}."
        )
    if not seen and not scored:
        return f"The step trains on none of the {name}."
    if not scored:
        return f"The model sees {seen:.0%} of the {name}; the loss asks for none of them."
    if not seen:
        return f"The model sees none of the {name}; the loss asks for {scored:.0%} of them."
    if leak == 1:
        return f"The model sees all {name} and the loss asks for all of them, through another path."
    text = f"The model sees {seen:.0%} of the {name} and must predict "
    if leak:
        return text + f"{scored:.0%}; {leak:.0%} are both seen and asked for."
    rest = 1 - seen - scored
    return text + (f"the other {scored:.0%}." if rest < 0.005 else f"{scored:.0%}; {rest:.0%} are neither.")


def is_text(source: Source) -> bool:
    """Whether the source is drawn as a strip of tokens."""
    return bool(source.text) or not (source.values.dtype.is_floating_point or source.values.dtype == torch.uint8)


def states(source: Source, sample: int) -> Tensor:
    """For every coordinate of one sample its state, -1 where it is in no group: integers of the sample's shape."""
    codes = source.seen[sample].long() * SEEN + source.scored[sample].long() * SCORED
    return torch.where(source.group >= 0, codes.cpu()[source.group.cpu().clamp(min=0)], -1)


def paint(codes: np.ndarray, shade: np.ndarray, leak: bool, stripe: int) -> np.ndarray:
    """RGB [height, width, 3] of states and lightness in 0..1; both is red with a hatch if ``leak``, else striped."""
    rows, cols = np.indices(codes.shape)
    falling, rising = ((rows + cols) // stripe) % 3 == 0, ((rows - cols) // stripe) % 3 == 0
    shown = codes.copy()
    if not leak:
        shown[codes == BOTH] = np.where(((rows + cols) // (2 * stripe)) % 2, SEEN, SCORED)[codes == BOTH]
    palette = np.array([colors.to_rgb(COLOURS[code]) for code in COLOURS] + [(0.96, 0.96, 0.96)])
    colour = palette[shown]
    # A dark pixel keeps its hue: what it is matters more than how dark the image was there.
    low, high, level = 0.6 * colour, 0.45 * colour + 0.55, shade[..., None]
    pixels = np.where(level < 0.5, low + (colour - low) * 2 * level, colour + (high - colour) * (2 * level - 1))
    if leak:
        pixels[(codes == BOTH) & (falling | rising)] *= 0.6
    return np.asarray(pixels)


def _legend(figure: Figure, sources: list[Source], y: float, total: float, verdict: Verdict) -> None:
    """The four colours in words, those alone that occur."""
    codes = {int(c) for s in sources for c in (s.seen.long() * SEEN + s.scored.long() * SCORED).flatten().tolist()}
    both = {
        Verdict.REFUTED: "seen AND asked for: leak",
        Verdict.UNKNOWN: "seen and asked for: is it meant?",
        Verdict.VACUOUS: "seen and asked for",
        Verdict.PROVED: "seen and asked for, as meant",
    }
    words = {SEEN: "the model sees it", SCORED: "the loss asks for it", BOTH: both[verdict], NEITHER: "neither"}
    x, side = 0.02, 0.17
    for code in (code for code in words if code in codes):
        axes = figure.add_axes((x, y - side / 2 / total, side / WIDTH * 1.4, side / total))
        block = np.full((24, 34), code)
        axes.imshow(paint(block, np.full(block.shape, 0.5), verdict is Verdict.REFUTED, 3), aspect="auto")
        axes.set(xticks=[], yticks=[])
        figure.text(x + 0.027, y, words[code], fontsize=10, va="center")
        x += 0.05 + 0.0072 * len(words[code])


def _height(source: Source) -> float:
    """Inches that a source takes."""
    if is_text(source):
        samples = min(SAMPLES, len(source.seen))
        return sum(0.27 * len(_lines(source, sample)) + 0.1 for sample in range(samples))
    return SIDE if _axes(source)[1] is not None else 1.25 * min(2, len(source.seen))


def _axes(source: Source) -> tuple[int | None, int | None, int]:
    """The axes of a sample that are frames, rows and columns; None for what it has not."""
    shape = tuple(source.values.shape[1:])
    changes = [
        size > 1 and bool((source.group != source.group.narrow(axis, 0, 1)).any()) for axis, size in enumerate(shape)
    ]
    if len(shape) == 1 or (len(shape) == 2 and sum(changes) < 2):
        return None, None, changes.index(True) if True in changes else len(shape) - 1
    if len(shape) == 2 and len(source.grid) == 2 and source.grid[0] == shape[0] < shape[1]:
        # Channels that are treated apart: a multivariate series.
        return None, None, 1
    if len(shape) == 3 and sum(changes) == 2 and not (changes[1] and changes[2]):
        rows, cols = (axis for axis, change in enumerate(changes) if change)
        return None, rows, cols
    if len(shape) == 4:
        return (1 if changes[1] and (not changes[0] or shape[0] <= 4) else 0), 2, 3
    return None, len(shape) - 2, len(shape) - 1


def _panels(figure: Figure, source: Source, box: tuple[float, float, float, float], leak: bool) -> None:
    """The samples of a source beside each other, or one below the other."""
    left, bottom, width, height = box
    count = min(SAMPLES, len(source.seen))
    if is_text(source):
        axes = figure.add_axes(box)
        _tokens(axes, source, count, leak)
    elif _axes(source)[1] is None:
        count = min(2, count)
        for sample in range(count):
            part = height / count
            axes = figure.add_axes((left, bottom + (count - 1 - sample) * part, width, 0.92 * part))
            _series(axes, source, sample, leak)
    else:
        x = left
        for sample in range(count):
            pixels = _image(source, sample, leak)
            wide = height * pixels.shape[1] / pixels.shape[0] * figure.get_figheight() / WIDTH
            if x > left and x + wide > left + width:
                break
            axes = figure.add_axes((x, bottom, min(wide, left + width - x), height))
            axes.imshow(pixels, interpolation="nearest", aspect="auto")
            axes.set(xticks=[], yticks=[])
            x += wide + 0.015


def _image(source: Source, sample: int, leak: bool) -> np.ndarray:
    """One image, or some frames of a video beside each other, in the colours of the states."""
    frames, rows, cols = _axes(source)
    assert rows is not None
    values, codes = source.values[sample].detach().double().cpu(), states(source, sample)
    kept = (*(() if frames is None else (frames,)), rows, cols)
    others = [axis for axis in range(values.dim()) if axis not in kept]
    values, codes = (t.permute(*others, *kept) for t in (values, codes))
    values, codes = (t.reshape(-1, *t.shape[len(others) :]) for t in (values, codes))
    level = values.nan_to_num(0.0, 0.0, 0.0).mean(0)
    # A place that several channels hold is seen, or scored, if it is in any of them.
    bits = torch.where((codes < 0).all(0), -1, ((codes > 0) & (codes & SEEN > 0)).any(0) * SEEN)
    code = torch.where(bits < 0, -1, bits + ((codes > 0) & (codes & SCORED > 0)).any(0) * SCORED)
    shade = (level - level.min()) / (level.max() - level.min()).clamp(min=1e-12)
    groups = source.group.cpu().permute(*others, *kept).flatten(0, len(others) - 1)[0] if others else source.group
    if frames is None:
        shade, code, groups = shade[None], code[None], groups[None]
    at = np.unique(np.linspace(0, len(shade) - 1, FRAMES).round().astype(int))
    panels = [_enlarged(shade[i], code[i], groups[i], leak) for i in at]
    gap = np.ones((len(panels[0]), 6, 3))
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _enlarged(shade: Tensor, code: Tensor, groups: Tensor, leak: bool) -> np.ndarray:
    """Pixels enlarged to about 400 a side, with a white line between groups that are large enough to have one."""
    factor = max(1, 400 // max(shade.shape))
    large = [t.numpy().repeat(factor, 0).repeat(factor, 1) for t in (shade, code, groups.cpu())]
    pixels = paint(large[1], large[0], leak, 4)
    runs = np.diff(np.flatnonzero(np.diff(large[2], axis=1).any(0)))
    if runs.size == 0 or runs.min() >= 12:
        across, down = (np.diff(large[2], axis=axis) != 0 for axis in (0, 1))
        pixels[1:][across] = pixels[:-1][across] = pixels[:, 1:][down] = pixels[:, :-1][down] = 1
    return pixels


def _series(axes: Axes, source: Source, sample: int, leak: bool) -> None:
    """The curves of one sample over time, each over its own coloured spans."""
    time = _axes(source)[2]
    values = source.values[sample].detach().double().cpu().movedim(time, -1)
    codes = states(source, sample).movedim(time, -1)
    values, codes = (t.reshape(-1, t.shape[-1])[:CHANNELS] for t in (values, codes))
    steps = values.shape[-1]
    for row, (curve, code) in enumerate(zip(values.nan_to_num(0.0, 0.0, 0.0), codes, strict=True)):
        spans = code.numpy()[np.linspace(0, steps - 1, 1400).round().astype(int)]
        block = np.tile(spans, (max(24, 90 // len(values)), 1))
        pixels = paint(block, np.full(block.shape, 0.78), leak, 5)
        axes.imshow(pixels, extent=(-0.5, steps - 0.5, -row - 1, -row), aspect="auto", interpolation="nearest")
        low, high = float(curve.min()), float(curve.max())
        level = 0.08 + 0.84 * (curve - low) / max(high - low, 1e-12) - row - 1
        style = "steps-mid" if steps <= 64 else "default"
        axes.plot(level.numpy(), color="#14181e", linewidth=1.1, drawstyle=style)
    axes.set(xlim=(-0.5, steps - 0.5), ylim=(-len(values), 0), xticks=[], yticks=[])


def _words(source: Source, sample: int) -> list[str]:
    """The text of each position of a sample, or its number."""
    if source.text:
        return [word.replace("\n", "\u21b5").replace("$", r"\$") for word in source.text[sample]]
    return [str(int(value)) for value in source.values[sample].flatten()]


def _lines(source: Source, sample: int, width: float = 118) -> list[list[int]]:
    """The positions of a sample, line by line, as many as fit."""
    lines, used = [[]], 0.0  # type: list[list[int]], float
    for position, word in enumerate(_words(source, sample)):
        if used + len(word) + 1.2 > width:
            lines.append([])
            used = 0.0
        lines[-1].append(position)
        used += len(word) + 1.2
    return lines[:LINES]


def _tokens(axes: Axes, source: Source, count: int, leak: bool) -> None:
    """The samples' tokens as boxes with text."""
    y = 0.0
    for sample in range(count):
        codes, words = states(source, sample).flatten().tolist(), _words(source, sample)
        lines = _lines(source, sample)
        for line in lines:
            x = 0.0
            for position in line:
                code, width = codes[position], len(words[position]) + 1.0
                colour = COLOURS.get(code, "#f4f4f4")
                hatch = {True: "xxxx", False: "////"}[leak] if code == BOTH else ""
                if code == BOTH and not leak:
                    colour = COLOURS[SCORED]
                edge = COLOURS[SEEN] if hatch == "////" else "#7d0a1c" if hatch else "white"
                axes.add_patch(Rectangle((x, y), width, 0.22, facecolor=colour, edgecolor=edge, hatch=hatch, lw=0.5))
                dark = code in (SEEN, BOTH) and not (code == BOTH and not leak)
                label = axes.text(
                    x + width / 2,
                    y + 0.115,
                    words[position],
                    ha="center",
                    va="center",
                    fontsize=8,
                    family="monospace",
                    color="white" if dark else "black",
                )
                if hatch:
                    label.set_bbox({"facecolor": colour, "edgecolor": "none", "pad": 0.6})
                x += width + 0.2
            y += 0.27
        y += 0.1
    axes.set(xlim=(0, 120), ylim=(y, 0))
    axes.axis("off")
