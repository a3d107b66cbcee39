"""Certifies the geometry of tokens: which source coordinates each one is made of."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.flow.trace import CONSTANT, LabelTrace
from viewproof.certify.inputs import other_contents, require_batch, spread_mask
from viewproof.certify.outputs import coordinate, first_true
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask


@puts_back
def certify_geometry(
    patchify: Callable[[Tensor], Tensor],
    example: Tensor,
    *,
    mask: Mask | Tensor | None = None,
    patch_mask: Mask | Tensor | None = None,
    unpatchify: Callable[[Tensor], Tensor] | None = None,
    positions: Tensor | None = None,
    restore: tuple[Tensor, Tensor] | None = None,
    name: str | None = None,
) -> Report:
    """Whether tokens, masks, positions and shuffles agree about places; every finding is under C5.

    ``patchify`` maps ``example: [N, *data]`` to tokens ``[N, P, ...]`` by moving data (pass what cuts the patches, not
    their embedding). Every coordinate must lie in exactly one token. Give what else you have: ``mask`` over the data
    and ``patch_mask: [P]`` (True = hidden, each with or without a batch axis) must hide the same;
    ``unpatchify(tokens)`` must be the example; ``positions: [P, d]``, numbers for the last d data axes in their order,
    must be equal where tokens lie on one row (column, ...) of the grid and grow from one to the next, in whatever unit;
    ``restore=(shuffle, ids_restore)``, index tensors ``[P]`` or ``[N, P]``: ``shuffle[ids_restore[p]] == p``.

    PROVED covers all values at the example's shape: use unequal extents, or two axes that are exchanged may look alike.
    A witness names a source coordinate and a token; UNKNOWN where patchify computes instead of moving.

    >>> import viewproof as vp
    >>> images = torch.randn(2, 3, 8, 12)
    >>> grid = torch.cartesian_prod(torch.arange(2), torch.arange(3))
    >>> certify_geometry(lambda x: vp.patchify(x, 4, 4), images, positions=grid).verdict().value
    'PROVED'
    >>> report = certify_geometry(lambda x: vp.patchify(x, 4, 4), images, positions=grid.flip(1))
    >>> report.refuted[0].witness.what
    'token 1 lies at grid row 0 of axis -2, where token 0 has position 0.0, and has position 1.0'
    """
    require_batch(example)
    if example.dim() < 2:
        raise InvalidArgument(f"example of shape {tuple(example.shape)} must be a batch [N, *data] with data axes")
    if (mask is None) != (patch_mask is None):
        raise InvalidArgument("mask and patch_mask are compared with each other; pass both or neither")
    subject, shape = subject_name(patchify, name), "x".join(map(str, example.shape))
    case = TokensCase(patchify, example.detach(), mask, patch_mask, unpatchify, positions, restore, shape)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class TokensCase:
    """The function that cuts tokens, an example, and what else is declared of the tokens."""

    patchify: Callable[[Tensor], Tensor]
    example: Tensor
    mask: Mask | Tensor | None
    patch_mask: Mask | Tensor | None
    unpatchify: Callable[[Tensor], Tensor] | None
    positions: Tensor | None
    restore: tuple[Tensor, Tensor] | None
    shape: str

    @cached_property
    def labels(self) -> Tensor:
        """The flat source index of each token coordinate, `CONSTANT` for padding."""
        tokens, labels = _labelled(self.patchify, self.example)
        if tokens.dim() < 2 or len(tokens) != len(self.example):
            raise InvalidArgument(f"patchify returned {tuple(tokens.shape)}; tokens must be [N, P, ...]")
        return labels

    @cached_property
    def owner(self) -> Tensor:
        """The token that each source coordinate lies in, -1 for none: ``[*example.shape]``."""
        labels = self.labels.reshape(*self.labels.shape[:2], -1)
        token = torch.arange(labels.shape[1]).reshape(1, -1, 1).expand(labels.shape)
        own = (labels >= 0) & (labels // self.example[0].numel() == torch.arange(len(labels)).reshape(-1, 1, 1))
        owner = torch.full((self.example.numel(),), -1)
        owner[labels[own]] = token[own]
        return owner.reshape(self.example.shape)

    def place(self, index: Tensor | int) -> tuple[int, ...]:
        """The coordinate of a flat source index."""
        return coordinate(index, tuple(self.example.shape))


def _labelled(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the function returns and where each coordinate comes from; raises if labels cannot say."""
    x = x.clone()
    with torch.no_grad(), LabelTrace(x) as trace:
        result = function(x)
    labels = trace.labels(result).cpu()
    if trace.lost is not None:
        raise InvalidArgument(trace.lost)
    if bool(((labels >= x.numel()) | (labels < CONSTANT)).any()):
        raise InvalidArgument("tokens are computed, not moved; pass the function that cuts the patches")
    other = next(other_contents(x.detach()))
    predicted = torch.where(labels >= 0, other.reshape(-1).cpu()[labels.clamp(min=0)], result.cpu())
    if bool(unlike(predicted, function(other.clone()).detach().cpu()).any()):
        raise InvalidArgument("the tokens of another input come from other places: the geometry depends on values")
    return result, labels


