"""The inputs of a statement or a definition, read from the signature of its function.

A parameter is annotated with its kind, or with a record of several inputs. A record that the program has too (a
contract, a graph) is made by the program in hand: ``contract: Contract`` is any contract, of that program.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

from viewproof.theorems.lists.kinds import Kind

World = Mapping[str, Any]
"""A value for each input, by name."""


class Inputs:
    """The kinds of the inputs by name, the fields of records among them."""

    def __init__(self, function: Callable[..., Any], skip: int = 0) -> None:
        self.parameters = dict(list(_kinds(function).items())[skip:])
        self.kinds: dict[str, Kind] = {}
        for name, kind in self.parameters.items():
            added = {name: kind} if isinstance(kind, Kind) else _kinds(kind)
            # Two inputs of one name would be one input: the statement would say less than it seems to.
            assert self.kinds.keys().isdisjoint(added), f"{function.__name__} has two inputs of one name"
            self.kinds.update(added)

    @property
    def axes(self) -> int:
        """How many lengths there are to choose."""
        return sum(kind.axes for kind in self.kinds.values())

    def shapes(self, least: int, most: int) -> list[tuple[int, ...]]:
        """Every choice of lengths from ``least`` to ``most``, smallest first."""
        shapes = product(range(least, most + 1), repeat=self.axes)
        return sorted(shapes, key=lambda shape: (sum(shape), shape))

    def bounded(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Inputs of these lengths, with symbolic entries."""
        world: dict[str, Any] = {}
        lengths = iter(shape)
        for name, kind in self.kinds.items():
            sizes = [len(world[kind.like])] if kind.like else [next(lengths) for _ in range(kind.axes)]
            world[name] = kind.bounded(name, sizes)
        return world

    def unbounded(self) -> dict[str, Any]:
        """Inputs of any length."""
        return {name: kind.unbounded(name) for name, kind in self.kinds.items()}

    def images(self, world: World) -> dict[str, Any]:
        """Bounded inputs in the form that the definitions take."""
        return {name: kind.image(world[name]) for name, kind in self.kinds.items()}

    def arguments(self, program: Any, world: World) -> Iterator[Any]:
        """What the function is called with."""
        for name, kind in self.parameters.items():
            if isinstance(kind, Kind):
                yield world[name]
            else:
                yield getattr(program, kind.__name__, kind)(*(world[field] for field in _kinds(kind)))


def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The kind or record of each parameter: what its annotation carries, or the annotation."""
    parameters = inspect.signature(function).parameters.values()
    return {each.name: getattr(each.annotation, "__metadata__", [each.annotation])[0] for each in parameters}
