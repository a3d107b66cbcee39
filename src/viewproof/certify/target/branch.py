"""A user's target branch and what is measured on it: gradients, and how parameters move."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from viewproof.bits import seeded
from viewproof.certify.flow.isolation import kept

Buffers = Literal["average", "copy", "keep"]


@dataclass(frozen=True)
class TargetBranch:
    """A self-distilling pipeline, as far as its target branch goes; everything but ``loss`` may be left out.

    ``loss(batch)`` is the scalar that is differentiated; with ``targets``, ``loss(batch, targets(batch))``. ``target``
    is the averaged copy of ``online``. ``update(step)`` moves it once, by ``momentum`` (a number, or the declared
    function of the step); its ``buffers`` are averaged too (whole numbers copied), copied, or kept. ``step(batches)``
    is one optimizer step over these micro-batches, the target's move included. ``trained`` and ``frozen`` are modules
    whose every parameter must, or must not, get a gradient and move. ``stateful`` lists what else has a
    ``state_dict`` that a step changes: optimizers, schedules, other modules.
    """

    loss: Callable[..., Tensor]
    online: nn.Module | None = None
    target: nn.Module | None = None
    targets: Callable[[Any], Any] | None = None
    update: Callable[[int], Any] | None = None
    momentum: float | Callable[[int], float] | None = None
    buffers: Buffers = "copy"
    step: Callable[[Sequence[Any]], Any] | None = None
    trained: Sequence[nn.Module] = ()
    frozen: Sequence[nn.Module] = ()
    stateful: Sequence[Any] = ()

    def modules(self) -> list[nn.Module]:
        """Every module that is named."""
        named = [self.online, self.target, *self.trained, *self.frozen]
        return [m for m in named if m is not None] + [m for m in self.stateful if isinstance(m, nn.Module)]

    def value(self, batch: Any) -> Tensor:
        """The loss that is differentiated."""
        return self.loss(batch) if self.targets is None else self.loss(batch, self.targets(batch))

    def rate(self, step: int) -> float:
        """The declared momentum of a step."""
        assert self.momentum is not None
        return float(self.momentum(step)) if callable(self.momentum) else float(self.momentum)


@dataclass(frozen=True, eq=False)
class TargetCase:
    """A target branch on one batch, for ``steps`` moves."""

    branch: TargetBranch
    batch: Any
    steps: int

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Afterwards parameters, buffers, gradients, flags, states and the global generators are as they were."""
        others = [s for s in self.branch.stateful if not isinstance(s, nn.Module)]
        states = [(s, copy.deepcopy(s.state_dict())) for s in others]
        with seeded(0), kept(*self.branch.modules()):
            try:
                yield
            finally:
                for holder, state in states:
                    holder.load_state_dict(state)

    def value(self) -> Tensor:
        """The loss without gradient, with the same random numbers each time."""
        with seeded(3), torch.no_grad():
            return self.branch.value(self.batch).detach().clone()

    def matters(self, parameter: Tensor) -> bool:
        """Whether the loss changes with the parameter beyond rounding: a bias before a batch norm does nothing."""
        before, value = self.value(), parameter.detach().clone()
        shake([parameter], 400)
        after = self.value()
        with torch.no_grad():
            parameter.copy_(value)
        return not bool((after - before).abs() <= 1e-5 * before.abs())

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that must be trained, by name."""
        return _parameters("trained", self.branch.trained)

    @cached_property
    def frozen(self) -> dict[str, Tensor]:
        """The parameters that must not be trained, by name."""
        return _parameters("frozen", self.branch.frozen)

    @cached_property
    def gradients(self) -> list[dict[str, Tensor]]:
        """The gradients of trained and frozen parameters at three points nearby, of those with a path to the loss."""
        both = {k: p for k, p in {**self.trained, **self.frozen}.items() if p.requires_grad}
        points = []
        for seed in range(3):
            with torch.enable_grad():
                gradients = gradients_of(self.branch.value(self.batch), list(both.values()))
            points.append({k: g for k, g in zip(both, gradients, strict=True) if g is not None})
            # A layer that starts at 0 lets no gradient through until it has moved.
            shake(self.trained.values(), 300 + seed)
        return points

    @cached_property
    def moved(self) -> set[str]:
        """The trained and frozen parameters that differ after the optimizer's steps."""
        assert self.branch.step is not None
        both = {**self.trained, **self.frozen}
        before = {k: p.detach().clone() for k, p in both.items()}
        for _ in range(self.steps):
            self.branch.step([self.batch])
        return {k for k, p in both.items() if not torch.equal(p.detach(), before[k])}


def _parameters(role: str, modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {f"{role}[{i}].{k}": p for i, m in enumerate(modules) for k, p in m.named_parameters()}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters and buffers."""
    return {k: t.detach().clone() for k, t in [*module.named_parameters(), *module.named_buffers()]}


def gradients_of(loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient with respect to each tensor, None where no path leads to it."""
    if not loss.requires_grad or not tensors:
        return [None] * len(tensors)
    return torch.autograd.grad(loss, tensors, allow_unused=True)


def shake(tensors: Iterable[Tensor], seed: int) -> None:
    """Every tensor moves by about its own size; whole numbers by 1 or 2; what is not negative stays so."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                positive = bool((tensor >= 0).all()) and bool((tensor > 0).any())
                tensor.copy_(tensor * noise.exp() + noise.abs() * 0.1 if positive else tensor + noise * 0.5)
            elif tensor.dtype != torch.bool:
                tensor.add_(1 + torch.randint(0, 2, tensor.shape, generator=generator).to(tensor))
