"""Rows of the running pipeline as contracts: their objective is the MAE loss."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks import Mask
from viewproof.masks.sample import Over
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import meaning, pointwise
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, product, same
from viewproof.symbolic.values import FLOATS, alike, sort
from viewproof.theorems.tensors.case import (
    INT,
    PATCHES,
    PERIODIC,
    Claims,
    Inputs,
    Observed,
    Subject,
    not_negative,
    same_tensors,
)
from viewproof.theorems.tensors.theorem import ALL_SIZES, CAPTURED, NOT_NEGATIVE, theorem


class EmptyListing:
    """A contract's ``listing`` that lists nothing and keeps the mask that it was asked to list.

    The length of the list is a symbol: what is proved is which mask is listed, and the objective over given indices.
    """

    mask: Mask

    def __call__(self, mask: Mask, *sizes: int) -> list[int]:
        """No index."""
        self.mask = mask
        return []


def distance(target: Tensor, prediction: Tensor) -> Tensor:
    """A distance about which nothing is known: to the solver a function without a law."""
    _distance_library()
    number: Tensor = torch.ops.viewproof_theory.distance(target, prediction)
    return number


@cache
def _distance_library() -> Any:
    """The operator lives as long as its library."""
    library = torch.library.Library("viewproof_theory", "DEF")  # type: ignore[no-untyped-call]
    library.define("distance(Tensor target, Tensor prediction) -> Tensor")  # type: ignore[no-untyped-call]

    def mixed(target: Tensor, prediction: Tensor) -> Tensor:
        if target.dtype == torch.float64:
            return (target - 2 * prediction).square() + target
        # Goals about bits: every bit of both arguments shows in the result.
        a, b = (x.contiguous().view(FLOATS[x.dtype][2]).long() for x in (target, prediction))
        return ((a * 31 + 7) * (b * 17 + 3) % 65521).to(target.dtype)

    library.impl("distance", mixed, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake("viewproof_theory::distance", lambda t, p: torch.empty_like(t), lib=library)
    return library


@meaning("viewproof_theory.distance.default")
def _unknown_distance(facts: Facts, target: SymTensor, prediction: SymTensor) -> SymTensor:
    value = sort(facts, target.dtype)
    function = z3.Function("distance", value, value, value)
    return pointwise(facts, function, [target, prediction], target.dtype, "distance")


def beside_mae_loss(
    contract: vp.PredictiveViewContract, listed: Mask, expected: Mask, target: Tensor, yhat: Tensor, at: Sequence[int]
) -> Sequence[Tensor]:
    """The objective of a row's contract over no, one and two indices, each beside `mae_loss`.

    Before them stand the contract's mask and the expected one, flat. ``at`` is the row and two indices.
    """
    row, i, k = at
    observed = [listed.hidden.reshape(-1), expected.hidden.reshape(-1)]
    for idxs in ([i], [i, k]):
        observed.append(vp.predictive_view_objective(replace(contract, target_idxs=idxs)))
        observed.append(vp.mae_loss(idxs, target[row].__getitem__, yhat[row].__getitem__, distance))
    nothing = vp.predictive_view_objective(replace(contract, target_idxs=[]))
    return [*observed, torch.as_tensor(nothing, dtype=target.dtype)]


def objective_is_mae_loss(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """What is claimed of what `beside_mae_loss` observes."""
    listed, expected, *sums, nothing = observed
    yield from same_tensors("the indices that are selected", listed, expected, facts)
    yield "over no index the objective is 0", same(nothing.at(()), z3.BitVecVal(0, 32))
    for count, objective, mae in zip(("one index", "two indices"), sums[::2], sums[1::2], strict=True):
        same_number = alike(objective.at(()), mae.at(()), objective.dtype)
        yield f"objective and MAE loss over {count}: the same number", same_number


def _row_exists(inputs: Inputs) -> list[Term]:
    """Row and both indices exist; the prediction has the shape of the target, a prefix of the source."""
    x = inputs["x"].shape
    rows, size = x[0], inputs.get("recon_dim", x[1])
    fits = [*not_negative(inputs), *(same(a, b) for a, b in zip(inputs["yhat"].shape, (rows, size), strict=True))]
    prefix = [size <= product(x[1:])] if "recon_dim" in inputs else []
    return [*fits, *prefix, inputs["row"] < rows, inputs["i"] < size, inputs["k"] < size]


ROW: Signature = {"yhat": TensorInput(2), "row": INT, "i": INT, "k": INT}
row_theorem = partial(
    theorem,
    layer="bridges",
    given=(NOT_NEGATIVE, "yhat has the target's shape", "the row exists"),
    method=f"{CAPTURED}; lists of 0, 1 and 2 indices run with symbols, longer ones by masked_loss_append",
)


def _vector_row(
    program: Any, x: Tensor, yhat: Tensor, row: int, i: int, k: int, period: int, offset: int
) -> Sequence[Tensor]:
    listing = EmptyListing()
    contract = program(x, yhat, row, period, offset, distance, listing=listing)
    expected = vp.vector_mae_hidden_mask(x.shape[1], period, offset)
    return beside_mae_loss(contract, listing.mask, expected, x, yhat, (row, i, k))


VECTOR_ROW = Subject("vector rows", {"x": TensorInput(2), **ROW, **PERIODIC}, _vector_row, _row_exists)


def target_from_the_masked_tensor(
    x: Tensor, yhat: Tensor, row: int, period: int, offset: int, patch_loss: Any, *, listing: Any
) -> vp.PredictiveViewContract:
    """The row predicts zeros."""
    sample = vp.vector_mae_sample(x, period, offset)
    return vp.row_predictive_contract(replace(sample, y=sample.x), yhat, row, patch_loss, listing=listing)


def loss_over_the_complement(
    x: Tensor, yhat: Tensor, row: int, period: int, offset: int, patch_loss: Any, *, listing: Any
) -> vp.PredictiveViewContract:
    """The visible indices are listed."""
    sample = vp.vector_mae_sample(x, period, offset)
    return vp.row_predictive_contract(replace(sample, mask=~sample.mask), yhat, row, patch_loss, listing=listing)


@row_theorem(
    vp.vector_mae_row_predictive_contract,
    on=VECTOR_ROW,
    mutants=[target_from_the_masked_tensor, loss_over_the_complement],
    scope=f"any distance; {ALL_SIZES}",
)
def vector_mae_row_predictive_objective_eq_mae_loss(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The objective of the vector row contract is mae_loss over the row's selected indices."""
    return objective_is_mae_loss(inputs, observed, facts)


