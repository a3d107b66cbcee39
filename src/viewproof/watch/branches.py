"""What the plain run says of student and teacher branches: who follows whom, what is left out, what takes gradients."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.torch_internals import has_hook
from viewproof.watch.record import Recorder
from viewproof.watch.roles import average_of, units
from viewproof.watch.step_record import Record

Broken = tuple[str, tuple[str, ...]]
"""What is wrong, in a sentence, and the names of the parameters or modules that show it."""


@dataclass
class Branches:
    """What was found, each a list of what breaks a claim; ``doubts`` holds what the step alone does not settle.

    ``zeros`` are modules, and parameters of none, whose gradients are all 0, with the ids of their parameters.
    """

    gradient: list[Broken] = field(default_factory=list)
    average: list[Broken] = field(default_factory=list)
    random: list[Broken] = field(default_factory=list)
    trained: list[Broken] = field(default_factory=list)
    doubts: list[Broken] = field(default_factory=list)
    zeros: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    teachers: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)


def branch_facts(run: Recorder, plan: Any) -> Branches:
    """Everything about branches, at the end of the plain run."""
    record, before, names, out = run.record, run.before, run.names, Branches()
    by_index = {c.index: c for c in record.calls}
    target_modules = {by_index[i].module: path for i, path in plan.targets.items()}
    trained = {k for k, p in record.parameters.items() if p.gradient and p.nonzero and p.groups}
    # A layer that is frozen at first is trained: its gradients are erased.
    trained |= record.gradients.erased.keys()
    chosen = units(record, before)
    listed = {id(m) for m, _ in chosen}
    extra = [m for k, m in before.modules.items() if k in names and k not in listed and k in target_modules]
    modules = [m for m, _ in chosen] + extra
    read = _read_by_losses(record, names)
    _gradients(run, target_modules, modules, out)
    _training(run, modules, read, out)
    for module in {id(m): m for m in modules + _moved_roots(run)}.values():
        path = names.get(id(module), type(module).__name__)
        own = list(module.parameters())
        written = bool(own) and all(_written(run, p) for p in own)
        twin = _twin(module, run) if written or not any(id(p) in trained for p in own) else None
        if written and twin is not None:
            what = f"`{path}` is trained by an optimizer and written to after its step: an average of"
            out.doubts.append((f'{what} `{names.get(id(twin), "its twin")}`? allow={{"C6": "..."}} if meant', (path,)))
        if not own or any(id(p) in trained for p in own):
            continue
        if moved := any(before.moved(p) for p in own):
            out.teachers.append(path)
            _average(module, path, twin, run, out)
            # What the loss reads may be a part of the teacher, or a module that the teacher is a part of.
            inside = _read_by_losses(record, names, inside=True) | record.left
            around = [r for r in read if path.startswith(f"{r}.")]
            if id(module) in target_modules and not any(f"{r}.".startswith(f"{path}.") for r in inside):
                what = f"the teacher `{path}` runs, and the loss does not read it"
                if around:
                    what += f', as far as `{around[0]}` shows; allow={{"C6": "..."}} if meant'
                (out.doubts if around else out.trained).append((what, (path,)))
        elif id(module) in target_modules:
            out.frozen.append(path)
            _frozen(module, path, twin, run, out)
        for call in record.calls:
            if call.module == id(module) and call.drops and moved:
                out.random.append((f"`{path}` is in training mode and drops units: its targets are random", call.drops))
                break
    _same_object(run, target_modules, out)
    if not out.average:
        _drawn_back(run, out)
    return out


def _written(run: Recorder, p: Tensor) -> bool:
    """Whether a parameter was written to after its optimizer's step; what is set as its ``.data`` counts no version."""
    after = run.after.get(id(p))
    return after is not None and (run.versions[id(p)] != p._version or not torch.equal(after(), p.detach().cpu()))


def _read_by_losses(record: Record, names: dict[int, str], inside: bool = False) -> set[str]:
    """The paths that the losses read, through other modules too; with ``inside``, what modules' results are made of."""
    read = {o for loss in record.losses for o in loss.reads}
    for _ in range(12):
        calls = [c for c in record.calls if names.get(c.module) in read]
        more = {o for c in calls for o in (*c.reads, *(c.made_of if inside else ()))}
        if more <= read:
            break
        read |= more
    return read


