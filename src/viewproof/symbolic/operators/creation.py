"""Tensors made from numbers."""

from collections.abc import Sequence
from typing import Any

import torch

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import as_tensor, meaning
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, known, most, plus, same, times
from viewproof.symbolic.values import cast


def _filled(facts: Facts, shape: Sequence[Term], value: Any, dtype: torch.dtype | None) -> SymTensor:
    result_dtype = dtype or torch.tensor(value if known(value) else 1).dtype
    number = as_tensor(facts, value, result_dtype).at(())
    return SymTensor(tuple(shape), result_dtype, lambda _: number)


@meaning("aten.zeros.default")
def _zeros(facts: Facts, shape: Sequence[Term], dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, shape, 0, dtype or torch.get_default_dtype())


@meaning("aten.ones.default")
def _ones(facts: Facts, shape: Sequence[Term], dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, shape, 1, dtype or torch.get_default_dtype())


@meaning("aten.full.default")
def _full(facts: Facts, shape: Sequence[Term], value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, shape, value, dtype)


@meaning("aten.scalar_tensor.default")
def _scalar_tensor(facts: Facts, value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, (), value, dtype or torch.get_default_dtype())


@meaning("aten.zeros_like.default")
def _zeros_like(facts: Facts, x: SymTensor, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, x.shape, 0, dtype or x.dtype)


@meaning("aten.ones_like.default")
def _ones_like(facts: Facts, x: SymTensor, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, x.shape, 1, dtype or x.dtype)


@meaning("aten.full_like.default")
def _full_like(facts: Facts, x: SymTensor, value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _filled(facts, x.shape, value, dtype or x.dtype)


@meaning("aten.new_zeros.default")
def _new_zeros(
    facts: Facts, x: SymTensor, shape: Sequence[Term], dtype: torch.dtype | None = None, **_: Any
) -> SymTensor:
    return _filled(facts, shape, 0, dtype or x.dtype)


@meaning("aten.new_ones.default")
def _new_ones(
    facts: Facts, x: SymTensor, shape: Sequence[Term], dtype: torch.dtype | None = None, **_: Any
) -> SymTensor:
    return _filled(facts, shape, 1, dtype or x.dtype)


@meaning("aten.new_full.default")
def _new_full(
    facts: Facts, x: SymTensor, shape: Sequence[Term], value: Any, dtype: torch.dtype | None = None, **_: Any
) -> SymTensor:
    return _filled(facts, shape, value, dtype or x.dtype)


@meaning("aten.arange.default")
def _arange(facts: Facts, end: Term, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _counted(facts, 0, end, 1, dtype)


@meaning("aten.arange.start")
def _arange_start(facts: Facts, start: Term, end: Term, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _counted(facts, start, end, 1, dtype)


@meaning("aten.arange.start_step")
def _arange_step(
    facts: Facts, start: Term, end: Term, step: Term = 1, dtype: torch.dtype | None = None, **_: Any
) -> SymTensor:
    return _counted(facts, start, end, step, dtype)


def _counted(facts: Facts, start: Term, end: Term, step: Term, dtype: torch.dtype | None) -> SymTensor:
    facts.need("arange: a positive step", step > 0)
    length = facts.floordiv(end - start + step - 1, step) if not (known(step) and step == 1) else plus(end, -start)
    if not facts.entails(length >= 0):
        length = most(length, 0)
    result_dtype = dtype or torch.int64
    return SymTensor(
        (length,),
        result_dtype,
        lambda index: cast(facts, plus(start, times(index[0], step)), torch.int64, result_dtype),
    )


@meaning("aten.eye.default", "aten.eye.m")
def _eye(facts: Facts, rows: Term, columns: Any = None, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    result_dtype = dtype or torch.get_default_dtype()
    shape = (rows, rows if columns is None else columns)
    return SymTensor(shape, result_dtype, lambda index: cast(facts, same(index[0], index[1]), torch.bool, result_dtype))


@meaning("aten.lift_fresh_copy.default", "aten.detach_.default")
def _same_tensor(facts: Facts, x: SymTensor) -> SymTensor:
    return x
