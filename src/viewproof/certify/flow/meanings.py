"""What operators compute, as expressions over the reals: the rules of `Expressions`.

A rule gives the entries of an operator's results: one for all, or a tuple with one for each.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import BoundCall
from viewproof.certify.flow.field import UNKNOWN, Entries, NoMeaning, P, constant, inverse, power
from viewproof.certify.flow.moves import CONTROLS

Meaning = Callable[[Any, BoundCall], Any]
MEANINGS: dict[str, Meaning] = {}
RATIONAL = frozenset(
    ("add", "sub", "rsub", "mul", "div", "reciprocal", "neg", "square", "sum", "mean", "index", "gather", "masked_fill")
)
"""Operators that make fractions of fractions: what they compute of constants is exact."""


def meaning(operators: str) -> Callable[[Meaning], Meaning]:
    """Declare that the operators of these names compute what the decorated function says."""

    def declare(rule: Meaning) -> Meaning:
        MEANINGS.update(dict.fromkeys(operators.split(), rule))
        return rule

    return declare


def total(a: Entries, dim: Any, keepdim: bool = False) -> Entries:
    """The sum over axes, or over everything."""
    return (a.sum() if dim is None or dim == [] or not a.dim() else a.sum(dim, keepdim)) % P


@meaning(
    """clone alias_copy lift_fresh_copy view_copy detach_copy stack cat repeat gather index_select index
    _unsafe_index take index_copy index_fill flip roll rot90 tril triu diag_embed masked_select masked_scatter
    masked_fill constant_pad_nd scatter slice_scatter select_scatter index_put _index_put_impl fill zero
    expand_copy permute_copy select_copy slice_copy squeeze_copy unsqueeze_copy t_copy transpose_copy
    unbind_copy split_with_sizes_copy split_copy im2col embedding"""
)
def moved(e: Any, call: BoundCall) -> Any:
    """Elements change places: the very operator, run on entries."""

    def turned(key: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [turned(key, v) for v in value] if any(isinstance(v, Tensor) for v in value) else value
        if isinstance(value, Tensor) and key not in CONTROLS:
            return e.entries(value).clone()
        if isinstance(value, Tensor) and e.storages.derived(value):
            raise NoMeaning(f"where {call.name} moves elements follows from values")
        if key == "value" and isinstance(value, bool | int | float):
            return int(constant(torch.tensor(value, dtype=torch.float64)))
        return value

    if call.args.get("reduce") is not None:
        raise NoMeaning(f"{call.name} with a reduction has no meaning as an expression")
    kwargs = {key: turned(key, value) for key, value in call.args.items()}
    out = call.func(**{k: None if k in ("dtype", "layout", "device", "pin_memory") else v for k, v in kwargs.items()})
    if call.args.get("accumulate"):
        out = out % P
    return tuple(out) if isinstance(out, list | tuple) else out


@meaning("_to_copy to copy")
def converted(e: Any, call: BoundCall) -> Any:
    """Floating-point numbers of any width are real numbers."""
    source = call.args["src" if call.name == "copy" else "self"]
    dtype = call.args["self"].dtype if call.name == "copy" else call.args["dtype"] or source.dtype
    if source.is_floating_point() and not dtype.is_floating_point:
        raise NoMeaning(f"numbers are rounded to {dtype}")
    return e.entries(source)


@meaning("add sub rsub")
def added(e: Any, call: BoundCall) -> Any:
    """Sum or difference."""
    a, b = e.numbers(call, "self", "other")
    scaled = b * constant(torch.tensor(call.args.get("alpha", 1), dtype=torch.float64)) % P
    if call.name == "rsub":
        return (b - a) % P if call.args.get("alpha", 1) == 1 else (b - a * _scalar(call, "alpha")) % P
    return (a + scaled if call.name == "add" else a - scaled) % P


def _scalar(call: BoundCall, name: str) -> Entries:
    return constant(torch.tensor(call.args[name], dtype=torch.float64))


@meaning("mul logical_and bitwise_and")
def multiplied(e: Any, call: BoundCall) -> Any:
    """The product; of truth values what both are."""
    if call.name == "bitwise_and" and call.args["self"].dtype != torch.bool:
        raise NoMeaning("bits of numbers are joined")
    a, b = e.numbers(call, "self", "other")
    return a * b % P


@meaning("logical_or bitwise_or")
def either(e: Any, call: BoundCall) -> Any:
    """Of truth values: one of both."""
    if call.name == "bitwise_or" and call.args["self"].dtype != torch.bool:
        raise NoMeaning("bits of numbers are joined")
    a, b = e.numbers(call, "self", "other")
    return (a + b - a * b) % P


@meaning("logical_not bitwise_not")
def negated(e: Any, call: BoundCall) -> Any:
    """Of truth values: the other one."""
    if call.args["self"].dtype != torch.bool:
        raise NoMeaning(f"{call.name} of numbers")
    return (1 - e.numbers(call, "self")[0]) % P


@meaning("div reciprocal")
def divided(e: Any, call: BoundCall) -> Any:
    """The quotient."""
    if call.args.get("rounding_mode") is not None:
        raise NoMeaning("a quotient is rounded")
    if call.name == "reciprocal":
        return inverse(e.numbers(call, "self")[0])
    a, b = e.numbers(call, "self", "other")
    return a * inverse(b) % P


@meaning("neg square")
def of_one(e: Any, call: BoundCall) -> Any:
    """The negative; the square."""
    (a,) = e.numbers(call, "self")
    return -a % P if call.name == "neg" else a * a % P


@meaning("pow")
def raised(e: Any, call: BoundCall) -> Any:
    """A whole power; any other is a function of base and exponent."""
    exponent = call.args["exponent"]
    if isinstance(exponent, int | float) and float(exponent).is_integer() and abs(exponent) < 64:
        (a,) = e.numbers(call, "self")
        return power(a, int(exponent)) if exponent >= 0 else inverse(power(a, int(-exponent)))
    if exponent in (0.5, -0.5):
        root = _root(e, e.numbers(call, "self")[0])
        return root if exponent > 0 else inverse(root)
    return e.atom("pow", *e.numbers(call, "self", "exponent"))


def _root(e: Any, a: Entries) -> Entries:
    root: Entries = e.atom("sqrt", a)
    e.norms.update(root.reshape(-1).tolist())
    return root


@meaning("sqrt rsqrt")
def rooted(e: Any, call: BoundCall) -> Any:
    """The square root, and what divides by it."""
    root = _root(e, e.numbers(call, "self")[0])
    return root if call.name == "sqrt" else inverse(root)


@meaning("linalg_vector_norm norm")
def normed(e: Any, call: BoundCall) -> Any:
    """The Euclidean norm; the sum of absolute values."""
    order, dim = call.args.get("ord", call.args.get("p")), call.args.get("dim")
    (a,) = e.numbers(call, "self")
    keepdim = bool(call.args.get("keepdim", False))
    if order is None or order == 2:
        return _root(e, total(a * a % P, dim, keepdim))
    if order == 1:
        return total(_absolute(e, a), dim, keepdim)
    raise NoMeaning(f"a norm of order {order}")


def _absolute(e: Any, a: Entries) -> Entries:
    distance: Entries = e.atom("abs", a * a % P)
    return distance


def _greater(e: Any, a: Entries, b: Entries, sign: int = 1) -> Entries:
    """The maximum: half of the sum, and of the distance; for ``sign=-1`` the minimum."""
    return (a + b + sign * _absolute(e, (a - b) % P)) % P * inverse(torch.tensor(2)) % P


@meaning("abs relu")
def absolute(e: Any, call: BoundCall) -> Any:
    """The absolute value; the positive part."""
    (a,) = e.numbers(call, "self")
    return _absolute(e, a) if call.name == "abs" else _greater(e, a, torch.tensor(0))


@meaning("maximum minimum")
def extreme(e: Any, call: BoundCall) -> Any:
    """The larger one, the smaller one."""
    a, b = e.numbers(call, "self", "other")
    return _greater(e, a, b, sign=1 if call.name == "maximum" else -1)


@meaning("clamp clamp_min clamp_max")
def clamped(e: Any, call: BoundCall) -> Any:
    """Between two bounds; a norm below which hardly anything lies is no bound, and noted."""
    (a,) = e.numbers(call, "self")
    for name, sign in (("min", 1), ("max", -1)):
        bound = call.args.get(name)
        if bound is None:
            continue
        number = bound.item() if isinstance(bound, Tensor) and bound.numel() == 1 else bound
        if sign > 0 and isinstance(number, float) and 0 < number <= 1e-5 and set(a.reshape(-1).tolist()) <= e.norms:
            e.notes.setdefault(f"norms above {number:g}")
            continue
        a = _greater(e, a, e.numbers(call, name)[0], sign)
    return a


@meaning("sum mean")
def summed(e: Any, call: BoundCall) -> Any:
    """The sum over axes; divided by their size."""
    (a,) = e.numbers(call, "self")
    dim, keepdim = call.args.get("dim"), bool(call.args.get("keepdim", False))
    out = total(a, dim, keepdim)
    return out if call.name == "sum" else out * inverse(torch.tensor(a.numel() // max(1, out.numel()))) % P


@meaning("var var_mean")
def spread(e: Any, call: BoundCall) -> Any:
    """The variance over axes."""
    (a,) = e.numbers(call, "self")
    dim, keepdim = call.args.get("dim"), bool(call.args.get("keepdim", False))
    correction = call.args.get("correction", 1 if call.args.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    dims = list(range(a.dim())) if dim is None or dim == [] else dim
    kept = total(a, dims, True)
    size = a.numel() // max(1, kept.numel())
    mean = kept * inverse(torch.tensor(size)) % P
    squares = total(power((a - mean) % P, 2), dims, keepdim) * inverse(torch.tensor(int(size - correction))) % P
    return squares if call.name == "var" else (squares, mean if keepdim else mean.reshape(squares.shape))


@meaning("native_layer_norm")
def normalised(e: Any, call: BoundCall) -> Any:
    """Minus the mean, by the deviation, of the last axes; times weight plus bias."""
    (a,) = e.numbers(call, "input")
    dims = list(range(-len(call.args["normalized_shape"]), 0))
    each = inverse(torch.tensor(a.numel() // max(1, total(a, dims, True).numel())))
    mean = total(a, dims, True) * each % P
    variance = total(power((a - mean) % P, 2), dims, True) * each % P
    rstd = inverse(_root(e, (variance + _scalar(call, "eps")) % P))
    out = (a - mean) % P * rstd % P
    if call.args["weight"] is not None:
        out = out * e.numbers(call, "weight")[0] % P
    if call.args["bias"] is not None:
        out = (out + e.numbers(call, "bias")[0]) % P
    return out, mean, rstd


@meaning("cumsum index_add scatter_add")
def accumulated(e: Any, call: BoundCall) -> Any:
    """Sums of what meets."""
    return moved(e, call) % P


@meaning("mm bmm mv dot addmm baddbmm")
def products(e: Any, call: BoundCall) -> Any:
    """Row times column, plus what is added."""
    names = [key for key in call.args if isinstance(call.args[key], Tensor)]
    *bias, a, b = e.numbers(call, *names)
    if any(call.args.get(k, 1) != 1 for k in ("alpha", "beta")):
        raise NoMeaning("a scaled sum of products")
    b = b.unsqueeze(-1) if b.dim() == 1 else b
    left = a.unsqueeze(0) if a.dim() == 1 else a
    out = (left.unsqueeze(-1) * b.unsqueeze(-3) % P).sum(-2) % P
    shape = {"mv": out.shape[:-1], "dot": ()}.get(call.name, out.shape)
    return (out.reshape(shape) + (bias[0] if bias else 0)) % P


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
    square, size, half = error * error % P, _absolute(e, error), inverse(torch.tensor(2))
    if call.name == "mse_loss":
        terms = square
    elif call.name == "l1_loss":
        terms = size
    else:
        bound = _scalar(call, "beta" if call.name == "smooth_l1_loss" else "delta")
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
