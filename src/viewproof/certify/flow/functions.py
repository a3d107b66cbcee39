"""What functions compute, as expressions over the reals: comparisons, exponentials, softmax, distances."""

import math
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import BoundCall
from viewproof.certify.flow.field import UNKNOWN, Entries, NoMeaning, P, inverse, power
from viewproof.certify.flow.meanings import MEANINGS as MEANINGS
from viewproof.certify.flow.meanings import absolute, meaning, scalar, total


@meaning("where")
def selected(e: Any, call: BoundCall) -> Any:
    """One of two; a condition that follows from values is a variable."""
    condition = call.args["condition"]
    a, b = (e.entries(call.args[k]) for k in ("self", "other"))
    if not e.storages.derived(condition):
        return torch.where(condition, a, b)
    (c, a, b) = e.numbers(call, "condition", "self", "other")
    return (b + c * (a - b)) % P


@meaning("lt gt le ge eq ne")
def compared(e: Any, call: BoundCall) -> Any:
    """A comparison is a variable of the difference; those of one difference follow from each other."""
    other = call.args["other"]
    if isinstance(other, float) and math.isinf(other):
        # Real numbers are finite.
        (a,) = e.numbers(call, "self")
        return torch.full_like(a, call.name == "ne" or call.name in (("lt", "le") if other > 0 else ("gt", "ge")))
    a, b = e.numbers(call, "self", "other")
    if call.name in ("eq", "ne"):
        equal = e.atom("eq", power((a - b) % P, 2))
        return equal if call.name == "eq" else (1 - equal) % P
    less = e.atom("lt", (a - b) % P if call.name in ("lt", "ge") else (b - a) % P)
    return less if call.name in ("lt", "gt") else (1 - less) % P


@meaning("isnan isinf isfinite nan_to_num isreal")
def finite(e: Any, call: BoundCall) -> Any:
    """Real numbers are finite."""
    (a,) = e.numbers(call, "self")
    return a if call.name == "nan_to_num" else torch.full_like(a, call.name in ("isfinite", "isreal"))


@meaning("all any")
def every(e: Any, call: BoundCall) -> Any:
    """A variable of all that is joined."""
    (a,) = e.numbers(call, "self")
    dim, keepdim = call.args.get("dim"), bool(call.args.get("keepdim", False))
    return e.atom(call.name, total(e.atom("each", a), dim, keepdim))


@meaning("exp log log1p expm1 tanh sigmoid erf sin cos sgn sign floor ceil round trunc gelu silu log_sigmoid elu")
def function(e: Any, call: BoundCall) -> Any:
    """A function of each element; the logarithm of a softmax is what it is."""
    (a,) = e.numbers(call, "self")
    if any(v is not None and not isinstance(v, Tensor) and k != "self" for k, v in call.args.items()):
        raise NoMeaning(f"{call.name} with options has no meaning as an expression")
    out = e.atom(call.name, a)
    if call.name == "log":
        known = [e.logarithms.get(v, UNKNOWN) for v in a.reshape(-1).tolist()]
        known_entries = torch.tensor(known, dtype=torch.int64).reshape(a.shape)
        out = torch.where(known_entries == UNKNOWN, out, known_entries)
    return out


def _log_sum_exp(e: Any, a: Entries, dim: Any) -> Entries:
    """Symmetric in its arguments, and moved along when all of them are moved by one number."""
    if not a.dim():
        return a
    size = a.numel() // max(1, total(a, dim, True).numel())
    mean = total(a, dim, True) * inverse(torch.tensor(size)) % P
    out: Entries = (mean + e.atom("log sum exp", total(e.atom("exp of", (a - mean) % P), dim, True), size)) % P
    return out


