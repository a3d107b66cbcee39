"""Masked sums: `masked_loss`, and the reconstruction and representation losses made of it."""

from collections.abc import Callable, Mapping
from typing import Any

from viewproof.theorems.lists.engine import PROGRAM, Claim, Use, mutant, theorem
from viewproof.theorems.lists.kinds import Function, Indices, Opaque, every, prepend
from viewproof.theorems.lists.reference import JEPA, MAE
from viewproof.theorems.lists.sequences import SymList
from viewproof.theorems.lists.terms import REAL, TOKEN
from viewproof.theorems.registry import Mutant, Theorem

MASKED = {"idxs": Indices, "loss": Function(TOKEN, REAL)}
Loss = Callable[[Any, Any, Any], Any]


def _masked(p: Any, idxs: Any, w: Any) -> Any:
    return p.masked_loss(idxs, w.loss)


def _mae(p: Any, idxs: Any, w: Any) -> Any:
    return p.mae_loss(idxs, w.target, w.pred, w.patch_loss)


def _jepa(p: Any, idxs: Any, w: Any) -> Any:
    return p.jepa_loss(idxs, w.context, w.target, w.predict, w.rep_loss)


def _starts_at_one(name: str) -> Mutant:
    real = getattr(PROGRAM, name)
    return mutant("starts_at_one", "the sum starts at 1", **{name: lambda *arguments: 1 + real(*arguments)})


def _skips_first(name: str) -> Mutant:
    real = getattr(PROGRAM, name)
    return mutant("skips_first", "the first entry is left out", **{name: lambda idxs, *rest: real(idxs[1:], *rest)})


def _first_counts_double(name: str) -> Mutant:
    real = getattr(PROGRAM, name)
    return mutant(
        "first_counts_double", "the sum starts at the first entry", **{name: lambda idxs, *r: real(idxs[:1] + idxs, *r)}
    )


def list_laws(name: str, inputs: Mapping[str, Any], loss: Loss) -> tuple[Theorem, Theorem, Theorem]:
    """What every sum over a list satisfies: nil, append, reverse."""
    nil = Claim(
        f"{name}_nil", {k: v for k, v in inputs.items() if k != "idxs"}, lambda p, w: (True, loss(p, [], w) == 0)
    )
    append = Claim(
        f"{name}_append",
        {**inputs, "more": Indices},
        lambda p, w: (True, loss(p, w.idxs + w.more, w) == loss(p, w.idxs, w) + loss(p, w.more, w)),
        on="idxs",
    )
    last = Use(append, lambda w, head: {"idxs": w.idxs[::-1], "more": SymList.of([head], TOKEN)})
    reverse = Claim(
        f"{name}_reverse",
        inputs,
        lambda p, w: (True, loss(p, w.idxs[::-1], w) == loss(p, w.idxs, w)),
        on="idxs",
        uses=(last,),
    )
    return (
        theorem(nil, f"{name} of the empty list is 0.", _starts_at_one(name)),
        theorem(
            append, f"{name} of two lists joined is the sum of their losses.", _starts_at_one(name), _skips_first(name)
        ),
        theorem(
            reverse,
            f"{name} does not depend on the order being reversed.",
            _skips_first(name),
            _first_counts_double(name),
        ),
    )


_CONS = Claim(
    "masked_loss_cons",
    {**MASKED, "i": Opaque},
    lambda p, w: (True, _masked(p, prepend(w.i, w.idxs), w) == w.loss(w.i) + _masked(p, w.idxs, w)),
)
_ALL_ZERO = Claim(
    "masked_loss_eq_zero_of_all_zero",
    MASKED,
    lambda p, w: (every(w.idxs, lambda i: w.loss(i) == 0), _masked(p, w.idxs, w) == 0),
    on="idxs",
)
_PATCHES_ZERO = Claim(
    "mae_loss_eq_zero_of_patch_losses_zero",
    MAE,
    lambda p, w: (every(w.idxs, lambda i: w.patch_loss(w.target(i), w.pred(i)) == 0), _mae(p, w.idxs, w) == 0),
    on="idxs",
)
_EXACT = Claim(
    "exact_reconstruction_identity",
    {key: kind for key, kind in MAE.items() if key != "pred"},
    lambda p, w: (
        every(w.idxs, lambda i: w.patch_loss(w.target(i), w.target(i)) == 0),
        p.mae_loss(w.idxs, w.target, w.target, w.patch_loss) == 0,
    ),
    on="idxs",
)
_TARGET_EXT = Claim(
    "jepa_loss_target_ext",
    {**JEPA, "other": Function(TOKEN, TOKEN)},
    lambda p, w: (
        every(w.idxs, lambda i: w.target(i) == w.other(i)),
        _jepa(p, w.idxs, w) == p.jepa_loss(w.idxs, w.context, w.other, w.predict, w.rep_loss),
    ),
    on="idxs",
)
_SWAPPED = mutant(
    "swapped_arguments",
    "the patch loss gets (prediction, target)",
    mae_loss=lambda idxs, target, pred, loss: PROGRAM.mae_loss(idxs, pred, target, loss),
)
_STALE_TARGET = mutant(
    "stale_target",
    "every prediction is compared with the first index's target",
    mae_loss=lambda idxs, target, pred, loss: sum(loss(target(idxs[0]), pred(i)) for i in idxs),
)
_TARGET_OF_CONTEXT = mutant(
    "target_of_context",
    "the target is read at the context",
    jepa_loss=lambda idxs, context, target, predict, loss: sum(
        loss(target(context), predict(context, i)) for i in idxs
    ),
)

THEOREMS: tuple[Theorem, ...] = (
    *list_laws("masked_loss", MASKED, _masked),
    theorem(_CONS, "masked_loss of i :: rest is the loss at i plus that of rest.", _skips_first("masked_loss")),
    theorem(
        _ALL_ZERO,
        "masked_loss is 0 if the loss is 0 at every index of the list.",
        _starts_at_one("masked_loss"),
        given=("the loss is 0 at every index of the list",),
    ),
    *list_laws("mae_loss", MAE, _mae),
    theorem(
        _PATCHES_ZERO,
        "mae_loss is 0 if every listed patch's loss is 0.",
        _SWAPPED,
        given=("patch_loss(target(i), pred(i)) = 0 at every index of the list",),
    ),
    theorem(
        _EXACT,
        "mae_loss of predicting the target itself is 0.",
        _STALE_TARGET,
        given=("patch_loss(target(i), target(i)) = 0 at every index of the list",),
    ),
    *list_laws("jepa_loss", JEPA, _jepa),
    theorem(
        _TARGET_EXT,
        "jepa_loss depends on the target at the listed indices only.",
        _TARGET_OF_CONTEXT,
        given=("the two targets agree at every index of the list",),
    ),
)
