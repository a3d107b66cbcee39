"""The predictive-view contract: loss plus guard, and the methods that are instances of it."""

from dataclasses import replace

from viewproof import objectives
from viewproof.theorems.lists.engine import Formula, Program, mutant, theorem
from viewproof.theorems.lists.kinds import Indices, Number, Opaque, assuming
from viewproof.theorems.lists.reference import BarlowArguments, Contract, ContractArguments, VICRegArguments
from viewproof.theorems.lists.sums import JepaArguments, MaeArguments

OBJECTIVE, GUARD, ENCODED = (
    ["predictive_view_objective"],
    ["with_geometry_guard"],
    ["encoded_target_predictive_view_contract"],
)
MAE, JEPA = ["mae_as_predictive_view_contract"], ["jepa_as_predictive_view_contract"]

guard_subtracted = mutant(
    "guard_subtracted",
    "The guard's sign is wrong",
    OBJECTIVE,
    lambda _, c: objectives.predictive_loss(c) - c.geometry_guard,
)
guard_multiplies = mutant(
    "guard_multiplies",
    "The guard weighs the loss",
    OBJECTIVE,
    lambda _, c: objectives.predictive_loss(c) * c.geometry_guard,
)
guard_in_loss = mutant(
    "guard_in_loss",
    "The loss has the guard in it",
    ["predictive_loss"],
    lambda _, c: objectives.predictive_view_objective(c),
)
guard_dropped = mutant("guard_dropped", "The new guard is dropped", GUARD, lambda _, c, guard: c)
guard_added = mutant(
    "guard_added", "The new guard is added to the old", GUARD, lambda real, c, guard: real(c, c.geometry_guard + guard)
)
encodes_the_index = mutant(
    "encodes_the_index",
    "The target encoder returns the index",
    MAE,
    lambda real, *rest: replace(real(*rest), target_encoder=lambda i, target: i),
)
guard_one = mutant(
    "guard_one", "The guard is 1", MAE + JEPA, lambda real, *rest: replace(real(*rest), geometry_guard=1)
)
predicts_from_the_index = mutant(
    "predicts_from_the_index",
    "The predictor gets the index for the context",
    JEPA,
    lambda real, idxs, context, target, predict, loss: real(idxs, context, target, lambda _, i: predict(i, i), loss),
)
encoder_dropped = mutant(
    "encoder_dropped",
    "The target is not encoded",
    ENCODED,
    lambda real, *rest: replace(real(*rest), target_encoder=lambda i, target: target),
)
encoder_at_first_index = mutant(
    "encoder_at_first_index",
    "The encoder is told the first index",
    ENCODED,
    lambda real, idxs, context, target, encoder, *rest: real(
        idxs, context, target, lambda i, value: encoder(idxs[0], value), *rest
    ),
)
weights_swapped = mutant(
    "weights_swapped",
    "Lambda and mu are swapped",
    ["VICRegGuard"],
    lambda real, lambda_, mu, *rest: real(mu, lambda_, *rest),
)
diagonals_swapped = mutant(
    "diagonals_swapped",
    "Diagonal and off-diagonal are swapped",
    ["BarlowGuard"],
    lambda real, lambda_, diag, off_diag: real(lambda_, off_diag, diag),
)


@theorem(mutants=[guard_subtracted, guard_multiplies])
def predictive_view_objective_decomposes(p: Program, contract: Contract) -> Formula:
    """The objective is the predictive loss plus the guard."""
    return p.predictive_view_objective(contract) == p.predictive_loss(contract) + contract.geometry_guard


@theorem(given=("the guard is 0",), mutants=[guard_multiplies])
def predictive_view_objective_zero_geometry(p: Program, contract: Contract) -> Formula:
    """With guard 0 the objective is the predictive loss."""
    return assuming(
        contract.geometry_guard == 0, then=p.predictive_view_objective(contract) == p.predictive_loss(contract)
    )


