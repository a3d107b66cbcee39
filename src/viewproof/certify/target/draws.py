"""Whether anything is drawn at random in the target branch (C6)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.bits import GeneratorStates
from viewproof.certify.check import Check, Claims
from viewproof.certify.flow.isolation import kept
from viewproof.certify.outputs import output_difference, tensors_by_path
from viewproof.certify.report import Contract, Finding
from viewproof.certify.target.branch import TargetCase

claims = Claims[TargetCase](scope="this batch", method="run twice")


@claims(Contract.C6, "the target branch draws nothing")
def draws_nothing(case: TargetCase, check: Check) -> Finding | None:
    """The target branch run twice on its training input: equal values, no generator moved."""
    branch, targets = case.branch, case.branch.targets
    calls: list[Callable[[], Any]]
    if targets is not None:
        calls = [lambda: targets(case.batch)]
    elif branch.target is not None:
        calls = _calls_in_loss(case, branch.target)
    else:
        return None
    if not calls:
        return check.unknown("the loss does not call the target module")
    for call in calls:
        torch.manual_seed(5)
        before = GeneratorStates.now()
        first = _outputs(case, call)
        drew = GeneratorStates.now() != before
        torch.manual_seed(6)
        second = _outputs(case, call)
        different = output_difference(first, second) is not None
        if different or drew:
            names = [] if branch.target is None else [k for k, m in branch.target.named_modules() if _is_dropout(m)]
            why = f"; {names[0]} is in training mode" if names else ""
            what = f"twice on one batch the target branch gives {'other values' if different else 'the same'}"
            drawn = ", and draws random numbers" if drew else ""
            return check.refuted(f"{what}{drawn}{why}", {"batch": case.batch})
    return check.proved(method="run twice, the global generators untouched")


def _outputs(case: TargetCase, call: Callable[[], Any]) -> dict[str, Tensor]:
    """What a call returns; what it writes to buffers, as a power iteration does, is put back, and is no draw."""
    with torch.no_grad(), kept(*case.branch.modules()):
        return {path: tensor.detach().clone() for path, tensor in tensors_by_path(call())}


def _calls_in_loss(case: TargetCase, target: nn.Module) -> list[Callable[[], Any]]:
    """The target module's calls while the loss is computed, to be made again."""
    arguments: list[tuple[Any, Any]] = []

    def note(_: nn.Module, args: Any, kwargs: Any) -> None:
        arguments.append((args, kwargs))

    handle = target.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            case.branch.value(case.batch)
    finally:
        handle.remove()
    return [partial(target, *args, **kwargs) for args, kwargs in arguments]


def _is_dropout(module: nn.Module) -> bool:
    return "Drop" in type(module).__name__ and module.training
