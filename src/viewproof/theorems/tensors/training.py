"""The loss that the training step differentiates, against the sum of its rows' objectives; and its gradient."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
import z3
from torch import Tensor

import viewproof as vp
from viewproof.masks import Mask, Sample
from viewproof.masks.sample import Over
from viewproof.objectives.rows import row_predictive_contract
from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, known, neg, same
from viewproof.theorems.tensors import mutants, spec
from viewproof.theorems.tensors.bridges import listed
from viewproof.theorems.tensors.case import Case, Claim, Inputs, Subject
from viewproof.theorems.tensors.masks import CAPTURED, theorem
from viewproof.theorems.tensors.subjects import INT

LOSSES = (vp.masked_mse, vp.masked_l1, vp.masked_smooth_l1)
_KINDS = ("mse", "l1", "smooth_l1")
_DISTANCES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda target, prediction: (prediction - target) ** 2,
    lambda target, prediction: (prediction - target).abs(),
    lambda target, prediction: torch.nn.functional.smooth_l1_loss(prediction, target, reduction="none"),
)


def _selected(inputs: Inputs, over: Over, n: Term, j: Term) -> Term:
    """Whether the specification's loss sums over coordinate ``j`` of row ``n``."""
    hidden = inputs["hidden"]
    return True if over == "all" else hidden.at((n, j) if hidden.rank == 2 else (j,))


def _grid_sum(inputs: Inputs, facts: Facts, value: Callable[[Term, Term], Any], zero: Any) -> Any:
    """The sum over every row and coordinate of the target."""
    rows, size = inputs["y"].shape
    return facts.sum(rows, lambda n: facts.sum(size, lambda j: value(n, j), zero), zero)


def _count(inputs: Inputs, facts: Facts, over: Over) -> Any:
    def one(n: Term, j: Term) -> Any:
        chosen = _selected(inputs, over, n, j)
        return z3.IntVal(int(chosen)) if known(chosen) else z3.If(chosen, z3.IntVal(1), z3.IntVal(0))

    return _grid_sum(inputs, facts, one, z3.IntVal(0))


def _fitting(inputs: Inputs) -> list[Term]:
    """Prediction, target and mask have the shapes that the loss asks for; the row and index exist."""
    shape, hidden = inputs["y"].shape, inputs["hidden"].shape
    pairs = [*zip(inputs["prediction"].shape, shape, strict=True), *zip(hidden, shape[2 - len(hidden) :], strict=True)]
    fits = [same(a, b) for a, b in pairs]
    for name, extent in zip(("row", "i"), shape, strict=True):
        if name in inputs:
            fits += [inputs[name] >= 0, inputs[name] < extent]
    return [*fits, inputs["count"] > 0] if "count" in inputs else fits


def _something(over: Over, counted: bool) -> Callable[[Inputs, Facts], list[Term]]:
    """The mask selects something; ``count`` is what Python counts of it (a row's worth if all rows share it)."""

    def given(inputs: Inputs, facts: Facts) -> list[Term]:
        total = _count(inputs, facts, over)
        if not counted:
            return [total > 0]
        shared = inputs["hidden"].rank == 1
        return [total > 0, total == (inputs["y"].shape[0] * inputs["count"] if shared else inputs["count"])]

    return given


def _signature(per_sample: bool) -> dict[str, Any]:
    hidden = TensorInput(2 if per_sample else 1, torch.bool)
    return {"prediction": TensorInput(2), "y": TensorInput(2), "hidden": hidden}


def _loss_case(kind: int, reduction: str, over: Over, per_sample: bool, eager: bool = False) -> Case:
    distance = _DISTANCES[kind]

    def sample(y: Tensor, hidden: Tensor) -> Sample:
        return Sample(y, y, Mask(hidden, per_sample, rule="any mask"))

    def observe(
        program: Any, prediction: Tensor, y: Tensor, hidden: Tensor, row: int, i: int, *count: int
    ) -> Sequence[Tensor]:
        whole = sample(y, hidden)
        with ExitStack() as stack:
            if eager:
                stack.enter_context(patch.object(Mask, "count", count[0]))
                stack.enter_context(patch.object(torch.compiler, "is_compiling", lambda: False))
            loss = program[kind](prediction, whole, reduction=reduction, over=over)
        with listed():
            contract = row_predictive_contract(whole, prediction, row, distance, over)
            idxs: Any = contract.target_idxs
            return [loss, vp.predictive_view_objective(idxs.replaced(contract, [i])), idxs.flat]

    def replay(program: Any, prediction: Tensor, y: Tensor, hidden: Tensor, *_: int) -> Sequence[Tensor]:
        whole = sample(y, hidden)
        loss = program[kind](prediction, whole, reduction=reduction, over=over)
        contracts = [row_predictive_contract(whole, prediction, n, distance, over) for n in range(len(y))]
        return [loss, torch.tensor([float(vp.predictive_view_objective(c)) for c in contracts], dtype=torch.float64)]

    form = "eager" if eager else "compiled"
    name = f"{_KINDS[kind]}, {reduction}, over {over}, {'one mask a sample' if per_sample else 'one mask'}, {form}"
    signature = {**_signature(per_sample), "row": INT, "i": INT, **({"count": INT} if eager else {})}
    given = _something(over, eager) if reduction == "mean" else None
    subject = Subject(name, signature, observe, _fitting, "real", given, replay)
    return Case(subject, lambda inputs, observed, facts: _rows_claims(reduction, over, inputs, observed, facts))


