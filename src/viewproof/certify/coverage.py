"""Certifies what many draws of a mask cover: every coordinate, the declared counts and shares, and no other draw."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.binomial import clopper_pearson, fisher
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.draws.case import draw_of_rule
from viewproof.certify.many_draws import all_draws
from viewproof.certify.outputs import coordinate, first_true
from viewproof.certify.report import Contract, Finding, Report, Severity
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule

ERROR = 1e-6
"""The chance, at most, that anything about correct draws is REFUTED by a bound: over all claims of one report."""
_EACH = ERROR / 5


def certify_coverage(
    draw: Callable[..., Any] | Rule,
    *,
    draws: int = 4096,
    data_shape: Sequence[int] | None = None,
    never: Tensor | None = None,
    rarest: float = 0.01,
    count: int | tuple[int, int] | None = None,
    share: float | None = None,
    outcomes: Sequence[float] | None = None,
    uniform: bool = False,
    beside: Callable[..., Any] | None = None,
    seed: int = 0,
    name: str | None = None,
) -> Report:
    """What ``draws`` masks cover, with exact binomial bounds (C8).

    ``draw(ids, epoch=..., seed=...)`` returns one mask for each id, as in `certify_reproducible`; no id is asked for
    twice; a rule comes with its ``data_shape``; ``draw()`` without arguments returns one mask and may use the
    global generators, which start at ``seed`` once and are put back. A mask is a `Mask`, a bool tensor (True = hidden)
    or whole numbers: 0 visible, ``k`` hidden with the ``k``-th outcome (BERT: 1 masked, 2 random, 3 kept).

    Claims: no coordinate is always or never hidden, but those where ``never`` is True, which are never hidden; no draw
    hides all or nothing of what it may hide. If declared: each draw hides ``count`` coordinates (or from the first to
    the second number); ``share`` of those that may be hidden are; the ``outcomes`` have these shares; with ``uniform``
    all coordinates are hidden equally often; the draws of ``beside``, called as ``draw`` is, are independent of these.

    PROVED says what these draws show, and the bound that follows, never more of the distribution. By a bound a correct
    program is REFUTED with a chance of 1e-6 at most, over all claims, if its draws are independent of each other: a
    coordinate that was never (or always) hidden, only if its chance is below ``rarest``; a share, if it lies outside
    the Clopper-Pearson interval of one coordinate taken from each draw.

    >>> generator = torch.Generator().manual_seed(0)
    >>> spans = lambda: torch.arange(12) // 3 == torch.randint(1, 4, (), generator=generator)
    >>> print(certify_coverage(spans).refuted[0].witness.what)
    coordinate (0,) is never hidden in 4096 draws: its chance is below 0.45 %; 3 of 12 are never or always hidden

    Raises `InvalidArgument` for a number of draws too small to refute anything, and for shares that are no shares.
    """
    if isinstance(draws, bool) or not 1 < draws <= 10**6:
        raise InvalidArgument(f"draws={draws} must be from 2 to a million; 4096 is the default")
    for key, values in (
        ("share", [share] if share is not None else []),
        ("outcomes", outcomes or []),
        ("rarest", [rarest]),
    ):
        if not all(0 <= v <= 1 for v in values):
            raise InvalidArgument(f"{key}={list(values)} must be shares from 0 to 1")
    if outcomes is not None and abs(sum(outcomes) - 1) > 1e-6:
        raise InvalidArgument(f"outcomes={list(outcomes)} must sum to 1; give the share of each outcome")
    if isinstance(draw, Rule):
        subject = name or repr(draw)
        draw, _ = draw_of_rule(draw, data_shape)
    else:
        subject = subject_name(draw, name)
    codes, others = all_draws(draw, beside, draws, seed)
    if never is not None and never.shape != codes.shape[1:]:
        raise InvalidArgument(f"never of shape {tuple(never.shape)} must be over one mask, {tuple(codes.shape[1:])}")
    case = CoverageCase(codes, others, never, rarest, count, share, outcomes, uniform)
    return Report(subject, claims.run(subject, case), {"hidden share": case.hidden.double().mean(0)})


@dataclass(frozen=True, eq=False)
class CoverageCase:
    """The draws ``[draws, *mask]``, those of the other operation, and what is declared."""

    codes: Tensor
    others: Tensor | None
    never: Tensor | None
    rarest: float
    count: int | tuple[int, int] | None
    share: float | None
    outcomes: Sequence[float] | None
    uniform: bool

    @property
    def draws(self) -> int:
        """How many."""
        return len(self.codes)

    @cached_property
    def hidden(self) -> Tensor:
        """True = hidden."""
        return self.codes if self.codes.dtype == torch.bool else self.codes != 0

    @cached_property
    def may(self) -> Tensor:
        """The coordinates of a mask that may be hidden, flat."""
        everywhere = torch.ones(self.codes[0].numel(), dtype=torch.bool)
        return everywhere if self.never is None else ~self.never.bool().reshape(-1).cpu()

    @cached_property
    def flat(self) -> Tensor:
        """The draws ``[draws, coordinates that may be hidden]``."""
        return self.hidden.flatten(1)[:, self.may]

    def at(self, index: int) -> tuple[int, ...]:
        """The coordinate in a mask of one among those that may be hidden."""
        return coordinate(int(self.may.nonzero().reshape(-1)[index]), tuple(self.codes.shape[1:]))

    def one_of_each(self, among: Tensor) -> tuple[Tensor, Tensor]:
        """One coordinate of each draw, taken at random from those marked; which draws have any, and the index."""
        noise = torch.rand(among.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return among.any(1), torch.where(among, noise, -1.0).argmax(1)


SCOPE = f"over {{case.draws}} draws; family-wise error {ERROR:g}"
claims = Claims[CoverageCase](scope=SCOPE, method="exact binomial bounds")


@claims(Contract.C8, "no coordinate is always or never hidden")
def each_both_ways(case: CoverageCase, check: Check) -> Finding:
    """Of those that may be hidden; the others never are."""
    if case.never is not None:
        wrong = case.hidden & case.never.bool().cpu()
        if (at := first_true(wrong)) is not None:
            return check.refuted(
                f"draw {at[0]} hides {at[1:]}, which is declared never hidden",
                {"draw": case.codes[at[0]]},
                {"hidden": at},
            )
    if case.flat.shape[1] == 0:
        return check.vacuous("no coordinate may be hidden")
    counts, n = case.flat.sum(0), case.draws
    stuck = (counts == 0) | (counts == n)
    _, upper = clopper_pearson(0, n, _EACH / case.flat.shape[1])
    if bool(stuck.any()):
        index = int(stuck.int().argmax())
        word = "never" if int(counts[index]) == 0 else "always"
        seldom = f"{'its' if word == 'never' else 'the other'} chance is below {100 * upper:.2g} %"
        what = f"coordinate {case.at(index)} is {word} hidden in {n} draws: {seldom}"
        if upper >= case.rarest:
            return check.undecided(f"{what}; more draws are needed for {100 * case.rarest:g} %")
        marked = torch.zeros(case.may.shape, dtype=torch.bool)
        marked[case.may.nonzero().reshape(-1)[stuck]] = True
        what += f"; {int(stuck.sum())} of {len(stuck)} are never or always hidden"
        return check.refuted(
            what, {"draws": n}, {"coordinate": case.at(index)}, {"wrong": marked.reshape(case.codes.shape[1:])}
        )
    least, most = int(counts.argmin()), int(counts.argmax())
    return check.proved(f"least often {_seen(case, least)}, most often {_seen(case, most)}")


def _seen(case: CoverageCase, index: int) -> str:
    count = int(case.flat[:, index].sum())
    low, high = clopper_pearson(count, case.draws, _EACH / (2 * case.flat.shape[1]))
    return f"{case.at(index)}, {100 * count / case.draws:.3g} % [{100 * low:.3g}, {100 * high:.3g}]"


@claims(Contract.C8, "no draw hides all or nothing of what it may hide", method="counted", severity=Severity.ROBUSTNESS)
def some_of_each(case: CoverageCase, check: Check) -> Finding:
    """A sample that is hidden fully, or not at all, has nothing to predict from, or nothing to predict."""
    numbers, width = case.flat.sum(1), case.flat.shape[1]
    whole = {"nothing": numbers == 0, "everything": numbers == width}
    for word, rows in whole.items():
        if bool(rows.any()):
            low, high = clopper_pearson(int(rows.sum()), case.draws, _EACH)
            what = f"draw {int(rows.int().argmax())} hides {word}; {int(rows.sum())} of {case.draws} do"
            return check.refuted(
                f"{what}, {100 * low:.3g} to {100 * high:.3g} %", {"draw": case.codes[int(rows.int().argmax())]}
            )
    _, upper = clopper_pearson(0, case.draws, _EACH)
    return check.proved(f"the chance of one is below {100 * upper:.2g} %")


@claims(Contract.C8, "each draw hides the declared number", method="counted")
def declared_count(case: CoverageCase, check: Check) -> Finding | None:
    """Draw by draw; no statistics."""
    if case.count is None:
        return None
    low, high = (case.count, case.count) if isinstance(case.count, int) else case.count
    numbers = case.hidden.flatten(1).sum(1)
    wrong = (numbers < low) | (numbers > high)
    if bool(wrong.any()):
        draw = int(wrong.int().argmax())
        declared = f"{low}" if low == high else f"{low} to {high}"
        what = f"draw {draw} hides {int(numbers[draw])} of {case.codes[0].numel()} coordinates, declared are {declared}"
        return check.refuted(
            f"{what}; {int(wrong.sum())} of {case.draws} are off", {"draw": case.codes[draw]}, {"draw": (draw,)}
        )
    return check.proved()


@claims(Contract.C8, "the hidden share is compatible with the declared one")
def declared_share(case: CoverageCase, check: Check) -> Finding | None:
    """One coordinate that may be hidden is taken from each draw: hidden or not."""
    if case.share is None:
        return None
    if case.flat.shape[1] == 0:
        return check.vacuous("no coordinate may be hidden")
    chosen = torch.randint(case.flat.shape[1], (case.draws, 1), generator=torch.Generator().manual_seed(1))
    count = int(case.flat.gather(1, chosen).sum())
    low, high = clopper_pearson(count, case.draws, _EACH)
    # If each draw hides one and the same number there is nothing random about the share.
    numbers, width = case.flat.sum(1), case.flat.shape[1]
    if bool((numbers == numbers[0]).all()):
        nearest = {math.floor(case.share * width), math.ceil(case.share * width)}
        if int(numbers[0]) not in nearest:
            what = (
                f"each draw hides {int(numbers[0])} of {width}, a share of {case.share:g} is {case.share * width:.4g}"
            )
            return check.refuted(what, {"share": case.share}, method="counted")
    interval = f"from {100 * low:.3g} to {100 * high:.3g} %"
    if not low <= case.share <= high:
        return check.refuted(
            f"the hidden share is {interval}, declared is {100 * case.share:.3g} %", {"share": case.share}
        )
    return check.proved(interval)


@claims(Contract.C8, "the outcomes' shares are compatible with the declared ones")
def declared_outcomes(case: CoverageCase, check: Check) -> Finding | None:
    """One hidden coordinate is taken from each draw that hides any: which outcome has it?"""
    if case.outcomes is None:
        return None
    if case.codes.dtype == torch.bool:
        return check.unknown("the draws are truth values; return whole numbers, k for the k-th outcome")
    some, chosen = case.one_of_each(case.flat)
    codes = case.codes.flatten(1)[:, case.may].gather(1, chosen[:, None])[some, 0]
    if not len(codes):
        return check.vacuous("no draw hides anything")
    texts = []
    for k, declared in enumerate(case.outcomes, 1):
        count = int((codes == k).sum())
        low, high = clopper_pearson(count, len(codes), _EACH / len(case.outcomes))
        texts.append(f"outcome {k}: from {100 * low:.3g} to {100 * high:.3g} %")
        if not low <= declared <= high:
            return check.refuted(
                f"{texts[-1]}, declared is {100 * declared:.3g} %",
                {"outcomes": tuple(case.outcomes), "counts": codes.bincount()},
            )
    if int(codes.max()) > len(case.outcomes):
        return check.refuted(
            f"there is an outcome {int(codes.max())}, {len(case.outcomes)} are declared", {"counts": codes.bincount()}
        )
    return check.proved("; ".join(texts))


@claims(Contract.C8, "the coordinates' hidden shares are compatible with equal ones")
def equally_often(case: CoverageCase, check: Check) -> Finding | None:
    """The intervals of the coordinate hidden least often and of that hidden most often have to meet."""
    if not case.uniform:
        return None
    counts, width = case.flat.sum(0), case.flat.shape[1]
    if width < 2:
        return check.vacuous("there are no two coordinates that may be hidden")
    least, most = int(counts.argmin()), int(counts.argmax())
    # Of equal chances all intervals hold the one that is common to them.
    _, high = clopper_pearson(int(counts[least]), case.draws, _EACH / width)
    low, _ = clopper_pearson(int(counts[most]), case.draws, _EACH / width)
    what = f"{_seen(case, most)} is hidden most often, {_seen(case, least)} least"
    if high < low:
        rates = torch.zeros(case.may.shape, dtype=torch.float64)
        rates[case.may] = counts.double() / case.draws
        return check.refuted(
            what,
            {"draws": case.draws},
            {"most": case.at(most), "least": case.at(least)},
            {"hidden share": rates.reshape(case.codes.shape[1:])},
        )
    return check.proved(what)


@claims(
    Contract.C8, "the draws are compatible with independence of the other operation's", method="Fisher's exact test"
)
def independent_draws(case: CoverageCase, check: Check) -> Finding | None:
    """Each coordinate of one against each of the other, above or below its median; the most striking pair counts."""
    if case.others is None:
        return None
    a, b = (_halves(t) for t in (case.hidden, case.others))
    n, pairs = case.draws, a.shape[1] * b.shape[1]
    both, ones, others = a.T @ b, a.sum(0)[:, None], b.sum(0)[None]
    spread = (ones * (n - ones) * others * (n - others)).clamp_min(1.0).sqrt()
    striking = int(((both * n - ones * others).abs() / spread).argmax())
    i, j = divmod(striking, b.shape[1])
    margins = int(ones[i, 0]), int(others[0, j])
    if min(margins) == 0 or max(margins) == n:
        return check.vacuous("one of the two never changes")
    chance = min(1.0, pairs * fisher(int(both[i, j]), *margins, n))
    first, second = coordinate(i, tuple(case.hidden.shape[1:])), coordinate(j, tuple(case.others.shape[1:]))
    together = f"go together in {_agree(a[:, i], b[:, j])} of {n} draws"
    what = f"coordinate {list(first)} and the other operation's {list(second)} {together}"
    if chance < _EACH:
        return check.refuted(
            f"{what}: of independent ones the chance is below {_EACH:.0e}",
            {"draws": n},
            {"one": first, "other": second},
        )
    return check.proved(f"the most striking of {pairs} pairs: {what}")


def _halves(values: Tensor) -> Tensor:
    """Each coordinate as 0 or 1: whether it is above its median, or at it if nothing is above: [draws, coordinates]."""
    flat = values.flatten(1).double()
    middle = flat.median(0).values
    above = flat > middle
    return torch.where(above.any(0), above, flat >= middle).double()


def _agree(a: Tensor, b: Tensor) -> int:
    same = int((a == b).sum())
    return max(same, len(a) - same)
