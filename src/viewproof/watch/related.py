"""Whether a tensor of the batch shows what the loss asks for of another: a copy, scaled, turned, noisy or augmented.

How one came from the other happened before the step, so that it is found from the values alone: first by an exact
affine map and a rearrangement of each sample, then by correlation, beside what the samples of one tensor have in common
with other samples of the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.watch.sources import spatial_axes

# Of sorted numbers, each scaled to one deviation; what is no copy lies apart by far more.
_EXACT = 1e-3
# So many samples of a batch are compared: enough to tell a copy, and images of any size take seconds.
_SAMPLES = 16
# Correlations below say nothing, as of next frames of a video or of the future of a periodic series.
_WEAK, _STRONG = 0.3, 0.95


@dataclass(frozen=True)
class Relation:
    """How another tensor holds a source: in words, and where each coordinate of a sample stands there, -1 for nowhere.

    ``index`` [samples, coordinates] is None where the place is not known.
    """

    how: str
    index: Tensor | None = None


def related(source: Tensor, other: Tensor, asked: Tensor) -> Relation | None:
    """How the other tensor holds what is ``asked`` of the source, bool of its shape, or None if nothing shows it.

    >>> x = torch.rand(4, 1, 8, 8)
    >>> related(x, 0.5 * x.flip(-1) + 1, torch.ones_like(x, dtype=torch.bool)).how
    'its values up to a scale and an offset, flipped'
    >>> related(x, torch.rand(4, 1, 8, 8), torch.ones_like(x, dtype=torch.bool))
    """
    count, asked = len(source), asked[:_SAMPLES]
    if count != len(other) or not bool(asked.any()):
        return None
    source, other = (t.detach()[:_SAMPLES].cpu().double().nan_to_num(0.0, 0.0, 0.0) for t in (source, other))
    found = _rearranged(source, other, asked) if source.shape[1:].numel() == other.shape[1:].numel() else None
    found = found or _correlated(*_smaller(source, other, asked), list(_maps(source.shape[1:])))
    if found is not None and found.index is not None:
        return Relation(found.how, F.pad(found.index, (0, 0, 0, count - len(source)), value=-1))
    return found


def _maps(shape: torch.Size) -> Iterator[tuple[str, Tensor]]:
    """Ways to lay a sample over itself, each the flat index [*shape] of where a coordinate comes to stand."""
    index = torch.arange(shape.numel()).view(shape)
    yield "", index
    if len(shape) == 1:
        yield "reversed", index.flip(0)
    elif len(shape) == 2:
        for axis in (0, 1):
            yield "flipped", index.flip(axis)
    elif len(shape) > 2:
        yield "flipped", index.flip(-1)
        yield "flipped", index.flip(-2)
        yield "turned by 180 degrees", index.flip(-1, -2)
        if shape[-1] == shape[-2]:
            yield "transposed", index.mT
            yield "turned by 90 degrees", index.mT.flip(-1)
            yield "turned by 270 degrees", index.mT.flip(-2)
            yield "transposed", index.mT.flip(-1, -2)


def _standard(rows: Tensor) -> Tensor:
    rows = rows - rows.mean(-1, keepdim=True)
    return rows / rows.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def _rearranged(source: Tensor, other: Tensor, asked: Tensor) -> Relation | None:
    """An affine map of each sample, its numbers in any order; at least half of the samples must show it."""
    x, y = source.flatten(1), other.flatten(1)
    n, size = x.shape
    varied = torch.tensor([len(torch.unique(row)) > max(8, size // 64) for row in x])
    if size < 12 or int(varied.sum()) * 2 < n:
        return None
    x, (sorted_x, order_x) = _standard(x), _standard(x).sort(1)
    found, index, how = torch.zeros(n, dtype=torch.bool), torch.full((n, size), -1), ""
    for sign in (1.0, -1.0):
        z = sign * _standard(y)
        sorted_y, order_y = z.sort(1)
        apart = torch.stack([(row - sorted_y).abs().amax(-1) for row in sorted_x])
        same = (sorted_x - sorted_y).abs().amax(-1) < _EXACT
        # Rows that are all made of the same numbers, as ranks or times are, hold nothing of each other.
        alike = (apart < _EXACT).sum(1) > n // 2 if n > 1 else torch.zeros(n, dtype=torch.bool)
        new = same & varied & ~alike & ~found
        for b in new.nonzero()[:, 0].tolist():
            names = _maps(source.shape[1:]) if source.shape == other.shape else ()
            for name, places in names:
                if bool(((x[b] - z[b][places.flatten()]).abs() < _EXACT).all()):
                    how, index[b] = how or name, places.flatten()
                    break
            else:
                how = how or "in another order"
                index[b, order_x[b]] = order_y[b]
        found |= new
    if int(found.sum()) * 2 < n:
        return None
    return Relation(f"its values up to a scale and an offset{f', {how}' if how else ''}", index)


def _smaller(source: Tensor, other: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Large images by the means of blocks, of which what is asked for whole is asked."""
    if source.shape != other.shape or source.dim() != 4:
        return source, other, asked
    rows, columns = source.shape[2:]
    width = next((k for k in range(1, 9) if max(rows, columns) <= 64 * k and rows % k == columns % k == 0), 1)
    whole = -F.max_pool2d(-asked.double(), width)
    if width == 1 or not bool(whole.any()):
        return source, other, asked
    return F.avg_pool2d(source, width), F.avg_pool2d(other, width), whole > 0


