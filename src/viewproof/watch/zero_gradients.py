"""Trained modules whose gradients are all 0: by their weights, as behind a gate that starts at 0, or whatever they are.

What starts at 0, an activation that no unit passes, a path that this step drops: with other weights, another batch and
other draws the gradient comes. A factor of 0, or a function whose gradient is 0, stays.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.watch.branches import Broken
from viewproof.watch.child import Runner
from viewproof.watch.plain_run import Plain
from viewproof.watch.run import Run
from viewproof.watch.sources import with_tensors
from viewproof.watch.term_runs import move_weights, other_batch

_SIZES = (0.1, 0.5)


class MovedRun(Run):
    """Which of the parameters looked at get a gradient that is not 0, with other weights, batch and draws."""

    def __init__(
        self, parameters: list[nn.Parameter], looked_at: Iterable[int], contents: dict[str, Tensor], size: float
    ) -> None:
        super().__init__()
        self.parameters, self.looked_at = parameters, frozenset(looked_at)
        self.contents, self.size = contents, size
        self.alive: set[int] = set()

    def batch(self, batch: Any) -> Any:
        """With noise."""
        new = other_batch(self.contents, torch.Generator().manual_seed(1))
        return with_tensors(batch, {id(self.contents[path]): t for path, t in new.items()})

    def begin(self) -> None:
        """Move the weights, draw otherwise, then turn on."""
        move_weights(self.parameters, self.size, seed=1)
        torch.manual_seed(int(1000 * self.size))
        super().begin()

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """Look at the gradients."""
        out = run()
        self._look()
        return out

    on_grad = on_backward

    def before_step(self, optimizer: Any) -> None:
        """Look at the gradients that the program has set itself."""
        self._look()

    def _look(self) -> None:
        for p in self.parameters:
            if id(p) in self.looked_at and p.grad is not None and bool((p.grad != 0).any()):
                self.alive.add(id(p))


def only_zeros(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], parameters: list[nn.Parameter]
) -> list[Broken]:
    """The modules and parameters that an optimizer has and whose gradient stays 0, each in a sentence."""
    zeros = plain.branches.zeros
    for size in _SIZES:
        looked_at = {key for _, keys in zeros for key in keys}
        if not looked_at:
            break

        def moved(stop: Callable[[], Any], size: float = size, looked_at: set[int] = looked_at) -> MovedRun:
            return MovedRun(parameters, looked_at, contents, size)

        answer = runner(moved, lambda run: run.alive)
        if answer.value is not None:
            zeros = [(path, keys) for path, keys in zeros if not answer.value & set(keys)]
    what = "gets a gradient of zeros alone, with other weights, another batch and other draws too: nothing trains it"
    return [(f'`{path}` {what}; allow={{"C6": "..."}} if meant', (path,)) for path, _ in zeros]