def _gradients(run: Recorder, targets: dict[int, str], modules: list[nn.Module], out: Branches) -> None:
    """Parameters with a gradient that no optimizer has: of teachers, of what lies behind trained ones, of others."""
    record = run.record
    stray = [k for k, p in record.parameters.items() if p.gradient and p.nonzero and not p.groups]
    if not stray or not record.optimizers:
        return
    trained = {k for k, p in record.parameters.items() if p.gradient and p.groups}
    names = {k: _parameter_name(run, k) for k in stray}
    done: set[int] = set()
    for module in modules:
        own = {id(p) for p in module.parameters()}
        mine = [k for k in stray if k in own and k not in done]
        if not mine:
            continue
        done |= set(mine)
        path = run.names.get(id(module), type(module).__name__)
        shown = tuple(names[k] for k in mine[:4])
        if any(run.before.moved(run.parameters[k]) for k in mine) or _twin(module, run) is not None:
            out.gradient.append((f"the gradient reaches `{path}`, which no optimizer trains", shown))
        elif own & trained:
            out.trained.append((f"{len(mine)} parameters of `{path}` get a gradient, and no optimizer has them", shown))
        elif _behind_trained(run, module):
            out.trained.append((f"`{path}` reads what is trained and gets a gradient, and no optimizer has it", shown))
        else:
            out.doubts.append(
                (
                    f'`{path}` gets a gradient, and no optimizer has it; allow={{"C6": "not to be trained"}} if meant',
                    shown,
                )
            )
    if rest := [k for k in stray if k not in done]:
        what = f"{len(rest)} parameters get a gradient, and no optimizer has them"
        out.doubts.append((what, tuple(names[k] for k in rest[:4])))


def _parameter_name(run: Recorder, key: int) -> str:
    for module_id, path in run.names.items():
        module = run.before.modules.get(module_id)
        for name, p in module.named_parameters(recurse=False) if module is not None else ():
            if id(p) == key:
                return f"{path}.{name}"
    return "a parameter"


def _behind_trained(run: Recorder, module: nn.Module) -> bool:
    trained = {k for k, p in run.record.parameters.items() if p.gradient and p.groups}
    for call in run.record.calls:
        if call.module != id(module):
            continue
        for other in run.record.calls:
            other_module = run.before.modules.get(other.module)
            if other_module is None or run.names.get(other.module) not in call.reads:
                continue
            if any(id(p) in trained for p in other_module.parameters()):
                return True
    return False


def _training(run: Recorder, modules: list[nn.Module], read: set[str], out: Branches) -> None:
    """What an optimizer has and does not train."""
    record = run.record
    in_optimizer = {k: p for k, p in record.parameters.items() if p.groups}
    if not in_optimizer or not record.backwards:
        return
    lost = record.gradients.erased or record.gradients.lost or not any(p.gradient for p in in_optimizer.values())
    if lost and not any(p.gradient and p.nonzero for p in in_optimizer.values()):
        out.trained.append(
            (
                "backward ran, and the optimizer finds no gradient at its step",
                tuple(p.name for p in [*in_optimizer.values()][:4]),
            )
        )
        return
    if not any(p.gradient and p.nonzero for p in in_optimizer.values()):
        what, names = "every gradient is 0 in this step", tuple(_parameter_name(run, k) for k in [*in_optimizer][:4])
        out.doubts.append((f'{what}; allow={{"C6": "..."}} if meant', names))
        return
    if not any(p.moved for p in in_optimizer.values()):
        out.doubts.append(
            ("no parameter moved in the optimizer's step: a learning rate of 0, or a step that was skipped", ())
        )
        return
    called: dict[int, bool] = {}
    fed, listed = _fed(run), set[int]()
    for call in sorted(record.calls, key=lambda call: call.depth):
        called[call.module] = called.get(call.module, False) or call.differentiable
    for key, differentiable in called.items():
        module = run.before.modules.get(key)
        path = run.names.get(key)
        if module is None or path is None:
            continue
        own = [p for p in module.parameters() if id(p) in in_optimizer]
        known = [in_optimizer[id(p)] for p in own]
        inside = any(f"{path}.".startswith(f"{other}.") for _, names in out.trained + out.doubts for other in names)
        if not own or inside:
            continue
        if any(p.gradient for p in known):
            if not any(p.nonzero for p in known) and not {id(p) for p in own} <= listed:
                listed |= {id(p) for p in own}
                out.zeros.append((path, tuple(id(p) for p in own)))
            if any(p.nonzero for p in known) and not any(p.moved for p in known if p.nonzero):
                what = "gets a gradient and stays where it is: a learning rate of 0, or written back"
                out.doubts.append((f'`{path}` {what}; allow={{"C6": "..."}} if meant', (path,)))
            continue
        # A frozen module may stand in an optimizer, which passes over what has no gradient: often a target encoder.
        if len(own) < len(list(module.parameters())) or not any(p.requires_grad for p in known):
            continue
        what = "runs without gradient" if not differentiable else "gets no gradient, although the loss reads it"
        if path in read and not record.gradients.erased.keys() & {id(p) for p in own}:
            out.trained.append((f"`{path}` is in an optimizer and {what}", (path,)))
        elif path in fed or path in read:
            # Erased before the step, as of a layer that is frozen at first, it may be meant.
            what = "no gradient, although what is trained reads it" if path in fed else "its gradient erased"
            out.doubts.append((f'`{path}` is in an optimizer and gets {what}; allow={{"C6": "..."}} if meant', (path,)))
    # Of a layer with a live bias, a weight may only ever meet inputs of 0, as queries of hidden places do.
    of_layers = {id(p) for m in run.before.modules.values() if not list(m.children()) for p in m.parameters()}
    for key, parameter in in_optimizer.items():
        known_and_free = key in run.parameters and key not in listed and key not in of_layers
        if parameter.gradient and not parameter.nonzero and known_and_free:
            out.zeros.append((_parameter_name(run, key), (key,)))
    # Hooks run inside the backward, before its gradients are looked at.
    hooked = [k for k in in_optimizer if (p := run.parameters.get(k)) is not None and has_hook(p)]
    if hooked:
        what = 'a hook on a parameter may change its gradient; allow={"C6": "..."} if meant'
        out.doubts.append((what, tuple(_parameter_name(run, k) for k in hooked[:4])))


