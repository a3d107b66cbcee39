"""The captured graph run beside the program, since the proof is about the graph.

Every extent is 0, 1 and 2 at least once, and so is every parameter: sizes at which torch's own rules branch.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import z3

from viewproof.bits import same_bits
from viewproof.symbolic.capture import Capture, TensorInput, unknowns, unknowns_at
from viewproof.symbolic.facts import Facts
from viewproof.symbolic.meaning import symbolic_inputs
from viewproof.symbolic.terms import as_z3
from viewproof.symbolic.values import FLOATS
from viewproof.theorems.tensors.case import Subject

_AGREED: set[Any] = set()


def forget() -> None:
    """Compare anew: the code may have been changed."""
    _AGREED.clear()


def disagreement(subject: Subject, program: Any, captures: Sequence[Capture]) -> str | None:
    """Arguments at which the graph and the program differ in a bit, if any that are tried show one."""
    if (subject, program) in _AGREED:
        return None
    generator = torch.Generator().manual_seed(0)
    for sizes in _points(subject):
        arguments = [argument(kind, sizes[name], generator) for name, kind in subject.signature.items()]
        model = _at(subject, sizes)
        capture = next((c for c in captures if _true(c.path, model)), None)
        if capture is None or not satisfies(subject, sizes):
            continue
        expected = _attempt(lambda: list(subject.observe(program, *arguments)))  # noqa: B023
        actual = _attempt(lambda: run(capture, arguments))  # noqa: B023
        # Both may raise: on an empty mask, which no path depends on, a mean has no value.
        if (expected is None) != (actual is None):
            return f"at {sizes}, where one of them raises"
        if not all(same_bits(a, b) for a, b in zip(expected or (), actual or (), strict=True)):
            return f"at {sizes}"
    _AGREED.add((subject, program))
    return None


def _attempt(program: Callable[[], list[torch.Tensor]]) -> list[torch.Tensor] | None:
    try:
        return program()
    except Exception:
        return None


def run(capture: Capture, arguments: Sequence[Any]) -> list[torch.Tensor]:
    """The graph on concrete arguments."""
    rest = iter(arguments)
    places = [node for node in capture.graph.nodes if node.op == "placeholder"]
    values = [capture.constants[n.name] if n.name in capture.constants else next(rest) for n in places]
    return list(torch.fx.Interpreter(capture.module).run(*values))


def satisfies(subject: Subject, sizes: dict[str, Any]) -> bool:
    """Whether the hypotheses hold at these sizes and numbers."""
    return _true(_hypotheses(subject), _at(subject, sizes))


def admissible(subject: Subject, sizes: dict[str, Any]) -> dict[str, Any] | None:
    """Sizes and numbers that meet the hypotheses, none above the largest one; each is kept if it can be."""
    if satisfies(subject, sizes):
        return sizes
    values = unknowns_at(subject.signature, sizes)
    most = max(value for _, value in values)
    solver = z3.Solver()
    solver.set("timeout", 1000)
    solver.add(_hypotheses(subject), *(z3.And(term >= 0, term <= most) for term, _ in values))
    for term, value in values:
        if solver.check(term == value) == z3.sat:
            solver.add(term == value)
    if solver.check() != z3.sat:
        return None
    model = solver.model()

    def number(term: z3.ArithRef) -> int:
        return int(model.eval(term, model_completion=True).as_long())

    return {
        name: tuple(map(number, terms)) if isinstance(terms, tuple) else number(terms)
        for name, terms in unknowns(subject.signature).items()
    }


@lru_cache
def _hypotheses(subject: Subject) -> z3.BoolRef:
    hypotheses = subject.hypotheses(symbolic_inputs(subject.signature, Facts(subject.arithmetic)))
    return z3.And([*map(as_z3, hypotheses)])


def _points(subject: Subject) -> Iterator[dict[str, Any]]:
    slots = [(n, a) for n, k in subject.signature.items() for a in range(k.rank if isinstance(k, TensorInput) else 1)]
    choices = [dict.fromkeys(slots, value) for value in (0, 1, 2)]
    choices += [{slot: value} for slot, value in itertools.product(slots, (0, 1, 2))]
    for choice in [{}, *choices]:
        yield {
            name: tuple(choice.get((name, axis), 3) for axis in range(kind.rank))
            if isinstance(kind, TensorInput)
            else choice.get((name, 0), 3)
            for name, kind in subject.signature.items()
        }


def argument(kind: Any, size: Any, generator: torch.Generator) -> Any:
    """A random argument of this kind and size."""
    if not isinstance(kind, TensorInput):
        return size
    if kind.dtype == torch.bool:
        return torch.randint(0, 2, size, generator=generator).bool()
    if kind.dtype in FLOATS:
        return torch.randn(size, generator=generator).to(kind.dtype)
    return torch.zeros(size, dtype=kind.dtype)


def _at(subject: Subject, sizes: dict[str, Any]) -> z3.ModelRef:
    """The sizes and numbers as values of the unknowns."""
    model = z3.Model()
    for term, value in unknowns_at(subject.signature, sizes):
        model.update_value(term, z3.IntVal(value))
    return model


def _true(term: z3.BoolRef, model: z3.ModelRef) -> bool:
    return bool(z3.is_true(model.eval(term)))
