"""Where the gradient of a self-distilling loss goes (C6): not into the target, else everywhere."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.certify.check import Check, Claims
from viewproof.certify.report import Contract, Finding
from viewproof.certify.target.branch import TargetCase, gradients_of, shake
from viewproof.torch_internals import tree_leaves, tree_map_only

claims = Claims[TargetCase](scope="this batch", method="autograd")
GRAPH = "the autograd graph of this batch"


@claims(Contract.C6, "the target takes no gradient", scope=GRAPH)
def no_gradient(case: TargetCase, check: Check) -> Finding:
    """No path in the autograd graph from the loss to the target's parameters, outputs or targets.

    Outputs are those of the target module and of every submodule that online does not have, by hooks: what feeds a
    frozen target, such as a stem that both branches use, gets a gradient through them alone.
    """
    branch = case.branch
    if branch.target is None and branch.targets is None:
        return check.vacuous("neither a target module nor targets are given")
    online = {id(p) for p in case.trained.values()}
    online |= {id(p) for p in branch.online.parameters()} if branch.online is not None else set()
    parameters = {} if branch.target is None else {f"target.{k}": p for k, p in branch.target.named_parameters()}
    parameters = {k: p for k, p in parameters.items() if p.requires_grad}
    # A parameter that both branches own gets the online branch's gradient; targets= tells the two apart.
    shared = [k for k, p in parameters.items() if id(p) in online]
    own = {k: p for k, p in parameters.items() if id(p) not in online}
    gradients: dict[str, Tensor | None] = {}
    with torch.enable_grad(), _watched(case) as outputs:
        value = branch.value(case.batch)
        if shared and branch.targets is None and not outputs:
            return check.unknown(
                f"{shared[0]} is the online branch's too, which gets its gradient; pass targets to tell them apart"
            )
        if branch.targets is None and not outputs:
            return check.unknown("the loss does not call the target module, so that its outputs cannot be watched")
        watched = {k: t for k, t in outputs if t.requires_grad}
        gradients.update(zip([*own, *watched], gradients_of(value, [*own.values(), *watched.values()]), strict=True))
        if branch.targets is not None:
            # Lists of targets are taken as they come, a leaf in the place of each tensor with a path behind it.
            targets = tree_map_only(Tensor, _as_leaf, branch.targets(case.batch))
            leaves = [t for t in tree_leaves(targets) if isinstance(t, Tensor) and t.requires_grad]
            slopes = gradients_of(branch.loss(case.batch, targets), leaves) if leaves else ()
            gradients.update({f"targets(batch), tensor {i}": g for i, g in enumerate(slopes)})
    wrong = {k: g for k, g in gradients.items() if g is not None and bool((g != 0).any())}
    if wrong:
        key, gradient = next(iter(wrong.items()))
        what = f"{key} gets a gradient of norm {float(gradient.norm()):.6g}, {len(wrong)} of {len(gradients)} do"
        return check.refuted(what, {"batch": case.batch}, maps={key: gradient})
    open_paths = [k for k, g in gradients.items() if g is not None]
    if open_paths:
        reason = f"a path to {', '.join(open_paths)} exists, and its gradient is 0 on this batch"
        return check.unknown(reason, scope=GRAPH, method=check.method)
    # What is made of the target's outputs, a centre say, is part of the loss unless targets= says otherwise.
    detail = "" if branch.targets is not None else "of the target module; for what is made of its outputs pass targets="
    return check.proved(detail, method="no path in the graph")


@contextmanager
def _watched(case: TargetCase) -> Iterator[list[tuple[str, Tensor]]]:
    """The outputs of the target's modules while the block runs, but those of the online branch."""
    branch, outputs = case.branch, list[tuple[str, Tensor]]()
    others = [m for m in (branch.online, *branch.trained) if isinstance(m, nn.Module)]
    online = {part for m in others for part in m.modules()}
    with ExitStack() as stack:
        for name, module in branch.target.named_modules() if branch.target is not None else ():
            if module in online:
                continue

            def note(_: nn.Module, given: Any, output: Any, name: str = name) -> None:
                # An identity returns what online may read too: its gradient says nothing about the target.
                inputs = {id(t) for t in tree_leaves(given)}
                for tensor in tree_leaves(output):
                    if isinstance(tensor, Tensor) and id(tensor) not in inputs:
                        outputs.append((f"output {len(outputs)} of target{name and '.' + name}", tensor))

            stack.callback(module.register_forward_hook(note).remove)
        yield outputs


def _as_leaf(tensor: Tensor) -> Any:
    return tensor.detach().requires_grad_() if tensor.requires_grad else tensor


@claims(Contract.C6, "the loss uses the target module", method="parameters changed")
def target_is_used(case: TargetCase, check: Check) -> Finding | None:
    """Other parameters in the target give another loss; if not, the targets come from somewhere else."""
    branch = case.branch
    if branch.target is None or not list(branch.target.parameters()):
        return None
    before = case.value()
    if not torch.equal(before, case.value()):
        return check.unknown("the loss is not a function of its batch", method="run twice")
    shared = {id(p) for p in branch.online.parameters()} if branch.online is not None else set()
    own = [p for p in branch.target.parameters() if id(p) not in shared]
    if not own:
        return check.refuted("the target module shares every parameter with online", {"batch": case.batch})
    shake(own, 11)
    if torch.equal(before, case.value()):
        what = f"the target module may change: the loss stays {float(before):.6g}"
        return check.refuted(what, {"batch": case.batch})
    return check.proved(method="parameters changed, the loss with them")


@claims(Contract.C6, "every trained parameter gets a gradient", method="autograd at three points")
def trained_get_gradients(case: TargetCase, check: Check) -> Finding | None:
    """At one of three points nearby; a parameter that the loss does not change with needs none."""
    if not case.trained:
        return None
    reached = {
        k for gradients in case.gradients for k, g in gradients.items() if g is not None and bool((g != 0).any())
    }
    missing = [
        k
        for k, parameter in case.trained.items()
        if k not in reached and (k not in case.gradients[-1] or case.matters(parameter))
    ]
    if not missing:
        return check.proved(case.fixed_detail, method="a gradient found for each")
    why = "" if case.trained[missing[0]].requires_grad else ", for its requires_grad is False"
    return check.refuted(f"{missing[0]} gets none{why}, nor do {len(missing) - 1} others", {"batch": case.batch})


@claims(Contract.C6, "no frozen parameter gets a gradient", scope=GRAPH)
def frozen_get_none(case: TargetCase, check: Check) -> Finding | None:
    """No path leads to a frozen parameter, or its gradient is 0 at three points nearby."""
    if not case.frozen:
        return None
    frozen = [
        (k, g) for gradients in case.gradients for k, g in gradients.items() if k in case.frozen and g is not None
    ]
    for key, gradient in frozen:
        if bool((gradient != 0).any()):
            return check.refuted(f"{key} gets a gradient of norm {float(gradient.norm()):.6g}", {"batch": case.batch})
    if frozen:
        open_paths = ", ".join(sorted({k for k, _ in frozen}))
        reason = f"a path to {open_paths} exists, with gradient 0 at three points"
        return check.unknown(reason, scope=GRAPH, method="autograd at three points")
    return check.proved(method="no path in the graph")
