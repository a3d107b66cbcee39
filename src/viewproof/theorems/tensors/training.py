"""The loss that a training step differentiates, its rows' objectives, and its gradient."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import z3
from torch import Tensor
from torch.nn import functional as F

import viewproof as vp
from viewproof.masks import Mask, Sample
from viewproof.masks.random.scored import score_within
from viewproof.masks.sample import Over
from viewproof.objectives import masked
from viewproof.objectives.masked import Reduction
from viewproof.symbolic.capture import Signature, TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, as_z3, conj, neg, one_if, same
from viewproof.theorems.tensors import spec
from viewproof.theorems.tensors.bridges import EmptyListing
from viewproof.theorems.tensors.case import INT, Claims, Inputs, Observed, Subject, TensorCase
from viewproof.theorems.tensors.theorem import CAPTURED, theorem


class TrainingLosses:
    """The losses that train, and two forms of what they call that an export of them would not show."""

    mse: Callable[..., Tensor] = staticmethod(vp.masked_mse)
    l1: Callable[..., Tensor] = staticmethod(vp.masked_l1)
    smooth_l1: Callable[..., Tensor] = staticmethod(vp.masked_smooth_l1)

    @staticmethod
    def eager_mse(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over, count: int) -> Tensor:
        """As `mse` runs without a compiler: Python counts what the mask selects."""
        return masked.masked_distance(F.mse_loss, prediction, sample, reduction, over, count)

    @staticmethod
    def l1_by_definition(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
        """`l1` by ``|a - b|``: export cannot follow what autograd saves inside ``F.l1_loss``."""

        def absolute(a: Tensor, b: Tensor, reduction: str) -> Tensor:
            return (a - b).abs()

        return masked.masked_distance(absolute, prediction, sample, reduction, over)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda target, prediction: (prediction - target) ** 2,
    "l1": lambda target, prediction: (prediction - target).abs(),
    "smooth_l1": lambda target, prediction: F.smooth_l1_loss(prediction, target, reduction="none"),
}


def mutant(mse: Callable[..., Tensor]) -> type[Any]:
    """The losses with this one for the `mse`."""
    return type(mse.__name__, (TrainingLosses,), {"mse": staticmethod(mse), "__doc__": mse.__doc__})


def _sample(y: Tensor, hidden: Tensor, places: Tensor | None = None) -> Sample:
    """The sample of a mask; of a partial loss, with the scored part of the hidden set by ``places``."""
    view = Mask(hidden, per_sample=hidden.dim() == 2, rule="any mask")
    return Sample(y, y, view) if places is None else Sample(y, y, score_within(view, places), view)


def _selected(inputs: Inputs, over: Over, n: Term, j: Term) -> Term:
    """Whether the specification's loss sums over coordinate ``j`` of row ``n``."""
    hidden = inputs["hidden"]
    selected: Term = True if over == "all" else hidden.at((n, j) if hidden.rank == 2 else (j,))
    return conj(selected, inputs["places"].at((n, j))) if "places" in inputs else selected


def _count(inputs: Inputs, facts: Facts, over: Over) -> Any:
    """How many coordinates of the batch the specification's loss sums over."""
    (rows, size), zero = inputs["y"].shape, z3.IntVal(0)

    return facts.sum(rows, lambda n: facts.sum(size, lambda j: one_if(_selected(inputs, over, n, j)), zero), zero)


def _fitting(inputs: Inputs) -> list[Term]:
    """Prediction, target and mask have the shapes that the loss asks for; the row and index exist."""
    shape, hidden = inputs["y"].shape, inputs["hidden"].shape
    pairs = [*zip(inputs["prediction"].shape, shape, strict=True), *zip(hidden, shape[2 - len(hidden) :], strict=True)]
    pairs += zip(inputs["places"].shape, shape, strict=True) if "places" in inputs else ()
    fits = [same(a, b) for a, b in pairs]
    for name, extent in zip(("row", "i"), shape, strict=True):
        if name in inputs:
            fits += [inputs[name] >= 0, inputs[name] < extent]
    return [*fits, inputs["count"] > 0] if "count" in inputs else fits


