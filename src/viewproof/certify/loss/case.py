"""A user's loss on one sample: how it is called, its value, gradient and their dependence."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.check import failure
from viewproof.certify.flow.dependence import Dependence
from viewproof.certify.flow.expressions import differs, guards
from viewproof.certify.flow.isolation import uncompiled
from viewproof.certify.flow.state import state_kept
from viewproof.certify.loss.masks import Masks, other_masks
from viewproof.certify.loss.objective import Objective
from viewproof.certify.outputs import value_and_gradient
from viewproof.masks import Mask, Sample
from viewproof.objectives.masked import Reduction
from viewproof.verdict import Verdict

Takes = Literal["sample", "tensors"]
Invariance = Literal["batch", "axes", "padding"]
INVARIANCES: tuple[Invariance, ...] = ("batch", "axes", "padding")
_SCALES = (0.125, 1.0, 8.0)
EXPRESSIONS = "one expression as the objective's, at random points of a field"


@dataclass(frozen=True, eq=False)
class LossCase:
    """A user's loss, a sample, the shape of predictions, and what is declared of the loss."""

    loss: Callable[..., Tensor]
    sample: Sample
    shape: tuple[int, ...]
    takes: Takes
    reduction: Reduction
    distance: Objective | None
    invariant: Sequence[Invariance]
    masks: Masks | None = None
    dtypes: Sequence[torch.dtype] | None = None
    ids: tuple[int, int] | None = None
    ignore_index: int | None = None

    def __call__(self, prediction: Tensor, sample: Sample | None = None) -> Tensor:
        """The loss, ``[N]`` or a scalar, without gradient; what it writes to its arguments is lost."""
        with self.same_state():
            return self.apply(prediction.clone(), fresh_copy(sample or self.sample)).detach()

    def apply(self, prediction: Tensor, sample: Sample) -> Tensor:
        """The loss on these tensors, which may be symbolic; off the mask the target is ``ignore_index``, if any."""
        if self.ignore_index is not None:
            sample = replace(sample, y=torch.where(hidden_of(sample), sample.y, self.ignore_index))
        if self.takes == "sample":
            return self.loss(prediction, sample)
        return self.loss(prediction, sample.y, hidden_of(sample))

    @contextmanager
    def same_state(self) -> Iterator[None]:
        """A loss that draws does so alike each time; one that keeps state starts from the same."""
        with seeded(0), state_kept(self.loss), uncompiled():
            yield

    def with_gradient(self, prediction: Tensor, sample: Sample | None = None) -> tuple[Tensor, Tensor]:
        """The value and the gradient of its sum with respect to the prediction (0 where there is none)."""
        with self.same_state():
            copied = fresh_copy(sample or self.sample)
            return value_and_gradient(lambda leaf: self.apply(leaf, copied), prediction)

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The target's shape."""
        return tuple(self.sample.y.shape)

    @property
    def value_of_nothing(self) -> str:
        """What the loss should do where nothing is hidden, in words."""
        return "the mean over an empty mask raises" if self.reduction == "mean" else "the sum over an empty mask is 0"

    @property
    def objective(self) -> str:
        """What the value should be, in words."""
        value = "each row's value is its sum" if self.reduction == "rows" else f"the value is the {self.reduction}"
        return f"{value} of the declared distance over the hidden set"

    @property
    def hidden(self) -> Tensor:
        """Whether each coordinate of the target is hidden, batch axis first."""
        return hidden_of(self.sample)

    @property
    def hidden_predictions(self) -> Tensor:
        """The same over the prediction, whose last axes (class scores, say) share the target's status."""
        hidden = self.hidden
        return hidden.reshape(hidden.shape + (1,) * (len(self.shape) - hidden.dim())).expand(self.shape)

    @cached_property
    def predictions(self) -> list[Tensor]:
        """Generic predictions, near the target and far from it."""
        generator, y = torch.Generator().manual_seed(0), self.sample.y
        dtype = y.dtype if y.is_floating_point() else torch.float32
        centre = y if self.shape == y.shape and y.is_floating_point() else 0.0
        noise = [torch.randn(self.shape, generator=generator).to(dtype).to(y.device) for _ in _SCALES]
        return [centre + scale * n for scale, n in zip(_SCALES, noise, strict=True)]

    @cached_property
    def runs(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each of them with its value and its gradient."""
        return [(p, *self.with_gradient(p)) for p in self.predictions]

    @cached_property
    def support(self) -> Tensor:
        """Whether each coordinate of the target has a gradient at one of them."""
        support = torch.stack([gradient != 0 for *_, gradient in self.runs]).any(0)
        return support.flatten(self.hidden.dim()).any(-1) if support.dim() > self.hidden.dim() else support

    @property
    def declared_targets(self) -> list[Tensor]:
        """Targets of the first and of the last declared id throughout."""
        return [torch.full_like(self.sample.y, number) for number in self.ids or ()]

    @cached_property
    def other_masks(self) -> list[Tensor]:
        """Other masks over the target: drawn as declared, or of the example's structure."""
        return list(other_masks(self.sample, self.masks))

    def under(self, hidden: Tensor) -> Sample:
        """The sample with another mask; one that all rows share stays one.

        An x that is the target with one number where it is hidden, and a view that is the mask, are changed alike.
        """
        sample, y, own = self.sample, self.sample.y, self.hidden
        shared = not sample.mask.per_sample and bool((hidden == hidden[:1]).all())
        mask = Mask(hidden[0] if shared else hidden, not shared, sample.mask.rule)
        x, view = sample.x, sample.view
        if x.numel() == y.numel() and bool(own.any()):
            flat = x.reshape(y.shape)
            fill = flat[own][0]
            if bool((flat == torch.where(own, fill.to(flat), y.to(flat))).all()):
                x = torch.where(hidden, fill, y.to(flat)).reshape(x.shape)
        if (
            view is not None
            and x.numel() == y.numel()
            and torch.equal(view.hidden.expand(x.shape).reshape(y.shape), own)
        ):
            other = hidden.reshape(x.shape)
            view = Mask(other[0] if shared else other, not shared, view.rule)
        return replace(sample, x=x, mask=mask, view=view)

    @cached_property
    def guards(self) -> list[str]:
        """The places of the loss at which values decide whether it raises, and nothing else."""
        with self.same_state():
            return guards(lambda p, y: self.apply(p, replace(self.sample, y=y)), self.prediction, self.sample.y)

    def is_one_expression(self, one: Callable[[Tensor, Sample], Tensor], other: Any, hidden: Tensor) -> str:
        """Why two functions of prediction and sample are not proved one expression under this mask; "" if they are."""

        def both(prediction: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            sample = replace(self.under(hidden), y=y)
            with self.same_state():
                first = one(prediction, sample)
            with self.same_state():
                return first, other(prediction, sample)

        reason, notes = differs(both, self.prediction, self.sample.y, self.guards)
        self.assumed.update(dict.fromkeys(notes))
        return reason

    @cached_property
    def assumed(self) -> dict[str, None]:
        """What the proofs of expressions assume of the values, filled as they are made."""
        return dict.fromkeys(f"where the check at {place} passes" for place in self.guards)

    @cached_property
    def proof(self) -> tuple[str, str, str]:
        """Scope and method of the proof that the loss is the declared objective; or why there is none.

        For all sizes and masks if Z3 finds it; else over the reals at this shape, under the example's mask and others.
        """
        if (objective := self.distance) is None:
            return "", "", "no distance declared"
        reason = "the declared distance is proved at this shape only"
        if objective.of_error and self.shape == self.target_shape and self.masks is None:
            try:
                # Z3 is imported only where something is to be proved.
                from viewproof.certify.loss.proof import prove_value

                with self.same_state():
                    y, per_sample = self.sample.y, self.sample.mask.per_sample
                    outcome = prove_value(self.apply, y, per_sample, self.reduction, objective.distance)
                if outcome.verdict is Verdict.PROVED:
                    return "the reals, all sizes, any mask", "captured and proved; exact fractions", ""
                # A counterexample in the reals counts for nothing if no prediction that was run shows it.
                reason = outcome.detail
            except Exception as error:
                reason = failure("its capture", error)

        def declared(prediction: Tensor, sample: Sample) -> Tensor:
            return objective.value(prediction, sample.y, hidden_of(sample), self.reduction)

        masks = [self.hidden, *self.other_masks]
        for hidden in masks:
            if not_one := self.is_one_expression(self.apply, declared, hidden):
                return "", "", f"{not_one}; for all sizes: {reason}" if objective.of_error else not_one
        return self.scope_of_expressions(len(masks)), EXPRESSIONS, ""

    def scope_of_expressions(self, masks: int, what: str = "") -> str:
        """What a proof by expressions covers."""
        targets = "" if self.sample.y.is_floating_point() else ", these targets"
        parts = [f"the reals at {self.shape}", f"{masks} masks{targets}" if masks else targets[2:], what, *self.assumed]
        return ", ".join(part for part in parts if part)

    @property
    def where_checks_pass(self) -> str:
        """The part of a scope that says which checks of values must pass, "" if there are none."""
        return "".join(f"; where the check at {place} passes" for place in self.guards)

    @cached_property
    def may_depend(self) -> str | None:
        """`why_dependent` for all values."""
        return self.why_dependent()

    def why_dependent(self, finite: bool = False) -> str | None:
        """Why value or gradient may depend on what is off the mask; None if they do not.

        Followed by element through every operator that runs, those of the backward pass included: once from what is
        off the mask, and once from everything, which shows the constant parts of the gradient and that no value decides
        which operators run. With ``finite``, as long as every number met is finite.
        """
        off, everything = ~self.hidden_predictions, torch.ones((), dtype=torch.bool)
        value, gradient, reason = self._dependence(finite, off, ~self.hidden)
        if reason or bool(value.any()):
            return reason or "the value may depend on what is off the mask"
        if bool(gradient.any()):
            return "the gradient may depend on what is off the mask"
        _, gradient, reason = self._dependence(finite, everything.expand_as(off), everything.expand_as(self.hidden))
        if reason or bool(gradient[off].any()):
            return reason or "the gradient off the mask may be another one for other values"
        is_zero = bool((self.with_gradient(self.prediction)[1][off] == 0).all())
        return None if is_zero else "the gradient off the mask is not 0"

    def _dependence(self, finite: bool, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor, str]:
        """Which elements of value and gradient may depend on these inputs; why that is not known."""
        leaf, sample = self.prediction.clone().requires_grad_(), fresh_copy(self.sample)
        with self.same_state(), torch.enable_grad(), Dependence(finite, self.guards) as tracked:
            tracked.tag(leaf.detach(), prediction)
            tracked.tag(sample.y, target)
            value = self.apply(leaf, sample)
            gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
        nothing = torch.zeros(leaf.shape, dtype=torch.bool)
        return tracked.of(value.detach()), nothing if gradient is None else tracked.of(gradient), tracked.escaped

    @property
    def prediction(self) -> Tensor:
        """The generic prediction where one is enough."""
        return self.predictions[1]


def hidden_of(sample: Sample) -> Tensor:
    """Whether each coordinate of the target is hidden, batch axis first."""
    return sample.mask.hidden.expand(sample.y.shape)


def fresh_copy(sample: Sample) -> Sample:
    """The sample with a target and a mask of its own, for a loss that may write to them."""
    mask = Mask(sample.mask.hidden.clone(), sample.mask.per_sample, sample.mask.rule)
    return replace(sample, y=sample.y.detach().clone(), mask=mask)
