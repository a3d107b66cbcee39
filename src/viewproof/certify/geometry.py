"""Certifies the geometry of tokens: which source coordinates each is made of, decided by labels moved with the data."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from viewproof.certify.flow.trace import CONSTANT, LabelTrace
from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import others, place, spread_mask, unlike
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask
from viewproof.verdict import Verdict

LABELS = "labels moved with the data"

LOST = "every source coordinate lies in a token of its own sample"
TWICE = "no source coordinate lies in two tokens, or twice in one"
STATUS = "each token's coordinates are hidden exactly if the token is"
INVERSE = "unpatchify inverts patchify"
POSITIONS = "positions grow with the grid coordinates of their tokens, axis by axis"
RESTORE = "ids_restore is the inverse of the shuffle"


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
    """Whether tokens, masks, positions and shuffles speak of the same places; every finding is under C5.

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
    if not isinstance(example, Tensor) or example.dim() < 2 or example.numel() == 0:
        shape = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InvalidArgument(f"example of shape {shape} must be a batch [N, *data] that is not empty")
    if (mask is None) != (patch_mask is None):
        raise InvalidArgument("mask and patch_mask are compared with each other; pass both or neither")
    subject = str(name or getattr(patchify, "__qualname__", type(patchify).__name__))
    cut = _Tokens(patchify, example.detach())
    checks: list[tuple[str, Callable[[], Finding]]] = [(LOST, lambda: _lost(cut)), (TWICE, lambda: _twice(cut))]
    if mask is not None and patch_mask is not None:
        checks.append((STATUS, lambda: _status(cut, mask, patch_mask)))
    if unpatchify is not None:
        checks.append((INVERSE, lambda: _inverse(cut, unpatchify)))
    if positions is not None:
        checks.append((POSITIONS, lambda: _positions(cut, positions)))
    if restore is not None:
        checks.append((RESTORE, lambda: _restore(*restore)))
    findings: list[Finding] = []
    for claim, check in checks:
        start = time.perf_counter()
        found = attempt(subject, Contract.C5, claim, lambda: [check()])[0]  # noqa: B023
        findings.append(replace(found, seconds=time.perf_counter() - start))
    return Report(subject, tuple(findings))


