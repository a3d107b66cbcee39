"""Which groups of the sources are seen, and which are scored: by gradients, and proved by tracked dependence."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.watch.child import Answer, Runner
from viewproof.watch.facts import Source
from viewproof.watch.gradient_run import GradientRun
from viewproof.watch.plain_run import Plain
from viewproof.watch.planes import Plan, TrackedRun
from viewproof.watch.sources import Content, Groups, grouped

_IN_PLACE = "modified by an inplace operation"
"""What torch says where a value that a gradient needs has been written over, as in Sinkhorn's steps."""


_NO_GROUPS = (
    "the loss asks for positions of a target encoder that are those of no groups; a step that begins with its output "
    'is followed, by watch(step, output); allow={"C1": "..."} if meant'
)


@dataclass
class Planes:
    """What is known of the two planes of one step; ``read_out`` is where a loss was read that is taken to stay.

    ``constant`` says which groups the loss holds as constants, which its gradient does not depend on; ``mixed`` that
    it is not known which positions are asked for, of a target that mixes all of them.
    """

    sources: list[Source] = field(default_factory=list)
    proved: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    positions: dict[str, Tensor] = field(default_factory=dict)
    witness: Any = None
    waived: str = ""
    read_out: str = ""
    constant: str = ""
    mixed: bool = False
    empty_target: Any = None

    def reason(self) -> str:
        """Why a plane is not proved."""
        return "; ".join(f"{plane}: {reason}" for plane, reason in self.reasons.items())


def gradients(
    runner: Runner, plan: Plan, held: bool, contents: dict[str, Tensor], parameters: list[nn.Parameter]
) -> Answer:
    """What `GradientRun` finds: masks by source, masks by target encoder, losses and predictions."""

    def run(mutated: bool) -> Answer:
        return runner(
            lambda stop: GradientRun(plan, held, stop, contents, parameters, mutated),
            lambda run: (
                run.found,
                {path: [m for _, m in parts] for path, parts in run.positions.items()},
                run.losses,
                run.values,
                run.position_calls,
                run.position_sources,
            ),
        )

    answer = run(mutated=False)
    return run(mutated=True) if _IN_PLACE in answer.failure else answer


def planes_of(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], parameters: list[nn.Parameter], seen: Answer | None
) -> Planes:
    """Seen and scored groups of every source: shown by gradients, the rest proved by tracked dependence.

    ``seen`` is the answer of `gradients` with predictions free, if there is one already.
    """
    out = Planes()
    shown: dict[bool, Any] = {}
    plan, asked_for = _asked_for(runner, plain, contents, parameters)
    for held in (False, True):
        answer = asked_for if held else seen or gradients(runner, plan, held, contents, parameters)
        if answer.value is None:
            out.reasons["scored" if held else "seen"] = answer.failure
        shown[held] = answer.value or ({p: torch.zeros(t.shape, dtype=torch.bool) for p, t in contents.items()}, {})
    positions: dict[str, list[Tensor]] = shown[True][1]
    read_by = {
        path: [_sources_of(plain, index, contents) for index in calls]
        for path, calls in (shown[True][4] if len(shown[True]) > 4 else {}).items()
    }
    places = [m for parts in positions.values() for m in parts if m.dim() > 2 and bool(m.any())]
    # All places of a feature map are asked for behind a pooling too.
    read = [m for m in places if m.dim() == 3 or not bool(m.any(1).all())]
    lengths = {m.shape[1] - extra for m in read if m.dim() == 3 for extra in (0, 1) if m.shape[1] - extra > 1}
    lengths |= {m[0, 0].numel() for m in read if m.dim() > 3}
    found: list[Content] = []
    planes: dict[str, dict[bool, Tensor]] = {}
    for path, tensor in contents.items():
        patterns = [shown[held][0][path] for held in (False, True)]
        groups = grouped(tensor, plain.record.strides.get(path, ()), patterns, lengths)
        found.append(Content(path, tensor, groups))
        planes[path] = {held: groups.any_of(shown[held][0][path]) for held in (False, True)}
    mixed, placed = False, set[int]()
    marks = {path: [_unasked(m) for m in parts] for path, parts in positions.items()}
    behind = shown[True][5] if len(shown[True]) > 5 else {}
    for content in found:
        for path, parts in positions.items():
            for mask, sources, order in zip(parts, read_by[path], behind[path], strict=True):
                samples = len(content.values)
                if content.path not in sources or (len(mask) != samples and content.path not in order):
                    continue
                at = _groups_of_positions(mask, content.groups)
                if at is not None and bool(at.all()):
                    # Something mixes all positions, such as a centre of the batch: those of the predictions count.
                    mixed = True
                    supports = [_groups_of_positions(m, content.groups) for m in plain.record.support.values()]
                    for support in supports:
                        at = at & support if support is not None and len(support) == len(at) else at
                    out.mixed |= bool(at.all())
                placed |= {id(mask)} if at is not None else set()
                if at is not None and len(mask) != samples:
                    # Views that went through it one behind the other.
                    at = at.reshape(-1, samples, at.shape[1])[order.index(content.path)]
                if at is not None and bool(at.any()):
                    out.positions[path] = at
                    planes[content.path][True] |= at
    for held in (False, True):
        marked = {c.path: ~c.groups.spread(planes[c.path][held]) for c in found}
        if any(bool(m.any()) for m in marked.values()) or (held and marks):
            _follow(runner, plan, held, contents, marked, marks if held else {}, out)
    if any(id(m) not in placed for m in read):
        out.reasons.setdefault("scored", _NO_GROUPS)
    if mixed:
        out.reasons.setdefault(
            "scored",
            "the target mixes all positions, as a centre or a norm over positions does; scored are those where "
            'predictions are read, as far as they say; allow={"C1": "..."} if meant',
        )
    followed = not out.reasons
    if out.reasons.keys() == {"seen"}:
        # No leak needs less: that what is scored is not seen.
        asked = {c.path: c.groups.spread(planes[c.path][True] & ~planes[c.path][False]) for c in found}
        if any(bool(m.any()) for m in asked.values()):
            _follow(runner, plan, False, contents, asked, {}, out)
    out.empty_target = _empty_target(runner, plain, plan, contents, parameters, found, planes, out)
    for content in found:
        out.sources.append(
            Source(
                content.path,
                content.values.detach().cpu(),
                content.groups.number,
                content.groups.grid,
                planes[content.path][False],
                planes[content.path][True],
                followed=followed,
            )
        )
    return out