claims = Claims[TokensCase](
    scope="all values at {case.shape}", method="labels moved with the data", witness_scope="this input"
)


@claims(Contract.C5, "every source coordinate lies in a token of its own sample")
def _in_a_token(case: TokensCase, check: Check) -> Finding:
    missing = case.owner < 0
    if (where := first_true(missing)) is None:
        return check.proved()
    what = f"{int(missing.sum())} source coordinates are in no token of their sample, the first is {where}"
    return check.refuted(what, {"x": case.example}, {"source": where})


@claims(Contract.C5, "no source coordinate lies in two tokens, or twice in one")
def _in_one_token(case: TokensCase, check: Check) -> Finding:
    counts = torch.bincount(case.labels[case.labels >= 0], minlength=case.example.numel())
    if not bool((counts > 1).any()):
        return check.proved()
    index = int((counts > 1).int().argmax())
    copies = (case.labels == index).reshape(-1).nonzero()
    first, second = (coordinate(i, tuple(case.labels.shape)) for i in copies[:2])
    what = f"the source coordinate {case.place(index)} lies at {first} and at {second} of the tokens"
    return check.refuted(what, {"x": case.example}, {"source": case.place(index), "first": first, "second": second})


@claims(Contract.C5, "each token's coordinates are hidden exactly if the token is")
def _masks_agree(case: TokensCase, check: Check) -> Finding | None:
    if case.mask is None:
        return None
    hidden = spread_mask("mask", case.mask, case.example)
    tokens = spread_mask("patch_mask", case.patch_mask, case.labels[:, :, None].flatten(2)[..., 0])
    if all(not bool(m.any()) for m in (hidden, tokens)) or all(bool(m.all()) for m in (hidden, tokens)):
        return check.vacuous("everything is hidden, or nothing", scope=check.scope, method=check.method)
    rows = torch.arange(len(case.example)).reshape(-1, *[1] * (case.example.dim() - 1))
    wrong = (case.owner >= 0) & (hidden.cpu() != tokens.cpu()[rows, case.owner.clamp(min=0)])
    if (where := first_true(wrong)) is None:
        return check.proved()
    token, status = int(case.owner[where]), ("visible", "hidden")
    what = (
        f"{int(wrong.sum())} coordinates disagree with their token: {where} is {status[bool(hidden[where])]}, "
        f"its token {token} {status[bool(tokens[where[0], token])]}"
    )
    return check.refuted(what, {"x": case.example}, {"source": where, "token": (where[0], token)}, {"wrong": wrong})


