"""What the results of operators that compute or mix depend on, element by element."""

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import SCORE, Call
from viewproof.torch_internals import schema


def metadata(call: Call) -> Any:
    """Results are views of the arguments: their storage's shadow already says all."""
    raise AssertionError("a view is not computed")


def fresh(call: Call) -> Any:
    """Results hold nothing of the arguments' values."""
    return False


def uninitialised(call: Call) -> Any:
    """Memory as it was found may hold anything."""
    return True


def pointwise(call: Call) -> Any:
    """Each element from the same element of every argument, broadcast."""
    return reduce(operator.or_, map(call.dep, call.read))


def copied(call: Call) -> Any:
    """The source's elements, masked scores included."""
    source = call.args["src" if "src" in call.args else "self"]
    if call.finite:
        call.low = call.tracker.storages.read(source, "low")
    return call.dep(source)


def overwritten(call: Call) -> Any:
    """Each element from the same element of every argument but the first of an operator in place."""
    sources = call.read[1:] if schema(call.func).name.endswith("_") else call.read
    return reduce(operator.or_, map(call.dep, sources), torch.tensor(False))


def product(call: Call) -> Any:
    """A factor of exactly 0 removes dependence: always for integers, else if all is finite."""
    a, b = call.args["self"], call.args["other"]
    floats = any(isinstance(v, float) or (isinstance(v, Tensor) and not _exact(v)) for v in (a, b))
    if floats and not call.finite and call.name == "mul":
        return pointwise(call)
    return _both(call, a, b, lambda v: v != 0)


def disjunction(call: Call) -> Any:
    """An operand that is True decides."""
    a, b = call.args["self"], call.args["other"]
    if call.name != "logical_or" and any(not isinstance(v, Tensor) or v.dtype != torch.bool for v in (a, b)):
        return pointwise(call)
    return _both(call, a, b, lambda v: v == 0)


def _both(call: Call, a: Any, b: Any, matters: Callable[[Tensor], Tensor]) -> Any:
    da, db = call.dep(a), call.dep(b)
    by_b, by_a = da & ~db & ~matters(call.value(b)), db & ~da & ~matters(call.value(a))
    call.used(b, by_b)
    call.used(a, by_a)
    return (da | db) & ~by_b & ~by_a


def selected(call: Call) -> Any:
    """``where`` and ``masked_fill``: a condition that does not depend selects."""
    if call.name == "where":
        condition, chosen, other = (call.args[k] for k in ("condition", "self", "other"))
    else:
        condition, chosen, other = (call.args[k] for k in ("mask", "value", "self"))
    call.used(condition)
    either, equal = call.dep(condition), torch.tensor(False)
    if call.finite and bool(either.any()):
        # Of two equal numbers it does not matter which.
        a, b = (call.value(v) for v in (chosen, other))
        equal = (a == b) & ~call.dep(chosen) & ~call.dep(other)
        call.used(chosen, equal & either)
        call.used(other, equal & either)
    return (either & ~equal) | torch.where(call.value(condition), call.dep(chosen), call.dep(other))


def quotient(call: Call) -> Any:
    """A numerator of exactly 0 removes dependence, as long as all is finite."""
    if not call.finite or call.args.get("rounding_mode") is not None:
        return pointwise(call)
    above, below = call.dep("self"), call.dep("other")
    zero = ~above & below & (call.value("self") == 0)
    call.used("self", zero)
    return (above | below) & ~zero


def added(call: Call) -> Any:
    """Sum or difference; a masked score stays one that softmax removes."""
    a, b = call.args["self"], call.args["other"]
    if call.finite and call.args.get("alpha", 1) == 1:
        sign = 1 if call.name == "add" else -1
        masked_a, masked_b = call.dep(a) & call.lowest(b, sign), call.dep(b) & call.lowest(a)
        # Finite plus infinite is infinite, whatever it was.
        infinite = (masked_a & call.value(b).isinf()) | (masked_b & call.value(a).isinf())
        call.low = (masked_a | masked_b) & ~infinite
        return pointwise(call) & ~infinite
    return pointwise(call)


