"""Whether draws differ by sample, epoch and seed (C8), and select as many coordinates as declared (C4)."""

import itertools

import torch
from torch import Tensor

from viewproof.bits import same_bits
from viewproof.certify.check import Check, Claims
from viewproof.certify.draws.case import AXES, DrawCase
from viewproof.certify.report import Contract, Finding

claims = Claims[DrawCase](scope="{case.scope}", method="every two compared")
counted = Claims[DrawCase](scope="{case.scope}", method="counted")


@claims(Contract.C8, "masks differ by sample")
def differ_by_sample(case: DrawCase, check: Check) -> Finding | None:
    """No two samples share their masks in every epoch and seed, and no axis is taken for another."""
    return _differ(case, check, "sample")


@claims(Contract.C8, "masks differ by epoch")
def differ_by_epoch(case: DrawCase, check: Check) -> Finding | None:
    """The same of epochs."""
    return _differ(case, check, "epoch")


@claims(Contract.C8, "masks differ by seed")
def differ_by_seed(case: DrawCase, check: Check) -> Finding | None:
    """The same of seeds."""
    return _differ(case, check, "seed")


def _differ(case: DrawCase, check: Check, axis: str) -> Finding | None:
    if axis not in case.varies:
        return None
    what = _confused(case, axis)
    if what is None:
        return check.proved()
    return check.refuted(what, {"ids": case.ids, "epochs": case.epochs, "seeds": case.seeds})


def _confused(case: DrawCase, axis: str) -> str | None:
    """Two numbers along the axis with the same masks throughout, or an axis it is mixed up with."""
    rows, _ = case.first
    # One tensor [sample, epoch, seed, *mask], to be compared along any of the three.
    whole = torch.stack([torch.stack([rows[e, s] for s in case.seeds], 1) for e in case.epochs], 1)
    numbers, own = (case.ids, case.epochs, case.seeds), AXES.index(axis)
    for i, j in itertools.combinations(range(whole.shape[own]), 2):
        if same_bits(whole.select(own, i), whole.select(own, j)):
            return f"{axis} {numbers[own][i]} and {axis} {numbers[own][j]} always have the same masks"
    for other in (o for o in range(own + 1, 3) if AXES[o] in case.varies):
        both_differ, one_differs = _equal_pairs(whole.movedim((own, other), (0, 1)))
        # Masks of few kinds coincide anywhere; here it is mostly where both change.
        if 2 * len(both_differ) >= whole.shape[own] * whole.shape[other] and len(both_differ) > 10 * one_differs:
            (a, b), (c, d) = both_differ[0]
            first, second = numbers[own], numbers[other]
            return (
                f"{axis} {first[a]} in {AXES[other]} {second[b]} always has the masks of {axis} {first[c]} in "
                f"{AXES[other]} {second[d]}, and so have {len(both_differ) - 1} other pairs: the two are mixed up"
            )
    return None


def _equal_pairs(whole: Tensor) -> tuple[list[tuple[tuple[int, int], tuple[int, int]]], int]:
    """Pairs of places that differ on both first axes with equal masks; how many differ in one."""
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for place in itertools.product(range(whole.shape[0]), range(whole.shape[1])):
        groups.setdefault(whole[place].contiguous().view(torch.uint8).numpy().tobytes(), []).append(place)
    pairs = [pair for group in groups.values() for pair in itertools.combinations(group, 2)]
    both = [(p, q) for p, q in pairs if p[0] != q[0] and p[1] != q[1]]
    return both, len(pairs) - len(both)


@counted(Contract.C4, "every mask selects {case.count}")
def counts(case: DrawCase, check: Check) -> Finding | None:
    """Every row selects exactly so many coordinates."""
    if case.count is None:
        return None
    rows, _ = case.first
    for (epoch, seed), masks in rows.items():
        for n, selected in enumerate(masks.flatten(1).bool().sum(1).tolist()):
            if selected != case.count:
                what = f"epoch {epoch}, seed {seed}, sample {case.ids[n]} selects {selected}, not {case.count}"
                inputs = {"ids": case.ids, "epoch": epoch, "seed": seed, "count": case.count}
                return check.refuted(what, inputs, {"id": (case.ids[n],)}, {"mask": masks[n]})
    return check.proved()
