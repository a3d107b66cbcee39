"""From a step that can be run again to a report: the plain run, the planes, the proof of what is not, the witness."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.bits import unlike
from viewproof.torch_internals import DisableTorchFunction
from viewproof.watch.branches import Branches, branch_facts
from viewproof.watch.child import Answer
from viewproof.watch.facts import ModuleFacts, Source
from viewproof.watch.loss_terms import TermFacts, term_facts
from viewproof.watch.names import module_names
from viewproof.watch.planes import GradientRun, Plan, TrackedRun, ValueRun
from viewproof.watch.record import Record, Recorder, alive
from viewproof.watch.roles import Average, Before, module_facts
from viewproof.watch.sources import Content, Groups, asked_tokens, carries_content, copies, grouped, tensors_of
from viewproof.watch.token_rows import TokenFacts, token_facts

Runner = Callable[[Callable[[Callable[[], Any]], Any], Callable[[Any], Any]], Answer]
"""Runs the step once more from where it was: ``runner(make, finish)`` begins a run and answers what it found."""


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


@dataclass
class Planes:
    """What is known of the two planes of one step."""

    sources: list[Source] = field(default_factory=list)
    proved: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    witness: Any = None
    waived: str = ""
    empty_target: Any = None

    def reason(self) -> str:
        """Why a plane is not proved."""
        return "; ".join(f"{plane}: {reason}" for plane, reason in self.reasons.items())


@dataclass
class Examined:
    """All that was read off: what `conclusions` draws findings from.

    ``first`` names the class of the module whose arguments are the batch, in a program without a loader. ``copies``
    says which tensor of the batch holds what is scored of another, ``others`` names those that may hold any of it.
    """

    plain: Plain | None = None
    planes: Planes = field(default_factory=Planes)
    failure: str = ""
    first: str = ""
    copies: str = ""
    others: tuple[str, ...] = ()
    repeatable: bool = True
    unrepeatable: str = ""
    tokens: str = ""
    rows: TokenFacts | None = None
    kept: str = ""
    terms: TermFacts = field(default_factory=TermFacts)
    base: list[Tensor] = field(default_factory=list)
    witness: Any = None
    seconds: float = 0.0
    place: str = "in forked copies of the process"


def examine(runner: Runner, batch: Any, variables: dict[str, Any], kept: str = "") -> Examined:
    """Run the step as often as it takes, and return what was read off."""
    start, out = time.perf_counter(), Examined(kept=kept)
    tensors = dict(tensors_of(batch))
    contents = {path: t for path, t in tensors.items() if carries_content(path, t)}
    out.tokens = asked_tokens(tensors)

    answer = runner(lambda stop: PlainRun(variables, contents), lambda run: run.sent())
    if answer.value is None:
        out.failure = answer.failure
        return out
    plain: Plain = answer.value
    out.plain = plain
    if answer.failure:
        out.failure = answer.failure
    if not plain.record.losses:
        out.seconds = time.perf_counter() - start
        return out

    again = runner(
        lambda stop: ValueRun(replace(plain.plan, backwards=plain.record.backwards), stop, contents, {}),
        lambda run: (run.values, run.losses),
    )
    if again.value is None:
        out.repeatable, out.unrepeatable = False, again.failure
    else:
        out.base = again.value[0]
        bits = [t.double().reshape(-1).numpy().tobytes() for t in again.value[1]][-len(plain.record.losses) :]
        if bits != [loss.bits for loss in plain.record.losses]:
            out.repeatable = False
            out.unrepeatable = "a second run from the same state gives another loss"
    if out.repeatable:
        out.rows = token_facts(runner, plain.plan, out.base, tensors)
        if out.rows is not None:
            # Tokens are followed row by row; what else there is keeps its planes.
            contents = {p: t for p, t in contents.items() if t.is_floating_point() or t.dtype == torch.uint8}
    if contents and out.repeatable:
        out.planes = planes_of(runner, plain, contents)
        look_for_leak(runner, plain, contents, out)
        out.copies = copies(out.planes.sources, tensors)
        numbers = [p for p, t in tensors.items() if t.is_floating_point() and not bool(((t == 0) | (t == 1)).all())]
        out.others = (*(numbers if len(numbers) > 1 else ()), *dict.fromkeys(plain.record.outside))
    if out.repeatable or plain.record.terms.empty:
        swapped = {s.path: t for s in out.planes.sources if (t := exchanged(s, contents[s.path])) is not None}
        support = list(plain.record.support.values()) if swapped else []
        out.terms = term_facts(runner, plain.plan, plain.record.terms, support, swapped, contents, out.base)
    if out.rows is not None:
        out.planes.sources.insert(0, token_source(out.rows, tensors))
    out.seconds = time.perf_counter() - start
    return out


def exchanged(source: Source, values: Tensor) -> Tensor | None:
    """The source with two groups exchanged in each sample that are seen and not asked for, if it has them."""
    if not source.values.is_floating_point() or not bool(source.scored.any()):
        return None
    out, number = values.detach().clone(), source.group.to(values.device)
    for sample, free in enumerate(source.seen & ~source.scored):
        groups = free.nonzero().reshape(-1).tolist()
        if len(groups) < 2:
            return None
        first, last = number == groups[0], number == groups[-1]
        if int(first.sum()) != int(last.sum()):
            return None
        out[sample][first], out[sample][last] = values.detach()[sample][last], values.detach()[sample][first]
    return out


def token_source(rows: TokenFacts, tensors: dict[str, Tensor]) -> Source:
    """The tokens that the model reads, as a source: each position is a group."""
    path = rows.inputs or rows.path
    values = tensors[path].detach().cpu()
    scored = torch.zeros(values.shape, dtype=torch.bool)
    behind = rows.link
    for b, u in rows.scored.nonzero().tolist():
        if 0 <= u + behind < scored.shape[1]:
            scored[b, u + behind] = True
    # A token that the labels ask for, and that does not stand in the input, is not seen.
    other = rows.path != path and values.shape == rows.scored.shape and not behind
    seen = rows.seen & ~(scored & (values != tensors[rows.path].detach().cpu())) if other else rows.seen
    groups = torch.arange(values.shape[1])
    return Source(path, values, groups, (values.shape[1],), seen, scored, followed=not rows.reason)


class PlainRun(Recorder):
    """The plain run, with all modules of the process before and after."""

    def __init__(self, variables: dict[str, Any], sources: dict[str, Tensor]) -> None:
        modules = alive(nn.Module)
        before = Before(modules)
        names = module_names(variables)
        parameters = {id(p): p for m in modules for p in m.parameters(recurse=False)}
        super().__init__(names, sources, parameters, before)

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
        self.record, self.steps = Record(), 0
        with DisableTorchFunction():
            self.before.again()
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
        return Plain(record, modules, averages, plan, self.names, branch_facts(self, plan), self._erased())

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
        for call in record.calls:
            module = self.before.modules.get(call.module)
            above, inside = call.parent, False
            while above is not None:
                inside, above = inside or above in targets, by_index[above].parent
            if module is None or inside or not call.reads or not any(True for _ in module.parameters()):
                continue
            if not call.differentiable or not any(map(self.trains, module.parameters())):
                targets[call.index] = self.names.get(call.module, type(module).__name__)
        return Plan(functions, modules, record.hold, targets, record.backwards, self._restarts)


def _read(record: Record, reads: Iterable[str], names: dict[int, str]) -> set[str]:
    """The paths, and all that the modules among them read."""
    out = set(reads)
    for _ in range(16):
        more = {o for c in record.calls if names.get(c.module) in out for o in c.reads}
        if more <= out:
            break
        out |= more
    return out


def planes_of(runner: Runner, plain: Plain, contents: dict[str, Tensor]) -> Planes:
    """Seen and scored groups of every source: shown by gradients, the rest proved by tracked dependence."""
    out = Planes()
    shown: dict[bool, Any] = {}
    for held in (False, True):
        answer = runner(
            lambda stop, held=held: GradientRun(plain.plan, held, stop, contents),  # type: ignore[misc]
            lambda run: (run.found, {path: [m for _, m in parts] for path, parts in run.positions.items()}),
        )
        if answer.value is None:
            out.reasons["scored" if held else "seen"] = answer.failure
        shown[held] = answer.value or ({p: torch.zeros(t.shape, dtype=torch.bool) for p, t in contents.items()}, {})
    positions: dict[str, list[Tensor]] = shown[True][1]
    read = [m for parts in positions.values() for m in parts if m.dim() == 3 and bool(m.any())]
    lengths = {m.shape[1] - extra for m in read for extra in (0, 1) if m.shape[1] - extra > 1}
    found: list[Content] = []
    planes: dict[str, dict[bool, Tensor]] = {}
    for path, tensor in contents.items():
        patterns = [shown[held][0][path] for held in (False, True)]
        groups = grouped(tensor, plain.record.strides.get(path, ()), patterns, lengths)
        found.append(Content(path, tensor, groups))
        planes[path] = {held: groups.any_of(shown[held][0][path]) for held in (False, True)}
    mixed = False
    marks: dict[str, list[Tensor]] = {
        path: [
            ~m.flatten(2).any(2).reshape(*m.shape[:2], *[1] * (m.dim() - 2)).expand(m.shape) if m.dim() > 2 else ~m
            for m in parts
        ]
        for path, parts in positions.items()
    }
    for content in found:
        for path, parts in positions.items():
            for mask in parts:
                at = _groups_of_positions(mask, content.groups)
                if at is not None and bool(at.all()):
                    # Something mixes all positions, such as a centre of the batch: those of the predictions count.
                    mixed = True
                    supports = [_groups_of_positions(m, content.groups) for m in plain.record.support.values()]
                    for support in supports:
                        at = at & support if support is not None and len(support) == len(at) else at
                if at is not None:
                    out.positions[path] = at
                    planes[content.path][True] |= at
    for held in (False, True):
        name = "scored" if held else "seen"
        marked = {c.path: ~c.groups.spread(planes[c.path][held]) for c in found}
        if not any(bool(m.any()) for m in marked.values()) and not (held and marks):
            continue
        for finite in (False, True):
            answer = runner(
                lambda stop, held=held, finite=finite, marked=marked: TrackedRun(  # type: ignore[misc]
                    plain.plan, held, stop, contents, marked, marks if held else {}, finite
                ),
                lambda run: (run.depends or (run.missed() and "a prediction"), run.reason(), run.tracked.scores),
            )
            if answer.value is None:
                out.reasons[name] = answer.failure
                break
            depends, reason, scores = answer.value
            if not depends:
                out.proved[name] = "all values" if not finite else "all values that keep what is computed finite"
                out.proved[name] += " and attention scores within +-2000" if scores else ""
                out.reasons.pop(name, None)
                break
            out.reasons[name] = f"{depends} may depend on it: {reason}"
    if read and not out.positions:
        out.reasons.setdefault("scored", "the loss asks for positions of a target encoder that are those of no groups")
    if mixed:
        out.reasons.setdefault(
            "scored", "the target mixes all positions, as a centre does; scored are those where predictions are read"
        )
    out.empty_target = _empty_target(runner, plain, contents, found, planes, out)
    for content in found:
        out.sources.append(
            Source(
                content.path,
                content.values.detach().cpu(),
                content.groups.number,
                content.groups.grid,
                planes[content.path][False],
                planes[content.path][True],
                followed=not out.reasons,
            )
        )
    return out


def _empty_target(
    runner: Runner,
    plain: Plain,
    contents: dict[str, Tensor],
    found: list[Content],
    planes: dict[str, dict[bool, Tensor]],
    out: Planes,
) -> tuple[str, dict[str, Any]] | None:
    """What the loss asks for, if that holds no content of the source where it asks."""
    scored = any(bool(planes[c.path][True].any()) for c in found)
    follow = all(content.values.is_floating_point() for content in found)
    if follow and not scored and not out.positions and out.proved.get("scored", "").startswith("all values that keep"):
        # Without the finiteness nothing is proved: the loss reads the source, times zero.
        what = "the loss reads the batch beside the predictions and none of its content: its target is constant"
        return what, {"batch": [c.path for c in found]}
    cut = replace(plain.plan, targets={})
    for content in found:
        asked = planes[content.path][True]
        if not out.positions or not bool(asked.any()) or not content.values.is_floating_point():
            continue
        answer = runner(lambda stop: GradientRun(cut, True, stop, contents), lambda run: run.found)
        if answer.value is None or bool((content.groups.any_of(answer.value[content.path]) & asked).any()):
            continue
        marked = {c.path: torch.zeros(c.values.shape, dtype=torch.bool) for c in found}
        marked[content.path] = content.groups.spread(asked)
        answer = runner(
            lambda stop, marked=marked: TrackedRun(cut, True, stop, contents, marked, {}, True),  # type: ignore[misc]
            lambda run: run.depends or run.missed(),
        )
        if answer.value == "":
            what = f"the target of all {int(asked.sum())} scored groups of {content.path} is made without them"
            return what, {"batch": content.path}
    return None


def _groups_of_positions(mask: Tensor, groups: Groups) -> Tensor | None:
    """[samples, groups]: the positions of a target encoder's output, if it has one for each group."""
    if mask.dim() == 3:
        flat = mask.any(2)
        for extra in (0, 1, 2, 4, 5):
            if flat.shape[1] == groups.count + extra and groups.count > 1:
                return flat[:, extra:]
        flat = mask.any(1)
        return flat if flat.shape[1] == groups.count else None
    if mask.dim() > 3:
        flat = mask.any(1).flatten(1)
        return flat if flat.shape[1] == groups.count else None
    return None


