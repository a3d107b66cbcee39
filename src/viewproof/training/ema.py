"""The target branch that follows by an exponential moving average (EMA), and its momentum in closed form."""

from dataclasses import dataclass

import torch
from torch import nn

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count


@dataclass(frozen=True)
class MomentumSchedule:
    """``m(k) = start + (end - start) * min(1, k / steps)`` at optimizer step ``k``, counted from 0: I-JEPA's.

    Both ends lie in [0, 1], or `InvalidArgument`. After n steps the initial target counts ``m(0) * ... * m(n - 1)``.

    >>> schedule = MomentumSchedule(start=0.9, steps=10)
    >>> schedule(0), round(schedule(5), 6), schedule(10), schedule(99)
    (0.9, 0.95, 1.0, 1.0)
    """

    start: float = 0.996
    end: float = 1.0
    steps: int = 1

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InvalidArgument(
                    f"momentum {name}={value!r} must lie in [0, 1]: 0 copies the online weights, 1 keeps the target's"
                )
        if check_count("steps", self.steps) == 0:
            raise InvalidArgument("steps=0 has no schedule; pass the optimizer steps of the run")

    def __call__(self, step: int) -> float:
        """The momentum of an optimizer step."""
        return self.start + (self.end - self.start) * min(1.0, step / self.steps)


@torch.no_grad()
def move_target(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """``target = momentum * target + (1 - momentum) * online`` of every parameter; buffers are copied.

    Buffers such as running means are averages already, and counters have no average. ``momentum`` outside [0, 1] and
    modules of different structure raise `InvalidArgument`.

    >>> target, online = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = target.weight.data.fill_(1.0), online.weight.data.fill_(3.0)
    >>> move_target(target, online, 0.75)
    >>> target.weight.item()
    1.5
    """
    if not 0 <= momentum <= 1:
        raise InvalidArgument(f"momentum={momentum!r} must lie in [0, 1]")
    kept, given = (
        dict([*module.named_parameters(), *((name, b) for name, b in module.named_buffers())])
        for module in (target, online)
    )
    if {n: v.shape for n, v in kept.items()} != {n: v.shape for n, v in given.items()}:
        raise InvalidArgument("target and online branch differ in structure; make the target a deep copy of the online")
    averaged = [name for name, _ in target.named_parameters()]
    if averaged:
        torch._foreach_lerp_([kept[n] for n in averaged], [given[n] for n in averaged], 1 - momentum)
    for name, buffer in target.named_buffers():
        buffer.copy_(given[name])
