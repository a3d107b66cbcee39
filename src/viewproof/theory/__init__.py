"""The named theorems, each checked by machine about the program that runs. ``THEOREMS`` loads Z3 when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from viewproof.theory.registry import Mutant, Outcome, Settled, Theorem, Verdict, settle

if TYPE_CHECKING:
    THEOREMS: dict[str, Theorem]

__all__ = ["THEOREMS", "Mutant", "Outcome", "Settled", "Theorem", "Verdict", "settle"]

_PARTS = ("masks", "samples", "geometry", "laws", "counts", "bridges", "tokens", "training", "algebra")


def __getattr__(name: str) -> Any:
    if name != "THEOREMS":
        raise AttributeError(f"module 'viewproof.theory' has no attribute {name!r}")
    parts = [import_module(f"viewproof.theory.{part}") for part in _PARTS]
    theorems = {theorem.name: theorem for part in parts for theorem in part.THEOREMS}
    globals()["THEOREMS"] = theorems
    return theorems
