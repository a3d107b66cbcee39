"""What a function reaches and moves is as it was once `state_kept` ends."""

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from viewproof.certify.flow.state import state_kept

Made = tuple[Callable[[], Any], Callable[[], Any]]
COUNT = 0


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def move(self) -> None:
        self.count += 1


def method() -> Made:
    counter = Counter()
    return counter.move, lambda: counter.count


def closure() -> Made:
    count = 0

    def move() -> None:
        nonlocal count
        count += 1

    return move, lambda: count


def variable() -> Made:
    def move() -> None:
        global COUNT
        COUNT += 1

    return move, lambda: COUNT


def generator(made: Any, draw: Callable[[Any], Any], state: Callable[[Any], Any]) -> Made:
    return lambda: draw(made), lambda: np.asarray(state(made)).tolist()


def container(made: Any, move: Callable[[Any], Any]) -> Made:
    return partial(move, made), lambda: repr(made)


def module(move: Callable[[nn.BatchNorm1d], Any], read: Callable[[Any], Any]) -> Made:
    norm = nn.BatchNorm1d(2)
    return lambda: move(norm), lambda: read(norm)


def optimizer() -> Made:
    layer = nn.Linear(1, 1)
    adam = torch.optim.Adam(layer.parameters())

    def step() -> None:
        layer(torch.ones(1, 1)).sum().backward()
        adam.step()

    return step, lambda: (len(adam.state), float(layer.weight), layer.weight.grad is None)


MOVES: dict[str, Callable[[], Made]] = {
    "a method": method,
    "a closure": closure,
    "a global variable": variable,
    "an optimizer": optimizer,
    "torch": lambda: generator(torch.Generator(), lambda g: torch.rand(1, generator=g), torch.Generator.get_state),
    "NumPy": lambda: generator(np.random.default_rng(0), lambda g: g.random(), lambda g: g.bit_generator.state),
    "NumPy's old one": lambda: generator(np.random.RandomState(0), lambda g: g.rand(), lambda g: g.get_state()[2]),
    "Python": lambda: generator(random.Random(0), lambda g: g.random(), lambda g: g.getstate()[1]),
    "a tensor": lambda: container(torch.zeros(2), lambda t: t.add_(1)),
    "a list": lambda: container([1], lambda t: t.append(2)),
    "a dict": lambda: container({1: 2}, lambda t: t.clear()),
    "a set": lambda: container({1}, lambda t: t.add(2)),
    "a queue": lambda: container(deque([1]), lambda t: t.append(2)),
    "a buffer": lambda: module(lambda m: m(torch.ones(3, 2)), lambda m: m.running_mean.tolist()),
    "a parameter": lambda: module(lambda m: nn.init.zeros_(m.weight), lambda m: m.weight.tolist()),
    "a flag": lambda: module(lambda m: m.eval(), lambda m: m.training),
    "an attribute": lambda: module(lambda m: setattr(m, "seen", 1), lambda m: hasattr(m, "seen")),
    "a value of an attribute": lambda: module(lambda m: setattr(m, "eps", 1.0), lambda m: m.eps),
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVES)
def test_what_a_function_moves_is_put_back(kind: str) -> None:
    function, read = MOVES[kind]()
    before = read()
    with state_kept(function) as lost:
        function()
        assert read() != before
    assert read() == before and not lost


def test_an_iterator_that_was_begun_is_named() -> None:
    numbers, pairs = iter(range(3)), (n for n in range(3))
    with state_kept(lambda: (next(numbers), next(pairs))) as lost:
        pass
    assert sorted(name.split()[0] for name in lost) == ["generator", "range_iterator"]
