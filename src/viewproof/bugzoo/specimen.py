"""What a specimen is: a real silent bug and its correct twin, and the contract that tells them apart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from viewproof.certify.report import Contract, Report, Witness

Standing = Literal["confirmed", "reported", "disputed", "our reading", "synthetic", "false alarm"]


@dataclass(frozen=True)
class Specimen:
    """``certify(twin)`` applies a public certifier; it must refute ``buggy`` under ``contract`` and spare ``fixed``.

    ``breaks(twin, witness)`` runs the twin on the witness's inputs with plain torch, outside the certifier: True for
    the buggy twin, False for the fixed one. A false alarm has no buggy twin. ``decidable``: the fixed twin must come
    out PROVED under the contract, otherwise only not REFUTED. ``source`` is an address, or "synthetic"; ``mechanism``
    says what goes wrong, ``shown`` what the witness shows, ``not_shown`` what it says nothing about.
    """

    name: str
    contract: Contract
    source: str
    standing: Standing
    mechanism: str
    shown: str
    not_shown: str
    certify: Callable[[Any], Report]
    fixed: Any
    buggy: Any = None
    breaks: Callable[[Any, Witness], bool] | None = None
    decidable: bool = True