@dataclass(frozen=True, eq=False)
class _Tokens:
    patchify: Callable[[Tensor], Tensor]
    example: Tensor

    @cached_property
    def labels(self) -> Tensor:
        """The flat source index of each token coordinate, `CONSTANT` for padding."""
        tokens, labels = _labelled(self.patchify, self.example)
        if tokens.dim() < 2 or len(tokens) != len(self.example):
            raise InvalidArgument(f"patchify returned {tuple(tokens.shape)}; tokens must be [N, P, ...]")
        return labels

    @cached_property
    def owner(self) -> Tensor:
        """The token of its own sample that each source coordinate lies in, -1 for none: ``[*example.shape]``."""
        labels = self.labels.flatten(2) if self.labels.dim() > 2 else self.labels[..., None]
        token = torch.arange(labels.shape[1]).reshape(1, -1, 1).expand(labels.shape)
        owner = torch.full((self.example.numel(),), -1)
        rows = torch.arange(len(labels)).reshape(-1, 1, 1)
        own = (labels >= 0) & (labels // (self.example.numel() // len(labels)) == rows)
        owner[labels[own]] = token[own]
        return owner.reshape(self.example.shape)

    def place(self, index: Tensor | int) -> tuple[int, ...]:
        return place(int(index), self.example.shape)

    def found(self, claim: str, verdict: Verdict, detail: str = "", witness: Witness | None = None) -> Finding:
        scope = "this input" if witness else f"all values at {'x'.join(map(str, self.example.shape))}"
        return Finding(Contract.C5, claim, verdict, scope, LABELS, detail, witness)

    def refuted(self, claim: str, what: str, **coordinates: tuple[int, ...]) -> Finding:
        return self.found(claim, Verdict.REFUTED, "", Witness(what, {"x": self.example}, coordinates))


def _labelled(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """What the function returns and where each coordinate comes from; raises if that is not decided by labels."""
    x = x.clone()
    with torch.no_grad(), LabelTrace(x) as trace:
        result = function(x)
    labels = trace.labels(result).cpu()
    if trace.lost is not None:
        raise InvalidArgument(trace.lost)
    if bool(((labels >= x.numel()) | (labels < CONSTANT)).any()):
        raise InvalidArgument("tokens are computed, not moved; pass the function that cuts the patches")
    other = next(others(x.detach()))
    moved = torch.where(labels >= 0, other.reshape(-1).cpu()[labels.clamp(min=0)], result.cpu())
    if bool(unlike(moved, function(other.clone()).detach().cpu()).any()):
        raise InvalidArgument("the tokens of another input come from other places: the geometry depends on values")
    return result, labels


def _lost(cut: _Tokens) -> Finding:
    lost = cut.owner.reshape(-1) < 0
    if not bool(lost.any()):
        return cut.found(LOST, Verdict.PROVED)
    where = cut.place(lost.int().argmax())
    return cut.refuted(
        LOST,
        f"{int(lost.sum())} source coordinates are in no token of their sample, the first is {where}",
        source=where,
    )


def _twice(cut: _Tokens) -> Finding:
    held = cut.labels[cut.labels >= 0]
    counts = torch.bincount(held, minlength=cut.example.numel())
    if not bool((counts > 1).any()):
        return cut.found(TWICE, Verdict.PROVED)
    index = int((counts > 1).int().argmax())
    tokens = [place(int(i), tuple(cut.labels.shape)) for i in (cut.labels == index).reshape(-1).nonzero()[:2]]
    what = f"the source coordinate {cut.place(index)} lies at {tokens[0]} and at {tokens[1]} of the tokens"
    return cut.refuted(TWICE, what, source=cut.place(index), first=tokens[0], second=tokens[1])


def _status(cut: _Tokens, mask: Mask | Tensor, patch_mask: Mask | Tensor) -> Finding:
    hidden = spread_mask("mask", mask, cut.example)
    tokens = spread_mask("patch_mask", patch_mask, cut.labels[:, :, None].flatten(2)[..., 0])
    assert hidden is not None and tokens is not None
    if all(not bool(m.any()) for m in (hidden, tokens)) or all(bool(m.all()) for m in (hidden, tokens)):
        return cut.found(STATUS, Verdict.VACUOUS, "everything is hidden, or nothing")
    rows = torch.arange(len(cut.example)).reshape(-1, *[1] * (cut.example.dim() - 1))
    wrong = (cut.owner >= 0) & (hidden.cpu() != tokens.cpu()[rows, cut.owner.clamp(min=0)])
    if not bool(wrong.any()):
        return cut.found(STATUS, Verdict.PROVED)
    where = cut.place(wrong.reshape(-1).int().argmax())
    token, said = int(cut.owner[where]), ("visible", "hidden")
    what = (
        f"{int(wrong.sum())} coordinates disagree with their token: {where} is {said[bool(hidden[where])]}, "
        f"its token {token} {said[bool(tokens[where[0], token])]}"
    )
    witness = Witness(what, {"x": cut.example}, {"source": where, "token": (where[0], token)}, {"wrong": wrong})
    return cut.found(STATUS, Verdict.REFUTED, "", witness)


def _inverse(cut: _Tokens, unpatchify: Callable[[Tensor], Tensor]) -> Finding:
    result, labels = _labelled(lambda x: unpatchify(cut.patchify(x)), cut.example)
    if result.shape != cut.example.shape:
        shapes = f"{tuple(result.shape)}, the example {tuple(cut.example.shape)}"
        return cut.refuted(INVERSE, f"unpatchify(patchify(x)) has shape {shapes}")
    wrong = labels.reshape(-1) != torch.arange(cut.example.numel())
    if not bool(wrong.any()):
        return cut.found(INVERSE, Verdict.PROVED)
    where = cut.place(wrong.int().argmax())
    source = int(labels[where])
    held = f"the source coordinate {cut.place(source)}" if source >= 0 else "nothing of the source"
    return cut.refuted(INVERSE, f"unpatchify(patchify(x)) at {where} holds {held}", x=where)


def _positions(cut: _Tokens, positions: Tensor) -> Finding:
    data, tokens = cut.example.dim() - 1, cut.labels.shape[1]
    if positions.dim() != 2 or not 1 <= positions.shape[1] <= data:
        raise InvalidArgument(f"positions of shape {tuple(positions.shape)} must be [P, d], d at most {data}")
    if len(positions) != tokens:
        return cut.refuted(POSITIONS, f"there are {len(positions)} positions for {tokens} tokens")
    if bool((cut.labels[0].reshape(tokens, -1) < 0).all(1).any()):
        return cut.found(POSITIONS, Verdict.UNKNOWN, "a token holds no source coordinate, so that it lies nowhere")
    first = (
        cut.labels - torch.arange(len(cut.labels)).reshape(-1, *[1] * (cut.labels.dim() - 1)) * cut.example[0].numel()
    )
    if bool(((first != first[:1]) & (cut.labels >= 0)).any()):
        return cut.found(POSITIONS, Verdict.UNKNOWN, "the tokens of one sample lie elsewhere than those of another")
    table = positions.detach().cpu().double()
    for column in range(positions.shape[1]):
        axis = column - positions.shape[1]
        corner = _lower_corner(cut, axis)
        order = torch.argsort(corner, stable=True)
        for one, other in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
            a, b = float(table[one, column]), float(table[other, column])
            same_row = bool(corner[one] == corner[other])
            if (a == b) != same_row or (not same_row and a > b):
                row = int(torch.searchsorted(torch.unique(corner), corner[other]))
                before = "where" if same_row else "after which"
                what = f"token {other} lies at grid row {row} of axis {axis}, {before} token {one} has position {a}, "
                return cut.refuted(POSITIONS, f"{what}and has position {b}", token=(other,), neighbour=(one,))
    return cut.found(POSITIONS, Verdict.PROVED)


def _lower_corner(cut: _Tokens, axis: int) -> Tensor:
    """Per token, the least index along a data axis (from the end) of the coordinates it holds in the first sample."""
    extent, step = cut.example.shape[axis], 1
    for size in cut.example.shape[cut.example.dim() + axis + 1 :]:
        step *= size
    labels = cut.labels[0].reshape(cut.labels.shape[1], -1)
    return torch.where(labels >= 0, labels // step % extent, extent).amin(1)


def _restore(shuffle: Tensor, ids_restore: Tensor) -> Finding:
    claim, scope = (Contract.C5, RESTORE), "these indices"
    inputs = {"shuffle": shuffle, "ids_restore": ids_restore}
    rows = [t.detach().cpu().long().reshape(-1, t.shape[-1]) for t in (shuffle, ids_restore)]
    length = rows[0].shape[1]
    if rows[0].shape != rows[1].shape:
        witness = Witness(f"shapes {tuple(shuffle.shape)} and {tuple(ids_restore.shape)} differ", inputs)
        return Finding(*claim, Verdict.REFUTED, scope, "composed", "", witness)
    for what, ids in (("the shuffle", rows[0]), ("ids_restore", rows[1])):
        bad = (ids.sort(1).values != torch.arange(length)).any(1)
        if bool(bad.any()):
            row = int(bad.int().argmax())
            return Finding(
                *claim,
                Verdict.REFUTED,
                scope,
                "composed",
                "",
                Witness(f"row {row} of {what} does not hold each of 0 to {length - 1} once", inputs, {"row": (row,)}),
            )
    wrong = rows[0].gather(1, rows[1]) != torch.arange(length)
    if not bool(wrong.any()):
        return Finding(*claim, Verdict.PROVED, scope, "composed")
    row, token = place(int(wrong.reshape(-1).int().argmax()), tuple(wrong.shape))
    back = int(rows[0][row, rows[1][row, token]])
    what = f"row {row}: token {token} is restored from where the shuffle put token {back}"
    return Finding(*claim, Verdict.REFUTED, scope, "composed", "", Witness(what, inputs, {"token": (row, token)}))
