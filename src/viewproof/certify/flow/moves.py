"""Operators that move, drop, gather or interpolate elements: run on what depends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call

CONTROLS = frozenset(("index", "indices", "mask", "condition", "repeats", "grid", "lengths"))
"""Arguments that say where elements go."""


def run_on(call: Call, convert: Callable[[Tensor], Tensor], anywhere: bool = False) -> list[Any]:
    """The operator itself, run on what ``convert`` makes of each data tensor; numbers become 0.

    Raises LookupError if where elements go depends, unless they may go ``anywhere``.
    """

    def turned(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [turned(key, v) for v in value]
        if not isinstance(value, Tensor):
            return 0 if key in ("value", "self", "other") else value
        if key not in CONTROLS:
            return convert(value).clone()
        if not anywhere and bool(call.dep(value).any()):
            raise LookupError(f"where {call.name} moves elements depends")
        call.used(value)
        return value

    fixed = {"dtype": None, "alpha": 1, "reduce": "add" if call.name == "scatter" else "sum", "include_self": True}
    args = {k: fixed[k] if k in fixed and k in call.args else turned(k, v) for k, v in call.args.items()}
    out = call.func(**args)
    return list(out) if isinstance(out, list | tuple) else [out]


def moved(call: Call) -> Any:
    """Elements change places or are dropped; each takes its dependence along."""
    # One index that depends says which element goes here, and of no other place.
    key = {"embedding": "indices", "gather": "index", "index": "indices", "_unsafe_index": "indices"}.get(call.name)
    index = call.args[key] if key else None
    if isinstance(index, list):
        index = index[0] if len(index) == 1 else None
    extra = call.dep(index) if bool(call.dep(index).any()) else torch.tensor(False)
    if extra.dim() and call.name != "gather":
        extra = extra.reshape(*extra.shape, *[1] * (1 if call.name == "embedding" else call.args["self"].dim() - 1))
    try:
        out = run_on(call, call.dep, anywhere=index is not None)
    except (RuntimeError, NotImplementedError):
        return interpolated(call)
    return tuple(o | extra for o in out)


def summed(call: Call) -> Any:
    """Elements change places and meet."""
    return tuple(o > 0.5 for o in run_on(call, lambda tensor: call.dep(tensor).float()))


def interpolated(call: Call) -> Any:
    """Linear in its input or a maximum: what a NaN spreads to, weights of 0 included."""
    out = run_on(call, lambda t: torch.zeros(t.shape, device=t.device).masked_fill_(call.dep(t), torch.nan))
    first = out[0].isnan()
    return tuple(first if o.shape == first.shape else True for o in out)


def indexed_put(call: Call) -> Any:
    """Values written at, or added to, places that an index names."""
    return summed(call) if call.args["accumulate"] else moved(call)


def packed(call: Call) -> Any:
    """A padded batch as a packed one: which elements stay follows from the lengths."""
    return summed(call)[0], False
