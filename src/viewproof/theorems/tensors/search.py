"""Counterexamples by trial, for goals that the solver does not settle: small sizes and parameters, drawn at random."""

from typing import Any

import torch

from viewproof.symbolic.capture import TensorInput
from viewproof.theorems.tensors.agreement import argument, satisfies
from viewproof.theorems.tensors.case import Case
from viewproof.theorems.tensors.witness import broken, describe

TRIALS = 150


def counterexample(case: Case, program: Any) -> tuple[str, dict[str, Any]] | None:
    """What breaks and the arguments that break it, if one of the trials does."""
    generator = torch.Generator().manual_seed(0)

    def draw(most: int) -> int:
        return int(torch.randint(0, most + 1, (), generator=generator))

    for trial in range(TRIALS):
        most = 2 + trial % 3
        sizes = {
            name: tuple(draw(most) for _ in range(kind.rank)) if isinstance(kind, TensorInput) else draw(most + 2)
            for name, kind in case.subject.signature.items()
        }
        if not satisfies(case.subject, sizes):
            continue
        arguments = [argument(kind, sizes[name], generator) for name, kind in case.subject.signature.items()]
        seen = broken(case, program, arguments)
        if seen is not None:
            return seen, {"case": case.subject.name, **describe(case, arguments)}
    return None