def _correlated(source: Tensor, other: Tensor, asked: Tensor, maps: list[tuple[str, Tensor]]) -> Relation | None:
    """A correlation over what is asked for that the samples of other rows do not have.

    ``maps`` are those of the samples as they came, of which these may be the means of blocks.
    """
    n, shape = len(source), source.shape[1:]
    if other.shape != source.shape:
        if other.dim() != source.dim() or other.shape[1] != source.shape[1] or not 4 <= source.dim() <= 5:
            return None
        sized = F.interpolate(other, size=tuple(shape[1:]), mode="bilinear" if source.dim() == 4 else "trilinear")
        alike = _correlated(*_smaller(source, sized, asked), maps)
        return Relation(f"{alike.how}, at another size") if alike else None
    best, relation = 0.0, None  # type: float, Relation | None
    for (name, there), (_, places) in zip(maps, _maps(shape), strict=True):
        laid = other.flatten(1)[:, places.flatten()].view(source.shape)
        found = _correlation(source, laid, asked, max(best, _WEAK))
        if found is None:
            continue
        own, others, near = found
        # A copy with noise agrees in place alone; a series that goes on as it was agrees with places near by as well.
        strong = own >= _STRONG or source.dim() > 3 or own >= 2 * near
        if strong and own > others + 0.25:
            best = own
            how = f"a correlation of {own:.2f}{f', {name}' if name else ''}, and of {others:.2f} with other samples"
            relation = Relation(how, there.flatten().expand(n, -1))
    return relation or _moved(source, other, asked)


def _correlation(source: Tensor, other: Tensor, asked: Tensor, least: float) -> tuple[float, float, float] | None:
    """Of what is asked for: with its own sample, the largest with other samples, and that of what is left with its
    neighbour; None if the first is not above ``least``, or may be chance."""
    n, axes = len(source), tuple(axis + 1 for axis in spatial_axes(source))
    # Of a row of few numbers, as of a table, the mean says as much as they do.
    few = source.dim() == 2 and n > 3 and int(asked.sum()) < 16 * n

    def standard(t: Tensor) -> Tensor:
        t = torch.where(asked, t, torch.nan)
        if few:
            return (t - t.nanmean(0, keepdim=True)) / (t - t.nanmean(0, keepdim=True)).square().nanmean(0).sqrt()
        t = t - t.nanmean(axes, keepdim=True)
        t = t / t.square().nanmean(axes, keepdim=True).sqrt().clamp_min(1e-12)
        return t - t.nanmean(0, keepdim=True) if n > 3 else t

    def correlation(a: Tensor, b: Tensor) -> float:
        both = a.isfinite() & b.isfinite()
        a, b = a[both], b[both]
        size = float(a.norm() * b.norm())
        return float((a * b).sum()) / size if size > 1e-9 * max(1, len(a)) else 0.0

    a, b = standard(source), standard(other)
    own = correlation(a, b)
    if abs(own) <= max(least, 4 / (int(asked.sum()) / 2) ** 0.5):
        return None
    sign = 1 if own > 0 else -1
    others = max((sign * correlation(a, b.roll(k, 0)) for k in range(1, min(n, 9))), default=0.0)
    rest, near = b - own * a, 0.0
    for axis in axes:
        length = source.shape[axis] - 1
        if length > 1:
            near = max(near, correlation(rest.narrow(axis, 0, length), rest.narrow(axis, 1, length)))
    return abs(own), max(others, 0.0), near


def _moved(source: Tensor, other: Tensor, asked: Tensor) -> Relation | None:
    """An image that was moved, or cropped a little: the largest correlation over all shifts, sample by sample."""
    n = len(source)
    if source.dim() != 4 or n < 4 or min(source.shape[-2:]) < 8:
        return None

    def transformed(t: Tensor, where: Tensor) -> Tensor:
        t = torch.where(where, t - t.mean((-1, -2), keepdim=True), 0)
        spectrum: Tensor = torch.fft.rfft2(t)
        return spectrum

    a, everywhere = transformed(source, asked), torch.ones_like(asked)
    size = source.shape[-2:]
    for name, places in _maps(source.shape[1:]):
        laid = other.flatten(1)[:, places.flatten()].view(source.shape)
        b = transformed(laid, everywhere)
        power = a[:, None] * b[None].conj()
        # Half whitened: edges tell images apart, slow shades do not, and noise is not to drown them.
        cross = torch.fft.irfft2((power / power.abs().clamp_min(1e-12).sqrt()).sum(2), s=size).abs()
        peak = cross.flatten(2).amax(-1) / cross.flatten(2).norm(dim=-1).clamp_min(1e-12)
        own, others = peak.diagonal(), peak.clone().fill_diagonal_(0).amax(1)
        if int((own > 1.5 * others).sum()) * 4 >= 3 * len(own):
            moved = f"moved{f' and {name}' if name else ''}"
            ratio = float((own / others).median())
            return Relation(f"{moved}, an agreement {ratio:.1f} times that of other samples")
    return None