def _rows_claims(reduction: str, over: Over, inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
    loss, objective = observed[:2]
    zero = z3.RealVal(0)

    def summand(n: Term, j: Term) -> Any:
        """Entry ``j`` of the objective of row ``n``, if that row's contract lists it."""
        at = [(inputs["row"], _z3(n)), (inputs["i"], _z3(j))]
        chosen = z3.substitute(_truth(observed[2].at((inputs["i"],))), *at)
        return z3.If(chosen, z3.substitute(objective.at(()), *at), zero)

    def row_sum(n: Term) -> Any:
        # A witness is replayed on whole contracts; the goal takes them entry by entry (lemma sum_over_selected).
        return objective.at((n,)) if facts.rounding else facts.sum(inputs["y"].shape[1], lambda j: summand(n, j), zero)

    rows = inputs["y"].shape[0]
    if reduction == "rows":
        claim = Claim(
            "row n of the loss is the row's objective", (rows,), lambda n: facts.equal(loss.at((n,)), row_sum(n))
        )
    else:
        count = z3.ToReal(_count(inputs, facts, over)) if reduction == "mean" else z3.RealVal(1)
        total = facts.sum(rows, row_sum, zero)
        claim = Claim(
            "loss * selected coordinates == sum of the rows' objectives",
            (),
            lambda: facts.equal(loss.at(()) * count, total),
        )
    if facts.rounding:
        return [claim]
    listed_as = Claim(
        "the row's contract lists the coordinate iff the mask selects it",
        (),
        lambda: same(
            _truth(observed[2].at((inputs["i"],))), _truth(_selected(inputs, over, inputs["row"], inputs["i"]))
        ),
    )
    return [listed_as, claim]


def _z3(value: Term) -> z3.ArithRef:
    return z3.IntVal(value) if known(value) else value


def _truth(value: Term) -> z3.BoolRef:
    return z3.BoolVal(value) if known(value) else value


def _gradient_case(kind: int, reduction: str, per_sample: bool) -> Case:
    def observe(program: Any, prediction: Tensor, y: Tensor, hidden: Tensor) -> Sequence[Tensor]:
        leaf = prediction.detach().requires_grad_()
        # Export cannot follow what autograd saves inside a composite operator: l1_loss is captured as its definition.
        with patch.object(torch.nn.functional, "l1_loss", lambda a, b, reduction: (a - b).abs()):
            loss = program[kind](leaf, Sample(y, y, Mask(hidden, per_sample, rule="any mask")), reduction=reduction)
        return [torch.autograd.grad(loss if loss.dim() == 0 else loss.sum(), leaf)[0]]

    def claims(inputs: Inputs, observed: Sequence[Any], facts: Facts) -> list[Claim]:
        shape = inputs["prediction"].shape
        return [
            Claim("a gradient for each prediction", (), lambda: spec.same_shape(observed[0].shape, shape)),
            Claim(
                "off the mask the gradient is +0.0",
                shape,
                lambda *place: spec.is_zero(facts, observed[0], place),
                lambda *place: neg(_selected(inputs, "hidden", *place)),
            ),
        ]

    name = f"gradient of {_KINDS[kind]}, {reduction}, {'one mask a sample' if per_sample else 'one mask'}"
    given = _something("hidden", False) if reduction == "mean" else None
    return Case(Subject(name, _signature(per_sample), observe, _fitting, given=given), claims)


LOSS_CASES = [
    *(_loss_case(kind, "mean", "hidden", per_sample) for kind in range(3) for per_sample in (False, True)),
    *(_loss_case(0, "mean", "hidden", per_sample, eager=True) for per_sample in (False, True)),
    _loss_case(0, "mean", "all", False),
    *(_loss_case(0, reduction, "hidden", per_sample) for reduction in ("sum", "rows") for per_sample in (False, True)),
]
GRADIENT_CASES = [
    _gradient_case(0, "sum", False),
    *(_gradient_case(kind, "mean", False) for kind in range(3)),
    _gradient_case(0, "mean", True),
]

THEOREMS = (
    theorem(
        "training_loss_eq_row_objectives",
        "bridges",
        "The loss that training differentiates, times the number of selected coordinates in the batch, is the sum over "
        "rows of predictive_view_objective of the row's contract.",
        LOSSES,
        lambda: LOSS_CASES,
        mutants.LOSS_OVER_COMPLEMENT,
        mutants.LOSS_MEAN_OVER_ALL,
        mutants.LOSS_SUM_OF_DIFFERENCES,
        hypotheses=("the mask selects something, if the loss is a mean",),
        scope="real numbers; all batch and target sizes from 0; any mask, shared or one a sample; mse, l1, smooth_l1; "
        "mean (as compiled, and as run eagerly for mse), sum, rows; over hidden and all",
        method=f"{CAPTURED}; sums compared summand by summand; a contract's sum entry by entry (masked_loss_append)",
    ),
    theorem(
        "training_loss_gradient_support",
        "bridges",
        "The gradient of the training loss with respect to a prediction off the mask is exactly +0.0.",
        LOSSES,
        lambda: GRADIENT_CASES,
        mutants.LOSS_OVER_COMPLEMENT,
        mutants.LOSS_WEIGHTED,
        hypotheses=("the mask selects something, if the loss is a mean",),
        scope="all batch and target sizes from 0; any mask, shared or one a sample; every float32 bit pattern, NaN and "
        "infinities included; mse, l1 (captured as its definition |a - b|), smooth_l1; mean, sum",
    ),
)
