"""Does the loss sum over exactly the hidden set (C4), and survive bad numbers (C9)?"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.certify.flow.isolation import kept
from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import drawn
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Sample
from viewproof.objectives.masked import Reduction
from viewproof.verdict import Verdict

Takes = Literal["sample", "tensors"]
Distance = Callable[[Any], Any]
Invariance = Literal["batch", "axes", "padding"]
INVARIANCES: tuple[Invariance, ...] = ("batch", "axes", "padding")
TRACED = "dependence of value and gradient followed by element"
SCALES = (0.125, 1.0, 8.0)


@dataclass(frozen=True, eq=False)
class LossCase:
    """A user's loss on one sample, and how to call it."""

    loss: Callable[..., Tensor]
    sample: Sample
    shape: tuple[int, ...]
    takes: Takes
    reduction: Reduction
    distance: Distance | None
    invariant: Sequence[Invariance]

    def __call__(self, prediction: Tensor, sample: Sample | None = None) -> Tensor:
        """The loss of fresh copies, so that nothing it writes is seen here; ``[N]`` or a scalar."""
        with self.afresh():
            return self._call(prediction, sample or self.sample)

    def _call(self, prediction: Tensor, sample: Sample) -> Tensor:
        mask = Mask(sample.mask.hidden.clone(), sample.mask.per_sample, sample.mask.rule)
        own = replace(sample, y=sample.y.clone(), mask=mask)
        return self.loss(prediction, own) if self.takes == "sample" else self.loss(prediction, own.y, over(own))

    @contextmanager
    def afresh(self) -> Iterator[None]:
        """A loss that draws (negatives, say) draws the same each time; one that keeps a centre starts from the same."""
        with drawn(0), kept(getattr(self.loss, "__self__", self.loss)):
            yield

    def on(self, prediction: Tensor, y: Tensor, mask: Mask) -> Tensor:
        """The loss on tensors that may be symbolic, nothing copied."""
        sample = Sample(y, y, mask)
        hidden = mask.hidden.expand(y.shape)
        return self.loss(prediction, sample) if self.takes == "sample" else self.loss(prediction, y, hidden)

    def run(self, prediction: Tensor, sample: Sample | None = None) -> tuple[Tensor, Tensor]:
        """The value and the gradient of its sum with respect to the prediction (0 where there is none)."""
        leaf = prediction.detach().clone().requires_grad_()
        with self.afresh(), torch.enable_grad():
            value = self._call(leaf, sample or self.sample)
            total = value.sum()
            if not total.requires_grad:
                return value.detach(), torch.zeros_like(leaf)
            gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0]
        return value.detach(), torch.zeros_like(leaf) if gradient is None else gradient

    @property
    def hidden(self) -> Tensor:
        """Whether each coordinate of the target is hidden, batch axis first."""
        return over(self.sample)

    def selected(self, prediction: Tensor) -> Tensor:
        """The same over the prediction: what lies behind a hidden coordinate, class scores say, is hidden."""
        hidden = self.hidden
        return hidden.reshape(hidden.shape + (1,) * (prediction.dim() - hidden.dim())).expand(prediction.shape)

    def predictions(self) -> list[Tensor]:
        """Generic predictions, near the target and far from it."""
        generator = torch.Generator().manual_seed(0)
        dtype = self.sample.y.dtype if self.sample.y.is_floating_point() else torch.float32
        near = self.sample.y if self.shape == self.sample.y.shape and self.sample.y.is_floating_point() else 0.0
        noise = [torch.randn(self.shape, generator=generator).to(dtype) for _ in SCALES]
        return [near + scale * n.to(self.sample.y.device) for scale, n in zip(SCALES, noise, strict=True)]


def over(sample: Sample) -> Tensor:
    """Whether each coordinate of the target is hidden, batch axis first."""
    return sample.mask.hidden.expand(sample.y.shape)


