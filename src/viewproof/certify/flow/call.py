"""One call of an operator: its arguments bound to its schema, and what the rules ask of them."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from viewproof.certify.flow.storage import address
from viewproof.torch_internals import OpOverload, schema

SCORE = 2000.0
"""With finite values, attention scores are assumed within +-SCORE; a mask of -4 SCORE or less outweighs any of them."""


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments or results, those in lists included."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


@lru_cache(maxsize=4096)
def _parameters(func: OpOverload) -> list[tuple[str, Any, bool, bool]]:
    """Name, default, whether it is written, and whether it is written only, of each parameter."""
    # Batch normalisation writes its running statistics without saying so in its schema.
    silent = ("running_mean", "running_var") if "batch_norm" in str(func) else ()
    writes = {a.name for a in schema(func).arguments if a.name in silent or (a.alias_info and a.alias_info.is_write)}
    return [
        (a.name, a.default_value, a.name in writes, a.name in writes and a.kwarg_only) for a in schema(func).arguments
    ]


@lru_cache(maxsize=4096)
def base_name(func: OpOverload) -> str:
    """The operator's name, the same for its in-place form."""
    name: str = schema(func).name.removeprefix("aten::")
    in_place = name.endswith("_") and not name.endswith("__") and schema(func).is_mutable
    return name[:-1] if in_place else name


class BoundCall:
    """One call of an operator: arguments by name, and the tensors it reads, writes and is passed.

    ``out`` arguments are written and not read. ``places`` are the storages of all that is passed: a result elsewhere
    is fresh.
    """

    def __init__(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        parameters = _parameters(func)
        self.func, self.name = func, base_name(func)
        self.args: dict[str, Any] = {name: default for name, default, _, _ in parameters}
        self.args.update(zip(self.args, args, strict=False))
        self.args.update(kwargs)
        self.passed = list(tensors_in(self.args.values()))
        self.read = list(tensors_in(self.args[name] for name, _, _, out in parameters if not out))
        self.written = list(tensors_in(self.args[name] for name, _, writes, _ in parameters if writes))
        self.places = {address(t) for t in self.passed} - {0}


class Call(BoundCall):
    """A call as the rules see it: with the dependence of its arguments, and their values.

    A rule returns the results' dependence, broadcastable to their shapes, or a tuple with one for each result.
    ``plane`` gives a tensor's dependence; to the rules of labels, its entries in `LabelTrace`. A rule may set
    ``stored``, by id of an argument that is written beside the results, to its dependence; ``low``, where the first
    result depends but is a score plus at most -4 SCORE (softmax gives it the weight 0 beside any score that is not
    masked); and ``dtype``, which a result must have to hold the bits that it was given.
    """

    def __init__(self, tracker: Any, row: "Row", func: OpOverload, args: Any, kwargs: Any) -> None:
        super().__init__(func, args, kwargs)
        self.tracker, self.row, self.finite = tracker, row, bool(tracker.finite)
        self.plane: Callable[[Tensor], Tensor] = tracker.plane
        self.low: Tensor | None = None
        self.dtype: torch.dtype | None = None
        self.stored: dict[int, Tensor] = {}

    def dep(self, key: Any) -> Tensor:
        """The dependence of an argument, by name or itself; a number depends on nothing."""
        argument = self.args.get(key) if isinstance(key, str) else key
        return self.plane(argument) if isinstance(argument, Tensor) else torch.tensor(False)

    def value(self, key: Any) -> Tensor:
        """The argument as it is; a rule must use it only where it does not depend, and say so by `used`."""
        argument = self.args[key] if isinstance(key, str) else key
        return argument if isinstance(argument, Tensor) else torch.as_tensor(argument)

    def used(self, key: Any, where: Tensor | None = None) -> None:
        """The argument's values (where?) decided what depends."""
        argument = self.args[key] if isinstance(key, str) else key
        if isinstance(argument, Tensor) and (where is None or bool(where.any())):
            self.tracker.used(argument)

    def lowest(self, key: Any, sign: int = 1) -> Tensor:
        """Where an argument does not depend and is a mask's large negative number (times ``sign``)."""
        values = self.value(key)
        if values.is_complex() or not bool(((values * sign) <= -4 * SCORE).any()):
            return torch.tensor(False)
        self.used(key)
        return ~self.dep(key) & (values * sign <= -4 * SCORE)


Rule = Callable[[Call], Any]


class Row(NamedTuple):
    """What is known of an operator: its rule of dependence, and of labels where that says more."""

    dependence: Rule | None = None
    labels: Rule | None = None
