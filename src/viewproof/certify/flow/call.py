"""One operator about to run, as the rules of dependence see it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SCORE = 2000.0
"""With finite values, attention scores are assumed within +-SCORE; a mask of -4 SCORE or less outweighs any of them."""


class Call:
    """One operator about to run: its arguments by name, their dependence, and values that do not depend.

    A rule returns the results' dependence, broadcastable to their shapes, or a tuple with one for each result.
    ``low`` marks elements of the first result that depend but are a score plus at most -4 SCORE: softmax gives them
    the weight 0 beside any score that is not masked.
    """

    def __init__(self, tracker: Any, func: Any, args: dict[str, Any], read: list[Tensor]) -> None:
        self.tracker, self.func, self.args, self.read = tracker, func, args, read
        self.name, self.finite = base_name(func), bool(tracker.finite)
        self.low: Tensor | None = None
        self.before = 1.0  # the largest share of an argument that depends
        self.settled = False  # the rule has itself set what the operator writes beside its results

    def dep(self, key: str | Any) -> Tensor:
        """The dependence of an argument, by name or itself; a number depends on nothing."""
        argument = self.args.get(key) if isinstance(key, str) else key
        if not isinstance(argument, Tensor):
            return torch.tensor(False)
        dependence: Tensor = self.tracker.shadows.read(argument)
        return dependence

    def value(self, key: str | Any) -> Tensor:
        """The argument as it is; a rule must use it only where it does not depend, and say so by `used`."""
        argument = self.args[key] if isinstance(key, str) else key
        return argument if isinstance(argument, Tensor) else torch.as_tensor(argument)

    def used(self, key: str | Any, where: Tensor | None = None) -> None:
        """The argument's values (where?) decided what depends: if they follow from the input, for this input only."""
        argument = self.args[key] if isinstance(key, str) else key
        if isinstance(argument, Tensor) and (where is None or bool(where.any())):
            self.tracker.reads_visible |= self.tracker.shadows.derived(argument)

    def lowest(self, key: str | Any, sign: int = 1) -> Tensor:
        """Where an argument does not depend and is a mask's large negative number (positive for ``sign=-1``)."""
        values = self.value(key)
        if values.is_complex() or not bool(((values * sign) <= -4 * SCORE).any()):
            return torch.tensor(False)
        self.used(key)
        return ~self.dep(key) & (values * sign <= -4 * SCORE)


Rule = Callable[[Call], Any]


def base_name(func: Any) -> str:
    """The operator's name, the same for its in-place form."""
    name: str = func._schema.name.removeprefix("aten::")
    in_place = name.endswith("_") and not name.endswith("__") and func._schema.is_mutable
    return name[:-1] if in_place else name