@claims(Contract.C5, "unpatchify inverts patchify")
def _inverted(case: TokensCase, check: Check) -> Finding | None:
    if (unpatchify := case.unpatchify) is None:
        return None
    result, labels = _labelled(lambda x: unpatchify(case.patchify(x)), case.example)
    if result.shape != case.example.shape:
        shapes = f"{tuple(result.shape)}, the example {tuple(case.example.shape)}"
        return check.refuted(f"unpatchify(patchify(x)) has shape {shapes}", {"x": case.example})
    where = first_true(labels != torch.arange(case.example.numel()).reshape(labels.shape))
    if where is None:
        return check.proved()
    source = int(labels[where])
    content = f"the source coordinate {case.place(source)}" if source >= 0 else "nothing of the source"
    return check.refuted(f"unpatchify(patchify(x)) at {where} holds {content}", {"x": case.example}, {"x": where})


@claims(Contract.C5, "positions grow with the grid coordinates of their tokens, axis by axis")
def _positions_grow(case: TokensCase, check: Check) -> Finding | None:
    if (positions := case.positions) is None:
        return None
    data, tokens = case.example.dim() - 1, case.labels.shape[1]
    if positions.dim() != 2 or not 1 <= positions.shape[1] <= data:
        raise InvalidArgument(f"positions of shape {tuple(positions.shape)} must be [P, d], d at most {data}")
    if len(positions) != tokens:
        return check.refuted(f"there are {len(positions)} positions for {tokens} tokens", {"x": case.example})
    if bool((case.labels[0].reshape(tokens, -1) < 0).all(1).any()):
        return check.undecided("a token holds no source coordinate, so that it lies nowhere")
    samples = torch.arange(len(case.labels)).reshape(-1, *[1] * (case.labels.dim() - 1))
    in_sample = case.labels - samples * case.example[0].numel()
    if bool(((in_sample != in_sample[:1]) & (case.labels >= 0)).any()):
        return check.undecided("the tokens of one sample lie elsewhere than those of another")
    table, labels = positions.detach().cpu().double(), case.labels[0].reshape(tokens, -1)
    for column in range(positions.shape[1]):
        axis = column - positions.shape[1]
        # Per token, the least index along the axis of the coordinates that it holds in the first sample.
        extent, step = case.example.shape[axis], math.prod(case.example.shape[case.example.dim() + axis + 1 :])
        corner = torch.where(labels >= 0, labels // step % extent, extent).amin(1)
        order = torch.argsort(corner, stable=True)
        for one, other in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            a, b = float(table[one, column]), float(table[other, column])
            same_row = bool(corner[one] == corner[other])
            if (a == b) != same_row or (not same_row and a > b):
                row = int(torch.searchsorted(torch.unique(corner), corner[other]))
                before = "where" if same_row else "after which"
                what = (
                    f"token {other} lies at grid row {row} of axis {axis}, {before} token {one} has position {a}, "
                    f"and has position {b}"
                )
                return check.refuted(what, {"x": case.example}, {"token": (other,), "neighbour": (one,)})
    return check.proved()


@claims(Contract.C5, "ids_restore is the inverse of the shuffle", scope="these indices", method="composed")
def _restored(case: TokensCase, check: Check) -> Finding | None:
    if case.restore is None:
        return None
    shuffle, ids_restore = case.restore
    inputs = {"shuffle": shuffle, "ids_restore": ids_restore}
    there, back = (t.detach().cpu().long().reshape(-1, t.shape[-1]) for t in case.restore)
    length = there.shape[1]
    if there.shape != back.shape:
        what = f"shapes {tuple(shuffle.shape)} and {tuple(ids_restore.shape)} differ"
        return check.refuted(what, inputs)
    for which, ids in (("the shuffle", there), ("ids_restore", back)):
        wrong_row = first_true((ids.sort(1).values != torch.arange(length)).any(1))
        if wrong_row is not None:
            what = f"row {wrong_row[0]} of {which} does not hold each of 0 to {length - 1} once"
            return check.refuted(what, inputs, {"row": wrong_row})
    where = first_true(there.gather(1, back) != torch.arange(length))
    if where is None:
        return check.proved()
    row, token = where
    from_token = int(there[row, back[row, token]])
    what = f"row {row}: token {token} is restored from where the shuffle put token {from_token}"
    return check.refuted(what, inputs, {"token": where})
