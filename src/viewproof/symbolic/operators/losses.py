"""Torch's own distances, one for each coordinate, and their gradients."""

from typing import Any

import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import TABLE, meaning, pointwise
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import ite
from viewproof.symbolic.values import NoMeaning, sort


def _do(name: str, facts: Facts, *operands: Any) -> SymTensor:
    result: SymTensor = TABLE[f"aten.{name}"](facts, *operands)
    return result


def _each(name: str, reduction: int) -> None:
    if reduction != 0:
        raise NoMeaning(f"operator aten.{name}.default with a reduction")


@meaning("aten.mse_loss.default")
def _mse(facts: Facts, a: SymTensor, b: SymTensor, reduction: int = 1) -> SymTensor:
    _each("mse_loss", reduction)
    return _do("square.default", facts, _do("sub.Tensor", facts, a, b))


@meaning("aten.mse_loss_backward.default")
def _mse_backward(facts: Facts, gradient: SymTensor, a: SymTensor, b: SymTensor, reduction: int) -> SymTensor:
    _each("mse_loss_backward", reduction)
    twice = _do("mul.Scalar", facts, _do("sub.Tensor", facts, a, b), 2)
    return _do("mul.Tensor", facts, twice, gradient)


@meaning("aten.l1_loss.default")
def _l1(facts: Facts, a: SymTensor, b: SymTensor, reduction: int = 1) -> SymTensor:
    _each("l1_loss", reduction)
    return _do("abs.default", facts, _do("sub.Tensor", facts, a, b))


@meaning("aten.smooth_l1_loss.default")
def _smooth_l1(facts: Facts, a: SymTensor, b: SymTensor, reduction: int = 1, beta: float = 1.0) -> SymTensor:
    _each("smooth_l1_loss", reduction)
    gap = _do("abs.default", facts, _do("sub.Tensor", facts, a, b))
    square = _do("mul.Tensor", facts, _do("mul.Scalar", facts, gap, 0.5), gap)
    near = _do("div.Scalar", facts, square, beta)
    far = _do("sub.Scalar", facts, gap, 0.5 * beta)
    return pointwise(facts, ite, [_do("lt.Scalar", facts, gap, beta), near, far], near.dtype, "where")


@meaning("aten.smooth_l1_loss_backward.default")
def _smooth_l1_backward(
    facts: Facts, gradient: SymTensor, a: SymTensor, b: SymTensor, reduction: int, beta: float
) -> SymTensor:
    _each("smooth_l1_loss_backward", reduction)
    if facts.arithmetic != "real":
        # Torch multiplies and divides in one order in most entries and in another in the last ones: any number.
        value = sort(facts, gradient.dtype)
        some = z3.Function("smooth_l1_backward", *[value] * 4)
        return pointwise(facts, some, [gradient, a, b], gradient.dtype, "smooth_l1_loss_backward")
    gap = _do("sub.Tensor", facts, a, b)
    near = _do("mul.Tensor", facts, _do("div.Scalar", facts, gap, beta), gradient)
    low, high = _do("le.Scalar", facts, gap, -beta), _do("ge.Scalar", facts, gap, beta)
    above = pointwise(facts, ite, [high, gradient, near], near.dtype, "where")
    return pointwise(facts, ite, [low, _do("neg.default", facts, gradient), above], near.dtype, "where")