def _fed(run: Recorder) -> set[str]:
    """What calls read of modules that take a gradient."""
    trained = {k for k, p in run.record.parameters.items() if p.gradient and p.nonzero and p.groups}
    modules = {key: m for key, m in run.before.modules.items() if any(id(p) in trained for p in m.parameters())}
    return {path for call in run.record.calls if call.module in modules for path in call.reads}


def _moved_roots(run: Recorder) -> list[nn.Module]:
    """Modules with a name that moved though no optimizer has anything of them, the outermost ones."""
    found: list[nn.Module] = []
    covered: set[int] = set()
    for key in sorted(run.names, key=lambda k: run.names[k].count(".")):
        module = run.before.modules.get(key)
        own = [] if module is None else list(module.parameters())
        if module is None or not own or any(id(p) in covered or id(p) in run.optimized for p in own):
            continue
        if all(run.before.moved(p) or not p.numel() for p in own[:1]) or any(map(run.before.moved, own)):
            found.append(module)
            covered |= {id(p) for p in own}
    return found


def _twin(module: nn.Module, run: Recorder) -> nn.Module | None:
    """A module of the same parameters by name and shape, some of which an optimizer steps with here."""
    own = {k: p.shape for k, p in module.named_parameters()}
    ids = {id(p) for p in module.parameters()}
    # Another model of the process may have the same parameters, of the same seed, and an optimizer that rests.
    stepped = {key for key, p in run.record.parameters.items() if p.groups}
    found: list[nn.Module] = []
    for other in run.before.modules.values():
        if other is module:
            continue
        theirs = dict(other.named_parameters())
        alike = own.keys() <= theirs.keys() and all(theirs[k].shape == s for k, s in own.items())
        alike = alike and not any(id(p) in ids for p in theirs.values())
        if not alike or not any(id(p) in stepped for p in theirs.values()):
            continue
        least = len(dict(found[0].named_parameters())) if found else len(theirs)
        if len(theirs) <= least:
            found = [*(found if len(theirs) == least else []), other]
    if len(found) < 2:
        return found[0] if found else None

    def apart(other: nn.Module) -> float:
        pairs = [(run.before.of(p), run.before.of(other.get_parameter(k))) for k, p in module.named_parameters()]
        return sum(float((one - two).abs().pow(2).sum()) for one, two in pairs)

    # Of several layers of one shape, the one whose values it was nearest to.
    return min(found, key=apart)


def _average(module: nn.Module, path: str, twin: nn.Module | None, run: Recorder, out: Branches) -> None:
    """Is what moved without gradient a moving average of its twin, made at the right time?"""
    trained = {k for k, p in run.record.parameters.items() if p.groups}
    average = average_of(module, run.before, run.names, trained)
    if average is None:
        return
    if average.apart:
        out.average.append(
            (f"`{path}` averages `{average.of}`, but {len(average.apart)} parameters do not follow", average.apart[:4])
        )
    ids = {id(p) for p in module.parameters()}
    early = ids & run.record.moved_at_step - run.record.moved_at_backward
    if average.stale and early:
        out.average.append(
            (
                f"`{path}` averages `{average.of}` of before the optimizer's step, between backward and that step",
                (path,),
            )
        )
    # What averages for evaluation may begin with a copy, and nothing of it runs in the step.
    runs = {c.module for c in run.record.calls} & {id(m) for m in module.modules()}
    if average.momentum < 0.5 and (average.momentum or runs):
        out.doubts.append((f"`{path}` takes {1 - average.momentum:.3g} of `{average.of}` a step: exchanged?", (path,)))
    calls = [c for c in run.record.calls if c.module == id(module)]
    if calls and not calls[0].training:
        left = [k for k, rule in average.buffers.items() if rule == "left" and "num_batches" not in k]
        if left and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules()):
            out.average.append(
                (
                    f"`{path}` normalises by running statistics that nothing moves, while `{average.of}` moves its own",
                    tuple(left[:4]),
                )
            )
    if twin is not None:
        _buffers_back(module, path, twin, run, out)


