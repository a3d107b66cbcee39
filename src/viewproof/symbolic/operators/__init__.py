"""What each ATen operator means, coordinate by coordinate."""

from viewproof.symbolic.operators import arithmetic, creation, indexing, losses, reductions, shape
from viewproof.symbolic.operators.table import TABLE

__all__ = ["TABLE", "arithmetic", "creation", "indexing", "losses", "reductions", "shape"]
