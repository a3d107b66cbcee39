"""The plain run of a whole step, and what it sends home."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from viewproof.bits import unlike
from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.alive import Alive, Constants
from viewproof.watch.branches import Branches, branch_facts
from viewproof.watch.facts import ModuleFacts
from viewproof.watch.gradients import Noted
from viewproof.watch.names import module_names
from viewproof.watch.on_disk import Copied, in_memory
from viewproof.watch.planes import Plan
from viewproof.watch.record import Recorder
from viewproof.watch.roles import Average, Before, module_facts
from viewproof.watch.step_record import Record


@dataclass
class Plain:
    """What the plain run sends home."""

    record: Record
    modules: list[ModuleFacts]
    averages: dict[str, Average]
    plan: Plan
    names: dict[int, str]
    branches: Branches
    erased: dict[str, tuple[int, float]] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)


class PlainRun(Recorder):
    """The plain run, with all modules of the process before and after."""

    def __init__(
        self,
        alive: Alive,
        variables: dict[str, Any],
        sources: dict[str, Tensor],
        constants: Constants | None,
        noted: Noted | None = None,
        others: dict[str, Tensor] | None = None,
        copied: Copied = in_memory,
    ) -> None:
        parameters: dict[int, Tensor] = {id(p): p for m in alive.modules for p in m.parameters(recurse=False)}
        before = Before(alive.modules, copied)
        super().__init__(alive, module_names(variables), sources, parameters, before, others, copied)
        if constants is not None:
            # One number a sample may hold content: fewer numbers than samples, and than a sample has, do not.
            sample = min((n for t in sources.values() for n in (len(t), t[0].numel())), default=0)
            self._outside = {
                key: t for key, t in self._outside.items() if t.numel() >= sample or not constants.unchanged(t)
            }
        self.gradients.noted |= noted or {}
        self._restarts = 0
        self._contents = {path: t.detach().clone() for path, t in sources.items()}

    def batch(self, batch: Any) -> Any:
        """As it is."""
        return batch

    def done(self) -> bool:
        """Over once a loss has read the batch: a loader may hand it out a step before it is used."""
        read = {o for loss in self.record.losses for o in _read(self.record, loss.reads, self.names)}
        if not self.steps or not self.sources or read & self.sources.keys() or self._restarts == 2:
            return self.steps > 0
        self._restarts += 1
        with DisableTorchFunction():
            self.before.again()
            self.restart()
        return False

    def sent(self) -> Plain:
        """What is sent home."""
        self.end()
        record = self.finish()
        names: dict[int, str] = {}
        for key, path in self.names.items():
            for name, p in (
                self.before.modules[key].named_parameters(recurse=False) if key in self.before.modules else ()
            ):
                names.setdefault(id(p), f"{path}.{name}")
        for key, parameter in record.parameters.items():
            parameter.name = names.get(key, parameter.name)
            if key in self.parameters:
                parameter.moved = self.before.moved(self.parameters[key])
        modules, averages = module_facts(record, self.before, self.names)
        plan = self._plan(record)
        return Plain(record, modules, averages, plan, self.names, branch_facts(self, plan), self._erased(), names)

    def _erased(self) -> dict[str, tuple[int, float]]:
        out: dict[str, tuple[int, float]] = {}
        for path, tensor in self.sources.items():
            changed = unlike(tensor, self._contents[path])
            left = tensor.detach()[changed]
            if 0 < len(left) < tensor.numel() and bool((left == left[0]).all()) and len(left) > 1:
                out[path] = len(left), float(left[0])
        return out

    def _plan(self, record: Record) -> Plan:
        functions = frozenset(i for kind, i, _ in record.predictions if kind == "function")
        modules = frozenset(i for kind, i, _ in record.predictions if kind == "module")
        by_index = {c.index: c for c in record.calls}
        targets: dict[int, str] = {}
        # A frozen network that reads what is predicted too is a part of the distance, as a perceptual one.
        known = {call.module: self.before.modules.get(call.module) for call in record.calls if call.of_predictions}
        distances = {key for key, m in known.items() if m is not None and not any(map(self.trains, m.parameters()))}
        for call in record.calls:
            module = self.before.modules.get(call.module)
            above, inside = call.parent, False
            while above is not None:
                inside, above = inside or above in targets, by_index[above].parent
            if module is None or inside or not call.reads or not any(True for _ in module.parameters()):
                continue
            if call.module in distances:
                continue
            if not call.differentiable or not any(map(self.trains, module.parameters())):
                targets[call.index] = self.names.get(call.module, type(module).__name__)
        frozen = {targets[c.index] for c in record.calls if c.index in targets and not self._moved_or_trained(c.module)}
        read = {o for c in record.calls if self._moved_or_trained(c.module) and c.differentiable for o in c.reads}
        return Plan(
            functions,
            modules,
            record.hold,
            targets,
            record.backwards,
            self._restarts,
            record.losses_read,
            frozenset(frozen & read),
        )

    def _moved_or_trained(self, key: int) -> bool:
        module = self.before.modules.get(key)
        return module is not None and any(self.trains(p) or self.before.moved(p) for p in module.parameters())


def _read(record: Record, reads: Iterable[str], names: dict[int, str]) -> set[str]:
    """The paths, and all that the modules among them read."""
    out = set(reads)
    for _ in range(16):
        more = {o for c in record.calls if names.get(c.module) in out for o in c.reads}
        if more <= out:
            break
        out |= more
    return out
