"""The values that tensors hold, with torch's arithmetic: bits, reals, integers, truth values.

Floating values are bit-vectors, because Z3's floating sort has a single NaN and moving data must keep every payload.
Arithmetic converts them to Z3's IEEE-754 sort and back; a NaN that arithmetic makes has unspecified bits. In ``real``
arithmetic they are real numbers. 64-bit integers are mathematical ones (no overflow below 2**63 is assumed); narrower
ones wrap around.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.terms import Term, as_z3, conj, disj, iff, ite, known, neg, plus, same, times

FLOATS: dict[torch.dtype, tuple[int, int, torch.dtype]] = {
    torch.float16: (5, 11, torch.int16),
    torch.bfloat16: (8, 8, torch.int16),
    torch.float32: (8, 24, torch.int32),
    torch.float64: (11, 53, torch.int64),
}
"""Exponent bits, significand bits (the hidden one counted), and the integer dtype of the same width."""

INTEGERS = {torch.int8: 8, torch.int16: 16, torch.int32: 32, torch.int64: 64, torch.uint8: -8}
"""Bits of each integer dtype, negative for an unsigned one."""


class NoMeaning(Exception):
    """An operator or a dtype has no meaning here; the verdict about its program is UNKNOWN."""


def is_float(dtype: torch.dtype) -> bool:
    """Whether values of this dtype are floating-point numbers."""
    return dtype in FLOATS


def width(dtype: torch.dtype) -> int:
    """Bits of a floating dtype."""
    return sum(FLOATS[dtype][:2])


def sort(facts: Facts, dtype: torch.dtype) -> z3.SortRef:
    """The Z3 sort of one value."""
    if dtype == torch.bool:
        return z3.BoolSort()
    if dtype in INTEGERS:
        return z3.IntSort()
    if dtype not in FLOATS:
        raise NoMeaning(f"dtype {dtype}")
    return z3.RealSort() if facts.arithmetic == "real" else z3.BitVecSort(width(dtype))


def constant(facts: Facts, value: Any, dtype: torch.dtype) -> Any:
    """A Python number as a value of the dtype."""
    if dtype == torch.bool:
        return bool(value)
    if dtype in INTEGERS:
        return int(value)
    if facts.arithmetic == "real":
        return z3.RealVal(str(Fraction(value)))
    sort(facts, dtype)
    bits = int(torch.tensor(value, dtype=dtype).view(FLOATS[dtype][2]))
    return z3.BitVecVal(bits, width(dtype))


def fp(bits: Any, dtype: torch.dtype) -> Any:
    """The IEEE-754 number that the bits encode."""
    return z3.fpBVToFP(bits, z3.FPSort(*FLOATS[dtype][:2]))


def bits_of(number: Any, dtype: torch.dtype, kind: str, *operands: Any) -> Any:
    """The bits of a computed number.

    A NaN is quiet, with a payload that the operation and its operands determine.
    """
    number = z3.simplify(number)
    if z3.is_fp_value(number) and not number.isNaN():
        return z3.simplify(z3.fpToIEEEBV(number))
    terms = [as_z3(operand) for operand in operands]
    free = z3.Function(f"nan_{kind}", *(term.sort() for term in terms), z3.BitVecSort(width(dtype)))(*terms)
    # All exponent bits and the quiet bit are set: a NaN whatever the rest is.
    quiet = ((1 << (FLOATS[dtype][0] + 1)) - 1) << (FLOATS[dtype][1] - 2)
    payload = free | z3.BitVecVal(quiet, width(dtype))
    return payload if z3.is_fp_value(number) else z3.If(z3.fpIsNaN(number), payload, z3.fpToIEEEBV(number))


def wrap(value: Term, dtype: torch.dtype) -> Term:
    """An integer reduced to the range of a narrow dtype."""
    bits = INTEGERS[dtype]
    if bits == 64:
        return value
    low = 0 if bits < 0 else 2 ** (bits - 1)
    return (value + low) % 2 ** abs(bits) - low


def cast(facts: Facts, value: Any, old: torch.dtype, new: torch.dtype) -> Any:
    """The value converted as ``Tensor.to`` does."""
    if old == new or (facts.arithmetic == "real" and is_float(old) and is_float(new)):
        return value
    if new == torch.bool:
        return neg(is_zero(facts, value, old))
    if old == torch.bool:
        return ite(value, constant(facts, 1, new), constant(facts, 0, new))
    if new in INTEGERS:
        if is_float(old):
            raise NoMeaning(f"cast from {old} to {new}")
        return wrap(value, new)
    if is_float(old):
        return bits_of(z3.fpFPToFP(z3.RNE(), fp(value, old), z3.FPSort(*FLOATS[new][:2])), new, "cast", value)
    if known(value):
        return constant(facts, value, new)
    if facts.arithmetic == "real":
        return z3.ToReal(value)
    return bits_of(z3.fpRealToFP(z3.RNE(), z3.ToReal(value), z3.FPSort(*FLOATS[new][:2])), new, "cast", value)


def is_zero(facts: Facts, value: Any, dtype: torch.dtype) -> Term:
    """Whether the value compares equal to 0."""
    return compare(facts, "eq", value, constant(facts, 0, dtype), dtype)


_FLOAT: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: z3.fpAdd(z3.RNE(), a, b),
    "sub": lambda a, b: z3.fpSub(z3.RNE(), a, b),
    "mul": lambda a, b: z3.fpMul(z3.RNE(), a, b),
    "div": lambda a, b: z3.fpDiv(z3.RNE(), a, b),
}
_COMPARE: dict[str, tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    "eq": (same, z3.fpEQ),
    "ne": (lambda a, b: neg(same(a, b)), z3.fpNEQ),
    "lt": (lambda a, b: a < b, z3.fpLT),
    "le": (lambda a, b: a <= b, z3.fpLEQ),
    "gt": (lambda a, b: a > b, z3.fpGT),
    "ge": (lambda a, b: a >= b, z3.fpGEQ),
}


def arithmetic(facts: Facts, kind: str, a: Any, b: Any, dtype: torch.dtype) -> Any:
    """``add``, ``sub``, ``mul`` or ``div`` of two values of one dtype."""
    if dtype == torch.bool:
        if kind in ("add", "mul"):
            return disj(a, b) if kind == "add" else conj(a, b)
        raise NoMeaning(f"{kind} of bool")
    exact: dict[str, Callable[[], Any]] = {"add": lambda: plus(a, b), "sub": lambda: a - b, "mul": lambda: times(a, b)}
    if dtype in INTEGERS:
        return wrap(exact[kind](), dtype)
    if facts.arithmetic == "real":
        return a / b if kind == "div" else exact[kind]()
    return bits_of(_FLOAT[kind](fp(a, dtype), fp(b, dtype)), dtype, kind, a, b)


def compare(facts: Facts, kind: str, a: Any, b: Any, dtype: torch.dtype) -> Term:
    """A comparison of two values of one dtype, as IEEE-754 has it for floating values."""
    exact, floating = _COMPARE[kind]
    if dtype == torch.bool:
        if kind in ("eq", "ne"):
            return iff(a, b) if kind == "eq" else neg(iff(a, b))
        return exact(ite(a, 1, 0), ite(b, 1, 0))
    if dtype in INTEGERS or facts.arithmetic == "real":
        return exact(a, b)
    return floating(fp(a, dtype), fp(b, dtype))


def negative(facts: Facts, value: Any, dtype: torch.dtype) -> Any:
    """``-value``; of a floating value the sign bit is flipped, NaN included."""
    if is_float(dtype) and facts.arithmetic != "real":
        return value ^ z3.BitVecVal(1 << (width(dtype) - 1), width(dtype))
    return wrap(-value, dtype) if dtype in INTEGERS else -value


def absolute(facts: Facts, value: Any, dtype: torch.dtype) -> Any:
    """``|value|``; of a floating value the sign bit is cleared, NaN included."""
    if is_float(dtype) and facts.arithmetic != "real":
        return value & z3.BitVecVal((1 << (width(dtype) - 1)) - 1, width(dtype))
    return ite(value < 0, negative(facts, value, dtype), value)


def agree(a: Any, b: Any, dtype: torch.dtype) -> Term:
    """The same value, bit for bit."""
    return iff(a, b) if dtype == torch.bool else same(a, b)


def alike(a: Any, b: Any, dtype: torch.dtype) -> Term:
    """The same floating-point number: the same bits, or both NaN."""
    return disj(same(a, b), conj(z3.fpIsNaN(fp(a, dtype)), z3.fpIsNaN(fp(b, dtype))))