def _buffers_back(module: nn.Module, path: str, twin: nn.Module, run: Recorder, out: Branches) -> None:
    theirs = dict(twin.named_buffers())
    ran = any(c.training for c in run.record.calls if c.module == id(twin))
    back = [
        k
        for k, b in module.named_buffers()
        if "running" in k and k in theirs and torch.equal(b, theirs[k]) and not run.before.moved(b)
    ]
    if ran and back:
        name = run.names.get(id(twin), type(twin).__name__)
        out.average.append(
            (f"`{name}` has the running statistics of `{path}` after the step, not its own", tuple(back[:4]))
        )


def _frozen(module: nn.Module, path: str, twin: nn.Module | None, run: Recorder, out: Branches) -> None:
    """A target encoder that does not move."""
    if twin is None:
        return
    name = run.names.get(id(twin), type(twin).__name__)
    theirs = dict(twin.named_parameters())
    after = {k: run.after[id(p)] for k, p in theirs.items() if id(p) in run.after}
    pushed = [k for k in after if not torch.equal(after[k](), theirs[k].detach().cpu())]
    own = dict(module.named_parameters())
    if pushed and all(_between(after[k](), theirs[k], own[k]) for k in pushed if k in own):
        out.average.append(
            (
                f"`{name}` is averaged with `{path}` after the optimizer's step, and `{path}` does not move",
                tuple(pushed[:4]),
            )
        )
    elif all(torch.equal(p.detach(), run.before.of(theirs[k])) for k, p in own.items()):
        out.average.append((f"`{path}` is a copy of `{name}` of before the step, and does not move with it", (path,)))
    else:
        out.doubts.append(
            (f'`{path}` has the parameters of `{name}`, and does not move; allow={{"C6": "frozen"}} if meant', (path,))
        )


def _drawn_back(run: Recorder, out: Branches) -> None:
    """A copy of a trained module that runs nowhere and towards which the trained one is moved after its optimizer."""
    left = {k: after for k, after in run.after.items() if k in run.parameters}
    pushed = {k for k, after in left.items() if not torch.equal(after(), run.parameters[k].detach().cpu())}
    names = sorted((n.count("."), n, key) for key, n in run.names.items()) if pushed else []
    for _, path, key in names:
        module = run.before.modules.get(key)
        own = {} if module is None else dict(module.named_parameters())
        if module is None or not own or any(id(p) in run.after or run.before.moved(p) for p in own.values()):
            continue
        twin = _twin(module, run)
        theirs = {} if twin is None else dict(twin.named_parameters())
        pairs = [(p, theirs[k]) for k, p in own.items() if id(theirs.get(k)) in pushed]
        if pairs and all(_between(run.after[id(t)](), t, p) for p, t in pairs):
            name = run.names.get(id(twin), type(twin).__name__)
            what = f"`{name}` is averaged with `{path}` after the optimizer's step, and `{path}` does not move"
            out.doubts.append((f'{what}: exchanged? allow={{"C6": "..."}} if meant', (path,)))
            return


def _between(one: Tensor, moved: Tensor, other: Tensor) -> bool:
    """Whether a tensor was moved on the way from ``one`` to ``other``."""
    whole, part = ((tensor.detach().cpu() - one).double() for tensor in (other, moved))
    size = float((whole * whole).sum())
    if size == 0:
        return True
    share = float((whole * part).sum()) / size
    return 0 < share <= 1 and bool(((part - share * whole).abs() <= 1e-5 + 1e-3 * whole.abs().max()).all())


def _same_object(run: Recorder, targets: dict[int, str], out: Branches) -> None:
    """A target encoder that is the trained module itself, and is written to after the optimizer's step in vain."""
    for key, path in targets.items():
        module = run.before.modules.get(key)
        own = [] if module is None else [p for p in module.parameters() if id(p) in run.after]
        if own and all(
            p._version > run.versions[id(p)] and torch.equal(p.detach().cpu(), run.after[id(p)]()) for p in own
        ):
            out.average.append(
                (f"`{path}` is target encoder and trained: what follows the optimizer's step changes nothing", (path,))
            )
