"""Pictures: a mask, a loss curve, errors by patch, reconstructions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.files import whole_file
from viewproof.masks import Mask
from viewproof.metrics import read_metrics

WHOLE = {"left": 0, "right": 1, "bottom": 0, "top": 1}
"""Axes as large as the figure; `write_png` makes room for what stands around them."""


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG; the file is whole or absent."""
    with whole_file(path, "wb") as file:
        write_png(figure, file, dpi=120)


def write_png(figure: Figure, file: IO[bytes], dpi: int) -> None:
    """Write a figure as PNG, cut to what is drawn; it has no layout engine."""
    figure.dpi = dpi
    # The same pixels as with bbox_inches="tight", which draws everything once more before it measures.
    figure.savefig(file, format="png", dpi=dpi, bbox_inches=figure.get_tightbbox().padded(0.1))


def image_grid(
    figure: Figure, rows: int, columns: float, shape: Sequence[int], room: float = 0.06
) -> Callable[..., None]:
    """A function that draws an image with its title above.

    It is called ``place(row, column, image, title="", **style)``. All stand on one pair of axes, which is many times
    faster than a pair for each. ``shape`` is that of an image in pixels, others are stretched to it; ``room`` is the
    part of a row that is left to the titles of the next.
    """
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns - 0.06), ylim=(rows - room, 0))
    axes.set_axis_off()
    aspect = shape[0] / shape[1] * 0.94 / (1 - room)
    frames, corners = PolyCollection([], facecolors="none", edgecolors="k", linewidths=0.7, clip_on=False), []
    axes.add_collection(frames)

    def place(
        row: int, column: float, image: Any, title: str = "", size: int = 9, color: str = "k", **style: Any
    ) -> None:
        left, right, top, bottom = column, column + 0.94, row, row + 1 - room
        axes.imshow(image, extent=(left, right, bottom, top), aspect=aspect, interpolation="nearest", **style)
        corners.append([(left, top), (right, top), (right, bottom), (left, bottom)])
        frames.set_verts(corners)
        if title:
            axes.annotate(
                title, (column + 0.47, row), (0, 2), textcoords="offset points",
                ha="center", va="bottom", fontsize=size, color=color,
            )  # fmt: skip

    return place


def mask_figure(mask: Mask, title: str) -> Figure:
    """A mask over ``[D]``, ``[H, W]`` or ``[C, H, W]``, once if all channels agree; hidden is dark."""
    hidden = mask.hidden.cpu().numpy()
    if hidden.ndim not in (1, 2, 3) or hidden.size == 0:
        raise InvalidArgument(f"a mask of shape {tuple(hidden.shape)} cannot be drawn; pass 1 to 3 non-empty axes")
    planes = hidden.reshape(-1, *([1] if hidden.ndim == 1 else []), *hidden.shape[-2:])
    if bool((planes == planes[:1]).all()):
        planes = planes[:1]
    if len(planes) > 8:
        planes = planes[:8]
        title += " (first 8 planes)"
    figure = Figure(figsize=(4.5 * len(planes), 4.2))
    panels = figure.subplots(1, len(planes), squeeze=False, gridspec_kw=WHOLE)[0]
    for axes, plane in zip(panels, planes, strict=True):
        axes.set_anchor("N")
        axes.imshow(
            ~plane, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto" if len(plane) == 1 else 1
        )
        axes.set_xlabel("column" if hidden.ndim > 1 else "feature")
        axes.set_ylabel("row" if hidden.ndim > 1 else "")
    figure.suptitle(title, y=1.03, va="bottom", fontsize=10)
    return figure


def rate_figure(
    rates: Sequence[float], losses: Sequence[float], averages: Sequence[float], suggestion: float | None, title: str
) -> Figure:
    """The loss of a learning-rate range test against the rate, its average, and the suggested rate."""
    figure = Figure(figsize=(5, 3))
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="0.7", label="loss")
    axes.semilogx(rates, averages, color="C0", label="average")
    if suggestion is not None:
        axes.axvline(suggestion, color="C3", linestyle="--", label=f"suggested: {suggestion:g}")
    finite = [value for value in averages if np.isfinite(value)]
    if finite:
        # What comes after the least average is far higher, and of no interest. Losses may be negative.
        span = max(finite[0] - min(finite), 0.1 * abs(finite[0]), 1e-6)
        axes.set_ylim(min(finite) - 0.2 * span, finite[0] + 0.4 * span)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.set_title(title, fontsize=10)
    axes.legend()
    return figure


