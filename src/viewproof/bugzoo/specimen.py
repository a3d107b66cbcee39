"""A real silent bug and its correct twin, written as one function with a switch."""

import inspect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, TypeVar

from viewproof.certify import Contract, Report, Witness

Standing = Literal["confirmed", "reported", "disputed", "our reading", "synthetic", "false alarm"]
Twin = Callable[..., Any]
Function = TypeVar("Function", bound=Twin)


@dataclass(frozen=True)
class Specimen:
    """A bug with its correct twin, the certifier that tells them apart, and a replay.

    ``certify(twin)`` applies a public certifier: it must refute ``buggy`` under ``contract``, and nothing about
    ``fixed``. ``breaks(twin, witness)`` runs a twin on the witness's inputs with plain torch, outside the certifier:
    True for the buggy twin, False for the fixed one. ``decidable``: the fixed twin must come out PROVED under the
    contract; otherwise anything but REFUTED will do. ``mechanism`` says what goes wrong, ``shown`` what the witness
    shows, ``not_shown`` what it says nothing about. A false alarm has no buggy twin, a synthetic bug no source.
    ``certifier_stood``: this code was written when the claims that judge it stood, and they were not changed for it.
    """

    name: str
    contract: Contract
    standing: Standing
    source: str
    mechanism: str
    shown: str
    not_shown: str
    certify: Callable[[Twin], Report]
    fixed: Twin
    buggy: Twin | None
    breaks: Callable[[Twin, Witness], bool] | None
    decidable: bool
    certifier_stood: bool = False

    @property
    def adapter_lines(self) -> int:
        """How many lines of code hand a twin to its certifier."""
        code = getattr(self.certify, "__code__", None)
        # A certifier that is called as it is needs no adapter.
        if code is None or self.certify.__module__.startswith("viewproof.certify"):
            return 0
        return len({line for _, _, line in code.co_lines() if line is not None})


REGISTERED: dict[str, list[Specimen]] = defaultdict(list)
"""The specimens of each module, in the order in which they stand there."""


def specimen(
    name: str,
    standing: Standing,
    source: str = "",
    *,
    contract: Contract,
    certify: Callable[[Twin], Report],
    shown: str = "",
    not_shown: str = "",
    breaks: Callable[[Twin, Witness], bool] | None = None,
    decidable: bool = True,
    certifier_stood: bool = False,
) -> Callable[[Function], Function]:
    """Register the decorated function as a specimen; its keyword ``bug`` tells the twins apart.

    ``function(..., bug=True)`` is the buggy twin, ``function(..., bug=False)`` the fixed one; a false alarm takes no
    ``bug``. The docstring holds the mechanism, then lines that begin with "Shown:" and "Not shown:", unless those are
    given here. ``source`` is a path on GitHub.
    """

    def register(function: Function) -> Function:
        mechanism, *rest = (inspect.getdoc(function) or "").split("\n\n")
        texts = dict(line.split(": ", 1) for line in "".join(rest).splitlines())
        alarm = standing == "false alarm"
        fixed, buggy = (function, None) if alarm else (_twin(function, "fixed"), _twin(function, "buggy"))
        address = f"https://github.com/{source}" if source else ""
        shows, hides = texts.get("Shown", shown), texts.get("Not shown", not_shown)
        described = (name, contract, standing, address, mechanism, shows, hides)
        one = Specimen(*described, certify, fixed, buggy, breaks, decidable, certifier_stood)
        REGISTERED[function.__module__].append(one)
        return function

    return register


def _twin(function: Twin, name: Literal["fixed", "buggy"]) -> Twin:
    """One twin, set as an attribute of the function, by which other processes import it."""

    @wraps(function)
    def twin(*args: Any, **kwargs: Any) -> Any:
        return function(*args, bug=name == "buggy", **kwargs)

    twin.__qualname__ = f"{function.__qualname__}.{name}"
    setattr(function, name, twin)
    return twin
