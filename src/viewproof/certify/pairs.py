"""Certifies that the rows which a loss takes for a pair are two views of one sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.certify.check import Check, Claims, failure, subject_name
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.flow.isolation import isolated
from viewproof.certify.inputs import other_contents
from viewproof.certify.outputs import tensors_by_path, unequal, value_and_gradient
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument

# Content whose change shows that an output reads it.
_TRIES = 4


def certify_pairs(
    views: Callable[[Tensor], Any],
    x: Tensor,
    *,
    loss: Callable[..., Tensor] | None = None,
    positives: Sequence[int] | Tensor | None = None,
    name: str | None = None,
) -> Report:
    """Whether the rows that a loss takes for a pair are views of one sample (C3).

    ``views(x)`` of ``x: [N, ...]`` returns two tensors ``[N, ...]``, row ``i`` of both from one sample, or one tensor
    ``[M, ...]`` with ``positives[i]`` the row that belongs to row ``i``; two tensors count as rows ``0 ... N-1`` and
    ``N ... 2N-1``. Each row must follow one sample alone, and the rows of a pair the same one; rows of two views must
    not be the same computation of it. ``loss`` is called as ``loss(a, b)``, or ``loss(rows)`` where ``views`` returns
    one tensor, with embeddings for rows: each row must be drawn to its partner and to no other.

    PROVED about the views: dependence was tracked through every operator, and each row was seen to follow its sample.
    About the loss: on orthogonal embeddings.

    >>> x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    >>> certify_pairs(lambda x: (x + 1, 2 * x), x).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> print(certify_pairs(lambda x: (x, x.roll(1, 0)), x).refuted[0].witness.what)
    row 0 comes from sample 0, and its partner, row 4, from sample 3
    """
    if not isinstance(x, Tensor) or x.dim() < 1 or len(x) < 2:
        raise InvalidArgument("x must be a batch [N, ...] of at least two samples")
    subject = subject_name(views, name)
    case = PairCase(views, x.detach(), loss, None if positives is None else torch.as_tensor(positives).tolist())
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class Reads:
    """For each tensor of an output: what may depend on a part of the input, and what was seen to change with it."""

    may: dict[str, Tensor]
    does: dict[str, Tensor]
    changed: Tensor
    unknown: str


def reads_of(function: Callable[..., Any], inputs: Mapping[str, Tensor], key: str, where: Tensor) -> Reads:
    """The dependence of a function's outputs on one input where ``where``, tracked and by runs."""

    def run(x: Tensor) -> dict[str, Tensor]:
        with isolated(function), torch.enable_grad():
            return {p: t.detach().clone() for p, t in tensors_by_path(function({**inputs, key: x.clone()}))}

    tracked, x = Dependence(finite=True), inputs[key].clone()
    with isolated(function), torch.enable_grad(), tracked:
        tracked.tag(x, where)
        out = dict(tensors_by_path(function({**inputs, key: x})))
    may = {path: tracked.of(t) for path, t in out.items()}
    base, changed = run(inputs[key]), inputs[key]
    does = {path: torch.zeros(t.shape, dtype=torch.bool) for path, t in base.items()}
    finite = (o for o in other_contents(inputs[key]) if not o.is_floating_point() or bool(o.isfinite().all()))
    for _, other in zip(range(_TRIES), finite, strict=False):
        tried = torch.where(where, other, inputs[key])
        for path, t in run(tried).items():
            if path in does and t.shape == does[path].shape:
                moved = unequal(t, base[path])
                if bool((moved & ~does[path]).any()):
                    does[path], changed = does[path] | moved, tried
    return Reads(may, does, changed, tracked.escaped or "; ".join(list(tracked.unknown)[:3]))


