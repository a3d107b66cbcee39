"""The finite algebra: theorems about lists of every length.

Each statement is written once and evaluated three ways: on the public functions run with symbolic entries, on
their recursive definitions over lists of any length, and on concrete witnesses.
"""

# In the order in which the theorems are listed.
from viewproof.theorems.lists import sums, contracts, guards, graph  # noqa: I001

__all__ = ["contracts", "graph", "guards", "sums"]
