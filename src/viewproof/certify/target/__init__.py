"""Certifies a target branch: no gradient, the declared moving average, nothing random (C6)."""

from typing import Any

from viewproof.certify.flow.state import puts_back
from viewproof.certify.report import Report
from viewproof.certify.target import draws, gradients, moves
from viewproof.certify.target.branch import TargetBranch as TargetBranch
from viewproof.certify.target.branch import TargetCase
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count


@puts_back
def certify_target_branch(branch: TargetBranch, batch: Any, *, steps: int = 4, name: str = "target branch") -> Report:
    """Whether the target branch takes no gradient, moves as declared and is used (C6).

    ``steps`` is how many moves are compared with the closed form: for a schedule, as many as it has. Modules with
    their attributes, gradients, the states of ``stateful`` and the global generators are put back afterwards;
    counters inside closures are not, so hand over closures that may be called ``2 * steps + 8`` times.

    >>> import torch
    >>> from torch import nn
    >>> online, target = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> def swapped(step):
    ...     for t, o in zip(target.parameters(), online.parameters()):
    ...         t.data.mul_(0.01).add_(o.data, alpha=0.99)
    >>> branch = TargetBranch(
    ...     lambda x: (online(x) - target(x).detach()).square().mean(), online, target, update=swapped, momentum=0.99)
    >>> report = certify_target_branch(branch, torch.randn(3, 2))
    >>> print(report.refuted[0].claim)
    the target moves by the declared average
    """
    _check_arguments(branch, steps)
    case = TargetCase(branch, batch, steps)
    claims = gradients.claims + moves.claims + draws.claims
    return Report(name, claims.run(name, case, around=case.restored))


def _check_arguments(branch: TargetBranch, steps: int) -> None:
    if check_count("steps", steps, "compare nothing") == 0:
        raise InvalidArgument("steps=0 compares nothing; pass at least 1")
    for rule in [branch.buffers] if isinstance(branch.buffers, str) else branch.buffers.values():
        if rule not in ("average", "copy", "keep"):
            raise InvalidArgument(f"buffers={rule!r} must be 'average', 'copy' or 'keep'")
    if branch.order not in (None, "after", "before"):
        raise InvalidArgument(f"order={branch.order!r} must be 'after' or 'before' the optimizer's step")
    for role, named in (("trained", branch.trained), ("frozen", branch.frozen)):
        branch.parameters(role, named)
    if branch.target is None:
        return
    if branch.online is None:
        raise InvalidArgument("target is given without online; pass the module that it averages")
    for kind in ("named_parameters", "named_buffers"):
        own, other = (dict(getattr(m, kind)()) for m in (branch.target, branch.online))
        for key, tensor in own.items():
            if key not in other or other[key].shape != tensor.shape:
                raise InvalidArgument(
                    f"target has {key!r} of shape {tuple(tensor.shape)} and online has no such; pass as online the "
                    "module that target is a copy of, without its predictor"
                )
