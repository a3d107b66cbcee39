"""How the parameters of a self-distilling pipeline move: the average, accumulation, the optimizer's reach (C6)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from viewproof.certify.report import Contract, Finding, Witness
from viewproof.certify.search import drawn
from viewproof.verdict import Verdict

if TYPE_CHECKING:
    from viewproof.certify.target_branch import TargetBranch

C6 = Contract.C6
_STEPS_SEEN = 64
"""A step's own counter may stand at any of these when a schedule is asked for its momentum."""


def shake(tensors: Iterable[Tensor], seed: int) -> None:
    """Every tensor moves by about its own size; whole numbers by 1 or 2; what is not negative stays so."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                positive = bool((tensor >= 0).all()) and bool((tensor > 0).any())
                tensor.copy_(tensor * noise.exp() + noise.abs() * 0.1 if positive else tensor + noise * 0.5)
            elif tensor.dtype != torch.bool:
                tensor.add_(1 + torch.randint(0, 2, tensor.shape, generator=generator).to(tensor))


def seeded(branch: "TargetBranch", batch: Any) -> Tensor:
    """The loss, with the same random numbers each time."""
    with drawn(3), torch.no_grad():
        return branch.value(batch).detach().clone()


def matters(branch: "TargetBranch", batch: Any, parameter: Tensor) -> bool:
    """Whether the loss changes with the parameter beyond rounding: a bias before a batch norm does nothing."""
    before, kept = seeded(branch, batch), parameter.detach().clone()
    shake([parameter], 400)
    after = seeded(branch, batch)
    with torch.no_grad():
        parameter.copy_(kept)
    return not bool((after - before).abs() <= 1e-5 * before.abs())


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {k: t.detach().clone() for k, t in [*module.named_parameters(), *module.named_buffers()]}


def _expected(
    branch: "TargetBranch", old: Mapping[str, Tensor], online: Mapping[str, Tensor], m: float
) -> dict[str, Any]:
    """The closed form of one move, in float64: the target's next value and the error that rounding may make."""
    assert branch.target is not None
    parameters = dict(branch.target.named_parameters())
    expected: dict[str, Any] = {}
    for key, before in old.items():
        averaged = key in parameters or branch.buffers == "average"
        if not before.is_floating_point() or not averaged:
            kept = key not in parameters and branch.buffers == "keep"
            expected[key] = (before if kept else online[key]), None
            continue
        a, b = before.double(), online[key].double()
        bound = 4 * torch.finfo(before.dtype).eps * (a.abs() + b.abs()) + torch.finfo(before.dtype).tiny
        expected[key] = m * a + (1 - m) * b, bound
    return expected


def _differs(new: Mapping[str, Tensor], expected: Mapping[str, Any]) -> tuple[str, tuple[int, ...]] | None:
    """The first tensor and coordinate that is not what the closed form says."""
    for key, (value, bound) in expected.items():
        wrong = new[key] != value if bound is None else ~((new[key].double() - value).abs() <= bound)
        if bool(wrong.any()):
            return key, tuple(wrong.nonzero()[0].tolist())
    return None


def _blurred(old: Mapping[str, Tensor], expected: Mapping[str, Any]) -> str | None:
    """A tensor that could as well have stayed where it was: its whole move is below rounding."""
    for key, (value, bound) in expected.items():
        if bound is not None and value.numel() and bool(((value - old[key].double()).abs() <= bound).all()):
            return f"{key} ({str(old[key].dtype).removeprefix('torch.')}) would move by less than rounding allows"
    return None


def average(branch: "TargetBranch", steps: int) -> Iterable[Finding]:
    """``target' = m * target + (1 - m) * online`` for every parameter and buffer, step after step; online untouched."""
    claim = "the target moves by the declared average"
    if branch.target is None or branch.online is None:
        return
    if branch.update is None or branch.momentum is None:
        reason = "update and momentum are not given"
        yield Finding(C6, claim, Verdict.UNKNOWN, "nothing", "not run", reason)
        return
    blurred = None
    for step in range(steps):
        shake([*branch.online.parameters(), *branch.online.buffers()], 100 + step)
        old, online, m = _state(branch.target), _state(branch.online), branch.rate(step)
        branch.update(step)
        new, after = _state(branch.target), _state(branch.online)
        moved = [k for k in online if not torch.equal(online[k], after[k])]
        expected = _expected(branch, old, online, m)
        place = _differs(new, expected)
        if not moved and place is None:
            blurred = blurred or (_blurred(old, expected) if m != 1 else None)
            continue
        inputs = {"step": step, "momentum": m, "target": old, "online": online, "updated": new}
        if moved:
            witness = Witness(f"the update of step {step} writes to online.{moved[0]}", inputs)
        else:
            assert place is not None
            key, at = place
            was, is_, from_ = (float(s[key][at]) for s in (old, new, online))
            wanted = float(expected[key][0][at])
            what = (
                f"step {step}: target.{key} at {at} goes from {was:.9g} to {is_:.9g}; {wanted:.9g} is what momentum "
                f"{m:.9g} makes of it and of online's {from_:.9g}"
            )
            witness = Witness(what, inputs, {key: at})
        yield Finding(C6, claim, Verdict.REFUTED, f"these modules, step {step}", "closed form", "", witness)
        return
    scope = f"these modules, steps 0 to {steps - 1}, drawn online values"
    kept = {"average": "averaged", "copy": "copied", "keep": "kept"}[branch.buffers]
    verdict = Verdict.UNKNOWN if blurred else Verdict.PROVED
    yield Finding(C6, claim, verdict, scope, f"closed form; buffers {kept}", blurred or "")