def certify_loss(
    loss: Callable[..., Tensor],
    sample: Sample,
    *,
    takes: Takes = "sample",
    reduction: Reduction = "mean",
    distance: Distance | None = None,
    invariant: Sequence[Invariance] = INVARIANCES,
    prediction_shape: tuple[int, ...] | None = None,
    name: str | None = None,
) -> Report:
    """Whether ``loss`` sums over exactly ``sample.mask`` (C4) and keeps its numbers (C9).

    ``loss(prediction, sample)``, or ``loss(prediction, target, hidden)`` with ``takes="tensors"``, where ``hidden`` is
    Boolean over the target, batch axis first; it returns a scalar (``reduction`` "mean" over the selected coordinates
    of the batch, or "sum") or ``[N]`` ("rows"). ``distance``, if declared, is the distance as a function of the error
    ``prediction - target`` that takes Fractions and tensors alike, such as ``abs`` or ``lambda e: e * e``: only then
    is the value compared with the exact objective. ``invariant`` names what must leave the value as it is: the batch
    twice, each axis twice, a visible place more on an axis (a contrastive loss lets the second change it; a rows or sum
    loss is tried with padding alone). ``prediction_shape`` is the target's shape followed by axes of
    their own (class scores), and the target's shape unless given. Attributes, buffers and
    random state that the loss writes are put back after every call.

    >>> from viewproof.objectives import masked_mse
    >>> from viewproof.views import vector_mae_sample
    >>> sample = vector_mae_sample(torch.rand(2, 6), period=3, offset=1)
    >>> wrong = lambda prediction, s: (prediction - s.y).square()[~s.mask.hidden.expand(s.y.shape)].mean()
    >>> print(certify_loss(wrong, sample).refuted[0].witness.what)
    the prediction at (0, 1) is hidden and has no gradient, nor have 3 others of 4
    """
    from viewproof.certify import loss_value

    shape = tuple(sample.y.shape) if prediction_shape is None else tuple(prediction_shape)
    _check(sample, takes, reduction, invariant, shape)
    case = LossCase(loss, sample, shape, takes, reduction, distance, invariant)
    subject = name or str(getattr(loss, "__name__", type(loss).__name__))
    checks: list[tuple[Contract, str, Callable[[LossCase], Iterable[Finding]]]] = [
        (Contract.C4, "the gradient's support is the hidden set", _support),
        (Contract.C4, "an empty mask is refused", loss_value.empty),
        (Contract.C4, "the value is the declared objective", loss_value.value),
        (Contract.C4, "scale does not change with batch, axes or padding", loss_value.scale),
        (Contract.C9, "values off the mask change nothing", _poison),
        (Contract.C9, "a row with nothing hidden adds nothing", loss_value.empty_row),
        (Contract.C9, "half precision does not overflow", loss_value.half),
    ]
    findings = attempt(subject, Contract.C4, "the loss is a function of its arguments", lambda: _varying(case))
    for contract, claim, check in () if findings else checks:
        findings += attempt(subject, contract, claim, lambda check=check: check(case))  # type: ignore[misc]
    return Report(subject, findings)


def _check(sample: Sample, takes: str, reduction: str, invariant: Any, shape: tuple[int, ...]) -> None:
    if isinstance(invariant, str) or not set(invariant) <= set(INVARIANCES):
        raise InvalidArgument(f"invariant={invariant!r} must be among {INVARIANCES}")
    if takes not in ("sample", "tensors"):
        raise InvalidArgument(f"takes={takes!r} must be 'sample' or 'tensors': loss(prediction, target, hidden)")
    if reduction not in ("mean", "sum", "rows"):
        raise InvalidArgument(f"reduction={reduction!r} must be 'mean', 'sum' or 'rows'")
    if shape[: sample.y.dim()] != tuple(sample.y.shape):
        raise InvalidArgument(
            f"prediction_shape={shape} must begin with the target's shape {tuple(sample.y.shape)}; axes of its own, "
            "class scores say, come last"
        )
    if sample.y.numel() == 0:
        raise InvalidArgument(f"sample.y of shape {tuple(sample.y.shape)} is empty; pass at least one row to look at")
    if not bool(sample.y[over(sample)].isfinite().all()):
        raise InvalidArgument("sample.y is NaN or infinite at hidden coordinates; pass a sample with finite targets")


