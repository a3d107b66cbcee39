"""Operators that move, drop, gather or interpolate elements: the very operator, run on what depends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call

# Arguments that say where elements go; their values are kept while the others' are replaced by their dependence.
_INDEXES = frozenset(("index", "indices", "mask", "grid", "lengths"))


def _run(call: Call, convert: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The very operator, run on what ``convert`` makes of each argument's dependence."""

    def turned(key: str, value: Any) -> Any:
        if isinstance(value, list):
            return [turned(key, v) for v in value]
        if isinstance(value, Tensor):
            if key in _INDEXES:
                call.used(value)
                return value
            return convert(call.dep(value)).clone()
        return 0 if key == "value" else value

    fixed = {"dtype": None, "alpha": 1, "reduce": "add" if call.name == "scatter" else "sum", "include_self": True}
    args = {k: fixed[k] if k in fixed and k in call.args else turned(k, v) for k, v in call.args.items()}
    out = call.func(**args)
    return list(out) if isinstance(out, list | tuple) else [out]


def moved(call: Call) -> Any:
    """Elements change places or are dropped; each takes its dependence along."""
    if call.name == "embedding":
        # Out of range at hidden places is the search's to find: here only where the rows go matters.
        return call.dep("indices").unsqueeze(-1) | _run_or_false(call, call.dep("weight"))
    extra: Tensor | bool = False
    for key in _INDEXES & call.args.keys():
        indexes = call.args[key] if isinstance(call.args[key], list | tuple) else [call.args[key]]
        deps = [call.dep(i) for i in indexes if i is not None]
        if call.name == "gather" or (call.name in ("index", "_unsafe_index") and len(indexes) == 1):
            trailing = call.args["self"].dim() - 1 if call.name != "gather" else 0
            extra = deps[0].reshape(*deps[0].shape, *[1] * trailing) if deps[0].any() else False
        elif any(bool(d.any()) for d in deps):
            return True
    try:
        out = _run(call, lambda dep: dep)
    except (RuntimeError, NotImplementedError):
        return interpolated(call)
    return tuple(o | extra for o in out)


def _run_or_false(call: Call, dep: Tensor) -> Tensor:
    return _run(call, lambda d: d.float())[0] > 0 if bool(dep.any()) else torch.tensor(False)


def summed(call: Call) -> Any:
    """Elements change places and meet."""
    if any(bool(call.dep(k).any()) for k in _INDEXES & call.args.keys() if isinstance(call.args[k], Tensor)):
        return True
    return tuple(o > 0.5 for o in _run(call, lambda dep: dep.float()))


def interpolated(call: Call) -> Any:
    """Linear in its input or a maximum: what a NaN spreads to, weights of 0 included."""
    if any(bool(call.dep(k).any()) for k in _INDEXES & call.args.keys() if isinstance(call.args[k], Tensor)):
        return True
    out = _run(call, lambda dep: torch.zeros(dep.shape, device=dep.device).masked_fill_(dep, torch.nan))
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
    return _run(call, lambda dep: dep.float())[0] > 0.5, False
