"""Operators that move, drop, gather or interpolate elements: the very operator, run on what depends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call

CONTROLS = frozenset(("index", "indices", "mask", "condition", "repeats", "grid", "lengths"))
"""Arguments that say where elements go."""


def run_on(call: Call, convert: Callable[[Tensor], Tensor]) -> list[Any]:
    """The very operator, run on what ``convert`` makes of each tensor of data; numbers among the data become 0."""

    def turned(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [turned(key, v) for v in value]
        if isinstance(value, Tensor):
            if key in CONTROLS:
                call.used(value)
                return value
            return convert(value).clone()
        return 0 if key in ("value", "self", "other") else value

    fixed = {"dtype": None, "alpha": 1, "reduce": "add" if call.name == "scatter" else "sum", "include_self": True}
    args = {k: fixed[k] if k in fixed and k in call.args else turned(k, v) for k, v in call.args.items()}
    out = call.func(**args)
    return list(out) if isinstance(out, list | tuple) else [out]


def moved(call: Call) -> Any:
    """Elements change places or are dropped; each takes its dependence along."""
    if call.name == "embedding":
        # Out of range at hidden places is the search's to find: here only where the rows go matters.
        rows = run_on(call, call.dep)[0] if bool(call.dep("weight").any()) else torch.tensor(False)
        return call.dep("indices").unsqueeze(-1) | rows
    extra: Tensor | bool = False
    for key in CONTROLS & call.args.keys():
        indexes = call.args[key] if isinstance(call.args[key], list | tuple) else [call.args[key]]
        deps = [call.dep(i) for i in indexes if i is not None]
        if call.name == "gather" or (call.name in ("index", "_unsafe_index") and len(indexes) == 1):
            trailing = call.args["self"].dim() - 1 if call.name != "gather" else 0
            extra = deps[0].reshape(*deps[0].shape, *[1] * trailing) if deps[0].any() else False
        elif any(bool(d.any()) for d in deps):
            return True
    try:
        out = run_on(call, call.dep)
    except (RuntimeError, NotImplementedError):
        return interpolated(call)
    return tuple(o | extra for o in out)


def summed(call: Call) -> Any:
    """Elements change places and meet."""
    if any(bool(call.dep(k).any()) for k in CONTROLS & call.args.keys() if isinstance(call.args[k], Tensor)):
        return True
    return tuple(o > 0.5 for o in run_on(call, lambda tensor: call.dep(tensor).float()))


def interpolated(call: Call) -> Any:
    """Linear in its input or a maximum: what a NaN spreads to, weights of 0 included."""
    if any(bool(call.dep(k).any()) for k in CONTROLS & call.args.keys() if isinstance(call.args[k], Tensor)):
        return True
    out = run_on(call, lambda t: torch.zeros(t.shape, device=t.device).masked_fill_(call.dep(t), torch.nan))
    first = out[0].isnan()
    return tuple(first if o.shape == first.shape else True for o in out)


def indexed_put(call: Call) -> Any:
    """Values written at, or added to, places that an index names."""
    deps = [call.dep(i) for i in call.args["indices"] if i is not None]
    if any(bool(d.any()) for d in deps):
        return True
    return summed(call) if call.args["accumulate"] else moved(call)


def packed(call: Call) -> Any:
    """A padded batch into a packed one: which elements stay, and how many a step, follows from the lengths."""
    if bool(call.dep("lengths").any()):
        return True
    return run_on(call, lambda tensor: call.dep(tensor).float())[0] > 0.5, False
