"""The finite algebra: theorems about lists of every length, and about `Mask` itself.

Each statement is written once and evaluated three ways: on the public functions run with symbolic entries, on
their recursive definitions over lists of any length, and on concrete witnesses.
"""

from viewproof.theory import algebra_contracts, algebra_graph, algebra_guards, algebra_lists, algebra_masks
from viewproof.theory.registry import Theorem

THEOREMS: tuple[Theorem, ...] = (
    *algebra_masks.THEOREMS,
    *algebra_lists.THEOREMS,
    *algebra_contracts.THEOREMS,
    *algebra_guards.THEOREMS,
    *algebra_graph.THEOREMS,
)