def loss_figure(metrics: Path, title: str, loss_label: str) -> Figure:
    """The training loss and the held-out loss against the step, from a run's ``metrics.csv``.

    Beside them stands the held-out loss of an untuned run, where the file has one.
    """
    rows = read_metrics(metrics)
    figure = Figure(figsize=(6.5, 4))
    axes = figure.subplots()
    negative = False
    for column, label, style in (
        ("loss", "training", "-"), ("val_loss", "held out", "o-"), ("val_reference_loss", "held out, untuned run", ":")
    ):  # fmt: skip
        points = [(int(row["step"]), float(row[column])) for row in rows if row.get(column)]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, markersize=3, linewidth=1)
            negative |= any(value < 0 for _, value in points)
    axes.set(xlabel="step", ylabel=loss_label, title=title)
    high = axes.get_ylim()[1]
    if not negative:
        axes.set_ylim(0, 1.05 * high if high > 0 else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if rows:
        axes.legend()
    return figure


def patch_error_figure(tables: Mapping[str, Sequence[Sequence[float | None]]], title: str) -> Figure:
    """Heat maps of one scale from 0, a table of patches each; None (never hidden) is grey.

    Numbers stand in the patches where there are at most 12 a row.
    """
    grids = {name: np.array(table, dtype=float) for name, table in tables.items()}
    top = max([1e-12, *(float(grid[~np.isnan(grid)].max(initial=0.0)) for grid in grids.values())])
    rows, cols = next(iter(grids.values())).shape
    side = 4.2 if cols <= 12 else 3.6
    height = max(1.6, side * rows / cols)
    figure = Figure(figsize=(side * len(grids) + 0.8, height))
    panels = figure.subplots(1, len(grids), squeeze=False, gridspec_kw=WHOLE)[0]
    for axes, (name, grid) in zip(panels, grids.items(), strict=True):
        axes.set_facecolor("0.75")
        axes.set_anchor("N")
        image = axes.imshow(grid, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
        axes.set(title=name, xlabel="patch column", ylabel="patch row")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for (row, col), error in np.ndenumerate(grid) if cols <= 12 else ():
            shown = "" if np.isnan(error) else f"{error:.2f}"
            axes.text(
                col, row, shown, ha="center", va="center", fontsize=8, color="black" if error > 0.6 * top else "white"
            )
    figure.colorbar(image, cax=panels[-1].inset_axes((1.05, 0, 0.06, 1)))
    figure.suptitle(title, y=1 + 0.4 / height, va="bottom", fontsize=10)
    return figure


def reconstruction_figure(original: Tensor, hidden: Tensor, filled: Tensor, title: str) -> Figure:
    """Rows of held-out images: original, what the model saw, reconstruction, absolute error.

    All are ``[n, C, H, W]``: ``original`` and ``filled`` in the data's units, ``filled`` with visible pixels copied;
    ``hidden`` marks what was hidden, drawn grey.
    """
    low, high = float(original.min()), float(original.max())
    scaled = [((part.double() - low) / max(high - low, 1e-12)).clamp(0, 1) for part in (original, filled)]
    # Three channels are colour; others are averaged.
    first, last = (p if p.shape[1] == 3 else p.mean(1, keepdim=True).expand(-1, 3, -1, -1) for p in scaled)
    veil = torch.tensor([0.45, 0.5, 0.6], dtype=torch.double)[:, None, None]
    error = (filled - original).abs().double() * hidden
    columns = {
        "original": first,
        "what the model saw": torch.where(hidden.any(1, keepdim=True), veil, first),
        "reconstruction": last,
        "absolute error": (error / max(float(error.max()), 1e-12)).mean(1, keepdim=True),
    }
    figure = Figure(figsize=(7.2, 1.75 * len(original)))
    place = image_grid(figure, len(original), 4, original.shape[2:])
    for column, (name, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            image = picture.permute(1, 2, 0).numpy()
            place(row, column, image, "" if row else name, cmap="magma", vmin=0, vmax=1)
    figure.axes[0].set_title(title, fontsize=10, pad=18)
    return figure