def _exact(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


def matmul(call: Call) -> Any:
    """Row times column, plus what is added."""
    *bias, left, right = call.read
    da, db = call.dep(left), call.dep(right)
    vectors = left.dim() == 1, right.dim() == 1
    if call.finite:
        pa, pb = da | (call.value(left) != 0), db | (call.value(right) != 0)
        call.used(left, ~pa)
        call.used(right, ~pb)
        out = (da.float() @ pb.float() + pa.float() @ db.float()) > 0.5
    else:
        rows, columns = da.any(-1), db.any(-1 if vectors[1] else -2)
        out = rows if vectors[1] else rows[..., None] | columns[..., None, :]
        out = out | columns if vectors[1] else out
    if bias:
        out = out | call.dep(bias[0])
        if call.finite and call.args.get("beta", 1) == 1:
            masked = out & call.lowest(bias[0])
            infinite = masked & bias[0].isinf()
            call.low, out = masked & ~infinite, out & ~infinite
    return out


def distances(call: Call) -> Any:
    """Every row of one with every row of the other."""
    return call.dep("x1").any(-1, keepdim=True) | call.dep("x2").any(-1).unsqueeze(-2)


def convolution(call: Call) -> Any:
    """The receptive field within the group; with finite values, kernel entries of 0 see nothing."""
    weight, groups, bias = call.args["weight"], call.args["groups"], call.dep("bias")
    dep = call.dep("input")
    if bool(call.dep(weight).any()):
        return True
    options = [call.args[k] for k in ("stride", "padding", "dilation", "transposed", "output_padding")]
    if call.finite:
        call.used(weight)
        kernel, seen = (call.value(weight) != 0).float(), dep.float()
        touched = torch.ops.aten.convolution(seen, kernel, None, *options, groups) > 0.5
    else:
        seen = dep.unflatten(1, (groups, -1)).any(2).float()  # type: ignore[no-untyped-call]
        kernel = torch.ones(groups, 1, *weight.shape[2:], device=weight.device)
        touched = torch.ops.aten.convolution(seen, kernel, None, *options, groups) > 0.5
        width = weight.shape[1] if call.args["transposed"] else weight.shape[0] // groups
        touched = touched.repeat_interleave(width, 1)
    return touched | bias.reshape(-1, *[1] * (dep.dim() - 2)) if bias.dim() else touched


def softmax(call: Call) -> Any:
    """The whole slice; with finite values a masked score has weight 0 beside one that is not masked."""
    x, dim = call.args["self"], call.args["dim"]
    dep = call.dep(x)
    if not call.finite or not x.dim():
        return _along(dep, dim)
    value, low = call.value(x), call.tracker.storages.read(x, "low")
    # A score of this very run beyond +-SCORE shows that what is assumed of all does not hold.
    masked = ((dep & low) | ~dep) & (value <= -3 * SCORE)
    strong = ((dep & ~low) | ~dep) & (value >= -SCORE)
    call.used(x, masked & ~dep)
    weightless = masked & strong.any(dim, keepdim=True)
    call.tracker.scores |= bool((weightless & (low | ~value.isinf()) & dep.any(dim, keepdim=True)).any())
    return (dep & ~weightless).any(dim, keepdim=True) & ~weightless


def _along(dep: Tensor, dim: Any) -> Tensor:
    if not dep.dim():
        return dep
    dims = [dim] if isinstance(dim, int) else dim
    return dep.any(tuple(dims) if dims else tuple(range(dep.dim())), keepdim=True)


def slices(call: Call) -> Any:
    """Each slice along ``dim`` mixes: sorts, transforms, log-softmax."""
    return _along(pointwise(call), call.args["dim"])


def norm_of_each(call: Call) -> Any:
    """Each slice at one index of ``dim`` is divided by its own norm: all other axes mix."""
    dep, dim = call.dep("self"), call.args["dim"] % call.args["self"].dim()
    return dep.any(tuple(axis for axis in range(dep.dim()) if axis != dim), keepdim=True)


def softmax_gradient(call: Call) -> Any:
    """Gradient of softmax or log-softmax: a slice whose gradient is exactly 0 gives 0, as long as all is finite."""
    gradient, output = call.dep("grad_output"), call.dep("output")
    mixed = _along(gradient | output, call.args["dim"])
    if not call.finite or not gradient.dim():
        return mixed
    value = call.value("grad_output")
    nothing = (~gradient & (value == 0)).all(call.args["dim"], keepdim=True)
    call.used("grad_output", nothing & mixed)
    return mixed & ~nothing


def class_score(call: Call) -> Any:
    """Negative log-likelihood reads the score of each target's class; of an ignored target none."""
    scores, target, unsure = call.dep("self"), call.value("target"), call.dep("target")
    call.used("target", ~unsure)
    weighted = call.dep("weight").any()
    axis, ignored = min(1, scores.dim() - 1), (target == call.args["ignore_index"]) & ~unsure
    classes = target.masked_fill(target == call.args["ignore_index"], 0).unsqueeze(axis)
    read = (scores.gather(axis, classes).squeeze(axis) | unsure | weighted) & ~ignored
    return (read if call.args["reduction"] == 0 else read.any()), unsure.any() | weighted


def class_score_gradient(call: Call) -> Any:
    """Its gradient: 0 but at each target's class; there it follows from the gradient of the loss."""
    shape, target, unsure = call.args["self"].shape, call.value("target"), call.dep("target")
    call.used("target", ~unsure)
    axis, ignored = min(1, len(shape) - 1), (target == call.args["ignore_index"]) & ~unsure
    gradient = call.dep("grad_output") | call.dep("weight").any() | call.dep("total_weight").any()
    each = gradient.expand(target.shape) & ~ignored
    classes = target.masked_fill(target == call.args["ignore_index"], 0).unsqueeze(axis)
    nowhere = torch.zeros(shape, dtype=torch.bool, device=target.device)
    return nowhere.scatter(axis, classes, each.unsqueeze(axis)) | unsure.unsqueeze(axis)


def reduction(call: Call) -> Any:
    """Any element of what is reduced."""
    dep, dim = pointwise(call), call.args.get("dim")
    if dim is None or dim == [] or not dep.dim():
        return dep.any()
    return dep.any(dim if isinstance(dim, int) else tuple(dim), keepdim=bool(call.args.get("keepdim")))


def elementwise_loss(call: Call) -> Any:
    """A loss of each element of its arguments, or the sum or mean of these."""
    each = pointwise(call)
    return each if call.args["reduction"] == 0 else each.any()


def running(call: Call) -> Any:
    """What came before along ``dim``."""
    dep = call.dep("self")
    return dep.to(torch.uint8).cummax(call.args["dim"]).values.bool() if dep.dim() else dep


def halves(call: Call) -> Any:
    """Gated linear unit: one half times the gate of the other."""
    one, other = call.dep("self").chunk(2, call.args["dim"])
    return one | other


def looked_up(call: Call) -> Any:
    """Pointwise in what is looked up, against tables of which everything matters."""
    key = "elements" if "elements" in call.args else "self"
    looked = call.dep(key)
    return reduce(operator.or_, (call.dep(name).any() for name in call.args if name != key), looked)


def layer_norm(call: Call) -> Any:
    """Mean and variance over the trailing axes."""
    dims = tuple(range(-len(call.args["normalized_shape"]), 0))
    statistics = call.dep("input").any(dims, keepdim=True)
    out = statistics | call.dep("weight") | call.dep("bias")
    return (out, statistics, statistics) if call.name == "native_layer_norm" else (out, statistics)


def group_norm(call: Call) -> Any:
    """Mean and variance over a group of channels and all places."""
    dep, groups, c = call.dep("input"), call.args["group"], call.args["C"]
    statistics = dep.reshape(len(dep), groups, -1).any(2)
    channels = [call.dep(k).expand(c).reshape(-1, *[1] * (dep.dim() - 2)) for k in ("weight", "bias")]
    out = statistics.repeat_interleave(c // groups, 1).reshape(*dep.shape[:2], *[1] * (dep.dim() - 2))
    return out | channels[0] | channels[1], statistics, statistics


def batch_norm(call: Call) -> Any:
    """In training, mean and variance of a channel over the batch; else the running ones, which stay."""
    dep = call.dep("input")
    parts = [call.dep(k) for k in ("weight", "bias")]
    training = bool(call.args.get("training", "_no_" not in call.name))
    channels = dep.transpose(0, 1).flatten(1).any(1) if training else torch.tensor(False)
    statistics = {key: call.dep(key) for key in ("running_mean", "running_var")}
    call.stored = {id(call.args.get(key)): old | channels for key, old in statistics.items()}
    if not training:
        parts += statistics.values()
    shape = (-1, *[1] * (dep.dim() - 2))
    each = reduce(operator.or_, [p.expand(dep.shape[1]).reshape(shape) for p in [channels, *parts]])
    return (dep | each, *[True] * (len(schema(call.func).returns) - 1))


def recurrent(call: Call) -> Any:
    """One layer and direction of an LSTM over ``[time, batch, features]``: what came before."""
    steps = call.dep("input").any(2, keepdim=True).to(torch.uint8)
    if call.args["bidirectional"] or any(bool(call.dep(t).any()) for t in call.read[1:]):
        return True
    steps = steps.flip(0) if call.args["reverse"] else steps
    seen = steps.cummax(0).values.bool()
    return (seen.flip(0) if call.args["reverse"] else seen), seen[-1], seen[-1], True
