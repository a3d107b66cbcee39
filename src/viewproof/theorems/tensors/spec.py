"""The specification in integer arithmetic, independent of the code that is proved.

Every function takes integers or terms; ``period``, ``offset`` and widths are non-negative.
"""

from collections.abc import Sequence
from typing import Any

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, conj, floordiv, ite, mod, plus, same, times
from viewproof.symbolic.values import agree, constant


def ceil_div(a: Term, b: Term) -> Term:
    """The number of blocks of width ``b`` that ``a`` places need; a ragged last block is a block."""
    return floordiv(a + b - 1, b, positive=True)


def in_class(index: Term, period: Term, offset: Term) -> Term:
    """``period != 0`` and the index, of a feature or a block, is congruent to the offset."""
    return conj(period != 0, same(mod(index, period, positive=True), mod(offset, period, positive=True)))


def patch_index(width: Term, patch_h: Term, patch_w: Term, row: Term, col: Term) -> Term:
    """The row-major index of the patch that holds the pixel; the patch sizes are not 0."""
    in_row = floordiv(col, patch_w, positive=True)
    return floordiv(row, patch_h, positive=True) * ceil_div(width, patch_w) + in_row


def image_hidden(width: Term, patch_h: Term, patch_w: Term, period: Term, offset: Term, row: Term, col: Term) -> Term:
    """Whether the pixel is hidden."""
    index = patch_index(width, patch_h, patch_w, row, col)
    return conj(patch_h != 0, patch_w != 0, in_class(index, period, offset))


def block_hidden(
    blocks: Sequence[Term | None], extents: Sequence[Term], period: Term, offset: Term, place: Sequence[Term]
) -> Term:
    """Whether the coordinate lies in the hidden class of blocks."""
    index: Term = 0
    participating = [(k, e, i) for k, e, i in zip(blocks, extents, place, strict=True) if k is not None]
    for width, extent, i in participating:
        index = plus(times(index, ceil_div(extent, width)), floordiv(i, width, positive=True))
    widths = [k != 0 for k, _, _ in participating]
    return conj(bool(participating), *widths, in_class(index, period, offset)) if participating else False


def selected(facts: Facts, hidden: Term, x: SymTensor, place: Sequence[Term]) -> Any:
    """``+0.0`` where hidden, the very bits of ``x`` where not."""
    return ite(hidden, constant(facts, 0, x.dtype), x.at(tuple(place)))


def is_zero(facts: Facts, x: SymTensor, place: Sequence[Term]) -> Term:
    """The value is exactly ``+0.0``."""
    return agree(x.at(tuple(place)), constant(facts, 0, x.dtype), x.dtype)


def same_shape(a: Sequence[Term], b: Sequence[Term]) -> Term:
    """Equal rank and extents."""
    return len(a) == len(b) and conj(*(same(x, y) for x, y in zip(a, b, strict=True)))


def flat_index(facts: Facts, place: Sequence[Term], extents: Sequence[Term]) -> Term:
    """The row-major position of a coordinate: ``((i_0 * e_1 + i_1) * e_2 + i_2) ...``."""
    flat = place[0]
    for i, extent in zip(place[1:], extents[1:], strict=True):
        flat = facts.join(flat, extent, i)
    return flat
