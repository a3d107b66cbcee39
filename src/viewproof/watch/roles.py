"""What each module is in the step, by how its parameters and buffers moved."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from viewproof.torch_internals import has_no_values
from viewproof.watch.facts import ModuleFacts, Role
from viewproof.watch.on_disk import Copied, in_memory
from viewproof.watch.step_record import Call, Record


@dataclass(frozen=True)
class Average:
    """The moving average that a module makes of another: ``mu * before + (1 - mu) * of``."""

    of: str
    momentum: float
    stale: bool
    apart: tuple[str, ...]
    buffers: dict[str, str]


class Before:
    """Parameters and buffers as they were before the step, of every module in the process; never on a GPU."""

    def __init__(self, modules: Iterable[nn.Module], copied: Copied = in_memory) -> None:
        self.modules, self._copied = {id(m): m for m in modules}, copied
        self.values: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}
        for module in self.modules.values():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                # Without values nothing can be seen to move.
                if id(tensor) not in self.values and not tensor.is_sparse and not has_no_values(tensor):
                    self.values[id(tensor)] = tensor, copied(tensor)

    def again(self) -> None:
        """As they are now."""
        for key, (tensor, _) in self.values.items():
            self.values[key] = tensor, self._copied(tensor)

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor as it was."""
        return self.values[id(tensor)][1]().to(tensor.device) if id(tensor) in self.values else tensor.detach()

    def moved(self, tensor: Tensor) -> bool:
        """Whether it differs."""
        return id(tensor) in self.values and not torch.equal(tensor.detach().cpu(), self.values[id(tensor)][1]())


def average_of(module: nn.Module, before: Before, names: dict[int, str], trained: set[int]) -> Average | None:
    """The module that this one averages, and how; None if no trained module explains how it moved."""
    own = dict(module.named_parameters())
    best: tuple[float, Average] | None = None
    for other in before.modules.values():
        theirs = dict(other.named_parameters())
        if (
            other is module
            or not theirs
            or not own.keys() <= theirs.keys()
            or not any(id(p) in trained for p in theirs.values())
        ):
            continue
        if any(theirs[k].shape != p.shape for k, p in own.items()) or any(theirs[k] is p for k, p in own.items()):
            continue
        for stale in (False, True):
            fit = _fit({**own}, {**theirs}, before, stale)
            if fit is None:
                continue
            momentum, apart, error = fit
            # A module and the wrapper around it fit alike: the one with fewer parameters says more.
            rank = len(apart) + error + 1e-6 * len(theirs) + 1e-3 * stale + (id(other) not in names) * 1e-4
            if best is None or rank < best[0]:
                name = names.get(id(other), type(other).__name__)
                best = rank, Average(name, momentum, stale, apart, _buffers(module, other, before, momentum))
    if best is None and not list(module.parameters(recurse=False)) and len(children := list(module.children())) == 1:
        # A wrapper, as that of `torch.optim.swa_utils.AveragedModel`: what it holds has other names in it.
        return average_of(children[0], before, names, trained)
    return best[1] if best and len(best[1].apart) * 2 <= len(own) else None


def _fit(
    own: dict[str, Tensor], theirs: dict[str, Tensor], before: Before, stale: bool
) -> tuple[float, tuple[str, ...], float] | None:
    top = bottom = 0.0
    parts = []
    for key, p in own.items():
        old, new = before.of(p).double(), p.detach().double()
        other = (before.of(theirs[key]) if stale else theirs[key].detach()).double()
        parts.append((key, old, new, other))
        top += float(((new - other) * (old - other)).sum())
        bottom += float((old - other).square().sum())
    if bottom == 0:
        return None
    momentum = top / bottom
    # One parameter that is left out must not bend the momentum of the rest.
    ratios = []
    for _, old, new, other in parts:
        weight = float((old - other).square().sum())
        if weight > 0:
            ratios.append((float(((new - other) * (old - other)).sum()) / weight, weight))
    ratios.sort()
    total, run = sum(w for _, w in ratios), 0.0
    for ratio, weight in ratios:
        run += weight
        if run * 2 >= total:
            momentum = ratio
            break
    apart, worst = [], 0.0
    for key, old, new, other in parts:
        expected = momentum * old + (1 - momentum) * other
        size = torch.maximum(old.abs().max(), other.abs().max()) if old.numel() else torch.tensor(0.0)
        step = (old - other).abs().max() if old.numel() else torch.tensor(0.0)
        error = float((new - expected).abs().max()) if old.numel() else 0.0
        if error > 4e-7 * float(size) + 1e-3 * float(step):
            apart.append(key)
        worst = max(worst, error / (float(size) + 1e-12))
    return momentum, tuple(apart), worst


