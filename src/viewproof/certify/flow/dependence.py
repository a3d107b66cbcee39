"""Which elements of every tensor may depend on tagged elements, tracked beside the operators.

Each storage has a shadow: one Boolean for each of its elements. A tensor's dependence is its own strides laid over the
shadow, so views need no rule and a write through a view reaches its base. An operator without a rule makes everything
it returns depend on everything it reads; dependent data that leaves torch (``.item()``, ``.numpy()``, the shape of
``nonzero``) makes everything after it depend, for control flow may follow from it.

What is not seen: operators on threads that the function starts itself, and memory that code outside torch keeps from a
DLPack capsule or writes behind a pointer taken in C++.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from viewproof.certify.flow.call import Call, tensors_in
from viewproof.certify.flow.storage import address
from viewproof.certify.flow.tracker import Tracker, place_of_caller
from viewproof.torch_internals import BelowModes


class Dependence(Tracker):  # type: ignore[no-untyped-call]
    """Tracks, while it is on, which elements depend on those given to `tag`.

    An element of which `of` says False has the same bits whatever the tagged elements hold; with ``finite=True``
    the same value, zeros' signs aside, as long as they and everything computed from them is finite, so that a factor
    of exactly 0 removes dependence; ``scores`` then says whether attention scores were assumed to stay within +-2000
    (a masked key has weight 0 only if no score is so large as to outweigh the mask). ``checks`` are places at which the
    program asks for a truth value and raises if it is the wrong one: what holds is said of the inputs that pass. With
    ``visible=False`` nothing is noted of what follows from untagged elements alone, which is faster, and
    ``reads_visible`` says nothing.

    >>> x = torch.rand(2, 3)
    >>> with Dependence() as tracked:
    ...     tracked.tag(x, torch.tensor([True, False, False]).expand(2, 3))
    ...     sums = x[:, 1:].sum(1), x.sum(1), torch.where(torch.tensor([True, False, False]), 0.0, x)[0]
    >>> [tracked.of(s).tolist() for s in sums]
    [[False, False], [True, True], [False, False, False]]
    """

    def __init__(self, finite: bool = False, checks: Collection[str] = (), visible: bool = True) -> None:
        super().__init__(tagged=True, low=False)
        self.storages.dependent_only = not visible
        self.checks, self._checking = checks, False
        self.finite, self.scores = finite, False
        self.unknown: dict[str, None] = {}
        self.spread = ""
        # Whether a value that follows from the visible input decided something: the answer then holds for it alone.
        self.reads_visible = False

    def tag(self, x: Tensor, where: Tensor) -> None:
        """Elements of ``x`` from which dependence is followed: ``where``, bool, of the same shape."""
        self.start(x, where)

    def of(self, tensor: Tensor) -> Tensor:
        """Bool, of the tensor's shape: whether each element may depend on tagged elements.

        A tensor that is NaN or infinite everywhere says nothing of what it was computed from: all of it may depend.
        """
        with BelowModes():
            if not self.escaped and address(tensor) and tensor.numel() and not bool(tensor.isfinite().any()):
                self.unknown.setdefault("a tensor that is NaN or infinite everywhere")
                return torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
            everything = torch.ones((), dtype=torch.bool, device=tensor.device).expand(tensor.shape)
            return everything if self.escaped else self.plane(tensor)

    def escape(self, reason: str) -> None:
        """From here on everything may depend."""
        super().escape(reason)
        self.storages.clear()

    def looks(self, tensors: Iterable[Tensor], reason: str) -> None:
        """The program looks at the tensors' values."""
        tensors = list(tensors)
        # A truth value leaves twice: as a call, and as the number that it is read as.
        self._checking &= "_local_scalar_dense" in reason
        if reason.startswith("__bool__") and place_of_caller().removeprefix(" at ") in self.checks:
            self._checking = True
        if self._checking:
            return
        self.reads_visible |= any(map(self.storages.derived, tensors))
        super().looks(tensors, reason)

    def used(self, argument: Tensor) -> None:
        """If the argument follows from the input, the answer holds for this input only."""
        self.reads_visible |= self.storages.derived(argument)

    def mixed(self, call: Call) -> bool:
        """Everything that the operator returns depends on everything that it reads."""
        self.unknown.setdefault(f"{call.name}{place_of_caller()}")
        return True

    def store(self, call: Call, tensor: Tensor, entries: Any) -> None:
        """With the scores that are masked: operators that have any return one tensor."""
        self.write(tensor, tagged=entries, low=False if call.low is None else call.low)

    def _record(self, call: Call, outcome: Any, results: Sequence[Any]) -> None:
        shares = [] if self.spread or outcome is False else [self._share(t) for t in call.read]
        super()._record(call, outcome, results)
        if shares and max(shares) < 1 and any(self._share(t) > max(shares) for t in tensors_in(results)):
            self.spread = f"{call.name}{place_of_caller()}"

    def _share(self, tensor: Tensor) -> float:
        return float(self.plane(tensor).sum()) / max(1, tensor.numel())
