"""The sources of a batch: its tensors by path, which of them carry content, and the groups of their coordinates."""

from collections.abc import Collection, Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike

# Names that say what an integer tensor is, where its values cannot.
_NO_CONTENT = ("mask", "position", "token_type", "segment", "index", "idx", "indices", "length", "label", "target")


def tensors_of(batch: Any, path: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, each with the path to it, as a user would write it."""
    if isinstance(batch, Tensor):
        yield path, batch
    elif isinstance(batch, Mapping):
        for key, value in batch.items():
            yield from tensors_of(value, f'{path}["{key}"]' if isinstance(key, str) else f"{path}[{key!r}]")
    elif isinstance(batch, list | tuple):
        for index, value in enumerate(batch):
            yield from tensors_of(value, f"{path}[{index}]")
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            yield from tensors_of(getattr(batch, field.name), f"{path}.{field.name}")


def with_tensors(batch: Any, new: Mapping[int, Tensor]) -> Any:
    """The batch with the tensors replaced whose id is a key of ``new``; containers that can be written to are."""
    if isinstance(batch, Tensor):
        return new.get(id(batch), batch)
    if isinstance(batch, MutableMapping):
        for key in list(batch):
            batch[key] = with_tensors(batch[key], new)
    elif isinstance(batch, MutableSequence):
        for index, value in enumerate(batch):
            batch[index] = with_tensors(value, new)
    elif isinstance(batch, tuple):
        parts = [with_tensors(value, new) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    elif is_dataclass(batch) and not isinstance(batch, type):
        for field in fields(batch):
            object.__setattr__(batch, field.name, with_tensors(getattr(batch, field.name), new))
    return batch


def asked_tokens(tensors: Mapping[str, Tensor]) -> str:
    """What a batch of tokens says of its own loss, in words: labels beside tokens of the same shape; "" without tokens.

    Tokens are whole numbers: no gradient reaches them, and which of them are seen and scored is not followed.
    """
    kinds = (torch.int64, torch.int32, torch.int16)
    whole = {path: tensor for path, tensor in tensors.items() if tensor.dtype in kinds and tensor.dim() > 1}
    labels = {path: t for path, t in whole.items() if "label" in path.lower() or "target" in path.lower()}
    for path, tokens in whole.items():
        for name, label in labels.items():
            if path == name or tokens.shape != label.shape or not carries_content(path, tokens):
                continue
            asked = label != -100
            shown = int((asked & (label == tokens)).sum())
            return (
                f"{path} are tokens, whose dependence is not followed; {name} asks for {int(asked.sum())} of "
                f"{asked.numel()} positions, and {shown} of these show in {path} the very token that is asked for"
            )
    paths = [path for path, tokens in whole.items() if carries_content(path, tokens)]
    return f"{paths[0]} are tokens, whose dependence is not followed" if paths else ""


def carries_content(path: str, tensor: Tensor) -> bool:
    """Whether a tensor of the batch is data: numbers, or tokens; not a mask, an index or a label."""
    if tensor.dim() < 2 or not tensor.numel() or tensor.layout != torch.strided:
        return False
    if tensor.is_floating_point() or tensor.dtype == torch.uint8:
        return not any(name in path.lower() for name in ("mask", "label"))
    if tensor.dtype not in (torch.int64, torch.int32, torch.int16) or any(n in path.lower() for n in _NO_CONTENT):
        return False
    return int(tensor.max()) > 1 or int(tensor.min()) < 0


@dataclass(frozen=True)
class Groups:
    """Groups of the coordinates of one sample: ``number`` [*shape] from 0, in a grid of the shape ``grid``."""

    number: Tensor
    grid: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many groups."""
        return prod(self.grid)

    def any_of(self, coordinates: Tensor) -> Tensor:
        """[samples, groups]: whether any coordinate of a group is True in ``coordinates`` [samples, *shape]."""
        out = torch.zeros(len(coordinates), self.count, dtype=torch.bool)
        index = self.number.reshape(-1).expand(len(coordinates), -1)
        return out.scatter_reduce(1, index, coordinates.reshape(len(coordinates), -1), "amax")

    def spread(self, groups: Tensor) -> Tensor:
        """[samples, *shape]: for each coordinate what ``groups`` [samples, groups] says of its group."""
        return groups[:, self.number]


def blocks(shape: tuple[int, ...], widths: tuple[int, ...]) -> Groups:
    """Groups of blocks, ``widths`` coordinates an axis; an axis of width 0 takes no part."""
    number, grid = torch.zeros(shape, dtype=torch.int64), []
    for axis, (extent, width) in enumerate(zip(shape, widths, strict=True)):
        if width:
            steps = torch.arange(extent) // width
            count = -(-extent // width)
            number = number * count + steps.reshape(-1, *[1] * (len(shape) - axis - 1))
            grid.append(count)
    return Groups(number, tuple(grid))


def grouped(
    source: Tensor, strides: tuple[int, ...], patterns: list[Tensor], positions: Collection[int] = ()
) -> Groups:
    """The groups of a source: by the strides of the first layer that reads it, else by the patterns' own symmetry.

    ``patterns`` are bool tensors of the source's shape; the groups are the widest blocks on which all are constant.
    ``positions`` are the lengths of target encoders' outputs: square blocks of which there are as many go first.
    """
    shape = tuple(source.shape[1:])
    axes = spatial_axes(source)
    if strides and len(strides) <= len(shape):
        axes = tuple(range(len(shape) - len(strides), len(shape)))
        return _split_if_apart(blocks(shape, _widths(shape, axes, strides)), patterns)
    for width in range(max(shape[a] for a in axes), 1, -1):
        fits = len(axes) > 1 and all(shape[a] % width == 0 for a in axes)
        if fits and prod(shape[a] // width for a in axes) in positions:
            return blocks(shape, _widths(shape, axes, (width,) * len(axes)))
    others = tuple(a + 1 for a in range(len(shape)) if a not in axes)
    flat = [p.any(others) if others else p for p in patterns]
    extents = [shape[a] for a in axes]
    chosen = []
    for axis, extent in enumerate(extents, 1):
        divisors = [d for d in range(extent, 0, -1) if extent % d == 0]
        chosen.append(next(d for d in divisors if all(_constant(p, axis, d) for p in flat)))
    # A pattern without any edge says nothing.
    usual = [next((d for d in (16, 14, 8, 7, 4, 2) if e % d == 0 and e > d), 1) for e in extents]
    usual = [1] * len(usual) if len(axes) == 1 and extents[0] <= 1024 else usual
    chosen = [1] if len(axes) == 1 and extents[0] <= 64 else chosen
    widths = tuple(u if c == e else c for c, e, u in zip(chosen, extents, usual, strict=True))
    return _split_if_apart(blocks(shape, _widths(shape, axes, widths)), patterns)


def _split_if_apart(groups: Groups, patterns: list[Tensor]) -> Groups:
    """The groups, or every coordinate as one: two patterns that share a group and no coordinate were cut too wide."""
    if len(patterns) != 2 or bool((patterns[0] & patterns[1]).any()):
        return groups
    one, other = (groups.any_of(p) for p in patterns)
    shape = tuple(groups.number.shape)
    return blocks(shape, (1,) * len(shape)) if bool((one & other).any()) else groups


def _widths(shape: tuple[int, ...], axes: tuple[int, ...], widths: tuple[int, ...]) -> tuple[int, ...]:
    by_axis = dict(zip(axes, widths, strict=True))
    return tuple(by_axis.get(a, 0) for a in range(len(shape)))


def _constant(pattern: Tensor, axis: int, width: int) -> bool:
    parts = pattern.unflatten(axis, (-1, width))  # type: ignore[no-untyped-call]
    return bool((parts.any(axis + 1) == parts.all(axis + 1)).all())


def spatial_axes(source: Tensor) -> tuple[int, ...]:
    """The axes of one sample along which groups lie: rows and columns of images, frames, tokens, features."""
    shape = source.shape[1:]
    if not source.is_floating_point() and source.dtype != torch.uint8:
        return (len(shape) - 1,)
    if len(shape) <= 1:
        return (0,)
    if len(shape) == 2:
        return (0,) if shape[0] >= 4 else (1,)
    if len(shape) == 3:
        return (0, 1) if shape[2] <= 4 < shape[0] else (1, 2)
    return (0, 2, 3) if shape[1] in (1, 3) and shape[0] not in (1, 3) else (1, 2, 3)


@dataclass(frozen=True)
class Content:
    """A source as it is found: where, what, in which groups."""

    path: str
    values: Tensor
    groups: Groups


def copied(values: Tensor, other: Tensor, asked: Tensor) -> tuple[int, Tensor]:
    """How many of the values asked for the other tensor holds as they are, and where each stands, -1 for nowhere.

    Places are flat in a sample, [samples, coordinates]. A collator may mask a copy and hand out both: what is hidden
    there where the loss asks holds one value. Else values are looked for anywhere in the same sample, as of windows
    that overlap, or of an image and its patches; they count if other samples do not hold as many.

    >>> x = torch.arange(40.0).view(2, 20)
    >>> copied(x[:, 10:], x[:, :15] + 0, torch.ones(2, 10, dtype=torch.bool))
    (10, tensor([[10, 11, 12, 13, 14, -1, -1, -1, -1, -1],
            [10, 11, 12, 13, 14, -1, -1, -1, -1, -1]]))
    """
    nowhere = torch.full(values.flatten(1).shape, -1)
    if other.dtype != values.dtype:
        return 0, nowhere
    # Backgrounds are alike in all images.
    usual = values[asked].mode().values
    if int((values[asked] == usual).sum()) > 1:
        asked = asked & (values != usual)
    if other.shape == values.shape:
        shown, where = other[asked], (other == values) & asked
        if bool(where.any()) and bool((shown != shown[0]).any()):
            place = torch.arange(nowhere.shape[1]).expand(nowhere.shape)
            return int(where.sum()), torch.where(where.flatten(1), place, -1)
    if not values.is_floating_point():
        return 0, nowhere

    def found(shift: int) -> Tensor:
        index = nowhere.clone()
        for b, (row, wanted) in enumerate(zip(values.flatten(1), asked.flatten(1), strict=True)):
            held, order = other[(b + shift) % len(other)].flatten().sort()
            at = torch.searchsorted(held, row).clamp(max=len(held) - 1)
            index[b] = torch.where((held[at] == row) & wanted, order[at], -1)
        return index

    index = found(0)
    count = int((index >= 0).sum())
    if count < max(8, 0.02 * int(asked.sum())) or (len(values) > 1 and 5 * int((found(1) >= 0).sum()) > count):
        return 0, nowhere
    return count, index


def with_noise(read: Tensor, source: Tensor) -> bool:
    """Whether a model takes other values than the source's in the place of some, and not a few constants.

    >>> x = torch.arange(9.0)
    >>> with_noise(x.masked_fill(x > 5, 0), x), with_noise(x.where(x < 5, x.flip(0)), x)
    (False, True)
    """
    if read.shape != source.shape or read.dtype != source.dtype:
        return False
    changed = read.detach()[unlike(read.detach(), source)]
    return 0 < len(changed) < read.numel() and 2 * len(torch.unique(changed)) > len(changed)