@meaning("_log_softmax logsumexp _softmax _safe_softmax")
def softmax(e: Any, call: BoundCall) -> Any:
    """Log-softmax is the logit minus the logarithm of the sum of exponentials; softmax its exponential."""
    (a,) = e.numbers(call, "self")
    dim = call.args["dim"]
    lse = _log_sum_exp(e, a, dim)
    if call.name == "logsumexp":
        shape = total(a, dim, bool(call.args["keepdim"])).shape
        return lse.reshape(shape)
    log = (a - lse) % P
    if call.name == "_log_softmax":
        return log
    if not a.dim():
        return torch.ones_like(a)
    size = a.shape[dim]
    mean = total(a, dim, True) * inverse(torch.tensor(size)) % P
    each = e.atom("exp of", (a - mean) % P)
    out = each * inverse(total(each, dim, True)) % P
    e.logarithms.update(zip(out.reshape(-1).tolist(), log.reshape(-1).tolist(), strict=True))
    return out


def _reduced(terms: Entries, reduction: int) -> Entries:
    if reduction == 0:
        return terms
    out = terms.sum() % P
    return out if reduction == 2 else out * inverse(torch.tensor(terms.numel())) % P


@meaning("mse_loss l1_loss smooth_l1_loss huber_loss")
def distance(e: Any, call: BoundCall) -> Any:
    """Distances of a prediction from its target, with their reduction."""
    a, b = e.numbers(call, "self", "target")
    error = (a - b) % P
    square, size, half = error * error % P, absolute(e, error), inverse(torch.tensor(2))
    if call.name == "mse_loss":
        terms = square
    elif call.name == "l1_loss":
        terms = size
    else:
        bound = scalar(call, "beta" if call.name == "smooth_l1_loss" else "delta")
        near = e.atom("lt", (size - bound) % P)
        far = (size - half * bound) % P
        close = square * half % P
        if call.name == "smooth_l1_loss":
            close = close * inverse(bound) % P
        else:
            far = bound * far % P
        terms = (far + near * (close - far)) % P
    return _reduced(terms, call.args["reduction"])


def _softplus(e: Any, a: Entries) -> Entries:
    """log(1 + exp(a)): half of a, and a part that is the same for -a."""
    out: Entries = (a * inverse(torch.tensor(2)) + e.atom("softplus", a * a % P)) % P
    return out


@meaning("softplus binary_cross_entropy_with_logits")
def logistic(e: Any, call: BoundCall) -> Any:
    """Softplus, and the cross-entropy of two classes that is made of it."""
    if call.name == "softplus":
        if (call.args["beta"], call.args["threshold"]) != (1, 20):
            raise NoMeaning("softplus with options has no meaning as an expression")
        return _softplus(e, e.numbers(call, "self")[0])
    if call.args["weight"] is not None or call.args["pos_weight"] is not None:
        raise NoMeaning("weights of binary cross-entropy have no meaning as an expression")
    x, y = e.numbers(call, "self", "target")
    return _reduced((_softplus(e, x) - x * y) % P, call.args["reduction"])


@meaning("nll_loss_forward nll_loss2d_forward nll_loss nll_loss2d nll_loss_nd")
def picked(e: Any, call: BoundCall) -> Any:
    """Minus the number at the target's class, weighted; ignored targets count for nothing."""
    if e.storages.derived(call.args["target"]):
        raise NoMeaning("classes follow from values")
    (a,) = e.numbers(call, "self")
    target, weight = call.args["target"], call.args["weight"]
    axis = 0 if a.dim() == 1 else 1
    ignored = target == call.args["ignore_index"]
    classes = target.masked_fill(ignored, 0)
    weights = torch.ones_like(classes) if weight is None else e.entries(weight)[classes]
    weights = weights.masked_fill(ignored, 0)
    terms = -a.gather(axis, classes.unsqueeze(axis)).squeeze(axis) % P * weights % P
    reduction = call.args["reduction"]
    if reduction == 0:
        return terms, torch.tensor(0)
    out, count = terms.sum() % P, weights.sum() % P
    if reduction == 1:
        if bool(ignored.all()):
            raise NoMeaning("a mean of nothing")
        out = out * inverse(count) % P
    return (out, count) if "forward" in call.name else out
