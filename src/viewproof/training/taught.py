"""The base of training modules with an EMA teacher."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from viewproof.training.base import JointPretraining
from viewproof.training.ema import MomentumSchedule, move_target


class TaughtPretraining(JointPretraining):
    """Base of modules in which ``teacher()`` is the moving average of ``student()``.

    The teacher moves once an optimizer step, after it, by ``momentum(step)``, whatever the number of micro-batches;
    None is no teacher. By default the momentum rises from 0.996 to 1 at ``total_steps``, and without these it stays.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        momentum: Callable[[int], float] | None = None,
        **optimization: Any,
    ) -> None:
        super().__init__(model, loss, **optimization)
        steps = optimization.get("total_steps")
        self.momentum = momentum or (MomentumSchedule(steps=steps) if steps else MomentumSchedule(end=0.996, steps=1))

    def student(self) -> nn.Module:
        """The module that is trained and averaged."""
        raise NotImplementedError(f"{type(self).__name__} must define student()")

    def teacher(self) -> nn.Module | None:
        """The average, of the same structure."""
        raise NotImplementedError(f"{type(self).__name__} must define teacher()")

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """The optimizer's step, and then the teacher's."""
        step = self.global_step
        super().optimizer_step(*arguments, **options)
        teacher = self.teacher()
        if teacher is not None:
            move_target(teacher, self.student(), self.momentum(step))
