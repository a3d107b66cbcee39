"""The predictive-view contract: loss plus guard, and the methods that are instances of it."""

from dataclasses import replace
from typing import Any

from viewproof import objectives
from viewproof.theorems.lists.engine import Formula, Program, Public, mutant, theorem
from viewproof.theorems.lists.kinds import Indices, Number, Numbers, Opaque, assuming
from viewproof.theorems.lists.reference import BarlowArguments, Contract, ContractArguments, VICRegArguments
from viewproof.theorems.lists.sums import JepaArguments, MaeArguments


@mutant("predictive_view_objective")
def guard_subtracted(_: Public, contract: Contract) -> Number:
    """The guard's sign is wrong."""
    return objectives.predictive_loss(contract) - contract.geometry_guard


@mutant("predictive_view_objective")
def guard_multiplies(_: Public, contract: Contract) -> Number:
    """The guard weighs the loss."""
    return objectives.predictive_loss(contract) * contract.geometry_guard


@mutant("predictive_loss")
def guard_in_loss(_: Public, contract: Contract) -> Number:
    """The loss has the guard in it."""
    return objectives.predictive_view_objective(contract)


@mutant("with_geometry_guard")
def guard_dropped(_: Public, contract: Contract, guard: Number) -> Contract:
    """The new guard is dropped."""
    return contract


@mutant("with_geometry_guard")
def guard_added(real: Public, contract: Contract, guard: Number) -> Contract:
    """The new guard is added to the old."""
    return real(contract, contract.geometry_guard + guard)


@mutant("mae_as_predictive_view_contract")
def encodes_the_index(real: Public, *arguments: Any) -> Contract:
    """The target encoder returns the index."""
    return replace(real(*arguments), target_encoder=lambda i, target: i)


@mutant("mae_as_predictive_view_contract", "jepa_as_predictive_view_contract")
def guard_one(real: Public, *arguments: Any) -> Contract:
    """The guard is 1."""
    return replace(real(*arguments), geometry_guard=1)


@mutant("jepa_as_predictive_view_contract")
def predicts_from_the_index(real: Public, *arguments: Any) -> Contract:
    """The predictor gets the index for the context."""
    contract = real(*arguments)
    return replace(contract, predict=lambda _, i: contract.predict(i, i))


@mutant("encoded_target_predictive_view_contract")
def encoder_dropped(real: Public, *arguments: Any) -> Contract:
    """The target is not encoded."""
    return replace(real(*arguments), target_encoder=lambda i, target: target)


@mutant("encoded_target_predictive_view_contract")
def encoder_at_first_index(real: Public, idxs: Indices, *arguments: Any) -> Contract:
    """The encoder is told the first index."""
    contract = real(idxs, *arguments)
    return replace(contract, target_encoder=lambda i, target: contract.target_encoder(idxs[0], target))


@mutant("VICRegGuard")
def weights_swapped(real: Public, lambda_: Number, mu: Number, *arguments: Any) -> Any:
    """Lambda and mu are swapped."""
    return real(mu, lambda_, *arguments)


@mutant("BarlowGuard")
def diagonals_swapped(real: Public, lambda_: Number, diag: Numbers, off_diag: Numbers) -> Any:
    """Diagonal and off-diagonal are swapped."""
    return real(lambda_, off_diag, diag)


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
    """With any target encoder the predictive loss is masked_loss of the distance to the encoded target."""

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
