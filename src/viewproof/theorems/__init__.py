"""The named theorems, each checked by machine about the program that runs."""

from functools import cache
from importlib import import_module

from viewproof.theorems.registry import THEOREMS, Mutant, Outcome, Settled, Theorem, register, settle
from viewproof.verdict import Verdict

__all__ = ["PARTS", "Mutant", "Outcome", "Settled", "Theorem", "Verdict", "registered", "settle"]

PARTS = [
    *(
        f"viewproof.theorems.tensors.{part}"
        for part in (
            *("masks", "samples", "geometry", "laws", "counts", "bridges", "tokens", "training"),
            *("random_choices", "random_masks", "finite_masks"),
        )
    ),
    "viewproof.theorems.lists",
]


@cache
def registered() -> dict[str, Theorem]:
    """Every theorem by name; loads Z3."""
    for part in map(import_module, PARTS):
        for theorem in getattr(part, "THEOREMS", ()):
            if theorem.name not in THEOREMS:
                register(theorem)
    return dict(THEOREMS)
