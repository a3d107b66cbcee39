"""Is the target branch what it should be: no gradient, the declared moving average, nothing random (C6)?"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from viewproof.certify import target_draws, target_moves
from viewproof.certify.flow.isolation import kept
from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import drawn
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.verdict import Verdict

Buffers = Literal["average", "copy", "keep"]
C6 = Contract.C6


@dataclass(frozen=True)
class TargetBranch:
    """A self-distilling pipeline, as far as its target branch goes; everything but ``loss`` may be left out.

    ``loss(batch)`` is the scalar that is differentiated; with ``targets``, ``loss(batch, targets(batch))``. ``target``
    is the averaged copy of ``online``. ``update(step)`` moves it once, by ``momentum`` (a number, or the declared
    function of the step); its ``buffers`` are averaged too (whole numbers copied), copied, or kept. ``step(batches)``
    is one optimizer step over these micro-batches, the target's move included. ``trained`` and ``frozen`` are modules
    whose every parameter must, or must not, get a gradient and move. ``stateful`` lists what else has a
    ``state_dict`` that a step changes: optimizers, schedules, other modules.
    """

    loss: Callable[..., Tensor]
    online: nn.Module | None = None
    target: nn.Module | None = None
    targets: Callable[[Any], Any] | None = None
    update: Callable[[int], Any] | None = None
    momentum: float | Callable[[int], float] | None = None
    buffers: Buffers = "copy"
    step: Callable[[Sequence[Any]], Any] | None = None
    trained: Sequence[nn.Module] = ()
    frozen: Sequence[nn.Module] = ()
    stateful: Sequence[Any] = ()

    def modules(self) -> list[nn.Module]:
        """Every module that is named."""
        named = [self.online, self.target, *self.trained, *self.frozen]
        return [m for m in named if m is not None] + [m for m in self.stateful if isinstance(m, nn.Module)]

    def value(self, batch: Any) -> Tensor:
        """The loss that is differentiated."""
        return self.loss(batch) if self.targets is None else self.loss(batch, self.targets(batch))

    def rate(self, step: int) -> float:
        """The declared momentum of a step."""
        assert self.momentum is not None
        return float(self.momentum(step)) if callable(self.momentum) else float(self.momentum)


def certify_target_branch(branch: TargetBranch, batch: Any, *, steps: int = 4, name: str = "target branch") -> Report:
    """Whether the target branch takes no gradient, moves as declared and is used (C6), on these modules and batch.

    ``steps`` is how many moves are compared with the closed form: for a schedule, as many as it has. Modules with
    their attributes, gradients, the states of ``stateful`` and the global generators are put back afterwards;
    counters inside closures are not, so hand over closures that may be called ``2 * steps + 8`` times.

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
    _check(branch, steps)
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("the target takes no gradient", lambda: _no_gradient(branch, batch)),
        ("the loss uses the target module", lambda: _used(branch, batch)),
        ("the target moves by the declared average", lambda: target_moves.average(branch, steps)),
        ("micro-batches move the target once a step", lambda: target_moves.accumulation(branch, batch)),
        ("declared gradients", lambda: _gradients(branch, batch)),
        ("every trained parameter moves", lambda: target_moves.moves(branch, batch, steps)),
        ("the target branch draws nothing", lambda: target_draws.deterministic(branch, batch)),
    ]
    findings: tuple[Finding, ...] = ()
    for claim, check in checks:
        with restored(branch):
            findings += attempt(name, C6, claim, lambda check=check: list(check()))  # type: ignore[misc]
    return Report(name, findings)


def _check(branch: TargetBranch, steps: int) -> None:
    if check_count("steps", steps, "compare nothing") == 0:
        raise InvalidArgument("steps=0 compares nothing; pass at least 1")
    if branch.buffers not in ("average", "copy", "keep"):
        raise InvalidArgument(f"buffers={branch.buffers!r} must be 'average', 'copy' or 'keep'")
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


@contextmanager
def restored(branch: TargetBranch) -> Iterator[None]:
    """Afterwards parameters, buffers, gradients, flags, states and the global generators are as they were."""
    others = [s for s in branch.stateful if not isinstance(s, nn.Module)]
    states = [(s, copy.deepcopy(s.state_dict())) for s in others]
    with drawn(0), kept(*branch.modules()):
        try:
            yield
        finally:
            for holder, state in states:
                holder.load_state_dict(state)