def _varying(case: LossCase) -> Iterable[Finding]:
    """What differs from call to call makes every comparison of values void."""
    prediction = case.predictions()[1]
    (first, slope), (second, again) = case.run(prediction), case.run(prediction)
    if not (same(first, second) and same(slope, again)):
        said = f"called twice alike it gives {_shown(first)} and {_shown(second)}; hand over one whose state is fixed"
        claim = "the loss is a function of its arguments"
        yield Finding(Contract.C4, claim, Verdict.UNKNOWN, "this sample", "run twice", said)


def _support(case: LossCase) -> Iterable[Finding]:
    """The gradient at generic points, both ways; its absence off the mask by proof where there is one."""
    predictions = case.predictions()
    runs = [case.run(p) for p in predictions]
    gradients = [g for _, g in runs]
    trailing = tuple(range(case.hidden.dim(), len(case.shape)))
    support = torch.stack([g != 0 for g in gradients]).any(0)
    support = support.any(trailing) if trailing else support
    hidden, maps = case.hidden, {"hidden": case.hidden, "support": support}
    scope = f"this sample, {tuple(case.shape)}"
    claim = "every hidden coordinate has a gradient"
    missing = (hidden & ~support).nonzero().tolist()
    if not bool(hidden.any()):
        yield Finding(Contract.C4, claim, Verdict.VACUOUS, "nothing", "not run", "the mask hides nothing")
    elif missing:
        at, total = tuple(missing[0]), int(hidden.sum())
        what = f"the prediction at {at} is hidden and has no gradient, nor have {len(missing) - 1} others of {total}"
        inputs = {"prediction": predictions[1], "sample": case.sample}
        witness = Witness(what, inputs, {"prediction": at}, maps)
        yield Finding(Contract.C4, claim, Verdict.REFUTED, scope, "gradient at points", "", witness)
    else:
        yield Finding(Contract.C4, claim, Verdict.PROVED, scope, "a point with a gradient found for each coordinate")
    yield _off_mask(case, predictions, gradients, maps)
    bad = [i for i, (v, g) in enumerate(runs) if not bool(v.isfinite().all() & g.isfinite().all())]
    claim = "the value and its gradient are finite"
    if bad:
        inputs = {"prediction": predictions[bad[0]], "sample": case.sample}
        what = (
            f"value {runs[bad[0]][0]} with a gradient that is not finite"
            if bool(runs[bad[0]][0].isfinite().all())
            else f"value {runs[bad[0]][0]} of a finite prediction"
        )
        yield Finding(Contract.C9, claim, Verdict.REFUTED, scope, "run", "", Witness(what, inputs, {}, maps))


def _off_mask(case: LossCase, predictions: list[Tensor], gradients: list[Tensor], maps: dict[str, Tensor]) -> Finding:
    claim, scope = "no visible coordinate has a gradient", f"this sample, {tuple(case.shape)}"
    if bool(case.hidden.all()):
        return Finding(Contract.C4, claim, Verdict.VACUOUS, "nothing", "not run", "the mask hides everything")
    off = ~case.selected(predictions[0])
    for prediction, gradient in zip(predictions, gradients, strict=True):
        wrong = (off & (gradient != 0)).nonzero().tolist()
        if wrong:
            at = tuple(wrong[0])
            what = f"the prediction at {at} is visible and has gradient {float(gradient[at]):.6g}"
            witness = Witness(what, {"prediction": prediction, "sample": case.sample}, {"prediction": at}, maps)
            return Finding(Contract.C4, claim, Verdict.REFUTED, scope, "gradient at points", "", witness)
    reason = traced(case)
    if reason is None:
        return Finding(Contract.C4, claim, Verdict.PROVED, f"all values; {scope}", TRACED)
    if traced(case, finite=True) is None:
        return Finding(Contract.C4, claim, Verdict.PROVED, f"all finite values; {scope}", TRACED)
    reason = f"none at {len(predictions)} predictions; not proved: {reason}"
    return Finding(Contract.C4, claim, Verdict.UNKNOWN, scope, "gradient at points", reason)


