"""Arithmetic, comparisons, logic and casts, one coordinate at a time."""

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import z3

from viewproof.symbolic import values
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import as_tensor, common_dtype, meaning, pointwise
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, conj, disj, iff, ite, known, least, most, neg
from viewproof.symbolic.values import INTEGERS, NoMeaning, cast, constant, is_float

_HALVES = (torch.float16, torch.bfloat16)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Torch computes half precision in float32 and rounds the result."""
    return torch.float32 if dtype in _HALVES else dtype


def _binary(facts: Facts, kind: str, a: Any, b: Any, dtype: torch.dtype | None = None) -> SymTensor:
    result = dtype or common_dtype(a, b)
    wide = _wide(result)
    for number in (a, b):
        exact = not isinstance(number, float) or math.isnan(number) or float(torch.tensor(number).to(result)) == number
        if wide != result and not exact:
            # Torch rounds such a number to half precision in some of a tensor's entries and not in others.
            raise NoMeaning(f"{kind} of {result} and {number}, which it cannot hold")
    operands = [as_tensor(facts, a, wide), as_tensor(facts, b, wide)]

    def of(x: Any, y: Any) -> Any:
        return cast(facts, values.arithmetic(facts, kind, x, y, wide), wide, result)

    return pointwise(facts, of, operands, result, kind)


def _unary(facts: Facts, x: SymTensor, function: Callable[[Any], Any], dtype: torch.dtype | None = None) -> SymTensor:
    return SymTensor(x.shape, dtype or x.dtype, lambda index: function(x.at(index)))


@meaning("aten.add.Tensor", "aten.add.Scalar")
def _add(facts: Facts, a: Any, b: Any, alpha: Any = 1) -> SymTensor:
    return _binary(facts, "add", a, _scaled(facts, a, b, alpha))


@meaning("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(facts: Facts, a: Any, b: Any, alpha: Any = 1) -> SymTensor:
    return _binary(facts, "sub", a, _scaled(facts, a, b, alpha))


def _scaled(facts: Facts, a: Any, b: Any, alpha: Any) -> Any:
    if known(alpha) and alpha == 1:
        return b
    if is_float(common_dtype(a, b)) and facts.arithmetic != "real":
        raise NoMeaning(f"addition with alpha={alpha}, which torch rounds once or twice")
    return _binary(facts, "mul", b, alpha)


@meaning("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(facts: Facts, a: Any, b: Any, alpha: Any = 1) -> SymTensor:
    return _sub(facts, b, a, alpha)


@meaning("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(facts: Facts, a: Any, b: Any) -> SymTensor:
    return _binary(facts, "mul", a, b)


@meaning("aten.div.Tensor", "aten.div.Scalar")
def divide(facts: Facts, a: Any, b: Any) -> SymTensor:
    """The true quotient, a floating-point number also of integers."""
    promoted = common_dtype(a, b)
    return _binary(facts, "div", a, b, promoted if is_float(promoted) else torch.get_default_dtype())


@meaning("aten.square.default")
def _square(facts: Facts, x: SymTensor) -> SymTensor:
    return _binary(facts, "mul", x, x)


@meaning("aten.pow.Tensor_Scalar")
def _pow(facts: Facts, x: SymTensor, exponent: Any) -> SymTensor:
    if not known(exponent) or exponent not in (0, 1, 2):
        raise NoMeaning(f"operator aten.pow.Tensor_Scalar with exponent {exponent}")
    dtype = common_dtype(x, exponent)
    if exponent == 2:
        return _binary(facts, "mul", x, x, dtype)
    base = as_tensor(facts, x, dtype)
    return base if exponent == 1 else _unary(facts, base, lambda _: constant(facts, 1, dtype))


@meaning("aten.neg.default")
def _neg(facts: Facts, x: SymTensor) -> SymTensor:
    return _unary(facts, x, lambda v: values.negative(facts, v, x.dtype))


@meaning("aten.abs.default")
def _abs(facts: Facts, x: SymTensor) -> SymTensor:
    return _unary(facts, x, lambda v: values.absolute(facts, v, x.dtype))


@meaning("aten.sgn.default", "aten.sign.default")
def _sign(facts: Facts, x: SymTensor) -> SymTensor:
    def of(v: Any) -> Any:
        zero, sides = constant(facts, 0, x.dtype), [constant(facts, s, x.dtype) for s in (1, -1)]
        above, below = (values.compare(facts, kind, v, zero, x.dtype) for kind in ("gt", "lt"))
        return ite(above, sides[0], ite(below, sides[1], zero))

    return _unary(facts, x, of)


@meaning("aten.floor_divide.default", "aten.floor_divide.Scalar")
def _floor_divide(facts: Facts, a: Any, b: Any) -> SymTensor:
    return _whole(facts, "floor_divide", a, b, facts.floordiv)


@meaning("aten.remainder.Scalar", "aten.remainder.Tensor", "aten.remainder.Scalar_Tensor")
def _remainder(facts: Facts, a: Any, b: Any) -> SymTensor:
    return _whole(facts, "remainder", a, b, facts.mod)


@meaning("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def _div_mode(facts: Facts, a: Any, b: Any, rounding_mode: str | None = None) -> SymTensor:
    if rounding_mode != "floor":
        raise NoMeaning(f"operator aten.div.Tensor_mode with rounding {rounding_mode}")
    return _whole(facts, "div", a, b, facts.floordiv)


def _whole(facts: Facts, what: str, a: Any, b: Any, function: Callable[[Term, Term], Term]) -> SymTensor:
    dtype = common_dtype(a, b)
    if dtype not in INTEGERS:
        raise NoMeaning(f"operator aten.{what} on {dtype}")
    x, divisor = as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)
    facts.need_everywhere(f"{what}: a divisor other than 0", divisor.shape, lambda i: divisor.at(i) != 0)
    return pointwise(facts, lambda v, d: values.wrap(function(v, d), dtype), [x, divisor], dtype, what)


def _extreme(facts: Facts, a: SymTensor, b: Any, larger: bool) -> SymTensor:
    dtype = common_dtype(a, b)
    if is_float(dtype) and facts.arithmetic != "real":
        raise NoMeaning("the larger of two floating values, bit for bit")
    both = [as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)]
    return pointwise(facts, most if larger else least, both, dtype, "maximum" if larger else "minimum")


@meaning("aten.maximum.default")
def _maximum(facts: Facts, a: SymTensor, b: SymTensor) -> SymTensor:
    return _extreme(facts, a, b, True)


@meaning("aten.minimum.default")
def _minimum(facts: Facts, a: SymTensor, b: SymTensor) -> SymTensor:
    return _extreme(facts, a, b, False)


@meaning("aten.clamp.default")
def _clamp(facts: Facts, x: SymTensor, low: Any = None, high: Any = None) -> SymTensor:
    raised = x if low is None else _extreme(facts, x, low, True)
    return raised if high is None else _extreme(facts, raised, high, False)


@meaning("aten.clamp_min.default")
def _clamp_min(facts: Facts, x: SymTensor, low: Any) -> SymTensor:
    return _extreme(facts, x, low, True)


@meaning("aten.clamp_max.default")
def _clamp_max(facts: Facts, x: SymTensor, high: Any) -> SymTensor:
    return _extreme(facts, x, high, False)


def _comparison(kind: str) -> Callable[..., SymTensor]:
    def of(facts: Facts, a: SymTensor, b: Any) -> SymTensor:
        dtype = common_dtype(a, b)
        both = [as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)]
        return pointwise(facts, lambda x, y: values.compare(facts, kind, x, y, dtype), both, torch.bool, kind)

    return of


for _kind in ("eq", "ne", "lt", "le", "gt", "ge"):
    meaning(f"aten.{_kind}.Tensor", f"aten.{_kind}.Scalar")(_comparison(_kind))


@meaning("aten.isnan.default")
def _isnan(facts: Facts, x: SymTensor) -> SymTensor:
    if not is_float(x.dtype) or facts.arithmetic == "real":
        return _unary(facts, x, lambda _: False, torch.bool)
    return _unary(facts, x, lambda v: z3.fpIsNaN(values.fp(v, x.dtype)), torch.bool)


def _logical(name: str, function: Callable[..., Term], bitwise: bool) -> None:
    def of(facts: Facts, *operands: Any) -> SymTensor:
        if bitwise and any(not isinstance(o, bool) and getattr(o, "dtype", None) != torch.bool for o in operands):
            raise NoMeaning(f"operator aten.{name} on integers")
        truths = [as_tensor(facts, o, torch.bool) for o in operands]
        return pointwise(facts, function, truths, torch.bool, name)

    overloads = ["default"] if not bitwise or name == "bitwise_not" else ["Tensor", "Scalar"]
    meaning(*(f"aten.{name}.{overload}" for overload in overloads))(of)


_CONNECTIVES: dict[str, Callable[..., Term]] = {"and": conj, "or": disj, "xor": lambda a, b: neg(iff(a, b)), "not": neg}
for _name, _function in _CONNECTIVES.items():
    _logical(f"logical_{_name}", _function, bitwise=False)
    _logical(f"bitwise_{_name}", _function, bitwise=True)
for _name in ("and", "or", "xor"):
    _logical(f"__{_name}__", _CONNECTIVES[_name], bitwise=True)


@meaning("aten.to.dtype", "aten.to.dtype_layout", "aten._to_copy.default", "aten.to.device", "aten.to.other")
def _to(facts: Facts, x: SymTensor, *rest: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    asked = dtype or next((r.dtype if isinstance(r, SymTensor) else r for r in rest if _names_dtype(r)), x.dtype)
    return as_tensor(facts, x, asked)


def _names_dtype(argument: Any) -> bool:
    return isinstance(argument, SymTensor | torch.dtype)


@meaning("aten.type_as.default")
def _type_as(facts: Facts, x: SymTensor, other: SymTensor) -> SymTensor:
    return as_tensor(facts, x, other.dtype)


@meaning("aten._assert_tensor_metadata.default", "aten.promote_types.default", "aten.sym_constrain_range.default")
def _nothing(*_: Any, **__: Any) -> None:
    """What the fake tensors have checked already, and what has no tensor for a result."""


@meaning("aten._assert_async.msg", "aten._assert_async.default")
def _assert(facts: Facts, condition: SymTensor, message: str = "") -> None:
    """The program raises unless the condition holds, so it must follow, and holds from here on."""
    truth = as_tensor(facts, condition, torch.bool).at(())
    facts.need(f"assertion: {message}", truth)
    facts.assume(truth)


@meaning("aten._assert_scalar.default")
def _assert_scalar(facts: Facts, condition: Any, message: str = "") -> None:
    facts.need(f"assertion: {message}", condition)
    facts.assume(condition)


def _number(name: str, function: Callable[..., Any]) -> None:
    meaning(f"operator.{name}")(lambda facts, *arguments: function(*arguments))


for _name in ("add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "getitem"):
    _number(_name, getattr(operator, _name))
_number("eq", lambda a, b: a == b)
_number("ne", lambda a, b: a != b)
_number("sym_max", most)
_number("sym_min", least)
_number("sym_not", neg)
_number("sym_ite", ite)
_number("and_", conj)
_number("or_", disj)


@meaning("operator.floordiv")
def _number_floordiv(facts: Facts, a: Term, b: Term) -> Term:
    facts.need("a divisor other than 0", b != 0)
    return facts.floordiv(a, b)


@meaning("operator.mod")
def _number_mod(facts: Facts, a: Term, b: Term) -> Term:
    facts.need("a divisor other than 0", b != 0)
    return facts.mod(a, b)


@meaning("operator.pow")
def _number_pow(facts: Facts, a: Term, b: Term) -> Term:
    if not known(b) or b < 0:
        raise NoMeaning("operator pow with a symbolic exponent")
    return math.prod([a] * b)
