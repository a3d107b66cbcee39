"""A user's loss on one sample: how it is called, its value and its gradient."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.flow.isolation import kept
from viewproof.masks import Mask, Sample
from viewproof.objectives.masked import Reduction

Takes = Literal["sample", "tensors"]
Distance = Callable[[Any], Any]
Invariance = Literal["batch", "axes", "padding"]
INVARIANCES: tuple[Invariance, ...] = ("batch", "axes", "padding")
_SCALES = (0.125, 1.0, 8.0)


@dataclass(frozen=True, eq=False)
class LossCase:
    """A user's loss, a sample, the shape of predictions, and what is declared of the loss; see `certify_loss`."""

    loss: Callable[..., Tensor]
    sample: Sample
    shape: tuple[int, ...]
    takes: Takes
    reduction: Reduction
    distance: Distance | None
    invariant: Sequence[Invariance]

    def __call__(self, prediction: Tensor, sample: Sample | None = None) -> Tensor:
        """The loss, ``[N]`` or a scalar, without gradient; what it writes to its arguments is lost."""
        with self.same_state():
            return self.apply(prediction.clone(), fresh_copy(sample or self.sample)).detach()

    def apply(self, prediction: Tensor, sample: Sample) -> Tensor:
        """The loss on these very tensors, which may be symbolic."""
        if self.takes == "sample":
            return self.loss(prediction, sample)
        return self.loss(prediction, sample.y, hidden_of(sample))

    @contextmanager
    def same_state(self) -> Iterator[None]:
        """A loss that draws (negatives, say) draws the same each time; one that keeps a centre starts from the same."""
        with seeded(0), kept(getattr(self.loss, "__self__", self.loss)):
            yield

    def with_gradient(self, prediction: Tensor, sample: Sample | None = None) -> tuple[Tensor, Tensor]:
        """The value and the gradient of its sum with respect to the prediction (0 where there is none)."""
        leaf = prediction.detach().clone().requires_grad_()
        with self.same_state(), torch.enable_grad():
            value = self.apply(leaf, fresh_copy(sample or self.sample))
            gradient = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0] if value.requires_grad else None
        return value.detach(), torch.zeros_like(leaf) if gradient is None else gradient

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
        return {
            "mean": "the value is the mean of the declared distance over the hidden set",
            "sum": "the value is the sum of the declared distance over the hidden set",
            "rows": "each row's value is its sum of the declared distance over the hidden set",
        }[self.reduction]

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
    def runs(self) -> list[tuple[Tensor, Tensor]]:
        """Value and gradient at each of them."""
        return [self.with_gradient(p) for p in self.predictions]

    @cached_property
    def support(self) -> Tensor:
        """Whether each coordinate of the target has a gradient at one of them."""
        support = torch.stack([gradient != 0 for _, gradient in self.runs]).any(0)
        return support.flatten(self.hidden.dim()).any(-1) if support.dim() > self.hidden.dim() else support

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
