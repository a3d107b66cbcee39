"""What a user's view returns, read in whatever form it comes, and the view at one draw of its randomness."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.inputs import spread_mask
from viewproof.errors import InvalidArgument

_PARTS = ("x", "y", "mask", "view", "kept")


@dataclass(frozen=True, eq=False)
class ViewOutput:
    """The parts of what a view returned; ``mask`` is Boolean over y's coordinates, batch axis and all.

    ``view`` is Boolean over x's coordinates, if the view returned one; ``kept`` marks target coordinates that the loss
    asks for although x is declared to show them. ``returned`` is the object itself.
    """

    x: Tensor
    y: Tensor
    mask: Tensor
    view: Tensor | None
    kept: Tensor | None
    returned: Any


def read_output(returned: Any) -> ViewOutput:
    """A `Sample`, an object or mapping with x, y and mask (and perhaps view and kept), or a tuple in that order."""
    if isinstance(returned, Mapping):
        parts = {name: returned.get(name) for name in _PARTS}
    elif isinstance(returned, tuple | list) and not hasattr(returned, "mask"):
        parts = dict.fromkeys(_PARTS) | dict(zip(_PARTS, returned, strict=False))
    else:
        parts = {name: getattr(returned, name, None) for name in _PARTS}
    x, y, mask, view, kept = parts.values()
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or mask is None:
        types = ", ".join(f"{name}: {type(parts[name]).__name__}" for name in _PARTS[:3])
        raise InvalidArgument(f"the view returned {types}; return a Sample or (x, y, mask), tensors and their mask")
    return ViewOutput(
        x,
        y,
        spread_mask("mask", mask, y),
        None if view is None else spread_mask("view", view, x),
        None if kept is None else spread_mask("kept", kept, y),
        returned,
    )


class SeededView:
    """A view at one draw of the global random generators, which are put back after each call."""

    def __init__(self, view: Callable[[Tensor], Any], seed: int = 0) -> None:
        self.view, self.seed = view, seed

    def __call__(self, x: Tensor) -> ViewOutput:
        """What it returns for a copy of ``x``."""
        return self.on(x.detach().clone())

    def on(self, x: Tensor) -> ViewOutput:
        """What it returns for this very tensor."""
        with seeded(self.seed), torch.no_grad():
            return read_output(self.view(x))

    def attempt(self, x: Tensor) -> ViewOutput | None:
        """What it returns for a copy of ``x``, or None if it refuses such values."""
        try:
            return self(x)
        except Exception:
            return None
