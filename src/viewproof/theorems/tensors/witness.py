"""Counterexamples as concrete arguments, and statements evaluated on them."""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import z3

from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import concrete
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import fold, implies, known
from viewproof.symbolic.values import FLOATS
from viewproof.theorems.tensors.case import Case, Inputs

_MOST_ENTRIES = 20_000


def read_model(model: z3.ModelRef, inputs: Inputs, real: bool) -> dict[str, Any]:
    """The arguments that a model of the premises and a goal's negation stands for."""

    def value(term: z3.ExprRef) -> Any:
        return model.eval(term, model_completion=True)

    witness: dict[str, Any] = {}
    for name, argument in inputs.items():
        if not isinstance(argument, SymTensor):
            witness[name] = value(argument).as_long()
            continue
        shape = [value(extent).as_long() for extent in argument.shape]
        places = itertools.islice(itertools.product(*map(range, shape)), _MOST_ENTRIES)
        entries = [_plain(value(argument.at(tuple(map(z3.IntVal, place))))) for place in places]
        key = "bits" if argument.dtype in FLOATS and not real else "values"
        witness[name] = {"dtype": str(argument.dtype).removeprefix("torch."), "shape": shape, key: entries}
    return witness


def _plain(value: Any) -> int | float | bool:
    if isinstance(value, bool | int):
        return value
    if z3.is_bool(value):
        return bool(z3.is_true(value))
    if z3.is_rational_value(value) and not z3.is_int_value(value):
        return float(value.as_fraction())
    return int(value.as_long())


def build(case: Case, witness: Mapping[str, Any]) -> list[Any]:
    """The arguments of a witness as tensors and integers; real numbers become float64."""
    arguments: list[Any] = []
    for name in case.subject.signature:
        held = witness[name]
        if not isinstance(held, Mapping):
            arguments.append(held)
            continue
        shape, dtype = held["shape"], getattr(torch, held["dtype"])
        if "bits" in held:
            flat = torch.tensor([_signed(bits, dtype) for bits in held["bits"]], dtype=FLOATS[dtype][2]).view(dtype)
        else:
            flat = torch.tensor(held["values"], dtype=torch.float64 if dtype in FLOATS else dtype)
        arguments.append(flat.reshape(shape))
    return arguments


def describe(case: Case, arguments: list[Any]) -> dict[str, Any]:
    """Arguments as a witness holds them."""
    real = case.subject.arithmetic == "real"
    facts = Facts(case.subject.arithmetic)
    witness: dict[str, Any] = {}
    for name, held in zip(case.subject.signature, arguments, strict=True):
        if not isinstance(held, torch.Tensor):
            witness[name] = held
            continue
        read = concrete(held, facts)
        entries = [_plain(read.at(place)) for place in itertools.product(*map(range, held.shape))]
        key = "bits" if held.dtype in FLOATS and not real else "values"
        witness[name] = {"dtype": str(held.dtype).removeprefix("torch."), "shape": list(held.shape), key: entries}
    return witness


def _signed(bits: int, dtype: torch.dtype) -> int:
    width = torch.iinfo(FLOATS[dtype][2]).bits
    return bits - (1 << width) if bits >> (width - 1) else bits


def broken(case: Case, program: Any, arguments: list[Any]) -> str | None:
    """What the program breaks on concrete arguments: the first claim and its coordinate; None if all hold."""
    try:
        run = case.subject.replay or case.subject.observe
        observed = [tensor.detach() for tensor in run(program, *arguments)]
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    facts = Facts(case.subject.arithmetic, rounding=case.subject.arithmetic == "real")
    inputs = {
        name: concrete(argument, facts) if isinstance(argument, torch.Tensor) else argument
        for name, argument in zip(case.subject.signature, arguments, strict=True)
    }
    for claim in case.claims(inputs, [concrete(tensor, facts) for tensor in observed], facts):
        for place in itertools.product(*map(range, (fold(extent) for extent in claim.extents))):
            truth = fold(implies(True if claim.premise is None else claim.premise(*place), claim.holds(*place)))
            if not known(truth):
                solver = z3.Solver()
                solver.add(*facts.assumed, z3.Not(truth))
                truth = solver.check() == z3.unsat
            if not truth:
                return f"{claim.what} at {place}" if place else claim.what
    return None
