"""Masked sums: `masked_loss`, and the reconstruction and representation losses made of it."""

from types import SimpleNamespace
from typing import Any, NamedTuple

from viewproof.theorems.lists import kinds
from viewproof.theorems.lists.engine import Formula, Program, mutant, theorem
from viewproof.theorems.lists.kinds import (
    Distance,
    IndexLoss,
    Indices,
    OfIndex,
    OfIndexAndValue,
    Opaque,
    World,
    assuming,
    every,
)


class MaeArguments(NamedTuple):
    """What `mae_loss` takes besides the indices."""

    target: OfIndex
    pred: OfIndex
    patch_loss: Distance


class JepaArguments(NamedTuple):
    """What `jepa_loss` takes besides the indices."""

    context: Opaque
    target: OfIndex
    predict: OfIndexAndValue
    rep_loss: Distance


SUMS = ("masked_loss", "mae_loss", "jepa_loss")
starts_at_one = mutant(
    "starts_at_one", "The sum starts at 1", (*SUMS, "variance_term"), lambda real, *rest: 1 + real(*rest)
)
skips_first = mutant(
    "skips_first", "The first entry is left out", SUMS, lambda real, idxs, *rest: real(idxs[1:], *rest)
)
first_counts_double = mutant(
    "first_counts_double",
    "The sum starts at the first entry",
    SUMS,
    lambda real, idxs, *rest: real(idxs[:1] + idxs, *rest),
)
swapped_arguments = mutant(
    "swapped_arguments",
    "The patch loss gets (prediction, target)",
    ["mae_loss"],
    lambda real, idxs, target, pred, loss: real(idxs, pred, target, loss),
)
stale_target = mutant(
    "stale_target",
    "Every prediction is compared with the first index's target",
    ["mae_loss"],
    lambda real, idxs, target, *rest: real(idxs, lambda _: target(idxs[0]), *rest),
)
target_of_context = mutant(
    "target_of_context",
    "The target is read at the context",
    ["jepa_loss"],
    lambda real, idxs, context, target, *rest: real(idxs, context, lambda _: target(context), *rest),
)


def at_its_end(w: SimpleNamespace, head: Any) -> World:
    """The reverse of ``head :: idxs`` is the reverse of ``idxs`` joined with ``[head]``."""
    return {"idxs": w.idxs[::-1], "more": [head]}


@theorem(mutants=[starts_at_one])
def masked_loss_nil(p: Program, loss: IndexLoss) -> Formula:
    """masked_loss of the empty list is 0."""
    return p.masked_loss([], loss) == 0


@theorem(induction="idxs", mutants=[starts_at_one, skips_first])
def masked_loss_append(p: Program, idxs: Indices, more: Indices, loss: IndexLoss) -> Formula:
    """masked_loss of two lists joined is the sum of their losses."""
    return p.masked_loss(idxs + more, loss) == p.masked_loss(idxs, loss) + p.masked_loss(more, loss)


@theorem(induction="idxs", uses={masked_loss_append: at_its_end}, mutants=[skips_first, first_counts_double])
def masked_loss_reverse(p: Program, idxs: Indices, loss: IndexLoss) -> Formula:
    """masked_loss does not depend on the order being reversed."""
    return p.masked_loss(idxs[::-1], loss) == p.masked_loss(idxs, loss)


@theorem(mutants=[skips_first])
def masked_loss_cons(p: Program, i: Opaque, idxs: Indices, loss: IndexLoss) -> Formula:
    """masked_loss of i :: rest is the loss at i plus that of rest."""
    return p.masked_loss(kinds.prepend(i, idxs), loss) == loss(i) + p.masked_loss(idxs, loss)


@theorem(induction="idxs", given=("the loss is 0 at every index of the list",), mutants=[starts_at_one])
def masked_loss_eq_zero_of_all_zero(p: Program, idxs: Indices, loss: IndexLoss) -> Formula:
    """masked_loss is 0 if the loss is 0 at every index of the list."""
    return assuming(every(idxs, lambda i: loss(i) == 0), then=p.masked_loss(idxs, loss) == 0)


@theorem(mutants=[starts_at_one])
def mae_loss_nil(p: Program, mae: MaeArguments) -> Formula:
    """mae_loss of the empty list is 0."""
    return p.mae_loss([], *mae) == 0


@theorem(induction="idxs", mutants=[starts_at_one, skips_first])
def mae_loss_append(p: Program, idxs: Indices, more: Indices, mae: MaeArguments) -> Formula:
    """mae_loss of two lists joined is the sum of their losses."""
    return p.mae_loss(idxs + more, *mae) == p.mae_loss(idxs, *mae) + p.mae_loss(more, *mae)


@theorem(induction="idxs", uses={mae_loss_append: at_its_end}, mutants=[skips_first, first_counts_double])
def mae_loss_reverse(p: Program, idxs: Indices, mae: MaeArguments) -> Formula:
    """mae_loss does not depend on the order being reversed."""
    return p.mae_loss(idxs[::-1], *mae) == p.mae_loss(idxs, *mae)


@theorem(
    induction="idxs",
    given=("patch_loss(target(i), pred(i)) = 0 at every index of the list",),
    mutants=[swapped_arguments],
)
def mae_loss_eq_zero_of_patch_losses_zero(p: Program, idxs: Indices, mae: MaeArguments) -> Formula:
    """mae_loss is 0 if every listed patch's loss is 0."""
    target, pred, patch_loss = mae
    return assuming(every(idxs, lambda i: patch_loss(target(i), pred(i)) == 0), then=p.mae_loss(idxs, *mae) == 0)


@theorem(
    induction="idxs", given=("patch_loss(target(i), target(i)) = 0 at every index of the list",), mutants=[stale_target]
)
def exact_reconstruction_identity(p: Program, idxs: Indices, target: OfIndex, patch_loss: Distance) -> Formula:
    """mae_loss of predicting the target itself is 0."""
    no_loss = every(idxs, lambda i: patch_loss(target(i), target(i)) == 0)
    return assuming(no_loss, then=p.mae_loss(idxs, target, target, patch_loss) == 0)


@theorem(mutants=[starts_at_one])
def jepa_loss_nil(p: Program, jepa: JepaArguments) -> Formula:
    """jepa_loss of the empty list is 0."""
    return p.jepa_loss([], *jepa) == 0


@theorem(induction="idxs", mutants=[starts_at_one, skips_first])
def jepa_loss_append(p: Program, idxs: Indices, more: Indices, jepa: JepaArguments) -> Formula:
    """jepa_loss of two lists joined is the sum of their losses."""
    return p.jepa_loss(idxs + more, *jepa) == p.jepa_loss(idxs, *jepa) + p.jepa_loss(more, *jepa)


@theorem(induction="idxs", uses={jepa_loss_append: at_its_end}, mutants=[skips_first, first_counts_double])
def jepa_loss_reverse(p: Program, idxs: Indices, jepa: JepaArguments) -> Formula:
    """jepa_loss does not depend on the order being reversed."""
    return p.jepa_loss(idxs[::-1], *jepa) == p.jepa_loss(idxs, *jepa)


@theorem(induction="idxs", given=("the two targets agree at every index of the list",), mutants=[target_of_context])
def jepa_loss_target_ext(p: Program, idxs: Indices, jepa: JepaArguments, other_target: OfIndex) -> Formula:
    """jepa_loss depends on the target at the listed indices only."""
    same_targets = every(idxs, lambda i: jepa.target(i) == other_target(i))
    return assuming(
        same_targets, then=p.jepa_loss(idxs, *jepa) == p.jepa_loss(idxs, *jepa._replace(target=other_target))
    )
