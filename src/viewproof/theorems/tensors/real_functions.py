"""What proofs about losses of logits assume of exp, log and the square root, and torch's operators by these."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.arithmetic import divide
from viewproof.symbolic.operators.table import TABLE, as_tensor, axis_of, pointwise
from viewproof.symbolic.tensor import Index, SymTensor, put
from viewproof.symbolic.terms import Term, conj, ite, same
from viewproof.symbolic.values import NoMeaning

# Not exp and sqrt, which are functions of cvc5's own.
EXP, LOG, SQRT = (
    z3.Function(name, z3.RealSort(), z3.RealSort()) for name in ("exponential", "logarithm", "square_root")
)
"""Functions of which only this is assumed: equal arguments, equal results; and exp(MINUS_INFINITY) is 0."""

MINUS_INFINITY = z3.Real("minus_infinity")

_ZERO = z3.RealVal(0)


def total(facts: Facts, extent: Term, summand: Callable[[Term], Any]) -> Any:
    """A sum of real numbers."""
    return facts.sum(extent, summand, _ZERO)


def softmax(facts: Facts, extent: Term, logit: Callable[[Term], Any], k: Term) -> Any:
    """``exp(logit(k)) / sum_j exp(logit(j))``."""
    return EXP(logit(k)) / total(facts, extent, lambda j: EXP(logit(j)))


def log_softmax(facts: Facts, extent: Term, logit: Callable[[Term], Any], k: Term) -> Any:
    """``logit(k) - log(sum_j exp(logit(j)))``."""
    return logit(k) - LOG(total(facts, extent, lambda j: EXP(logit(j))))


def normalized(facts: Facts, extent: Term, value: Callable[[Term], Any], k: Term, epsilon: float = 1e-5) -> Any:
    """A vector less its mean, by the root of its variance plus epsilon: a layer norm without scale and shift."""
    size = z3.ToReal(extent) if not isinstance(extent, int) else z3.RealVal(extent)
    mean = total(facts, extent, value) / size
    variance = total(facts, extent, lambda j: (value(j) - mean) * (value(j) - mean)) / size
    return (value(k) - mean) / SQRT(variance + z3.Q(*Fraction(epsilon).as_integer_ratio()))


def _along(function: Callable[..., Any]) -> Callable[..., SymTensor]:
    def meaning(facts: Facts, x: SymTensor, axis: int, dtype: torch.dtype | None = None) -> SymTensor:
        axis = axis_of(axis, x.rank)

        def at(index: Index) -> Any:
            return function(facts, x.shape[axis], lambda j: x.at(put(index, axis, j)), index[axis])

        return SymTensor(x.shape, dtype or x.dtype, at)

    return meaning


def _layer_norm(
    facts: Facts,
    x: SymTensor,
    shape: Sequence[Term],
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    *_: Any,
) -> SymTensor:
    if len(shape) != 1 or weight is not None or bias is not None:
        raise NoMeaning("a layer norm over several axes, or with scale and shift")
    extent = x.shape[-1]
    facts.need("layer_norm: the extent of the last axis", same(shape[0], extent))

    def at(index: Index) -> Any:
        return normalized(facts, extent, lambda j: x.at((*index[:-1], j)), index[-1], epsilon)

    return SymTensor(x.shape, x.dtype, at)


def _sqrt(facts: Facts, x: SymTensor) -> SymTensor:
    return SymTensor(x.shape, x.dtype, lambda index: SQRT(x.at(index)))


def _masked_fill(facts: Facts, x: SymTensor, mask: SymTensor, value: Any) -> SymTensor:
    if value != -torch.inf:
        result: SymTensor = TABLE["aten.masked_fill.Scalar"](facts, x, mask, value)
        return result
    facts.assume(EXP(MINUS_INFINITY) == 0)
    return pointwise(facts, lambda v, m: ite(m, MINUS_INFINITY, v), [x, mask], x.dtype, "masked_fill")


def _cross_entropy(facts: Facts, logits: SymTensor, target: SymTensor, *options: Any) -> SymTensor:
    if options or logits.rank != 2:
        raise NoMeaning("a cross-entropy other than the mean over rows of logits")
    (rows, classes) = logits.shape
    facts.need("cross_entropy: a class for each row", same(target.shape[0], rows))
    facts.need_everywhere(
        "cross_entropy: classes in range", target.shape, lambda i: conj(target.at(i) >= 0, target.at(i) < classes)
    )

    def row(n: Term) -> Any:
        return -log_softmax(facts, classes, lambda k: logits.at((n, k)), target.at((n,)))

    sum_of_rows = SymTensor((), logits.dtype, lambda _: total(facts, rows, row))
    return divide(facts, sum_of_rows, as_tensor(facts, rows, logits.dtype))


REAL_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "aten.softmax.int": _along(softmax),
    "aten.log_softmax.int": _along(log_softmax),
    "aten.layer_norm.default": _layer_norm,
    "aten.sqrt.default": _sqrt,
    "aten.masked_fill.Scalar": _masked_fill,
    "aten.cross_entropy_loss.default": _cross_entropy,
}
"""Meanings of operators over the real numbers."""
