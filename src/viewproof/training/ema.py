"""The exponential moving average (EMA) of a target branch, and its momentum in closed form."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count


@dataclass(frozen=True)
class MomentumSchedule:
    """I-JEPA's momentum: ``start + (end - start) * min(1, k / steps)`` at step ``k``, from 0.

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
    """Set every parameter to ``momentum * target + (1 - momentum) * online``; copy the buffers.

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
    shapes = [
        {name: tensor.shape for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
        for module in (target, online)
    ]
    if shapes[0] != shapes[1]:
        raise InvalidArgument("target and online branch differ in structure; make the target a deep copy of the online")
    if parameters := list(target.parameters()):
        get_ema_multi_avg_fn(momentum)(parameters, list(online.parameters()), 0)  # type: ignore[no-untyped-call]
    for buffer, current in zip(target.buffers(), online.buffers(), strict=True):
        buffer.copy_(current)