def accumulation(branch: "TargetBranch", batch: Any) -> Iterable[Finding]:
    """One optimizer step over four micro-batches moves the target once, from online as it is before or after."""
    claim = "four micro-batches move the target once"
    if branch.target is None or branch.online is None or branch.step is None or branch.momentum is None:
        return
    blurred = None
    for count in (1, 4):
        shake([*branch.online.parameters(), *branch.online.buffers()], 200)
        old, before = _state(branch.target), _state(branch.online)
        branch.step([batch] * count)
        new, after = _state(branch.target), _state(branch.online)
        parameters = [k for k, _ in branch.target.named_parameters()]
        rates = {branch.rate(k) for k in range(_STEPS_SEEN)} if callable(branch.momentum) else {branch.rate(0)}
        expected = [
            {k: e for k, e in _expected(branch, old, online, m).items() if k in parameters}
            for online in (after, before)
            for m in rates
        ]
        places = [_differs(new, e) for e in expected]
        fitting = [e for e, place in zip(expected, places, strict=True) if place is None]
        if fitting:
            blurred = blurred or next(filter(None, (_blurred(old, e) for e in fitting)), None)
            continue
        assert places[0] is not None
        key, at = places[0]
        values = [float(s[key][at]) for s in (old, after, new)]
        what = (
            f"a step over {count} micro-batches takes target.{key} at {at} from {values[0]:.9g} (online "
            f"{values[1]:.9g}) to {values[2]:.9g}, once by the momentum is {float(expected[0][key][0][at]):.9g}"
        )
        inputs = {"batch": batch, "count": count, "target": old, "online": before}
        witness = Witness(what, inputs, {key: at})
        yield Finding(C6, claim, Verdict.REFUTED, "this batch", "closed form", "", witness)
        return
    verdict = Verdict.UNKNOWN if blurred else Verdict.PROVED
    yield Finding(C6, claim, verdict, "these modules, this batch once and four times", "closed form", blurred or "")


def named(branch: "TargetBranch") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters that must be trained, and those that must not, by name."""

    def of(kind: str, modules: Sequence[nn.Module]) -> dict[str, Tensor]:
        return {f"{kind}[{i}].{k}": p for i, m in enumerate(modules) for k, p in m.named_parameters()}

    return of("trained", branch.trained), of("frozen", branch.frozen)


def moves(branch: "TargetBranch", batch: Any, steps: int) -> Iterable[Finding]:
    """After a few optimizer steps every trained parameter is another, and every frozen one the same."""
    trained, frozen = named(branch)
    # The average moves the target, the optimizer must not: the closed form speaks of it.
    averaged = set() if branch.target is None else {id(p) for p in branch.target.parameters()}
    frozen = {k: p for k, p in frozen.items() if id(p) not in averaged}
    if branch.step is None or not (trained or frozen):
        return
    before = {k: p.detach().clone() for k, p in {**trained, **frozen}.items()}
    for _ in range(steps):
        branch.step([batch])
    moved = {k for k, p in {**trained, **frozen}.items() if not torch.equal(p.detach(), before[k])}
    still = [k for k in trained if k not in moved and matters(branch, batch, trained[k])]
    for what, names, wrong in (
        ("every trained parameter moves", trained, still),
        ("no frozen parameter moves", frozen, [k for k in frozen if k in moved]),
    ):
        if not names:
            continue
        scope = f"{steps} steps on this batch"
        if wrong:
            said = "stays as it was" if names is trained else "moves"
            witness = Witness(f"{wrong[0]} {said} in {steps} steps, {len(wrong)} of {len(names)} do", {"batch": batch})
            yield Finding(C6, what, Verdict.REFUTED, scope, "run", "", witness)
        else:
            yield Finding(C6, what, Verdict.PROVED, scope, "run")
