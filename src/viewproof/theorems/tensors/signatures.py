"""Arguments that many subjects take, their hypotheses, and how one tensor is observed."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from viewproof.symbolic.capture import IntInput, Signature
from viewproof.symbolic.terms import Term
from viewproof.theorems.tensors.case import Inputs

INT = IntInput()
PERIODIC: Signature = {"period": INT, "offset": INT}
PATCHES: Signature = {"patch_h": INT, "patch_w": INT, **PERIODIC}


def not_negative(inputs: Inputs) -> list[Term]:
    """Every integer argument is at least 0."""
    return [value >= 0 for value in inputs.values() if not hasattr(value, "at")]


def result(program: Any, *arguments: Any) -> Sequence[Tensor]:
    """The one tensor that the program returns."""
    return [program(*arguments)]