def traced(case: LossCase, finite: bool = False) -> str | None:
    """Why value or gradient may depend on what is off the mask, or the gradient there not be 0; None if neither can be.

    Followed by element through every operator that runs, those of the backward pass included: once from what is off
    the mask, and once from everything, which tells the constant parts of the gradient and that no value decides which
    operators run. With ``finite``, as long as every number met is finite.
    """
    off, everything = ~case.selected(case.predictions()[1]), torch.ones((), dtype=torch.bool)
    value, gradient, reason = _followed(case, finite, off, ~case.hidden)
    if reason or bool(value.any()):
        return reason or "the value may depend on what is off the mask"
    if bool(gradient.any()):
        return "the gradient may depend on what is off the mask"
    _, gradient, reason = _followed(case, finite, everything.expand_as(off), everything.expand_as(case.hidden))
    if reason or bool(gradient[off].any()):
        return reason or "the gradient off the mask may be another one for other values"
    return None if bool((case.run(case.predictions()[1])[1][off] == 0).all()) else "the gradient off the mask is not 0"


def _followed(case: LossCase, finite: bool, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, str]:
    """Which elements of value and gradient may depend on these of prediction and target; why no one knows, or ''."""
    from viewproof.certify.flow.dependence import Dependence

    leaf, y = case.predictions()[1].requires_grad_(), case.sample.y.detach().clone()
    mask = Mask(case.sample.mask.hidden.clone(), case.sample.mask.per_sample, case.sample.mask.rule)
    sample = replace(case.sample, y=y, mask=mask)
    with case.afresh(), torch.enable_grad(), Dependence(finite) as tracked:
        tracked.tag(leaf.detach(), prediction)
        tracked.tag(y, target)
        value = case.loss(leaf, sample) if case.takes == "sample" else case.loss(leaf, y, over(sample))
        gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
    nothing = torch.zeros(leaf.shape, dtype=torch.bool)
    return tracked.of(value.detach()), nothing if gradient is None else tracked.of(gradient), tracked.escaped


def _poison(case: LossCase) -> Iterable[Finding]:
    """NaN, infinities and other finite values off the mask, in the prediction and in the target."""
    claim, scope = "values off the mask change neither value nor gradient", f"this sample, {tuple(case.shape)}"
    if bool(case.hidden.all()):
        yield Finding(Contract.C9, claim, Verdict.VACUOUS, "nothing", "not run", "the mask hides everything")
        return
    prediction = case.predictions()[1]
    value, gradient = case.run(prediction)
    selected = case.selected(prediction)
    for poison in (math.nan, math.inf, -math.inf, 1e4, -3.0):
        bad = torch.where(selected, prediction, torch.tensor(poison, dtype=prediction.dtype))
        for where, given in (("prediction", case.sample), ("target", _poisoned(case.sample, poison))):
            changed, slope = case.run(bad if where == "prediction" else prediction, given)
            if same(changed, value) and same(slope, gradient):
                continue
            part = (
                f"the value from {_shown(value)} to {_shown(changed)}" if not same(changed, value) else "the gradient"
            )
            what = f"{poison} off the mask, in the {where}, changes {part}"
            inputs = {"prediction": bad if where == "prediction" else prediction, "sample": given}
            witness = Witness(what, {**inputs, "clean": (prediction, case.sample)}, {}, {"hidden": case.hidden})
            yield Finding(Contract.C9, claim, Verdict.REFUTED, scope, "run with poison", "", witness)
            return
    reason = traced(case)
    if reason is None:
        yield Finding(Contract.C9, claim, Verdict.PROVED, f"all values; {scope}", TRACED)
    else:
        yield Finding(Contract.C9, claim, Verdict.UNKNOWN, scope, "run with poison", f"none of five does; {reason}")


def _poisoned(sample: Sample, poison: float) -> Sample:
    """The sample with another target off the mask; whole numbers (classes) are replaced by one that occurs."""
    y = sample.y
    other = torch.tensor(poison, dtype=y.dtype) if y.is_floating_point() else y.max() if poison > 0 else y.min()
    return replace(sample, y=torch.where(over(sample), y, other))


def same(a: Tensor, b: Tensor) -> bool:
    """Equal values and shapes, NaN equal to NaN."""
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())


def _shown(value: Tensor) -> str:
    return f"{float(value):.6g}" if value.dim() == 0 else str(value.tolist())
