"""What arithmetic computes, as expressions over the reals: rules of `Expressions`.

A rule gives the entries of an operator's results: one for all, or a tuple with one for each.
"""

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


def truths(call: BoundCall) -> bool:
    """Whether the operands are truth values, of which a sum is no sum."""
    operands = call.args["self"], call.args.get("other", True)
    return all(v.dtype == torch.bool if isinstance(v, Tensor) else isinstance(v, bool) for v in operands)


def total(a: Entries, dim: Any, keepdim: bool = False) -> Entries:
    """The sum over axes, or over everything."""
    return (a.sum() if dim is None or dim == [] or not a.dim() else a.sum(dim, keepdim)) % P


@meaning(
    """clone alias_copy lift_fresh_copy view_copy detach_copy stack cat repeat gather index_select index
    _unsafe_index take index_copy index_fill flip roll rot90 tril triu diag_embed masked_select masked_scatter
    masked_fill constant_pad_nd scatter slice_scatter select_scatter index_put _index_put_impl fill zero
    expand_copy permute_copy select_copy slice_copy squeeze_copy unsqueeze_copy t_copy transpose_copy
    unbind_copy split_with_sizes_copy split_copy im2col embedding cumsum index_add scatter_add"""
)
def moved(e: Any, call: BoundCall) -> Any:
    """Elements change places, and add up where they meet: the very operator, run on entries."""

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
    sums = call.args.get("accumulate") or call.name in ("cumsum", "index_add", "scatter_add")
    if sums and call.name != "cumsum" and truths(call):
        raise NoMeaning("truth values are added")
    if sums and any(
        isinstance(v, Tensor) and bool((v == UNKNOWN).any()) for k, v in kwargs.items() if k not in CONTROLS
    ):
        raise NoMeaning(f"{call.name} adds numbers that are not known")
    out = call.func(**{k: None if k in ("dtype", "layout", "device", "pin_memory") else v for k, v in kwargs.items()})
    if sums:
        out = out % P
    return tuple(out) if isinstance(out, list | tuple) else out


@meaning("_to_copy to copy")
def converted(e: Any, call: BoundCall) -> Any:
    """Floating-point numbers of any width are real numbers."""
    source, into = call.args["src" if call.name == "copy" else "self"], call.args["self"].dtype
    if source.is_floating_point() and not into.is_floating_point:
        raise NoMeaning(f"numbers are rounded to {into}")
    return e.entries(source)


@meaning("view")
def viewed(e: Any, call: BoundCall) -> Any:
    """The same numbers in another shape."""
    return None


@meaning("add sub rsub")
def added(e: Any, call: BoundCall) -> Any:
    """Sum or difference."""
    if truths(call):
        raise NoMeaning("truth values are added")
    a, b = e.numbers(call, "self", "other")
    scaled = b * constant(torch.tensor(call.args.get("alpha", 1), dtype=torch.float64)) % P
    if call.name == "rsub":
        return (b - a) % P if call.args.get("alpha", 1) == 1 else (b - a * scalar(call, "alpha")) % P
    return (a + scaled if call.name == "add" else a - scaled) % P


def scalar(call: BoundCall, name: str) -> Entries:
    """A number among the arguments."""
    return constant(torch.tensor(call.args[name], dtype=torch.float64))


@meaning("mul logical_and bitwise_and")
def multiplied(e: Any, call: BoundCall) -> Any:
    """The product; of truth values what both are."""
    if call.name != "mul" and not truths(call):
        raise NoMeaning(f"{call.name} of numbers")
    a, b = e.numbers(call, "self", "other")
    return a * b % P


@meaning("logical_or bitwise_or")
def either(e: Any, call: BoundCall) -> Any:
    """Of truth values: one of both."""
    if not truths(call):
        raise NoMeaning(f"{call.name} of numbers")
    a, b = e.numbers(call, "self", "other")
    return (a + b - a * b) % P


@meaning("logical_not bitwise_not")
def negated(e: Any, call: BoundCall) -> Any:
    """Of truth values: the other one."""
    if not truths(call):
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
        root = root_of(e, e.numbers(call, "self")[0])
        return root if exponent > 0 else inverse(root)
    return e.atom("pow", *e.numbers(call, "self", "exponent"))


def root_of(e: Any, a: Entries) -> Entries:
    """The square root: the norm where the argument is the squared norm of an input's vector."""
    root: Entries = e.atom("sqrt", a)
    known = torch.tensor([e.roots.get(v, UNKNOWN) for v in a.reshape(-1).tolist()], dtype=torch.int64).reshape(a.shape)
    root = torch.where(known == UNKNOWN, root, known)
    e.norms.update(root.reshape(-1).tolist())
    return root


@meaning("sqrt rsqrt")
def rooted(e: Any, call: BoundCall) -> Any:
    """The square root, and what divides by it."""
    root = root_of(e, e.numbers(call, "self")[0])
    return root if call.name == "sqrt" else inverse(root)


@meaning("linalg_vector_norm norm")
def normed(e: Any, call: BoundCall) -> Any:
    """The Euclidean norm; the sum of absolute values."""
    order, dim = call.args.get("ord", call.args.get("p")), call.args.get("dim")
    (a,) = e.numbers(call, "self")
    keepdim = bool(call.args.get("keepdim", False))
    if order is None or order == 2:
        return root_of(e, total(a * a % P, dim, keepdim))
    if order == 1:
        return total(absolute(e, a), dim, keepdim)
    raise NoMeaning(f"a norm of order {order}")


def absolute(e: Any, a: Entries) -> Entries:
    """The absolute value: a function of the square."""
    distance: Entries = e.atom("abs", a * a % P)
    return distance


def greater(e: Any, a: Entries, b: Entries, sign: int = 1) -> Entries:
    """The maximum: half of the sum, and of the distance; for ``sign=-1`` the minimum."""
    return (a + b + sign * absolute(e, (a - b) % P)) % P * inverse(torch.tensor(2)) % P


@meaning("abs relu")
def positive(e: Any, call: BoundCall) -> Any:
    """The absolute value; the positive part."""
    (a,) = e.numbers(call, "self")
    return absolute(e, a) if call.name == "abs" else greater(e, a, torch.tensor(0))


@meaning("maximum minimum")
def extreme(e: Any, call: BoundCall) -> Any:
    """The larger one, the smaller one."""
    a, b = e.numbers(call, "self", "other")
    return greater(e, a, b, sign=1 if call.name == "maximum" else -1)


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
        a = greater(e, a, e.numbers(call, name)[0], sign)
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
    rstd = inverse(root_of(e, (variance + scalar(call, "eps")) % P))
    out = (a - mean) % P * rstd % P
    if call.args["weight"] is not None:
        out = out * e.numbers(call, "weight")[0] % P
    if call.args["bias"] is not None:
        out = (out + e.numbers(call, "bias")[0]) % P
    return out, mean, rstd


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