@theorem(mutants=[guard_in_loss])
def predictive_loss_with_geometry_guard(p: Program, contract: Contract, guard: Number) -> Formula:
    """Replacing the guard leaves the predictive loss alone."""
    return p.predictive_loss(p.with_geometry_guard(contract, guard)) == p.predictive_loss(contract)


@theorem(mutants=[guard_dropped, guard_added, guard_subtracted])
def predictive_view_objective_with_geometry_guard(p: Program, contract: Contract, guard: Number) -> Formula:
    """With the guard replaced, the objective is the predictive loss plus the new guard."""
    return p.predictive_view_objective(p.with_geometry_guard(contract, guard)) == p.predictive_loss(contract) + guard


@theorem(induction="idxs", mutants=[encodes_the_index])
def mae_is_predictive_view_loss(p: Program, idxs: Indices, mae: MaeArguments) -> Formula:
    """The predictive loss of MAE's contract is mae_loss."""
    return p.predictive_loss(p.mae_as_predictive_view_contract(idxs, *mae)) == p.mae_loss(idxs, *mae)


@theorem(induction="idxs", mutants=[encodes_the_index, guard_one])
def mae_is_predictive_view_objective(p: Program, idxs: Indices, mae: MaeArguments) -> Formula:
    """The objective of MAE's contract is mae_loss."""
    return p.predictive_view_objective(p.mae_as_predictive_view_contract(idxs, *mae)) == p.mae_loss(idxs, *mae)


@theorem(induction="idxs", mutants=[predicts_from_the_index])
def jepa_is_predictive_view_loss(p: Program, idxs: Indices, jepa: JepaArguments) -> Formula:
    """The predictive loss of JEPA's contract is jepa_loss."""
    return p.predictive_loss(p.jepa_as_predictive_view_contract(idxs, *jepa)) == p.jepa_loss(idxs, *jepa)


@theorem(induction="idxs", mutants=[predicts_from_the_index, guard_one])
def jepa_is_predictive_view_objective(p: Program, idxs: Indices, jepa: JepaArguments) -> Formula:
    """The objective of JEPA's contract is jepa_loss."""
    return p.predictive_view_objective(p.jepa_as_predictive_view_contract(idxs, *jepa)) == p.jepa_loss(idxs, *jepa)


@theorem(induction="target_idxs", mutants=[encoder_dropped, encoder_at_first_index])
def encoded_target_predictive_view_contract_loss_eq_masked_loss(p: Program, fields: ContractArguments) -> Formula:
    """The predictive loss is masked_loss of the distance to the target, whatever encodes it."""

    def distance_at(i: Opaque) -> Number:
        return fields.distance(fields.target_encoder(i, fields.target(i)), fields.predict(fields.context, i))

    contract = p.encoded_target_predictive_view_contract(*fields)
    return p.predictive_loss(contract) == p.masked_loss(fields.target_idxs, distance_at)


@theorem(mutants=[weights_swapped, guard_dropped])
def predictive_view_objective_with_vicreg_guard(p: Program, contract: Contract, vicreg: VICRegArguments) -> Formula:
    """With a VICReg guard the objective is the predictive loss plus vicreg_objective."""
    guarded = p.with_geometry_guard(contract, p.VICRegGuard(*vicreg).value)
    return p.predictive_view_objective(guarded) == p.predictive_loss(contract) + p.vicreg_objective(*vicreg)


@theorem(mutants=[diagonals_swapped, guard_dropped])
def predictive_view_objective_with_barlow_guard(p: Program, contract: Contract, barlow: BarlowArguments) -> Formula:
    """With a Barlow guard the objective is the predictive loss plus redundancy_reduction_objective."""
    guarded = p.with_geometry_guard(contract, p.BarlowGuard(*barlow).value)
    objective = p.predictive_loss(contract) + p.redundancy_reduction_objective(*barlow)
    return p.predictive_view_objective(guarded) == objective