def _something_selected(over: Over) -> Callable[[Inputs, Facts], list[Term]]:
    """The mask selects something; ``count`` is what Python counts of it (of one row, if shared)."""

    def hypotheses(inputs: Inputs, facts: Facts) -> list[Term]:
        total = _count(inputs, facts, over)
        if "count" not in inputs:
            return [total > 0]
        rows = inputs["y"].shape[0] if inputs["hidden"].rank == 1 and "places" not in inputs else 1
        return [total > 0, total == rows * inputs["count"]]

    return hypotheses


def _signature(per_sample: bool, partial: bool) -> Signature:
    hidden = TensorInput(2 if per_sample else 1, torch.bool)
    places = {"places": TensorInput(2, torch.bool)} if partial else {}
    return {"prediction": TensorInput(2), "y": TensorInput(2), "hidden": hidden, **places}


def loss_case(loss: str, reduction: Reduction, over: Over, per_sample: bool, partial: bool = False) -> TensorCase:
    """The loss of this name beside the objective of one entry of one row, and what relates them.

    ``partial``: the loss of a sample that scores only the part of what is hidden that lies in further ``places``.
    """
    eager = loss.startswith("eager_")
    distance = DISTANCES[loss.removeprefix("eager_")]

    masks = 2 if partial else 1

    def observe(program: Any, prediction: Tensor, y: Tensor, *rest: Any) -> Sequence[Tensor]:
        row, i, *count = rest[masks:]
        sample, listing = _sample(y, *rest[:masks]), EmptyListing()
        # Positional arguments, so that the count follows where there is one.
        value = getattr(program, loss)(prediction, sample, reduction, over, *count)
        contract = vp.row_predictive_contract(sample, prediction, row, distance, over, listing=listing)
        objective = vp.predictive_view_objective(replace(contract, target_idxs=[i]))
        return [value, objective, listing.mask.hidden.reshape(-1)]

    def replay(program: Any, prediction: Tensor, y: Tensor, *rest: Any) -> Sequence[Tensor]:
        sample = _sample(y, *rest[:masks])
        value = getattr(program, loss.removeprefix("eager_"))(prediction, sample, reduction, over)
        contracts = [vp.row_predictive_contract(sample, prediction, n, distance, over) for n in range(len(y))]
        objectives = [float(vp.predictive_view_objective(contract)) for contract in contracts]
        return [value, torch.tensor(objectives, dtype=torch.float64)]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        value, objective, *listed = observed
        (rows, size), zero = inputs["y"].shape, z3.RealVal(0)

        def listed_objective(n: Term, j: Term) -> Any:
            """Entry ``j`` of the objective of row ``n``, if that row's contract lists it."""
            at = [(inputs["row"], as_z3(n)), (inputs["i"], as_z3(j))]
            is_listed = z3.substitute(as_z3(listed[0].at((inputs["i"],))), *at)
            return z3.If(is_listed, z3.substitute(objective.at(()), *at), zero)

        def row_objective(n: Term) -> Any:
            # A witness is replayed on whole contracts; the goal takes them entry by entry (lemma sum_over_selected).
            if facts.replayed:
                return objective.at((n,))
            return facts.sum(size, lambda j: listed_objective(n, j), zero)

        if not facts.replayed:
            selected = as_z3(_selected(inputs, over, inputs["row"], inputs["i"]))
            listed_iff_selected = same(as_z3(listed[0].at((inputs["i"],))), selected)
            yield "the row's contract lists the coordinate iff the mask selects it", listed_iff_selected
        if reduction == "rows":
            for (n,) in facts.each([rows]):
                yield "row n of the loss is the row's objective", facts.equal(value.at((n,)), row_objective(n))
        else:
            count = z3.ToReal(_count(inputs, facts, over)) if reduction == "mean" else z3.RealVal(1)
            total = facts.sum(rows, row_objective, zero)
            what = "loss * selected coordinates == sum of the rows' objectives"
            yield what, facts.equal(value.at(()) * count, total)

    kind, form = "one mask a sample" if per_sample else "one mask", "eager" if eager else "compiled"
    kind += ", a part of it scored" if partial else ""
    name = f"{loss.removeprefix('eager_')}, {reduction}, over {over}, {kind}, {form}"
    signature = {**_signature(per_sample, partial), "row": INT, "i": INT, **({"count": INT} if eager else {})}
    selected = _something_selected(over) if reduction == "mean" else None
    return TensorCase(Subject(name, signature, observe, _fitting, "real", selected, replay), claims)


