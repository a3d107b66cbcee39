"""Certifies what a view writes where it hides: it is no real content, no other sentinel, and in range."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.inputs import require_batch
from viewproof.certify.outputs import first_true
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.view.case import DeclaredView, ViewOutput
from viewproof.errors import InvalidArgument

SEEDS = 32
"""How many draws of a view are looked at, for each of three contents."""


def certify_sentinels(
    view: Callable[[Tensor], Any],
    x: Tensor,
    *,
    content: range | Tensor | Sequence[float | int],
    reserved: Mapping[str, float | int] | None = None,
    size: int | nn.Embedding | None = None,
    replaced: bool = False,
    name: str | None = None,
) -> Report:
    """Whether what a view writes where it hides can be told from real content (C1), and ids stay in range (C9).

    The view is one of `certify_view`; its ``view`` or mask says where ``view(x).x``, of x's shape, is hidden.
    ``content`` are the values that real data takes: a ``range`` or list of ids, a tensor of them, or for floating-point
    data the ends ``(low, high)`` of an interval, both included. ``reserved`` names other special values, such as
    ``{"padding": 0, "class": 101}``. ``size`` is the number of ids that the embedding has, or the embedding.
    With ``replaced=True`` some hidden places may keep or get real content, as in BERT; reserved values never.

    Claims: no hidden place holds real content (``replaced``: some hold a value that is none, the same one in all
    draws); none holds a reserved value; all values are whole numbers from 0 to ``size - 1``. Contents with the smallest
    and largest declared values are tried beside the example, each in 32 draws. PROVED says what these hold.

    >>> ids = torch.randint(3, 10, (4, 12), generator=torch.Generator().manual_seed(0))
    >>> hidden = torch.arange(12) % 4 == 1
    >>> def view(ids):
    ...     return torch.where(hidden, 9, ids), ids, hidden
    >>> print(certify_sentinels(view, ids, content=range(3, 10), size=10).refuted[0].witness.what)
    9 is written at the hidden (0, 1), and is real content too

    Raises `InvalidArgument` if x is no batch, or holds what is neither declared content nor reserved.
    """
    require_batch(x)
    rows = size.num_embeddings if isinstance(size, nn.Embedding) else size
    case = SentinelCase(view, x.detach(), content, dict(reserved or {}), rows, replaced)
    stray = ~(case.real(x) | case.special(x))
    if (at := first_true(stray)) is not None:
        raise InvalidArgument(
            f"x at {at} is {x[at].item()!r}, which must be in content={content!r} or among reserved={case.reserved}"
        )
    subject = subject_name(view, name)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class SentinelCase:
    """A view, its example, and which values mean what."""

    view: Callable[[Tensor], Any]
    x: Tensor
    content: Any
    reserved: Mapping[str, float | int]
    size: int | None
    replaced: bool

    def real(self, values: Tensor) -> Tensor:
        """Where the values are real content."""
        within: Tensor
        if isinstance(self.content, range):
            first, last, step = self.content[0], self.content[-1], abs(self.content.step)
            low, high = min(first, last), max(first, last)
            within = (values >= low) & (values <= high) & ((values - low) % step == 0)
        elif isinstance(self.content, tuple) and len(self.content) == 2 and values.is_floating_point():
            within = (values >= self.content[0]) & (values <= self.content[1])
        else:
            within = torch.isin(values, torch.as_tensor(self.content).to(values))
        return within

    def special(self, values: Tensor) -> Tensor:
        """Where the values are reserved."""
        return torch.isin(values, torch.tensor(list(self.reserved.values()), dtype=values.dtype))

    @cached_property
    def ends(self) -> tuple[float, float]:
        """The smallest and the largest real value."""
        values = torch.as_tensor(list(self.content) if not isinstance(self.content, Tensor) else self.content)
        return float(values.min()), float(values.max())

    def contents(self) -> Iterator[Tensor]:
        """The example; then real content replaced by the smallest and by the largest value there is."""
        yield self.x
        for end in self.ends:
            yield torch.where(self.special(self.x), self.x, torch.full_like(self.x, end))

    @cached_property
    def draws(self) -> list[tuple[Tensor, ViewOutput, Tensor]]:
        """Each input, what the view makes of it, and where that is hidden."""
        drawn = []
        for x in self.contents():
            for seed in range(SEEDS):
                output = DeclaredView(self.view, x).run(x.clone(), seed)
                hidden = output.view if output.view is not None else output.mask
                if output.x.shape != x.shape or hidden.shape != x.shape:
                    raise InvalidArgument(
                        f"view returned x of shape {tuple(output.x.shape)} and a mask of {tuple(hidden.shape)} for "
                        f"{tuple(x.shape)}; return both of the input's shape, or the view's own mask"
                    )
                drawn.append((x, output, hidden.cpu()))
        return drawn


claims = Claims[SentinelCase](scope=f"{SEEDS} draws of each of three contents at this shape", method="values read")


@claims(Contract.C1, "what is written where it hides is no real content")
def no_content(case: SentinelCase, check: Check) -> Finding:
    """A place that is hidden cannot be told from one that is visible and holds the same."""
    written = set[float | int]()
    constant: set[float | int] | None = None
    for x, output, hidden in case.draws:
        real = case.real(output.x) & hidden
        if not case.replaced and (at := first_true(real)) is not None:
            value = output.x[at].item()
            kept = (
                "left"
                if value == x[at].item() and len({o.x[at].item() for _, o, h in case.draws if h[at]}) > 1
                else "written"
            )
            what = f"{value:.6g} is {kept} at the hidden {at}, and is real content too"
            return check.refuted(what, {"x": x}, {"hidden": at}, {"wrong": real})
        values = set(output.x[hidden & ~real].tolist())
        written |= values
        if bool(hidden.any()):
            constant = values if constant is None else constant & values
    if constant is None:
        return check.vacuous("nothing is hidden")
    if case.replaced and not constant:
        x, output, hidden = next((d for d in case.draws if not bool((~case.real(d[1].x) & d[2]).any())), case.draws[0])
        what = "no value other than real content is written where it hides"
        return check.refuted(what, {"x": x}, maps={"wrong": case.real(output.x) & hidden})
    return check.proved(f"written: {', '.join(f'{v:.6g}' for v in sorted(written)[:4])}")


@claims(Contract.C1, "what is written where it hides is no reserved value")
def not_reserved(case: SentinelCase, check: Check) -> Finding | None:
    """A mask id that is the padding's, or a random replacement drawn from special ids."""
    if not case.reserved:
        return None
    for x, output, hidden in case.draws:
        wrong = case.special(output.x) & hidden & ~case.special(x)
        if (at := first_true(wrong)) is not None:
            value = output.x[at].item()
            names = [key for key, reserved in case.reserved.items() if reserved == value]
            what = f"{value:.6g} is written at the hidden {at}, and is reserved for {names[0]}"
            return check.refuted(what, {"x": x}, {"hidden": at}, {"wrong": wrong})
        special = case.special(x) & hidden
        if (at := first_true(special)) is not None:
            return check.refuted(
                f"the reserved {x[at].item():.6g} at {at} is hidden", {"x": x}, {"hidden": at}, {"wrong": special}
            )
    return check.proved()


@claims(Contract.C9, "all ids are in the embedding's range")
def in_range(case: SentinelCase, check: Check) -> Finding | None:
    """Whole numbers from 0 to the last row."""
    if case.size is None:
        return None
    if case.x.is_floating_point():
        return check.unknown("the data are no ids")
    for x, output, _ in case.draws:
        wrong = (output.x < 0) | (output.x >= case.size)
        if (at := first_true(wrong)) is not None:
            what = f"{output.x[at].item()} at {at} is not from 0 to {case.size - 1}"
            return check.refuted(what, {"x": x}, {"id": at}, {"wrong": wrong})
    return check.proved()