def _no_gradient(branch: TargetBranch, batch: Any) -> Iterable[Finding]:
    """No path in the autograd graph from the loss to the target's parameters, nor to the targets it is handed."""
    claim = "the target takes no gradient"
    if branch.target is None and branch.targets is None:
        yield Finding(C6, claim, Verdict.VACUOUS, "nothing", "not run", "neither a target module nor targets are given")
        return
    online = {id(p) for m in (branch.online, *branch.trained) if m is not None for p in m.parameters()}
    named = {} if branch.target is None else {f"target.{k}": p for k, p in branch.target.named_parameters()}
    # A parameter that both branches own gets the online branch's gradient; targets= tells the two apart.
    asked = {k: p for k, p in named.items() if p.requires_grad and id(p) not in online}
    shared = [k for k, p in named.items() if p.requires_grad and id(p) in online]
    if shared and branch.targets is None:
        reason = f"{shared[0]} is the online branch's too, which gets its gradient; pass targets to tell them apart"
        yield Finding(C6, claim, Verdict.UNKNOWN, "nothing", "not run", reason)
        return
    reached: dict[str, Tensor | None] = {}
    with torch.enable_grad():
        if asked:
            loss = branch.value(batch)
            reached.update(zip(asked, _gradient(loss, list(asked.values())), strict=True))
        if branch.targets is not None:
            # Lists of targets are taken as they come, a leaf in the place of each tensor with a path behind it.
            given = tree_map_only(
                Tensor, lambda t: t.detach().requires_grad_() if t.requires_grad else t, branch.targets(batch)
            )
            leaves = [t for t in tree_leaves(given) if isinstance(t, Tensor) and t.requires_grad]
            slopes = _gradient(branch.loss(batch, given), leaves) if leaves else ()
            reached.update({f"targets(batch), tensor {i}": g for i, g in enumerate(slopes)})
    scope = "the autograd graph of this batch"
    wrong = {k: g for k, g in reached.items() if g is not None and bool((g != 0).any())}
    open_paths = [k for k, g in reached.items() if g is not None and k not in wrong]
    if wrong:
        key, gradient = next(iter(wrong.items()))
        what = f"{key} gets a gradient of norm {float(gradient.norm()):.6g}, {len(wrong)} of {len(reached)} do"
        witness = Witness(what, {"batch": batch}, {}, {key: gradient})
        yield Finding(C6, claim, Verdict.REFUTED, scope, "autograd", "", witness)
    elif open_paths:
        reason = f"a path to {', '.join(open_paths)} exists, and its gradient is 0 on this batch"
        yield Finding(C6, claim, Verdict.UNKNOWN, scope, "autograd", reason)
    else:
        yield Finding(C6, claim, Verdict.PROVED, scope, "no path in the graph")


def _gradient(loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    if not loss.requires_grad or not leaves:
        return [None] * len(leaves)
    return torch.autograd.grad(loss, leaves, allow_unused=True)


def _used(branch: TargetBranch, batch: Any) -> Iterable[Finding]:
    """Other parameters in the target give another loss; if not, the targets come from somewhere else."""
    if branch.target is None or not list(branch.target.parameters()):
        return
    claim, scope = "the loss uses the target module", "this batch"
    before = target_moves.seeded(branch, batch)
    if not torch.equal(before, target_moves.seeded(branch, batch)):
        yield Finding(C6, claim, Verdict.UNKNOWN, "nothing", "run twice", "the loss is not a function of its batch")
        return
    shared = {id(p) for p in branch.online.parameters()} if branch.online is not None else set()
    own = [p for p in branch.target.parameters() if id(p) not in shared]
    target_moves.shake(own, 11)
    if not own or torch.equal(before, target_moves.seeded(branch, batch)):
        said = "shares every parameter with online" if not own else f"may change: the loss stays {float(before):.6g}"
        witness = Witness(f"the target module {said}", {"batch": batch})
        yield Finding(C6, claim, Verdict.REFUTED, scope, "parameters changed", "", witness)
    else:
        yield Finding(C6, claim, Verdict.PROVED, scope, "parameters changed, the loss with them")


def _gradients(branch: TargetBranch, batch: Any) -> Iterable[Finding]:
    """Every trained parameter has a gradient at some parameters nearby; no frozen one has a path to the loss."""
    trained, frozen = target_moves.named(branch)
    if not trained and not frozen:
        return
    seen: set[str] = set()
    leaks: dict[str, Tensor] = {}
    open_paths: set[str] = set()
    for seed in range(3):
        both = {k: p for k, p in {**trained, **frozen}.items() if p.requires_grad}
        with torch.enable_grad():
            gradients: dict[str, Tensor | None] = dict(
                zip(both, _gradient(branch.value(batch), list(both.values())), strict=True)
            )
        reached = {k: g for k, g in gradients.items() if g is not None and bool((g != 0).any())}
        seen |= set(reached)
        leaks.update({k: g for k, g in reached.items() if k in frozen})
        open_paths |= {k for k, g in gradients.items() if g is not None and k in frozen}
        # A layer that starts at 0 lets no gradient through until it has moved.
        target_moves.shake(trained.values(), 300 + seed)
    if trained:
        claim, scope = "every trained parameter gets a gradient", "this batch"
        reachable = {k for k, g in gradients.items() if g is not None}
        missing = [k for k in trained if k not in seen]
        missing = [k for k in missing if k not in reachable or target_moves.matters(branch, batch, trained[k])]
        if missing:
            why = "" if trained[missing[0]].requires_grad else ", for its requires_grad is False"
            what = f"{missing[0]} gets none{why}, nor do {len(missing) - 1} others"
            witness = Witness(what, {"batch": batch})
            yield Finding(C6, claim, Verdict.REFUTED, scope, "autograd at three points", "", witness)
        else:
            yield Finding(C6, claim, Verdict.PROVED, scope, "a gradient found for each")
    if frozen:
        claim, scope = "no frozen parameter gets a gradient", "the autograd graph of this batch"
        if leaks:
            key, gradient = next(iter(leaks.items()))
            witness = Witness(f"{key} gets a gradient of norm {float(gradient.norm()):.6g}", {"batch": batch})
            yield Finding(C6, claim, Verdict.REFUTED, scope, "autograd", "", witness)
        elif open_paths:
            reason = f"a path to {', '.join(sorted(open_paths))} exists, with gradient 0 at three points"
            yield Finding(C6, claim, Verdict.UNKNOWN, scope, "autograd at three points", reason)
        else:
            yield Finding(C6, claim, Verdict.PROVED, scope, "no path in the graph")
