"""The named theorems, each checked by machine about the program that runs."""

from functools import cache
from importlib import import_module

from viewproof.theorems.registry import LAYERS, THEOREMS, Checked, Mutant, Outcome, Theorem, check
from viewproof.verdict import Verdict

__all__ = ["PARTS", "Checked", "Mutant", "Outcome", "Theorem", "Verdict", "check", "registered"]

PARTS = [
    "viewproof.theorems.tensors.masks",
    "viewproof.theorems.tensors.samples",
    "viewproof.theorems.tensors.statuses",
    "viewproof.theorems.tensors.geometry",
    "viewproof.theorems.tensors.laws",
    "viewproof.theorems.tensors.counts",
    "viewproof.theorems.tensors.bridges",
    "viewproof.theorems.tensors.tokens",
    "viewproof.theorems.tensors.training",
    "viewproof.theorems.tensors.random_choices",
    "viewproof.theorems.tensors.random_masks",
    "viewproof.theorems.tensors.finite_masks",
    "viewproof.theorems.tensors.clips",
    "viewproof.theorems.tensors.method_losses",
    "viewproof.theorems.tensors.method_views",
    "viewproof.theorems.tensors.masked_tokens",
    "viewproof.theorems.tensors.corrupted_tokens",
    "viewproof.theorems.tensors.target_branches",
    "viewproof.theorems.lists",
]
"""The modules that hold theorems: importing one registers them."""


@cache
def registered() -> dict[str, Theorem]:
    """Every theorem by name, in the order of layers and modules; loads Z3."""
    for part in PARTS:
        import_module(part)
    order = {part: place for place, part in enumerate(PARTS)}
    theorems = sorted(THEOREMS.values(), key=lambda t: (LAYERS.index(t.layer), order.get(t.module, len(PARTS))))
    return {theorem.name: theorem for theorem in theorems}
