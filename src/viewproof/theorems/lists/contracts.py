"""The predictive-view contract: loss plus guard, and the methods that are instances of it."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from viewproof.theorems.lists.engine import PROGRAM, Claim, mutant, theorem
from viewproof.theorems.lists.kinds import Number
from viewproof.theorems.lists.reference import BARLOW, CONTRACT, JEPA, MAE, VICREG, contract, encoded, jepa, mae, vicreg
from viewproof.theorems.registry import Theorem


def _guarded(p: Any, w: Any) -> Any:
    return contract(p, w, w.guard)


def _replaced(p: Any, w: Any) -> Any:
    return p.with_geometry_guard(_guarded(p, w), w.new)


def _barlow(p: Any, w: Any) -> Any:
    return w.lambda_, w.diag, w.off_diag


_NEW = {**CONTRACT, "new": Number}
_CLAIMS = {
    "decomposes": Claim(
        "predictive_view_objective_decomposes",
        CONTRACT,
        lambda p, w: (True, p.predictive_view_objective(_guarded(p, w)) == p.predictive_loss(_guarded(p, w)) + w.guard),
    ),
    "zero": Claim(
        "predictive_view_objective_zero_geometry",
        CONTRACT,
        lambda p, w: (w.guard == 0, p.predictive_view_objective(_guarded(p, w)) == p.predictive_loss(_guarded(p, w))),
    ),
    "loss_with": Claim(
        "predictive_loss_with_geometry_guard",
        _NEW,
        lambda p, w: (True, p.predictive_loss(_replaced(p, w)) == p.predictive_loss(_guarded(p, w))),
    ),
    "objective_with": Claim(
        "predictive_view_objective_with_geometry_guard",
        _NEW,
        lambda p, w: (True, p.predictive_view_objective(_replaced(p, w)) == p.predictive_loss(_guarded(p, w)) + w.new),
    ),
    "mae_loss": Claim(
        "mae_is_predictive_view_loss",
        MAE,
        lambda p, w: (True, p.predictive_loss(p.mae_as_predictive_view_contract(*mae(w))) == p.mae_loss(*mae(w))),
        on="idxs",
    ),
    "mae_objective": Claim(
        "mae_is_predictive_view_objective",
        MAE,
        lambda p, w: (
            True,
            p.predictive_view_objective(p.mae_as_predictive_view_contract(*mae(w))) == p.mae_loss(*mae(w)),
        ),
        on="idxs",
    ),
    "jepa_loss": Claim(
        "jepa_is_predictive_view_loss",
        JEPA,
        lambda p, w: (True, p.predictive_loss(p.jepa_as_predictive_view_contract(*jepa(w))) == p.jepa_loss(*jepa(w))),
        on="idxs",
    ),
    "jepa_objective": Claim(
        "jepa_is_predictive_view_objective",
        JEPA,
        lambda p, w: (
            True,
            p.predictive_view_objective(p.jepa_as_predictive_view_contract(*jepa(w))) == p.jepa_loss(*jepa(w)),
        ),
        on="idxs",
    ),
    "encoded": Claim(
        "encoded_target_predictive_view_contract_loss_eq_masked_loss",
        CONTRACT,
        lambda p, w: (
            True,
            p.predictive_loss(encoded(p, w))
            == p.masked_loss(w.idxs, lambda i: w.distance(w.encoder(i, w.target(i)), w.predict(w.context, i))),
        ),
        on="idxs",
    ),
    "vicreg": Claim(
        "predictive_view_objective_with_vicreg_guard",
        {**CONTRACT, **VICREG},
        lambda p, w: (
            True,
            p.predictive_view_objective(p.with_geometry_guard(_guarded(p, w), p.VICRegGuard(*vicreg(w)).value))
            == p.predictive_loss(_guarded(p, w)) + p.vicreg_objective(*vicreg(w)),
        ),
    ),
    "barlow": Claim(
        "predictive_view_objective_with_barlow_guard",
        {**CONTRACT, **BARLOW},
        lambda p, w: (
            True,
            p.predictive_view_objective(p.with_geometry_guard(_guarded(p, w), p.BarlowGuard(*_barlow(p, w)).value))
            == p.predictive_loss(_guarded(p, w)) + p.redundancy_reduction_objective(*_barlow(p, w)),
        ),
        upto=2,
    ),
}
_real = PROGRAM
_MINUS = mutant(
    "guard_subtracted",
    "the guard's sign is wrong",
    predictive_view_objective=lambda c: _real.predictive_loss(c) - c.geometry_guard,
)
_TIMES = mutant(
    "guard_multiplies",
    "the guard weighs the loss",
    predictive_view_objective=lambda c: _real.predictive_loss(c) * c.geometry_guard,
)
_TWICE = mutant("guard_in_loss", "the loss has the guard in it", predictive_loss=_real.predictive_view_objective)
_KEPT = mutant("guard_dropped", "the new guard is dropped", with_geometry_guard=lambda c, guard: c)
_ADDED = mutant(
    "guard_added",
    "the new guard is added to the old",
    with_geometry_guard=lambda c, guard: replace(c, geometry_guard=c.geometry_guard + guard),
)
_MAE_INDEX = mutant(
    "encodes_the_index",
    "the target encoder returns the index",
    mae_as_predictive_view_contract=lambda *a: replace(
        _real.mae_as_predictive_view_contract(*a), target_encoder=lambda i, t: i
    ),
)
_MAE_GUARD = mutant(
    "guard_one",
    "the guard is 1",
    mae_as_predictive_view_contract=lambda *a: replace(_real.mae_as_predictive_view_contract(*a), geometry_guard=1),
)
_JEPA_CONTEXT = mutant(
    "predicts_from_the_index",
    "the predictor gets the index for the context",
    jepa_as_predictive_view_contract=lambda idxs, context, target, predict, loss: (
        _real.jepa_as_predictive_view_contract(idxs, context, target, lambda _, i: predict(i, i), loss)
    ),
)
_JEPA_GUARD = mutant(
    "guard_one",
    "the guard is 1",
    jepa_as_predictive_view_contract=lambda *a: replace(_real.jepa_as_predictive_view_contract(*a), geometry_guard=1),
)
_NO_ENCODER = mutant(
    "encoder_dropped",
    "the target is not encoded",
    encoded_target_predictive_view_contract=lambda idxs, context, target, encoder, *rest: (
        _real.encoded_target_predictive_view_contract(idxs, context, target, lambda _, t: t, *rest)
    ),
)
_FIRST_TARGET = mutant(
    "encoder_at_first_index",
    "the encoder is told the first index",
    encoded_target_predictive_view_contract=lambda idxs, context, target, encoder, *rest: (
        _real.encoded_target_predictive_view_contract(idxs, context, target, lambda _, t: encoder(idxs[0], t), *rest)
    ),
)
_VICREG_SWAPPED = mutant(
    "weights_swapped",
    "lambda and mu are swapped",
    VICRegGuard=lambda lambda_, mu, *rest: _real.VICRegGuard(mu, lambda_, *rest),
)
_BARLOW_SWAPPED = mutant(
    "diagonals_swapped",
    "diagonal and off-diagonal are swapped",
    BarlowGuard=lambda lambda_, diag, off: SimpleNamespace(
        value=_real.redundancy_reduction_objective(lambda_, off, diag)
    ),
)

THEOREMS: tuple[Theorem, ...] = (
    theorem(_CLAIMS["decomposes"], "The objective is the predictive loss plus the guard.", _MINUS, _TIMES),
    theorem(_CLAIMS["zero"], "With guard 0 the objective is the predictive loss.", _TIMES, given=("the guard is 0",)),
    theorem(_CLAIMS["loss_with"], "Replacing the guard leaves the predictive loss alone.", _TWICE),
    theorem(
        _CLAIMS["objective_with"],
        "With the guard replaced, the objective is the predictive loss plus the new guard.",
        _KEPT,
        _ADDED,
        _MINUS,
    ),
    theorem(_CLAIMS["mae_loss"], "The predictive loss of MAE's contract is mae_loss.", _MAE_INDEX),
    theorem(_CLAIMS["mae_objective"], "The objective of MAE's contract is mae_loss.", _MAE_INDEX, _MAE_GUARD),
    theorem(_CLAIMS["jepa_loss"], "The predictive loss of JEPA's contract is jepa_loss.", _JEPA_CONTEXT),
    theorem(_CLAIMS["jepa_objective"], "The objective of JEPA's contract is jepa_loss.", _JEPA_CONTEXT, _JEPA_GUARD),
    theorem(
        _CLAIMS["encoded"],
        "With any target encoder the predictive loss is masked_loss of the distance to the encoded target.",
        _NO_ENCODER,
        _FIRST_TARGET,
    ),
    theorem(
        _CLAIMS["vicreg"],
        "With a VICReg guard the objective is the predictive loss plus vicreg_objective.",
        _VICREG_SWAPPED,
        _KEPT,
    ),
    theorem(
        _CLAIMS["barlow"],
        "With a Barlow guard the objective is the predictive loss plus redundancy_reduction_objective.",
        _BARLOW_SWAPPED,
        _KEPT,
    ),
)
