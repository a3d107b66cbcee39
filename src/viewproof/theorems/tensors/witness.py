"""Counterexamples as concrete arguments, read off a model or drawn at random."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import z3

from viewproof.symbolic.capture import TensorInput
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import concrete
from viewproof.symbolic.tensor import SymTensor
from viewproof.symbolic.terms import Term, conj, fold, implies, known
from viewproof.symbolic.values import FLOATS, NoMeaning
from viewproof.theorems.tensors.agreement import admissible, argument
from viewproof.theorems.tensors.case import Inputs, TensorCase

TRIALS = 150
_MOST_ENTRIES = 20_000


def read_model(model: z3.ModelRef, inputs: Inputs, real: bool) -> dict[str, Any]:
    """The arguments that a model of the premises and a goal's negation stands for."""

    def value(term: z3.ExprRef) -> Any:
        return model.eval(term, model_completion=True)

    witness: dict[str, Any] = {}
    for name, symbol in inputs.items():
        if not isinstance(symbol, SymTensor):
            witness[name] = value(symbol).as_long()
            continue
        shape = [value(extent).as_long() for extent in symbol.shape]
        if math.prod(shape) > _MOST_ENTRIES:
            # Z3 was cut off before it found a smaller one; trials on small sizes may.
            raise NoMeaning(f"the counterexample, {name} of shape {tuple(shape)}, is too large to be replayed")
        places = itertools.product(*map(range, shape))
        entries = [_plain(value(symbol.at(tuple(map(z3.IntVal, place))))) for place in places]
        key = "bits" if symbol.dtype in FLOATS and not real else "values"
        witness[name] = {"dtype": str(symbol.dtype).removeprefix("torch."), "shape": shape, key: entries}
    return witness


def _plain(value: Any) -> int | float | bool:
    if isinstance(value, bool | int):
        return value
    if z3.is_bool(value):
        return bool(z3.is_true(value))
    if z3.is_algebraic_value(value):
        # An irrational root, which no witness can hold: what is replayed is a float next to it.
        value = value.approx(20)
    if z3.is_rational_value(value) and not z3.is_int_value(value):
        return float(value.as_fraction())
    return int(value.as_long())


def build(case: TensorCase, witness: Mapping[str, Any]) -> list[Any]:
    """The arguments of a witness as tensors and integers; real numbers become float64."""
    arguments: list[Any] = []
    for name in case.subject.signature:
        described = witness[name]
        if not isinstance(described, Mapping):
            arguments.append(described)
            continue
        shape, dtype = described["shape"], getattr(torch, described["dtype"])
        if "bits" in described:
            words = FLOATS[dtype][2]
            # The bits are those of an unsigned word, the integer dtype is signed.
            limit = 1 << torch.iinfo(words).bits
            signed = [bits - limit if bits >= limit // 2 else bits for bits in described["bits"]]
            flat = torch.tensor(signed, dtype=words).view(dtype)
        else:
            flat = torch.tensor(described["values"], dtype=torch.float64 if dtype in FLOATS else dtype)
        arguments.append(flat.reshape(shape))
    return arguments


def describe(case: TensorCase, arguments: Sequence[Any]) -> dict[str, Any]:
    """Arguments as a witness holds them."""
    facts = Facts(case.subject.arithmetic)
    witness: dict[str, Any] = {"case": case.subject.name}
    for name, value in zip(case.subject.signature, arguments, strict=True):
        if not isinstance(value, torch.Tensor):
            witness[name] = value
            continue
        tensor = concrete(value, facts)
        entries = [_plain(tensor.at(place)) for place in itertools.product(*map(range, value.shape))]
        key = "bits" if value.dtype in FLOATS and case.subject.arithmetic != "real" else "values"
        witness[name] = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), key: entries}
    return witness


def broken(case: TensorCase, program: Any, arguments: Sequence[Any]) -> str | None:
    """The first claim that the program breaks on concrete arguments, and where.

    None if all hold, or if the values in the arguments break a hypothesis: a model of Z3 may do so, where a count is
    one constant that no entry decides.
    """
    facts = Facts(case.subject.arithmetic, replayed=True)
    inputs = {
        name: concrete(argument, facts) if isinstance(argument, torch.Tensor) else argument
        for name, argument in zip(case.subject.signature, arguments, strict=True)
    }
    hypotheses = case.subject.value_hypotheses
    if hypotheses is not None and not all(map(_holds, hypotheses(inputs, facts))):
        return None
    try:
        run = case.subject.replay or case.subject.observe
        observed = [tensor.detach() for tensor in run(program, *arguments)]
    except Exception as error:
        return f"raises {type(error).__name__}: {error}"
    for what, goal in case.claims(inputs, [concrete(tensor, facts) for tensor in observed], facts):
        if not _holds(implies(conj(*facts.assumed), goal)):
            return f"{what} at {facts.place}" if facts.place else what
    return None


def _holds(formula: Term) -> bool:
    """Whether a formula about numbers is true."""
    truth = fold(formula)
    if known(truth):
        return bool(truth)
    solver = z3.Solver()
    solver.add(z3.Not(truth))
    return bool(solver.check() == z3.unsat)


def replays(cases: Sequence[TensorCase], program: Any, witness: Mapping[str, Any]) -> bool:
    """Whether the claims about the witness's subject hold of the program on the witness's arguments."""
    case = next(case for case in cases if case.subject.name == witness["case"])
    return broken(case, program, build(case, witness)) is None


def counterexample(case: TensorCase, program: Any) -> tuple[str, dict[str, Any]] | None:
    """What breaks and the arguments that break it, if one of some small random trials does."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int) -> int:
        return int(torch.randint(0, most + 1, (), generator=generator))

    for trial in range(TRIALS):
        most = 2 + trial % 3
        drawn = {
            name: tuple(draw(most) for _ in range(kind.rank)) if isinstance(kind, TensorInput) else draw(most + 2)
            for name, kind in case.subject.signature.items()
        }
        # Drawn sizes seldom fit together where many must be equal.
        sizes = admissible(case.subject, drawn)
        if sizes is None:
            continue
        arguments = [argument(kind, sizes[name], generator) for name, kind in case.subject.signature.items()]
        if case.subject.arithmetic == "real":
            # In float32 a true equation of real numbers may fail by rounding alone.
            arguments = [x.double() if isinstance(x, torch.Tensor) and x.dtype in FLOATS else x for x in arguments]
        broken_claim = broken(case, program, arguments)
        if broken_claim is not None:
            return broken_claim, describe(case, arguments)
    return None
