"""A user's target branch and what is measured on it: gradients, and how parameters move."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from viewproof.bits import seeded
from viewproof.certify.flow.isolation import kept
from viewproof.certify.flow.state import state_kept
from viewproof.errors import InvalidArgument

Buffers = Literal["average", "copy", "keep"]
Order = Literal["after", "before"]
Named = nn.Module | Tensor | str


@dataclass(frozen=True)
class TargetBranch:
    """A self-distilling pipeline, as far as its target branch goes; only ``loss`` is required.

    ``loss(batch)`` is the scalar that is differentiated; with ``targets``, ``loss(batch, targets(batch))``. ``target``
    is the averaged copy of ``online``. ``update(step)`` moves it once, by ``momentum`` (a number, or the declared
    function of the step); its ``buffers`` are averaged too (whole numbers copied), copied, or kept, all of them or by
    name pattern (``{"*.running_*": "keep"}``, copied where none fits). ``step(batches)`` is one optimizer step over
    these micro-batches, the target's move included; ``order`` says whether that reads online "after" or "before" the
    optimizer's step.

    ``trained`` and ``frozen`` are modules, parameters, and patterns of names ("online.*.bias", "trained[1].weight")
    that must, or must not, get a gradient and move; of a trained module those with ``requires_grad``, and none that is
    frozen. ``stateful`` lists what else has a ``state_dict`` that a step changes: optimizers, schedules, other modules.
    """

    loss: Callable[..., Tensor]
    online: nn.Module | None = None
    target: nn.Module | None = None
    targets: Callable[[Any], Any] | None = None
    update: Callable[[int], Any] | None = None
    momentum: float | Callable[[int], float] | None = None
    buffers: Buffers | Mapping[str, Buffers] = "copy"
    order: Order | None = None
    step: Callable[[Sequence[Any]], Any] | None = None
    trained: Sequence[Named] = ()
    frozen: Sequence[Named] = ()
    stateful: Sequence[Any] = ()

    def modules(self) -> list[nn.Module]:
        """Every module that is named."""
        named = [self.online, self.target, *self.trained, *self.frozen, *self.stateful]
        return [m for m in named if isinstance(m, nn.Module)]

    def parameters(self, role: str, named: Sequence[Named]) -> dict[str, Tensor]:
        """The parameters that ``trained`` or ``frozen`` names, by name.

        Raises `InvalidArgument` for a pattern that fits no name.
        """
        roles: dict[str, Any] = {"online": self.online, "target": self.target}
        for key, members in (("trained", self.trained), ("frozen", self.frozen), ("stateful", self.stateful)):
            roles |= {f"{key}[{i}]": m for i, m in enumerate(members)}
        known = {
            f"{key}.{k}": p for key, m in roles.items() if isinstance(m, nn.Module) for k, p in m.named_parameters()
        }
        found: dict[str, Tensor] = {}
        for i, one in enumerate(named):
            if isinstance(one, nn.Module):
                found |= {f"{role}[{i}].{k}": p for k, p in one.named_parameters()}
            elif isinstance(one, Tensor):
                found[next((k for k, p in known.items() if p is one), f"{role}[{i}]")] = one
            else:
                # Brackets are those of names here, "trained[0].weight", and no set of characters.
                matching = {k: p for k, p in known.items() if fnmatchcase(k, one.replace("[", "[[]"))}
                if not matching:
                    names = ", ".join([*known][:6])
                    raise InvalidArgument(f"{role}={one!r} must fit the name of a parameter; there are {names}, ...")
                found |= matching
        return found

    def buffer_rule(self, name: str) -> Buffers:
        """What the declared average does with a buffer of the target."""
        if isinstance(self.buffers, str):
            return self.buffers
        return next((rule for pattern, rule in self.buffers.items() if fnmatchcase(name, pattern)), "copy")

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
        """Afterwards parameters, buffers, gradients, flags, states and generators are as before."""
        others = [s for s in self.branch.stateful if not isinstance(s, nn.Module)]
        states = [(s, copy.deepcopy(s.state_dict())) for s in others]
        functions = self.branch.loss, self.branch.update, self.branch.step
        alone = [p for p in (*self.branch.trained, *self.branch.frozen) if isinstance(p, Tensor)]
        values = [(p, p.detach().clone(), p.grad) for p in alone]
        with seeded(0), state_kept(*functions), kept(*self.branch.modules()):
            try:
                yield
            finally:
                with torch.no_grad():
                    for parameter, value, gradient in values:
                        parameter.copy_(value)
                        parameter.grad = gradient
                for holder, state in states:
                    holder.load_state_dict(state)

    def value(self) -> Tensor:
        """The loss without gradient, with the same random numbers each time."""
        with seeded(3), torch.no_grad():
            return self.branch.value(self.batch).detach().clone()

    def matters(self, parameter: Tensor) -> bool:
        """Whether the loss changes with the parameter beyond rounding; a bias before BatchNorm does not."""
        before, value = self.value(), parameter.detach().clone()
        shake([parameter], 400)
        after = self.value()
        with torch.no_grad():
            parameter.copy_(value)
        return not bool((after - before).abs() <= 1e-5 * before.abs())

    @cached_property
    def trained(self) -> dict[str, Tensor]:
        """The parameters that must be trained, by name."""
        frozen = {id(p) for p in self.frozen.values()}
        named = self.branch.parameters("trained", self.branch.trained)
        return {k: p for k, p in named.items() if id(p) not in frozen and k not in self.fixed}

    @cached_property
    def fixed(self) -> list[str]:
        """The parameters of trained modules without ``requires_grad``, unless all are without."""
        modules = [m if isinstance(m, nn.Module) and _trainable(m) else nn.Module() for m in self.branch.trained]
        named = self.branch.parameters("trained", modules)
        chosen = {id(p) for p in self.branch.trained if isinstance(p, Tensor)}
        return [k for k, p in named.items() if not p.requires_grad and id(p) not in chosen]

    @cached_property
    def frozen(self) -> dict[str, Tensor]:
        """The parameters that must not be trained, by name."""
        return self.branch.parameters("frozen", self.branch.frozen)

    @property
    def fixed_detail(self) -> str:
        """Which parameters of trained modules are not asked about."""
        shown = ", ".join(self.fixed[:4]) + (", ..." if len(self.fixed) > 4 else "")
        return f"without requires_grad, hence not trained: {shown}" if self.fixed else ""

    @cached_property
    def gradients(self) -> list[dict[str, Tensor]]:
        """The gradients of trained and frozen parameters with a path to the loss, at three points."""
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
        # A student that equals its teacher starts at a stationary point, where nothing moves.
        shake(self.trained.values(), 500)
        before = {k: p.detach().clone() for k, p in both.items()}
        for _ in range(self.steps):
            self.branch.step([self.batch])
        return {k for k, p in both.items() if not torch.equal(p.detach(), before[k])}


def _trainable(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters and buffers."""
    return {k: t.detach().clone() for k, t in [*module.named_parameters(), *module.named_buffers()]}


def gradients_of(loss: Tensor, tensors: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """The gradient with respect to each tensor, None where no path leads to it."""
    if not loss.requires_grad or not tensors:
        return [None] * len(tensors)
    return torch.autograd.grad(loss, tensors, allow_unused=True)


def shake(tensors: Iterable[Tensor], seed: int) -> None:
    """Every tensor moved by about its own size; integers by 1 or 2; signs of non-negatives stay."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                positive = bool((tensor >= 0).all()) and bool((tensor > 0).any())
                tensor.copy_(tensor * noise.exp() + noise.abs() * 0.1 if positive else tensor + noise * 0.5)
            elif tensor.dtype != torch.bool:
                tensor.add_(1 + torch.randint(0, 2, tensor.shape, generator=generator).to(tensor))
