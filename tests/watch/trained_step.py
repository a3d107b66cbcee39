"""A training step made of a model and a loss, as the tests of watched steps use it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Built = tuple[Callable[[Any], Any], Any]


def trained(model: nn.Module, loss_of: Callable[[Any], Any], batch: Any) -> Built:
    """The step that trains ``model`` on ``loss_of(batch)`` with SGD, and its batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(inputs: Any) -> None:
        loss = loss_of(inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step, batch
