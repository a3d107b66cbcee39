"""Arithmetic, comparisons, logic and casts, one coordinate at a time."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import z3

from viewproof.symbolic import values
from viewproof.symbolic.expressions import power
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import as_tensor, common_dtype, meaning, pointwise
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, conj, disj, iff, ite, known, least, most, neg
from viewproof.symbolic.values import INTEGERS, NoMeaning, cast, constant, is_float


def _binary(facts: Facts, a: Any, b: Any, kind: str, dtype: torch.dtype | None = None) -> SymTensor:
    result = dtype or common_dtype(a, b)
    # Torch computes half precision in float32 and rounds the result.
    wide = torch.float32 if result in (torch.float16, torch.bfloat16) else result
    for number in (a, b):
        exact = not isinstance(number, float) or math.isnan(number) or float(torch.tensor(number).to(result)) == number
        if wide != result and not exact:
            # Torch rounds such a number to half precision in some of a tensor's entries and not in others.
            raise NoMeaning(f"{kind} of {result} and {number}, which it cannot hold")

    def of(x: Any, y: Any) -> Any:
        return cast(facts, values.arithmetic(facts, kind, x, y, wide), wide, result)

    return pointwise(facts, of, [as_tensor(facts, a, wide), as_tensor(facts, b, wide)], result, kind)


meaning("aten.mul.Tensor", "aten.mul.Scalar")(partial(_binary, kind="mul"))


def _sum(facts: Facts, a: Any, b: Any, alpha: Any = 1, kind: str = "add") -> SymTensor:
    if not (known(alpha) and alpha == 1):
        if is_float(common_dtype(a, b)) and facts.arithmetic != "real":
            raise NoMeaning(f"addition with alpha={alpha}, which torch rounds once or twice")
        b = _binary(facts, b, alpha, "mul")
    return _binary(facts, a, b, kind)


meaning("aten.add.Tensor", "aten.add.Scalar")(_sum)
meaning("aten.sub.Tensor", "aten.sub.Scalar")(partial(_sum, kind="sub"))


@meaning("aten.rsub.Scalar", "aten.rsub.Tensor")
def _rsub(facts: Facts, a: Any, b: Any, alpha: Any = 1) -> SymTensor:
    return _sum(facts, b, a, alpha, "sub")


@meaning("aten.div.Tensor", "aten.div.Scalar")
def divide(facts: Facts, a: Any, b: Any) -> SymTensor:
    """The true quotient, a floating-point number also of integers."""
    promoted = common_dtype(a, b)
    return _binary(facts, a, b, "div", promoted if is_float(promoted) else torch.get_default_dtype())


@meaning("aten.square.default")
def _square(facts: Facts, x: SymTensor) -> SymTensor:
    return _binary(facts, x, x, "mul")


@meaning("aten.pow.Tensor_Scalar")
def _pow(facts: Facts, x: SymTensor, exponent: Any) -> SymTensor:
    if not known(exponent) or exponent not in (0, 1, 2):
        raise NoMeaning(f"operator aten.pow.Tensor_Scalar with exponent {exponent}")
    dtype = common_dtype(x, exponent)
    if exponent == 2:
        return _binary(facts, x, x, "mul", dtype)
    return (
        as_tensor(facts, x, dtype) if exponent == 1 else SymTensor(x.shape, dtype, lambda _: constant(facts, 1, dtype))
    )


def _unary(facts: Facts, x: SymTensor, function: Callable[[Facts, Any, torch.dtype], Any]) -> SymTensor:
    return SymTensor(x.shape, x.dtype, lambda index: function(facts, x.at(index), x.dtype))


def _sign(facts: Facts, value: Any, dtype: torch.dtype) -> Any:
    negative, zero, positive = (constant(facts, sign, dtype) for sign in (-1, 0, 1))
    above, below = (values.compare(facts, kind, value, zero, dtype) for kind in ("gt", "lt"))
    return ite(above, positive, ite(below, negative, zero))


for _name, _of_one in (("neg", values.negative), ("abs", values.absolute), ("sgn", _sign), ("sign", _sign)):
    meaning(f"aten.{_name}.default")(partial(_unary, function=_of_one))


def _whole(facts: Facts, a: Any, b: Any, what: str, function: Callable[[Facts, Term, Term], Term]) -> SymTensor:
    dtype = common_dtype(a, b)
    if dtype not in INTEGERS:
        raise NoMeaning(f"operator aten.{what} on {dtype}")
    x, divisor = as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)
    facts.need_everywhere(f"{what}: a divisor other than 0", divisor.shape, lambda i: divisor.at(i) != 0)
    return pointwise(facts, lambda v, d: values.wrap(function(facts, v, d), dtype), [x, divisor], dtype, what)


meaning("aten.floor_divide.default", "aten.floor_divide.Scalar")(
    partial(_whole, what="floor_divide", function=Facts.floordiv)
)
meaning("aten.remainder.Scalar", "aten.remainder.Tensor", "aten.remainder.Scalar_Tensor")(
    partial(_whole, what="remainder", function=Facts.mod)
)


@meaning("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def _div_mode(facts: Facts, a: Any, b: Any, rounding_mode: str | None = None) -> SymTensor:
    if rounding_mode != "floor":
        raise NoMeaning(f"operator aten.div.Tensor_mode with rounding {rounding_mode}")
    return _whole(facts, a, b, "div", Facts.floordiv)


def _extreme(facts: Facts, a: SymTensor, b: Any, larger: bool) -> SymTensor:
    dtype = common_dtype(a, b)
    if is_float(dtype) and facts.arithmetic != "real":
        raise NoMeaning("the larger of two floating values, bit for bit")
    both = [as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)]
    return pointwise(facts, most if larger else least, both, dtype, "maximum" if larger else "minimum")


meaning("aten.maximum.default", "aten.clamp_min.default")(partial(_extreme, larger=True))
meaning("aten.minimum.default", "aten.clamp_max.default")(partial(_extreme, larger=False))


@meaning("aten.clamp.default")
def _clamp(facts: Facts, x: SymTensor, low: Any = None, high: Any = None) -> SymTensor:
    raised = x if low is None else _extreme(facts, x, low, True)
    return raised if high is None else _extreme(facts, raised, high, False)


@meaning("aten.lerp.Scalar")
def _lerp(facts: Facts, a: SymTensor, b: SymTensor, weight: Any) -> SymTensor:
    if facts.arithmetic != "real":
        raise NoMeaning("a linear interpolation bit for bit, which torch computes in one of two ways")
    return _binary(facts, a, _binary(facts, _binary(facts, b, a, "sub"), weight, "mul"), "add")


def _comparison(facts: Facts, a: SymTensor, b: Any, kind: str) -> SymTensor:
    dtype = common_dtype(a, b)
    both = [as_tensor(facts, a, dtype), as_tensor(facts, b, dtype)]
    return pointwise(facts, lambda x, y: values.compare(facts, kind, x, y, dtype), both, torch.bool, kind)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    meaning(f"aten.{_name}.Tensor", f"aten.{_name}.Scalar")(partial(_comparison, kind=_name))


@meaning("aten.isnan.default")
def _isnan(facts: Facts, x: SymTensor) -> SymTensor:
    never = not is_float(x.dtype) or facts.arithmetic == "real"
    return SymTensor(x.shape, torch.bool, lambda i: False if never else z3.fpIsNaN(values.fp(x.at(i), x.dtype)))


def _logical(facts: Facts, *operands: Any, name: str, function: Callable[..., Term]) -> SymTensor:
    truth_values = all(isinstance(o, bool) or getattr(o, "dtype", None) == torch.bool for o in operands)
    if not name.startswith("logical") and not truth_values:
        raise NoMeaning(f"operator aten.{name} on integers")
    return pointwise(facts, function, [as_tensor(facts, o, torch.bool) for o in operands], torch.bool, name)


_CONNECTIVES: dict[str, Callable[..., Term]] = {"and": conj, "or": disj, "xor": lambda a, b: neg(iff(a, b)), "not": neg}
for _name, _connective in _CONNECTIVES.items():
    for _form in (f"logical_{_name}", f"bitwise_{_name}", *([f"__{_name}__"] if _name != "not" else [])):
        _overloads = ["default"] if _form.startswith("logical") or _name == "not" else ["Tensor", "Scalar"]
        meaning(*(f"aten.{_form}.{o}" for o in _overloads))(partial(_logical, name=_form, function=_connective))


@meaning("aten.to.dtype", "aten.to.dtype_layout", "aten._to_copy.default", "aten.to.device", "aten.to.other")
def _to(facts: Facts, x: SymTensor, *rest: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    dtypes = [r.dtype if isinstance(r, SymTensor) else r for r in rest if isinstance(r, SymTensor | torch.dtype)]
    return as_tensor(facts, x, dtype or next(iter(dtypes), x.dtype))


@meaning("aten.type_as.default")
def _type_as(facts: Facts, x: SymTensor, other: SymTensor) -> SymTensor:
    return as_tensor(facts, x, other.dtype)


@meaning("aten._assert_tensor_metadata.default", "aten.promote_types.default", "aten.sym_constrain_range.default")
def _nothing(*_: Any, **__: Any) -> None:
    """What the fake tensors have checked already, and what has no tensor for a result."""


@meaning("aten._assert_async.msg", "aten._assert_async.default", "aten._assert_scalar.default")
def _assert(facts: Facts, condition: Any, message: str = "") -> None:
    """The program raises unless the condition holds, so it must follow, and holds from here on."""
    truth = as_tensor(facts, condition, torch.bool).at(()) if isinstance(condition, SymTensor) else condition
    facts.need(f"assertion: {message}", truth)
    facts.assume(truth)


_NUMBERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "neg", "lt", "le", "gt", "ge", "eq", "ne")},
    **{"getitem": operator.getitem, "pow": power, "sym_max": most, "sym_min": least, "sym_not": neg, "sym_ite": ite},
    **{"and_": conj, "or_": disj},
}


def _number(_: Facts, *arguments: Any, function: Callable[..., Any]) -> Any:
    return function(*arguments)


for _name, _of_numbers in _NUMBERS.items():
    meaning(f"operator.{_name}")(partial(_number, function=_of_numbers))


def _divided(facts: Facts, a: Term, b: Term, function: Callable[[Facts, Term, Term], Term]) -> Term:
    facts.need("a divisor other than 0", b != 0)
    return function(facts, a, b)


meaning("operator.floordiv")(partial(_divided, function=Facts.floordiv))
meaning("operator.mod")(partial(_divided, function=Facts.mod))