@dataclass(frozen=True, eq=False)
class PairCase:
    """Two views of a batch, and which rows belong together."""

    views: Callable[[Tensor], Any]
    x: Tensor
    loss: Callable[..., Tensor] | None
    declared: list[int] | None

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of what the views return: one tensor or two."""
        with isolated(self.views), torch.enable_grad():
            shapes = [tuple(t.shape) for _, t in tensors_by_path(self.views(self.x.clone()))]
        if not shapes or len(shapes) > 2 or (len(shapes) == 2 and shapes[0][0] != shapes[1][0]):
            raise InvalidArgument(
                f"views returned {shapes}; return two tensors of equally many rows, or one with positives="
            )
        return shapes

    @cached_property
    def partners(self) -> list[int]:
        """The row that belongs to each row."""
        rows = sum(shape[0] for shape in self.shapes)
        if self.declared is None:
            if len(self.shapes) == 1:
                raise InvalidArgument("positives=None must name the partner of each row where views returns one tensor")
            return [*range(rows // 2, rows), *range(rows // 2)]
        if len(self.declared) != rows or not all(0 <= p < rows for p in self.declared):
            raise InvalidArgument(f"positives={self.declared} must name one of {rows} rows for each row")
        return self.declared

    @cached_property
    def samples(self) -> tuple[Tensor, Tensor, str]:
        """[rows, samples]: whether a row may follow a sample, and was seen to; what the tracker cannot say."""
        may, does, unknown = list[Tensor](), list[Tensor](), ""
        for sample in range(len(self.x)):
            where = torch.zeros(self.x.shape, dtype=torch.bool)
            where[sample] = True
            reads = reads_of(lambda inputs: self.views(inputs["x"]), {"x": self.x}, "x", where)
            for table, part in ((may, reads.may), (does, reads.does)):
                table.append(torch.cat([t.flatten(1).any(1).cpu() for t in part.values()]))
            unknown = unknown or reads.unknown
        return torch.stack(may, 1), torch.stack(does, 1), unknown


claims = Claims[PairCase](scope="this batch, all finite values", method="dependence tracked, and runs that differ")


@claims(Contract.C3, "the rows of a pair come from one sample")
def one_sample(case: PairCase, check: Check) -> Finding:
    """Each row follows one sample, and its partner the same."""
    partners, (may, does, unknown) = case.partners, case.samples
    inputs = {"x": case.x}
    for row, partner in enumerate(partners):
        own, other = (does[r].nonzero().reshape(-1).tolist() for r in (row, partner))
        if len(own) > 1:
            return check.refuted(f"row {row} changes with samples {own[0]} and {own[1]}", inputs, {"row": (row,)})
        if row == partner:
            return check.refuted(f"row {row} is its own partner", inputs, {"row": (row,)})
        if own and other and own != other:
            what = f"row {row} comes from sample {own[0]}, and its partner, row {partner}, from sample {other[0]}"
            return check.refuted(what, inputs, {"row": (row,), "partner": (partner,)})
        if not own:
            return check.undecided(f"row {row} was not seen to change with any sample")
    if bool((may & ~does).any()):
        row, sample = (may & ~does).nonzero()[0].tolist()
        reason = f": {unknown}" if unknown else ""
        return check.undecided(f"row {row} may follow sample {sample} too{reason}")
    return check.proved(f"{len(partners)} rows")


@claims(Contract.C3, "the two views of a pair are not the same", scope="this batch", method="compared")
def different_views(case: PairCase, check: Check) -> Finding | None:
    """The same tensor twice is no pair of views: nothing is learnt from it."""
    shapes = case.shapes
    if len({shape[1:] for shape in shapes}) > 1:
        return None
    with isolated(case.views), torch.enable_grad():
        rows = torch.cat([t for _, t in tensors_by_path(case.views(case.x.clone()))])
    same = [i for i, p in enumerate(case.partners) if torch.equal(rows[i], rows[p])]
    if len(same) == len(rows):
        what = f"row {same[0]} and its partner {case.partners[same[0]]} are equal; so are all {len(rows)} rows"
        return check.refuted(what, {"x": case.x}, {"row": (same[0],)})
    return check.proved(f"{len(same)} of {len(rows)} rows equal their partner" if same else "")


@claims(
    Contract.C3,
    "the loss draws each row to its partner alone",
    scope="orthogonal embeddings",
    method="gradients compared",
)
def drawn_together(case: PairCase, check: Check) -> Finding | None:
    """Of orthogonal embeddings, towards which others does a row move that follows its gradient?"""
    loss = case.loss
    if loss is None:
        return None
    partners = case.partners
    rows = len(partners)
    embeddings = torch.eye(rows, dtype=torch.float64) + 0.01 * torch.randn(
        rows, rows, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    embeddings = F.normalize(embeddings)

    def value(leaf: Tensor) -> Tensor:
        with isolated(loss):
            return loss(leaf) if len(case.shapes) == 1 else loss(leaf[: rows // 2], leaf[rows // 2 :])

    try:
        _, gradient = value_and_gradient(value, embeddings)
    except Exception as error:
        return check.unknown(failure("the loss", error))
    if not bool(gradient.isfinite().all()):
        return check.unknown("the gradient on orthogonal embeddings is not finite")
    if not bool((gradient != 0).any()):
        return check.vacuous("the loss has no gradient on orthogonal embeddings")
    # How far a step against the gradient goes towards each other row.
    pull, undecided = -gradient @ embeddings.T, ""
    pull.fill_diagonal_(0.0)
    for row, partner in enumerate(partners):
        # A loss that stops the gradient of one side draws from the other side alone.
        if not bool((gradient[row] != 0).any()):
            if not bool((gradient[partner] != 0).any()):
                undecided = f"neither row {row} nor its partner {partner} has a gradient"
            continue
        wrong = pull[row].clone()
        wrong[[row, partner]] = 0.0
        other, towards = float(wrong.max()), float(pull[row, partner])
        if other > 2 * max(towards, 0.0):
            at = int(wrong.argmax())
            what = f"row {row} is drawn to row {at}; its partner is row {partner}"
            return check.refuted(what, {"embeddings": embeddings}, {"row": (row,), "drawn to": (at,)}, {"pull": pull})
        if towards <= 2 * other:
            undecided = f"row {row} is not drawn to its partner more than twice as much as to any other"
    return check.undecided(undecided) if undecided else check.proved()