def _asked_for(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], parameters: list[nn.Parameter]
) -> tuple[Plan, Answer]:
    """What the losses ask for, and the plan whose target encoders have the positions for it.

    A head after a target encoder may take the tokens that are asked for out of their places, [tokens, features]: then
    the encoder before it has the positions, if the loss asks for some of them and not for all, as behind a pooling.
    """
    plan = plain.plan
    answer = gradients(runner, plan, True, contents, parameters)
    paths = set(plan.targets.values())
    heads = {c.index for c in plain.record.calls if len(c.shapes[-1:] and c.shapes[-1]) == 2 and paths & {*c.reads}}
    before = replace(plan, targets={i: path for i, path in plan.targets.items() if i not in heads})
    if answer.value is None or len(before.targets) == len(plan.targets):
        return plan, answer
    if any(m.dim() > 2 and bool(m.any()) for parts in answer.value[1].values() for m in parts):
        return plan, answer
    behind = gradients(runner, before, True, contents, parameters)
    for parts in behind.value[1].values() if behind.value is not None else ():
        for m in parts:
            at = m.any(2) if m.dim() == 3 else m.any(1).flatten(1) if m.dim() > 3 else m[:, :0]
            if bool((at.sum(1) > 1).any()) and not bool(at.all()):
                return before, behind
    return plan, answer


def _sources_of(plain: Plain, index: int, contents: dict[str, Tensor]) -> set[str]:
    """The sources that a call of a target encoder reads, through other modules too; all of them if none is known."""
    reads = {call.index: call.reads for call in plain.record.calls}
    out = set(reads.get(index, ()))
    for _ in range(8):
        out |= {o for c in plain.record.calls if c.index < index and plain.names.get(c.module) in out for o in c.reads}
    return out & contents.keys() or set(contents)


def _follow(
    runner: Runner,
    plan: Plan,
    held: bool,
    contents: dict[str, Tensor],
    marked: dict[str, Tensor],
    marks: dict[str, list[Tensor]],
    out: Planes,
) -> None:
    """Track what is marked, and set in ``out`` for which values it reaches nothing, or the reason why it may."""
    name = "scored" if held else "seen"
    # Why gradients found nothing, where they could not be computed.
    failed = "" if " may depend on it: " in out.reasons.get(name, "") else out.reasons.get(name, "")
    for finite in (False, True):
        answer = runner(
            lambda stop, finite=finite: TrackedRun(plan, held, stop, contents, marked, marks, finite, True),  # type: ignore[misc]
            lambda run: (
                run.depends or (run.missed() and "a prediction"),
                run.reason(),
                run.tracked.scores,
                run.needed(),
            ),
        )
        if answer.value is None:
            out.reasons[name] = answer.failure
            return
        depends, reason, scores, read = answer.value
        if not depends:
            out.proved[name] = "all values" if not finite else "all values that keep what is computed finite"
            out.proved[name] += " and attention scores within +-2000" if scores else ""
            out.read_out = read or out.read_out
            out.reasons.pop(name, None)
            return
        reason = (
            reason or (held and "no gradient says of which groups, as of labels that argmax makes of it") or "it does"
        )
        out.reasons[name] = "; ".join(filter(None, (failed, f"{depends} may depend on it: {reason}")))


def _empty_target(
    runner: Runner,
    plain: Plain,
    plan: Plan,
    contents: dict[str, Tensor],
    parameters: list[nn.Parameter],
    found: list[Content],
    planes: dict[str, dict[bool, Tensor]],
    out: Planes,
) -> tuple[str, dict[str, Any]] | None:
    """What the loss asks for, if that holds no content of the source where it asks."""
    scored = any(bool(planes[c.path][True].any()) for c in found)
    follow = all(content.values.is_floating_point() for content in found)
    if follow and not scored and not out.positions and out.proved.get("scored", "").startswith("all values that keep"):
        # Without the finiteness nothing is proved: the loss reads the source, times zero.
        if any(not bool(m.any()) for m in plain.record.support.values()):
            # A whole term has the weight 0, as in a warm-up.
            return None
        what = "the loss reads the batch beside the predictions and none of its content: its target is constant"
        return what, {"batch": [c.path for c in found]}
    cut = replace(plan, targets={})
    for content in found:
        asked = planes[content.path][True]
        if not out.positions or not bool(asked.any()) or not content.values.is_floating_point():
            continue
        answer = gradients(runner, cut, True, contents, parameters)
        if answer.value is None or bool((content.groups.any_of(answer.value[0][content.path]) & asked).any()):
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


def _unasked(mask: Tensor) -> Tensor:
    """Where an output of a target encoder is at a position, or of a feature, that no gradient shows to be asked for."""
    if mask.dim() < 3:
        return ~mask
    return ~(mask.any(1, keepdim=True) & mask.amax(tuple(range(2, mask.dim())), keepdim=True))


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