def look_for_leak(runner: Runner, plain: Plain, contents: dict[str, Tensor], out: Examined) -> None:
    """Two batches that differ in one group that is both seen and scored, and the prediction that differs."""
    planes = out.planes
    for source in planes.sources:
        leak, seen, scored = source.leak, source.seen, source.scored
        if not bool(leak.any()):
            continue
        if bool(seen.all()) and bool(scored.all()):
            planes.waived = f"every group of {source.path} is seen and scored: an autoencoder, which hides nothing"
            continue
        tensor = contents[source.path]
        for sample, group in leak.nonzero()[:: max(1, int(leak.sum()) // 3)][:3].tolist():
            changed = tensor.detach().clone()
            where = (source.group == group).to(tensor.device)
            content = changed[sample][where]
            changed[sample][where] = (
                content + content.float().std().nan_to_num().clamp_min(0.5).to(content)
                if content.is_floating_point() and content.numel() > 1
                else content + 1
            )
            answer = runner(
                lambda stop, changed=changed, source=source: ValueRun(  # type: ignore[misc]
                    plain.plan, stop, contents, {source.path: changed}
                ),
                lambda run: (run.values, run.losses),
            )
            if answer.value is None:
                planes.reasons.setdefault("witness", answer.failure)
                continue
            for index, (one, other) in enumerate(zip(out.base, answer.value[0], strict=False)):
                if one.shape == other.shape and one.dtype == other.dtype and bool(unlike(one, other).any()):
                    at = unlike(one, other).nonzero()[0].tolist()
                    kind = "C4" if bool(scored[seen].all()) and not bool(seen.all()) else "C1"
                    what = (
                        f"group {group} of sample {sample} of {source.path} is asked for by the loss at "
                        f"{plain.record.losses[0].place}, and changing it changes prediction {index} at {at} from "
                        f"{float(one[tuple(at)]):.6g} to {float(other[tuple(at)]):.6g}; {int(leak.sum())} of "
                        f"{int(scored.sum())} scored groups are seen"
                    )
                    what += ": the loss asks for what is visible" if kind == "C4" else ""
                    maps = {
                        "seen": seen.float().mean(0).reshape(source.grid),
                        "scored": scored.float().mean(0).reshape(source.grid),
                    }
                    inputs = {"one": tensor.detach().cpu(), "other": changed.cpu()}
                    planes.witness = what, inputs, {"hidden": (sample, group), "output": tuple(at)}, maps
                    return
