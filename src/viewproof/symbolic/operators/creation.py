"""Tensors made from numbers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.operators.table import as_tensor, meaning
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, known, most, plus, same, times
from viewproof.symbolic.values import cast


def _full(facts: Facts, shape: Sequence[Term], value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    result_dtype = dtype or torch.tensor(value if known(value) else 1).dtype
    number = as_tensor(facts, value, result_dtype).at(())
    return SymTensor(tuple(shape), result_dtype, lambda _: number)


def _new_full(
    facts: Facts, x: SymTensor, shape: Sequence[Term], value: Any, dtype: torch.dtype | None = None, **_: Any
) -> SymTensor:
    return _full(facts, shape, value, dtype or x.dtype)


def _full_like(facts: Facts, x: SymTensor, value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _full(facts, x.shape, value, dtype or x.dtype)


for _like, _function in (("{}", _full), ("new_{}", _new_full), ("{}_like", _full_like)):
    meaning(f"aten.{_like.format('full')}.default")(_function)
    # Floats, whose dtype is torch's default one.
    meaning(f"aten.{_like.format('zeros')}.default")(partial(_function, value=0.0))
    meaning(f"aten.{_like.format('ones')}.default")(partial(_function, value=1.0))


@meaning("aten.scalar_tensor.default")
def _scalar_tensor(facts: Facts, value: Any, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    return _full(facts, (), value, dtype or torch.get_default_dtype())


@meaning("aten.arange.default", "aten.arange.start", "aten.arange.start_step")
def _arange(facts: Facts, *bounds: Term, dtype: torch.dtype | None = None, **_: Any) -> SymTensor:
    start, end, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
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
