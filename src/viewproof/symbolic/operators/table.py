"""The one table of operator meanings, and what the meanings share."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.tensor import SymTensor, broadcast_shape, spread
from viewproof.symbolic.terms import Term, conj, ite, known
from viewproof.symbolic.values import cast, constant

Meaning = Callable[..., Any]
AnyMeaning = TypeVar("AnyMeaning", bound=Meaning)
TABLE: dict[str, Meaning] = {}


def meaning(*names: str) -> Callable[[AnyMeaning], AnyMeaning]:
    """Enter the function as the meaning of these operators.

    It is called with the facts and the operator's arguments.
    """

    def enter(function: AnyMeaning) -> AnyMeaning:
        # A module may be run twice (by a test of its examples), which enters the same functions again.
        taken = [name for name in names if name in TABLE and _plain_name(TABLE[name]) != _plain_name(function)]
        assert not taken, taken
        TABLE.update(dict.fromkeys(names, function))
        return function

    return enter


def _plain_name(function: Meaning) -> str:
    return str(getattr(function, "func", function).__qualname__)


def axis_of(axis: int, rank: int) -> int:
    """A negative axis counts from the end."""
    return axis + rank if axis < 0 else axis


def common_dtype(*operands: Any) -> torch.dtype:
    """The dtype that torch promotes the operands to; integer terms count as Python numbers."""
    examples = [
        torch.empty((1,) * operand.rank, dtype=operand.dtype)
        if isinstance(operand, SymTensor)
        else operand
        if known(operand)
        else 1
        for operand in operands
    ]
    if len(examples) == 1:
        return torch.result_type(examples[0], examples[0])
    return torch.result_type(*examples)  # type: ignore[arg-type]


def as_tensor(facts: Facts, value: Any, dtype: torch.dtype) -> SymTensor:
    """A number as a 0-d tensor of the dtype; a tensor with its values cast to it."""
    if not isinstance(value, SymTensor):
        number = constant(facts, value, dtype) if known(value) else cast(facts, value, torch.int64, dtype)
        return SymTensor((), dtype, lambda _: number)
    if value.dtype == dtype:
        return value
    return SymTensor(value.shape, dtype, lambda index: cast(facts, value.at(index), value.dtype, dtype))


def pointwise(
    facts: Facts, function: Callable[..., Any], operands: Sequence[SymTensor], dtype: torch.dtype, what: str
) -> SymTensor:
    """The function applied to the operands' values at each coordinate of their common shape."""
    shape, fits = broadcast_shape(facts, *(operand.shape for operand in operands))
    facts.need(f"{what}: shapes that broadcast", fits)
    read = [spread(facts, operand, shape) for operand in operands]
    return SymTensor(shape, dtype, lambda index: function(*(r(index) for r in read)))


def wrapped(facts: Facts, index: Term, extent: Term) -> Term:
    """A negative index counts from the end."""
    return index if facts.entails(index >= 0) else ite(index < 0, index + extent, index)


def in_range(facts: Facts, what: str, index: Term, extent: Term) -> None:
    """The operator needs an index from ``-extent`` to ``extent - 1``."""
    facts.need(f"{what}: an index in range", conj(-extent <= index, index < extent))
