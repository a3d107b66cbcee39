"""Is anything drawn at random in the target branch (C6)?"""

import random
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from viewproof.certify.report import Contract, Finding, Witness
from viewproof.verdict import Verdict

if TYPE_CHECKING:
    from viewproof.certify.target_branch import TargetBranch

C6 = Contract.C6


def deterministic(branch: "TargetBranch", batch: Any) -> Iterable[Finding]:
    """The target branch twice on what it is given in training: the same bits, and no generator moved."""
    claim = "the target branch draws nothing"
    calls: list[Callable[[], Any]] = []
    if branch.targets is not None:
        calls = [lambda: branch.targets(batch)]  # type: ignore[misc]
    elif branch.target is not None:
        calls = _seen_calls(branch, batch)
    if not calls:
        if branch.target is not None:
            reason = "the loss does not call the target module"
            yield Finding(C6, claim, Verdict.UNKNOWN, "nothing", "not run", reason)
        return
    for call in calls:
        torch.manual_seed(5)
        state = _generators()
        with torch.no_grad():
            first = call()
        drew = _generators() != state
        torch.manual_seed(6)
        with torch.no_grad():
            second = call()
        different = not _equal(first, second)
        if different or drew:
            active = [] if branch.target is None else _dropout(branch.target)
            why = f"; {active[0]} is in training mode" if active else ""
            what = f"twice on one batch the target branch gives {'other values' if different else 'the same'}"
            witness = Witness(f"{what}, and draws random numbers{why}", {"batch": batch})
            yield Finding(C6, claim, Verdict.REFUTED, "this batch", "run twice", "", witness)
            return
    yield Finding(C6, claim, Verdict.PROVED, "this batch", "run twice, the global generators untouched")


def _seen_calls(branch: "TargetBranch", batch: Any) -> list[Callable[[], Any]]:
    """The target module's calls while the loss is computed, to be made again."""
    target, seen = branch.target, []
    assert target is not None

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((args, kwargs))

    handle = target.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            branch.value(batch)
    finally:
        handle.remove()
    return [lambda a=a, k=k: target(*a, **k) for a, k in seen]  # type: ignore[misc]


def _dropout(module: nn.Module) -> list[str]:
    return [k for k, m in module.named_modules() if "Drop" in type(m).__name__ and m.training]


def _generators() -> tuple[bytes, str, str]:
    return torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), str(random.getstate())


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, Mapping):
        return all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)
