"""Other masks for a loss: drawn as declared, or of the structure that the example's own mask has."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.inputs import spread_mask
from viewproof.masks import Rule, Sample

Masks = Rule | Callable[[int], Any]
TRIED = 4
"""How many masks are drawn."""


def other_masks(sample: Sample, declared: Masks | None) -> Iterator[Tensor]:
    """Masks over the sample's target, batch axis first; the example's own is not among them."""
    own = sample.mask.hidden.expand(sample.y.shape)
    for number in range(TRIED):
        drawn = like_example(sample, number) if declared is None else _drawn(sample, declared, number)
        if not torch.equal(drawn, own):
            yield drawn


def _drawn(sample: Sample, declared: Masks, number: int) -> Tensor:
    if not isinstance(declared, Rule):
        return spread_mask("masks", declared(number), sample.y).clone()
    rows, shape = len(sample.y), _shape(sample)
    ids = torch.arange(rows) + rows * number
    drawn = declared.at(number).sample(torch.zeros(rows, *shape), sample_ids=ids)
    size = sample.y[0].numel()
    return drawn.mask.prefix(size).hidden.expand(rows, size).reshape(sample.y.shape).to(sample.y.device)


def _shape(sample: Sample) -> tuple[int, ...]:
    """The shape of the data that the mask was made over: the view's, where the target is that flattened."""
    view, own = sample.view, tuple(sample.y.shape[1:])
    return tuple(view.data_shape) if view is not None and math.prod(view.data_shape) == math.prod(own) else own


def block_of(sample: Sample) -> tuple[int, ...]:
    """The blocks that the example's mask is made of: along each axis the widest that no boundary cuts.

    >>> import viewproof as vp
    >>> block_of(vp.PatchMask(4, 4, period=4, offset=1).sample(torch.zeros(2, 3, 8, 12)))
    (3, 4, 4)
    """
    shape = _shape(sample)
    hidden = sample.mask.hidden.expand(sample.y.shape).reshape(len(sample.y), *shape)
    widths = []
    for axis, extent in enumerate(shape, start=1):
        changes = (hidden.narrow(axis, 1, extent - 1) != hidden.narrow(axis, 0, extent - 1)).movedim(axis, 0).flatten(1)
        places = (changes.any(1).nonzero().reshape(-1) + 1).tolist() if extent > 1 else []
        # A last block may be cut by the extent.
        widths.append(math.gcd(*places) if places else extent)
    return tuple(widths)


def like_example(sample: Sample, number: int) -> Tensor:
    """A mask of the example's blocks: in another order (even numbers), or half of them at random (odd ones).

    As many rows have a mask of their own as in the example; something is hidden, and something visible if it can be.
    """
    shape, widths = _shape(sample), block_of(sample)
    rows = len(sample.y)
    hidden = sample.mask.hidden.expand(sample.y.shape).reshape(rows, *shape)[: rows if sample.mask.per_sample else 1]
    for axis, width in enumerate(widths, start=1):
        hidden = hidden.index_select(axis, torch.arange(0, shape[axis - 1], width, device=hidden.device))
    cells = hidden.flatten(1)
    generator = torch.Generator().manual_seed(number)
    if number % 2 == 0:
        order = torch.rand(cells.shape, generator=generator).argsort(1).to(cells.device)
        cells = cells.gather(1, order)
    else:
        chosen = torch.rand(cells.shape, generator=generator) < 0.5
        first = torch.randint(cells.shape[1], (len(cells), 1), generator=generator)
        cells = (
            chosen.scatter(1, first, True)
            .scatter(1, (first + 1) % cells.shape[1], cells.shape[1] == 1)
            .to(cells.device)
        )
    hidden = cells.reshape(hidden.shape)
    for axis, width in enumerate(widths, start=1):
        hidden = hidden.repeat_interleave(width, axis).narrow(axis, 0, shape[axis - 1])
    return hidden.expand(rows, *shape).reshape(sample.y.shape)
