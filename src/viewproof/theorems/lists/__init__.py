"""The finite algebra: theorems about lists of every length, and about `Mask` itself.

Each statement is written once and evaluated three ways: on the public functions run with symbolic entries, on
their recursive definitions over lists of any length, and on concrete witnesses.
"""

from viewproof.theorems.lists import contracts, graph, guards, sums
from viewproof.theorems.registry import Theorem, register

THEOREMS: tuple[Theorem, ...] = (*sums.THEOREMS, *contracts.THEOREMS, *guards.THEOREMS, *graph.THEOREMS)

for _theorem in THEOREMS:
    register(_theorem)
