"""How labels move through operators that move data or compute element by element.

Rules work on the entries of `LabelTrace`: labels plus 1, so that a number and what is filled with zeros are constant.
"""

from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call, tensors_in
from viewproof.certify.flow.moves import CONTROLS, run_on

# Of integers and truth values: the operand that leaves the other as it is.
_NEUTRAL = {
    "mul": 1,
    "logical_and": 1,
    "bitwise_and": -1,
    **dict.fromkeys(("add", "bitwise_or", "bitwise_xor", "logical_or", "logical_xor"), 0),
}


def moved(call: Call) -> Any:
    """The operator itself, run on labels; None where elements meet or the source decides where to."""
    depends = call.tracker.storages.depends
    controls = tensors_in(v for k, v in call.args.items() if k in CONTROLS)
    if call.args.get("accumulate") or call.args.get("reduce") is not None or any(map(depends, controls)):
        return None
    data = {t.dtype for t in call.read if depends(t)}
    convert = call.dep if len(data) == 1 else lambda tensor: call.tracker.computed(call.dep(tensor))
    call.dtype = data.pop() if len(data) == 1 else None
    try:
        return tuple(run_on(call, convert))
    except RuntimeError:
        # Some kernels know no integers; doubles hold every label.
        return tuple(t.long() for t in run_on(call, lambda tensor: convert(tensor).double()))


def joined(call: Call) -> Any:
    """Each element from the same element of every argument, broadcast."""
    tracker, labels = call.tracker, None
    for tensor in filter(tracker.storages.depends, call.read):
        other = tracker.computed(call.dep(tensor))
        if labels is None:
            labels = other
            continue
        clash = (labels != other) & (labels != 0) & (other != 0)
        mixed = tracker.mix(tracker.secret(labels) | tracker.secret(other))
        labels = torch.where(clash, mixed, torch.where(labels == 0, other, labels))
    assert labels is not None
    operands = call.args.get("self"), call.args.get("other")
    if call.name in _NEUTRAL and all(map(_exact, operands)) and call.args.get("alpha", 1) == 1:
        labels = torch.where(tracker.by_dependence(call, lambda t: tracker.plane(t) != 0), labels, 0)
        for one, other in (operands, operands[::-1]):
            if isinstance(one, Tensor) and not (isinstance(other, Tensor) and tracker.storages.depends(other)):
                number, neutral = torch.as_tensor(other).to(one), torch.tensor(_NEUTRAL[call.name]).to(one)
                labels, call.dtype = torch.where(number == neutral, call.dep(one), labels), one.dtype
    return labels


def chosen(call: Call) -> Any:
    """Elements of two tensors, selected by a condition of which the source may be a part."""
    labels = moved(call)
    return joined(call) if labels is None else labels


def _exact(value: Any) -> bool:
    return isinstance(value, int) or (
        isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex())
    )