def _buffers(module: nn.Module, other: nn.Module, before: Before, momentum: float) -> dict[str, str]:
    theirs, rules = dict(other.named_buffers()), {}
    for key, buffer in module.named_buffers():
        if key not in theirs or theirs[key].shape != buffer.shape:
            continue
        old, new, source = before.of(buffer).double(), buffer.detach().double(), theirs[key].detach().double()
        if torch.equal(old, source) and torch.equal(new, source):
            continue
        if torch.equal(new, source):
            rules[key] = "copied"
        elif torch.equal(new, old):
            rules[key] = "left"
        elif torch.allclose(new, momentum * old + (1 - momentum) * source, rtol=1e-5, atol=1e-7):
            rules[key] = "averaged"
        else:
            rules[key] = "its own"
    return rules


def units(record: Record, before: Before) -> list[tuple[nn.Module, Call | None]]:
    """The modules that a person would name: those that user code calls, a lone one's parts; and what moved besides."""
    calls: dict[int, Call] = {}
    for call in record.calls:
        calls.setdefault(call.module, call)
    chosen = [c.module for c in record.calls if c.parent is None and c.module in before.modules]
    chosen = [m for m in dict.fromkeys(chosen) if any(True for _ in before.modules[m].parameters())]
    for _ in range(4):
        if len(chosen) != 1:
            break
        parts = [
            id(m) for m in before.modules[chosen[0]].children() if id(m) in calls and any(True for _ in m.parameters())
        ]
        if len(parts) == 0 or len(parts) > 12:
            break
        chosen = sorted(parts, key=lambda m: calls[m].index)
    return [(before.modules[m], calls.get(m)) for m in chosen]


def module_facts(record: Record, before: Before, names: dict[int, str]) -> tuple[list[ModuleFacts], dict[str, Average]]:
    """The facts of each unit, and the averages found."""
    trained = {key for key, p in record.parameters.items() if p.gradient and p.requires_grad}
    trained |= record.gradients.erased.keys()
    facts, averages = list[ModuleFacts](), dict[str, Average]()
    chosen = units(record, before)
    known = {id(m) for m, _ in chosen}
    covered = {id(p) for m, _ in chosen for p in m.parameters()}
    # A teacher need not run in the step, or not by its own name.
    for key in names:
        module = before.modules.get(key)
        if module is None or key in known:
            continue
        own = list(module.parameters())
        if own and not any(id(p) in covered or id(p) in trained for p in own) and any(map(before.moved, own)):
            chosen.append((module, None))
            covered |= {id(p) for p in own}
    read = {o for loss in record.losses for o in loss.reads}
    for _ in range(8):
        read |= {o for m, c in chosen if c and names.get(id(m)) in read for o in c.reads}
    for module, call in chosen:
        path = names.get(id(module), type(module).__name__)
        own = list(module.parameters())
        count = sum(p.numel() for p in own)
        by_optimizer = [p for p in own if id(p) in trained]
        still = sum(p.numel() for p in own if id(p) not in trained and not before.moved(p))
        average = None
        if by_optimizer:
            role = Role.MIXED if still * 10 > count and any(not p.requires_grad for p in own) else Role.TRAINED
            optimizers = {record.optimizers[g] for p in by_optimizer for g, _ in record.parameters[id(p)].groups}
            moves = "by " + " and ".join(sorted(optimizers))
        elif any(map(before.moved, own)):
            role, average = Role.TEACHER, average_of(module, before, names, trained)
            moves = "moves without gradient, and is the average of no trained module"
            if average:
                averages[path] = average
                moves = f"{average.momentum:.6g} of itself + {1 - average.momentum:.6g} of `{average.of}`"
                moves += " of before the optimizer's step" if average.stale else ""
        else:
            role, moves = Role.FROZEN, "does not move"
            if call is not None and path not in read:
                role = Role.UNUSED
        facts.append(
            ModuleFacts(
                path,
                type(module).__name__,
                role,
                count,
                call.reads if call else (),
                call.shapes if call else (),
                average.of if average else "",
                average.momentum if average else None,
                moves,
                call.training if call else module.training,
            )
        )
    return facts, averages
