"""The two planes of dependence: which groups are seen and scored by gradients, which are not by tracked dependence."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.flow.dependence import Dependence
from viewproof.torch_internals import BelowModes, DisableTorchFunction
from viewproof.watch.run import Run, place, tensors_of_call
from viewproof.watch.sources import with_tensors


@dataclass(frozen=True)
class Plan:
    """Where in the order of calls a step's predictions, held values and target encoders are; made of the plain run.

    ``functions`` and ``modules`` are the calls that return predictions, ``hold`` the functions that read a trained
    parameter under autograd, ``targets`` the calls of target encoders by their path. A loader that fetches ahead gives
    the batch ``ahead`` steps before it is used. ``losses_read`` are the numbers read out that are losses. ``shared``
    are the frozen ones among the target encoders of which what is trained reads the output too.
    """

    functions: frozenset[int] = frozenset()
    modules: frozenset[int] = frozenset()
    hold: frozenset[int] = frozenset()
    targets: dict[int, str] = field(default_factory=dict)
    backwards: int = 1
    ahead: int = 0
    losses_read: frozenset[int] = frozenset()
    shared: frozenset[str] = frozenset()


class PlannedRun(Run):
    """A run that knows the plan; ``held`` says whether predictions are constants in it, else they are looked at."""

    repeats = True

    def __init__(self, plan: Plan, held: bool, stop: Callable[[], Any]) -> None:
        super().__init__()
        self.plan, self.held, self.stop = plan, held, stop
        self.met: set[tuple[str, int]] = set()
        self.target_call = -1
        # Steps before the one that uses the batch run as they are.
        self._steps_before, self._in_backward = 0, plan.ahead > 0

    def begin(self) -> None:
        """Set the hooks; the planned step begins here, or where a batch fetched ahead comes to be used."""
        if not self.plan.ahead:
            self.turn_on()
        super().begin()

    def turn_on(self) -> None:
        """The planned step begins."""

    def done(self) -> bool:
        """Over after as many steps as in the plain run."""
        if self.steps and self._steps_before < self.plan.ahead:
            self._steps_before, self.steps = self._steps_before + 1, 0
            if self._steps_before == self.plan.ahead:
                self._in_backward = False
                with DisableTorchFunction():
                    self.turn_on()
        return self.steps > 0

    def missed(self) -> str:
        """Why the run is not the planned one, or ``""``."""
        planned = {("function", i) for i in self.plan.functions} | {("module", i) for i in self.plan.modules}
        if not planned:
            where = "as in torch.jit or a transform of torch.func"
            return f"no prediction was found between the loss and trained parameters, {where}"
        if planned - self.met or self.backwards < self.plan.backwards:
            return "the step ran another way than before, so that its predictions were not met again"
        return ""

    def prediction(self, out: Any) -> Any:
        """A prediction was returned."""
        return out

    def target(self, path: str, out: Any) -> Any:
        """A target encoder has returned."""
        return out

    def on_function(self, index: int, func: Any, args: Any, kwargs: Any, out: Any) -> Any:
        """Is it a prediction, or to be held?"""
        predicted = index in self.plan.functions
        if predicted:
            self.met.add(("function", index))
        if predicted or (self.held and index in self.plan.hold):
            return self.prediction(out)
        return out

    def on_module(self, index: int, module: nn.Module, inputs: Any, out: Any) -> Any:
        """Is it a prediction, or a target encoder?"""
        if index in self.plan.modules:
            self.met.add(("module", index))
            out = self.prediction(out)
        if self.held and index in self.plan.targets:
            self.target_call = index
            out = self.target(self.plan.targets[index], out)
        return out

    def on_grad(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """As backward, if the plain run took it for one."""
        if any(t.numel() == 1 for t in losses):
            self.backwards += 1
            gradients = self.on_backward(losses, run)
            return run() if gradients is None else gradients
        return run()


class TrackedRun(PlannedRun):
    """Whether marked coordinates may reach a prediction, or with predictions held, a loss: dependence is tracked.

    With ``losses_read``, a loss that is read out, to be logged, is taken to stay as it is: ``read`` says where. What
    holds is then said of content that leaves it so.
    """

    def __init__(
        self,
        plan: Plan,
        held: bool,
        stop: Callable[[], Any],
        sources: dict[str, Tensor],
        marked: dict[str, Tensor],
        positions: dict[str, list[Tensor]],
        finite: bool,
        losses_read: bool = False,
    ) -> None:
        super().__init__(plan, held, stop)
        self.sources, self.marked, self.positions = sources, marked, positions
        self.losses_read, self.read = plan.losses_read if losses_read else frozenset[int](), list[str]()
        self.tracked, self.depends = Dependence(finite, visible=False), ""
        # What escapes after the last prediction, as a loss that is printed does, reaches no prediction any more.
        self._escaped, self._read_before = "", False
        self._next = dict.fromkeys(positions, 0)
        self._copies = {path: t.detach().clone() for path, t in sources.items()}

    def batch(self, batch: Any) -> Any:
        """The batch with copies whose marked coordinates are tagged."""
        for path, marked in self.marked.items():
            self.tracked.tag(self._copies[path], marked)
        return with_tensors(batch, {id(self.sources[path]): copy for path, copy in self._copies.items()})

    def begin(self) -> None:
        """Turn on."""
        self._contexts.enter_context(self.tracked)
        super().begin()

    def on_number(self, index: int, tensor: Tensor, read: Callable[[], Any]) -> Any:
        """A loss is read without being looked at, so to say."""
        if index not in self.losses_read or self.tracked.escaped:
            return read()
        with BelowModes():
            if bool(self.tracked.of(tensor).any()):
                self.read.append(place())
            return read()

    def prediction(self, out: Any) -> Any:
        """Held: depends on nothing. Else: does it depend?"""
        with BelowModes():
            for tensor in tensors_of_call(out):
                if self.held and not self.tracked.escaped:
                    self.tracked.write(tensor, tagged=False)
                elif not self.held and not self.depends and bool(self.tracked.of(tensor).any()):
                    self.depends = f"a prediction of shape {tuple(tensor.shape)}"
            self._escaped, self._read_before = self.tracked.escaped, bool(self.read)
        return out

    def target(self, path: str, out: Any) -> Any:
        """Marked are positions."""
        with BelowModes():
            for tensor in tensors_of_call(out):
                if tensor.is_floating_point() and tensor.dim() > 1 and not self.tracked.escaped:
                    marks = self.positions.get(path, [])
                    index = self._next.get(path, 0)
                    self._next[path] = index + 1
                    marked = marks[index] if index < len(marks) else torch.ones(tensor.shape, dtype=torch.bool)
                    self.tracked.write(tensor, tagged=marked.to(tensor.device))
        return out

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Look at the losses; after the last, stop."""
        with BelowModes():
            if self.held and not self.depends and any(bool(self.tracked.of(t).any()) for t in losses):
                self.depends = "the loss"
            if self.tracked.escaped if self.held else self._escaped:
                self.depends = self.depends or "what follows"
        if self.backwards >= self.plan.backwards:
            self.stop()
        return run()

    def needed(self) -> str:
        """Where a loss was read out before the last prediction, or with predictions held, at all."""
        return self.read[0] if self.read and (self.held or self._read_before) else ""

    def reason(self) -> str:
        """What stopped it, or what mixes."""
        return (
            self.missed()
            or self.tracked.escaped
            or "; ".join([*list(self.tracked.unknown)[:3], *filter(None, [self.tracked.spread])])
        )


class ValueRun(PlannedRun):
    """The values of predictions and losses for a given content of the sources."""

    def __init__(self, plan: Plan, stop: Callable[[], Any], sources: dict[str, Tensor], new: dict[str, Tensor]) -> None:
        super().__init__(plan, False, stop)
        self.sources, self.new = sources, new
        self.values: list[Tensor] = []
        self.losses: list[Tensor] = []

    def batch(self, batch: Any) -> Any:
        """The batch with the given contents."""
        return with_tensors(batch, {id(self.sources[path]): t.clone() for path, t in self.new.items()})

    def prediction(self, out: Any) -> Any:
        """Keep it."""
        with DisableTorchFunction():
            self.values += [t.detach().clone().cpu() for t in tensors_of_call(out)]
        return out

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Keep them."""
        self.losses += [t.detach().clone().cpu() for t in losses]
        if self.backwards >= self.plan.backwards:
            self.stop()
        return run()
