"""A witness's maps as small PNG pictures, written with the standard library alone."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PALETTE = {
    "visible": (233, 237, 242),
    "hidden": (62, 72, 88),
    "visible, marked": (242, 177, 52),
    "hidden, marked": (214, 69, 65),
    "not marked": (233, 237, 242),
    "marked": (214, 69, 65),
}
"""The colours of a Boolean map, over what is hidden where that is known, as red, green and blue."""

MEANINGS = {
    "leak": "hidden content gets through",
    "lost": "visible, and shown nowhere",
    "support": "has a gradient",
    "wrong": "not as declared",
    "changed": "not the source's bits",
    "written": "overwritten",
}
"""What a mark says, by the name of its map."""

PLANES, SIDE, LARGEST = 4, 224, 512


@dataclass(frozen=True)
class Picture:
    """One plane of one map; ``legend`` names the colours that occur in it."""

    caption: str
    pixels: Tensor
    legend: tuple[str, ...] = ()


def pictures(maps: Mapping[str, Tensor]) -> Iterator[Picture]:
    """The maps, plane by plane: Boolean ones over the hidden set, numbers by colour.

    A plane is what the last two axes hold. Left out are planes without a mark if others have one, planes that repeat an
    earlier one, and all after the fourth. Sides longer than 512 are merged block by block; a mark anywhere in a block
    marks it.

    >>> hidden = torch.tensor([[True, False], [True, False]])
    >>> [(p.caption, p.legend) for p in pictures({"hidden": hidden, "leak": hidden.tril()})]
    [('leak (hidden content gets through)', ('visible', 'hidden, marked'))]
    """
    base = "hidden" if "hidden" in maps else "mask"
    drawable = {name: tensor.detach().cpu() for name, tensor in maps.items() if tensor.numel() and tensor.dim()}
    hidden, fitted = drawable.pop(base, None), False
    for name, tensor in drawable.items():
        if tensor.dtype != torch.bool:
            yield from _numbers(name, tensor)
            continue
        codes = 4 + tensor.long()
        if hidden is not None and hidden.shape[-tensor.dim() :] == tensor.shape[-hidden.dim() :]:
            # What is hidden lies under the map: as it is, or that of the first sample of a batch.
            first = hidden[(0,) * max(0, hidden.dim() - tensor.dim())]
            codes, fitted = first.long().expand(tensor.shape) + 2 * tensor.long(), True
        yield from _planes(name, codes)
    if hidden is not None and not fitted:
        yield from _planes(base, hidden.long())


def png(pixels: Tensor) -> bytes:
    """A PNG file of ``pixels: [height, width, 3]``, uint8."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.numpy().tobytes() for row in pixels.contiguous())

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def strip(panels: list[Tensor]) -> Tensor:
    """Panels side by side on white."""
    height = max(len(p) for p in panels)
    padded = [F.pad(p, (0, 0, 0, 12, 0, height - len(p)), value=255) for p in panels]
    return torch.cat(padded, 1)[:, :-12]


def _planes(name: str, codes: Tensor) -> Iterator[Picture]:
    """Pictures of places in the palette."""
    colours = torch.tensor(list(PALETTE.values()), dtype=torch.uint8)
    marked = codes.ge(2) & codes.ne(4)
    for caption, plane in _distinct(name, codes, marked):
        small = _merged(plane)
        legend = tuple(word for code, word in enumerate(PALETTE) if bool((small == code).any()))
        yield Picture(caption, _scaled(colours[small]), legend)


def _numbers(name: str, values: Tensor) -> Iterator[Picture]:
    """Pictures of numbers: white at 0, red at the largest magnitude, blue at its negative; NaN black."""
    values = values.double()
    top = float(values.nan_to_num(0.0, 0.0, 0.0).abs().max()) or 1.0
    for caption, plane in _distinct(name, values, values != 0):
        shade = _merged(plane.nan_to_num(0.0, top, -top) / top)
        away = (255 * (1 - shade.abs())).round()
        full = torch.full_like(away, 255)
        pixels = torch.stack([torch.where(shade >= 0, full, away), away, torch.where(shade > 0, away, full)], -1)
        pixels[_merged(plane.isnan().long()) > 0] = 0
        yield Picture(f"{caption}, from {-top:.3g} (blue) to {top:.3g} (red)", _scaled(pixels.to(torch.uint8)))


def _distinct(name: str, values: Tensor, marked: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The first planes that are marked and differ from all before them, each with a caption."""
    lead, caption = tuple(values.shape[:-2]), f"{name} ({MEANINGS[name]})" if name in MEANINGS else name
    shape = (-1, *((1,) if values.dim() == 1 else ()), *values.shape[-2:])
    planes, has_mark = values.reshape(shape), marked.reshape(shape).flatten(1).any(1)
    shown: list[Tensor] = []
    for index in (has_mark if bool(has_mark.any()) else ~has_mark).nonzero().flatten():
        if len(shown) == PLANES or any(torch.equal(planes[index], other) for other in shown):
            continue
        shown.append(planes[index])
        place = ", ".join(str(int(i)) for i in torch.unravel_index(index, lead)) if len(planes) > 1 else ""
        yield caption + (f", at {place}" if place else ""), planes[index]


def _merged(plane: Tensor) -> Tensor:
    """The plane with at most `LARGEST` rows and columns: each block's entry of largest magnitude."""
    for axis in (0, 1):
        width = -(-plane.shape[axis] // LARGEST)
        if width > 1:
            rest = -plane.shape[axis] % width
            last = plane.narrow(axis, plane.shape[axis] - 1, 1)
            whole = torch.cat([plane, *[last] * rest], axis)
            blocks = whole.reshape(-1, width, *whole.shape[1:]) if axis == 0 else whole.reshape(len(whole), -1, width)
            at = blocks.abs().argmax(axis + 1, keepdim=True)
            plane = blocks.gather(axis + 1, at).squeeze(axis + 1)
    return plane


def _scaled(pixels: Tensor) -> Tensor:
    """Enlarged to about `SIDE` pixels, with a gap between cells that are large enough to have one."""
    height, width, _ = pixels.shape
    factor = max(1, SIDE // max(height, width))
    rows = max(factor, 24) if height == 1 else factor
    large = pixels.repeat_interleave(rows, 0).repeat_interleave(factor, 1)
    if factor >= 6:
        large[rows - 1 :: rows] = 255
        large[:, factor - 1 :: factor] = 255
    return large
