"""Rows of the running pipeline as contracts: the objective built by the real functions is the MAE loss."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks import Mask
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import TABLE, pointwise
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, product, same
from viewproof.symbolic.values import FLOATS, alike, sort
from viewproof.theorems.tensors import mutants
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.masks import ALL_SIZES, CAPTURED, theorem
from viewproof.theorems.tensors.samples import same_tensors
from viewproof.theorems.tensors.subjects import INT, PATCHES, PERIODIC, not_negative

DISTANCE = "viewproof_theory.distance.default"


class Listed(Sequence[int]):
    """The ascending list of selected indices of a mask whose values are symbols: it holds the flat mask instead."""

    def __init__(self, flat: Tensor) -> None:
        self.flat = flat

    def __len__(self) -> int:
        raise TypeError("a list whose length depends on data")

    def __getitem__(self, place: Any) -> Any:
        raise TypeError("a list whose entries depend on data")

    def replaced(self, contract: vp.PredictiveViewContract, idxs: list[int]) -> vp.PredictiveViewContract:
        """The contract over a list that is known."""
        return replace(contract, target_idxs=idxs)


@contextmanager
def listed() -> Iterator[None]:
    """Inside, ``Mask.selected_idxs`` is `Listed`: what the list is about, where its length is a symbol."""
    with patch.object(Mask, "selected_idxs", property(lambda mask: Listed(mask.hidden.reshape(-1)))):
        yield


def distance(target: Tensor, prediction: Tensor) -> Tensor:
    """A distance about which nothing is known: an operator of its own, and to the solver a function without a law."""
    if not hasattr(torch.ops.viewproof_theory, "distance"):
        _define()
    result: Tensor = torch.ops.viewproof_theory.distance(target, prediction)
    return result


def _define() -> None:
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
    _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []


def _unknown_distance(facts: Facts, target: SymTensor, prediction: SymTensor) -> SymTensor:
    value = sort(facts, target.dtype)
    function = z3.Function("distance", value, value, value)
    return pointwise(facts, function, [target, prediction], target.dtype, "distance")


TABLE[DISTANCE] = _unknown_distance


def _row_subject(name: str, signature: dict[str, Any], builder: Any, expected: Any, target_size: Any) -> Subject:
    """A row contract at lists of 0, 1 and 2 indices, beside `mae_loss` over the indices and rows of the specification.

    ``builder`` makes the contract from the program, the arguments, the row and a distance; ``expected`` gives the mask
    whose indices are meant, and the flat target.
    """

    def observe(program: Any, x: Tensor, yhat: Tensor, row: int, i: int, k: int, *rest: int) -> Sequence[Tensor]:
        with listed():
            contract = builder(program, x, yhat, row, rest)
            idxs: Any = contract.target_idxs
            mask, target = expected(x, rest)
        observed = [idxs.flat, mask.hidden.reshape(-1)]
        for chosen in ([i], [i, k]):
            observed.append(vp.predictive_view_objective(idxs.replaced(contract, chosen)))
            observed.append(vp.mae_loss(chosen, target[row].__getitem__, yhat[row].__getitem__, distance))
        nothing = vp.predictive_view_objective(idxs.replaced(contract, []))
        return [*observed, torch.as_tensor(nothing, dtype=x.dtype)]

    def hypotheses(inputs: Inputs) -> list[Term]:
        size, rows = target_size(inputs), inputs["x"].shape[0]
        fits = [*not_negative(inputs), *(same(a, b) for a, b in zip(inputs["yhat"].shape, (rows, size), strict=True))]
        prefix = [size <= product(inputs["x"].shape[1:])] if "recon_dim" in inputs else []
        return [*fits, *prefix, inputs["row"] < rows, inputs["i"] < size, inputs["k"] < size]

    return Subject(name, signature, observe, hypotheses)


def _objective_claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    listed_by_contract, listed_by_spec, one, one_mae, two, two_mae, nothing = observed
    zero = lambda: same(nothing.at(()), z3.BitVecVal(0, 32))  # noqa: E731
    return [
        *same_tensors("the indices that are selected", listed_by_contract, listed_by_spec),
        Claim("over no index the objective is 0", (), zero),
        *(
            Claim(
                f"objective and MAE loss over {count}: the same number",
                (),
                lambda a=a, b=b: alike(a.at(()), b.at(()), a.dtype),
            )
            for count, a, b in (("one index", one, one_mae), ("two indices", two, two_mae))
        ),
    ]


_ROW = {"yhat": TensorInput(2), "row": INT, "i": INT, "k": INT}


def _vector(program: Any, x: Tensor, yhat: Tensor, row: int, rest: Sequence[int]) -> Any:
    return program(x, yhat, row, *rest, distance)


def _image(over: Any) -> Any:
    def build(program: Any, x: Tensor, yhat: Tensor, row: int, rest: Sequence[int]) -> Any:
        return program(x, yhat, row, *rest[:4], distance, rest[4], over)

    return build


def _image_expected(over: str) -> Any:
    def expected(x: Tensor, rest: Sequence[int]) -> Any:
        mask = vp.PatchMask(*rest[:4]).mask(tuple(x.shape[1:])).prefix(rest[4])
        chosen = mask if over == "hidden" else Mask.all((rest[4],))
        return chosen, vp.flatten_batch_prefix(x, rest[4])

    return expected


def _block(program: Any, x: Tensor, yhat: Tensor, row: int, rest: Sequence[int]) -> Any:
    return program(x, yhat, row, (rest[0], None, rest[1]), *rest[2:4], distance, rest[4])


def _block_expected(x: Tensor, rest: Sequence[int]) -> Any:
    mask = vp.BlockMask((rest[0], None, rest[1]), *rest[2:4]).mask(tuple(x.shape[1:])).prefix(rest[4])
    return mask, vp.flatten_batch_prefix(x, rest[4])


def _recon(inputs: Inputs) -> Term:
    return inputs["recon_dim"]


VECTOR_ROWS = _row_subject(
    "vector rows",
    {"x": TensorInput(2), **_ROW, **PERIODIC},
    _vector,
    lambda x, rest: (vp.vector_mae_hidden_mask(x.shape[1], *rest), x),
    lambda inputs: inputs["x"].shape[1],
)
IMAGE_ROWS = {
    over: _row_subject(
        f"image rows over {over}",
        {"x": TensorInput(4), **_ROW, **PATCHES, "recon_dim": INT},
        _image(over),
        _image_expected(over),
        _recon,
    )
    for over in ("hidden", "all")
}
BLOCK_ROWS = _row_subject(
    "block rows",
    {"x": TensorInput(4), **_ROW, "block_0": INT, "block_2": INT, **PERIODIC, "recon_dim": INT},
    _block,
    _block_expected,
    _recon,
)
_LISTS = "lists of 0, 1 and 2 indices run with symbols, longer ones by masked_loss_append"


def _row_theorem(name: str, what: str, program: Any, subjects: Sequence[Subject], scope: str, *mutated: Any) -> Any:
    return theorem(
        name,
        "bridges",
        f"predictive_view_objective of the {what} row contract is mae_loss over the selected indices of the row.",
        program,
        lambda: [Case(subject, _objective_claims) for subject in subjects],
        *mutated,
        hypotheses=("period, offset and widths are non-negative", "yhat has the target's shape", "the row exists"),
        scope=f"any distance; {scope}{ALL_SIZES}",
        method=f"{CAPTURED}; {_LISTS}",
    )


THEOREMS = (
    _row_theorem(
        "vector_mae_row_predictive_objective_eq_mae_loss",
        "vector",
        vp.vector_mae_row_predictive_contract,
        [VECTOR_ROWS],
        "",
        mutants.ROW_TARGET_MASKED,
        mutants.ROW_VISIBLE,
    ),
    _row_theorem(
        "image_patch_mae_row_predictive_objective_eq_mae_loss",
        "image",
        vp.image_patch_mae_row_predictive_contract,
        list(IMAGE_ROWS.values()),
        "over hidden and all; ",
        mutants.IMAGE_ROW_FIRST,
    ),
    _row_theorem(
        "block_mae_row_predictive_objective_eq_mae_loss",
        "block",
        vp.block_mae_row_predictive_contract,
        [BLOCK_ROWS],
        "blocks (k, None, k) over sources of 3 axes (other patterns: block_mask theorems); ",
        mutants.BLOCK_ROW_GUARD,
    ),
)