@mutant
def loss_over_the_complement(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """Visible coordinates are summed.

    The error of what is visible is divided by the count of what is hidden.
    """
    visible = sample if over == "all" else Sample(sample.x, sample.y, ~sample.mask)
    count = sample.selection(over).hidden.sum() * (1 if sample.mask.per_sample else prediction.shape[0])
    total = vp.masked_mse(prediction, visible, reduction="sum", over=over)
    return total / count if reduction == "mean" else total


@mutant
def mean_over_all(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """Divided by all coordinates."""
    if reduction != "mean":
        return vp.masked_mse(prediction, sample, reduction, over)
    return vp.masked_mse(prediction, sample, "sum", over) / (prediction.shape[0] * prediction.shape[1])


@mutant
def absolute_for_squared(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """Another distance."""
    gap = vp.masked_l1(prediction, sample, reduction, over)
    return gap * gap if reduction == "mean" else gap


@theorem(
    TrainingLosses,
    layer="bridges",
    mutants=[loss_over_the_complement, mean_over_all, absolute_for_squared],
    given=("the mask selects something, if the loss is a mean",),
    scope="real numbers; all batch and target sizes from 0; any mask, shared or one a sample; mse, l1, smooth_l1; "
    "mean (as compiled, and as run eagerly for mse), sum, rows; over hidden and all",
    method=f"{CAPTURED}; sums compared summand by summand; a contract's sum entry by entry (masked_loss_append)",
)
def training_loss_eq_row_objectives() -> list[TensorCase]:
    """The loss that training differentiates, times the number of selected coordinates in the batch, is the sum over
    rows of predictive_view_objective of the row's contract.
    """
    return [
        *(loss_case(loss, "mean", "hidden", per_sample) for loss in DISTANCES for per_sample in (False, True)),
        *(loss_case("eager_mse", "mean", "hidden", per_sample) for per_sample in (False, True)),
        loss_case("mse", "mean", "all", False),
        *(loss_case("mse", "sum", "hidden", per_sample) for per_sample in (False, True)),
        *(loss_case("mse", "rows", "hidden", per_sample) for per_sample in (False, True)),
    ]


def gradient_case(loss: str, reduction: Reduction, per_sample: bool, partial: bool = False) -> TensorCase:
    """The gradient of the loss of this name by the prediction, and what is claimed of it; see `loss_case`."""

    def observe(program: Any, prediction: Tensor, y: Tensor, *masks: Tensor) -> Sequence[Tensor]:
        leaf = prediction.detach().requires_grad_()
        value = getattr(program, loss)(leaf, _sample(y, *masks), reduction, "hidden")
        return [torch.autograd.grad(value, leaf)[0]]

    def claims(inputs: Inputs, observed: Observed, facts: Facts) -> Claims:
        gradient, shape = observed[0], inputs["prediction"].shape
        yield "a gradient for each prediction", spec.same_shape(gradient.shape, shape)
        for place in facts.each(shape):
            with facts.given(neg(_selected(inputs, "hidden", *place))):
                yield "off the mask the gradient is +0.0", spec.is_zero(facts, gradient, place)

    name = f"gradient of {loss}, {reduction}, {'one mask a sample' if per_sample else 'one mask'}"
    name += ", a part of it scored" if partial else ""
    selected = _something_selected("hidden") if reduction == "mean" else None
    return TensorCase(
        Subject(name, _signature(per_sample, partial), observe, _fitting, value_hypotheses=selected), claims
    )


@mutant
def multiplication_for_selection(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """error**2 * mask: a NaN off the mask."""
    return ((prediction - sample.y).square() * sample.mask.hidden).sum()


@theorem(
    TrainingLosses,
    layer="bridges",
    mutants=[loss_over_the_complement, multiplication_for_selection],
    given=("the mask selects something, if the loss is a mean",),
    scope="all batch and target sizes from 0; any mask, shared or one a sample; every float32 bit pattern, NaN and "
    "infinities included; mse, l1 (captured as its definition |a - b|), smooth_l1; mean, sum",
)
def training_loss_gradient_support() -> list[TensorCase]:
    """The gradient of the training loss with respect to a prediction off the mask is exactly +0.0."""
    return [
        gradient_case("mse", "sum", False),
        *(gradient_case(loss, "mean", False) for loss in ("mse", "l1_by_definition", "smooth_l1")),
        gradient_case("mse", "mean", True),
    ]


@mutant
def loss_over_the_view(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """All that is hidden is summed."""
    assert sample.view is not None
    return vp.masked_mse(prediction, Sample(sample.x, sample.y, sample.view), reduction, over)


@mutant
def mean_over_the_view(prediction: Tensor, sample: Sample, reduction: Reduction, over: Over) -> Tensor:
    """Divided by what is hidden."""
    if reduction != "mean":
        return vp.masked_mse(prediction, sample, reduction, over)
    assert sample.view is not None
    count = sample.view.hidden.sum() * (1 if sample.view.per_sample else prediction.shape[0])
    return vp.masked_mse(prediction, sample, "sum", over) / count


@theorem(
    TrainingLosses,
    layer="bridges",
    mutants=[loss_over_the_view, mean_over_the_view, loss_over_the_complement],
    given=("the mask and the places have a coordinate in common, if the loss is a mean",),
    scope="real numbers; all batch and target sizes from 0; any mask, shared or one a sample; any places; mse; mean "
    "(as compiled, and as run eagerly), sum, rows",
    method=f"{CAPTURED}; sums compared summand by summand; a contract's sum entry by entry (masked_loss_append)",
)
def partial_loss_eq_row_objectives() -> list[TensorCase]:
    """Of a sample that scores a part of what its view hides, the loss that training differentiates, times the number of
    scored coordinates in the batch, is the sum over rows of predictive_view_objective of the row's contract, which
    lists the coordinates that are hidden and lie in the scored places.
    """
    cases: list[tuple[str, Reduction]] = [("mse", "mean"), ("eager_mse", "mean"), ("mse", "sum"), ("mse", "rows")]
    return [loss_case(loss, reduction, "hidden", False, partial=True) for loss, reduction in cases] + [
        loss_case(loss, "mean", "hidden", True, partial=True) for loss in ("mse", "eager_mse")
    ]


@theorem(
    TrainingLosses,
    layer="bridges",
    mutants=[loss_over_the_view, loss_over_the_complement],
    given=("the mask and the places have a coordinate in common, if the loss is a mean",),
    scope="all batch and target sizes from 0; any mask, shared or one a sample; any places; every float32 bit pattern, "
    "NaN and infinities included; mse; mean, sum",
)
def partial_loss_gradient_support() -> list[TensorCase]:
    """The gradient of a partial loss with respect to a prediction that is not scored is exactly +0.0, hidden or not."""
    return [
        gradient_case("mse", "sum", False, partial=True),
        gradient_case("mse", "mean", False, partial=True),
        gradient_case("mse", "mean", True, partial=True),
    ]