def _image_rows(over: Over) -> Subject:
    def observe(program: Any, x: Tensor, yhat: Tensor, row: int, i: int, k: int, *sizes: int) -> Sequence[Tensor]:
        *patches, recon_dim = sizes
        listing = EmptyListing()
        contract = program(x, yhat, row, *patches, distance, recon_dim, over, listing=listing)
        hidden = vp.PatchMask(*patches).mask(tuple(x.shape[1:])).prefix(recon_dim)
        expected = hidden if over == "hidden" else Mask.all((recon_dim,))
        target = vp.flatten_batch_prefix(x, recon_dim)
        return beside_mae_loss(contract, listing.mask, expected, target, yhat, (row, i, k))

    signature: Signature = {"x": TensorInput(4), **ROW, **PATCHES, "recon_dim": INT}
    return Subject(f"image rows over {over}", signature, observe, _row_exists)


def first_row(x: Tensor, yhat: Tensor, row: int, *sizes_and_loss: Any, listing: Any) -> vp.PredictiveViewContract:
    """Every contract is about row 0."""
    return vp.image_patch_mae_row_predictive_contract(x, yhat, 0, *sizes_and_loss, listing=listing)


@row_theorem(
    vp.image_patch_mae_row_predictive_contract,
    on=[_image_rows("hidden"), _image_rows("all")],
    mutants=[first_row],
    scope=f"any distance; over hidden and all; {ALL_SIZES}",
)
def image_patch_mae_row_predictive_objective_eq_mae_loss(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The objective of the image row contract is mae_loss over the row's selected indices."""
    return objective_is_mae_loss(inputs, observed, facts)


def _block_row(program: Any, x: Tensor, yhat: Tensor, row: int, i: int, k: int, *sizes: int) -> Sequence[Tensor]:
    block_0, block_2, period, offset, recon_dim = sizes
    blocks = (block_0, None, block_2)
    listing = EmptyListing()
    contract = program(x, yhat, row, blocks, period, offset, distance, recon_dim, listing=listing)
    expected = vp.BlockMask(blocks, period, offset).mask(tuple(x.shape[1:])).prefix(recon_dim)
    target = vp.flatten_batch_prefix(x, recon_dim)
    return beside_mae_loss(contract, listing.mask, expected, target, yhat, (row, i, k))


BLOCK_ROW = Subject(
    "block rows",
    {"x": TensorInput(4), **ROW, "block_0": INT, "block_2": INT, **PERIODIC, "recon_dim": INT},
    _block_row,
    _row_exists,
)


def guard_not_zero(*arguments: Any, listing: Any) -> vp.PredictiveViewContract:
    """The contract carries a guard."""
    contract = vp.block_mae_row_predictive_contract(*arguments, listing=listing)
    return vp.with_geometry_guard(contract, 1)


@row_theorem(
    vp.block_mae_row_predictive_contract,
    on=BLOCK_ROW,
    mutants=[guard_not_zero],
    scope="any distance; blocks (k, None, k) over sources of 3 axes (other patterns: block_mask theorems); "
    f"{ALL_SIZES}",
)
def block_mae_row_predictive_objective_eq_mae_loss(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
    """The objective of the block row contract is mae_loss over the row's selected indices."""
    return objective_is_mae_loss(inputs, observed, facts)
