"""Two batches that show a leak: a group of the source, and a prediction that reads it and is asked for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import unlike
from viewproof.certify.flow.dependence import Dependence
from viewproof.torch_internals import DisableTorchFunction, has_no_values
from viewproof.watch.asked_tokens import AskingRun
from viewproof.watch.child import Answer, Runner
from viewproof.watch.facts import Source
from viewproof.watch.plain_run import Plain
from viewproof.watch.planes import Plan, PlannedRun, ValueRun
from viewproof.watch.run import tensors_of_call
from viewproof.watch.seen_scored import Planes
from viewproof.watch.sources import with_tensors


def look_for_leak(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], planes: Planes, learnt: list[Tensor]
) -> None:
    """Set the witness of a leak, or why a group that is both seen and scored is none.

    An autoregressive model reads all that it is asked for, each element elsewhere: the element that is asked for a
    group must read it. What normalises a target is asked for too, beside the target: a group counts as asked for where
    the loss's gradient over the predictions follows it far more than all other groups of its sample together.
    """

    def values(new: dict[str, Tensor]) -> Answer:
        return runner(lambda stop: ValueRun(plain.plan, stop, contents, new), lambda run: run.values)

    shared = plain.plan.shared & planes.positions.keys()
    if shared and any(bool(s.leak.any()) for s in planes.sources):
        # Each of its positions may hold of others: to hide one of its output hides no group of the batch.
        planes.reasons["leak"] = (
            f"`{min(shared)}` is frozen and makes what the model reads as well as what the loss asks for, and may mix "
            "places in both; a step that begins with its output is followed, by watch(step, output); "
            'allow={"C1": "..."} if meant'
        )
        return
    planes.sources = [_asked(runner, plain, contents, planes, source, learnt) for source in planes.sources]
    leaking = [source for source in planes.sources if bool(source.leak.any()) and not planes.mixed]
    base: list[Tensor] = values({}).value or [] if leaking else []
    for source in leaking:
        leak = source.leak
        asking = Asking(runner, plain, contents, source, base)
        noisy = source.path in plain.record.noisy and bool(source.scored.all())
        everything = noisy or bool(leak.all())
        found: list[Any] = []
        by_pairs = not bool(planes.positions)
        both = leak.nonzero().tolist()
        chosen = [both[i] for i in sorted({0, len(both) // 2, len(both) - 1})]
        for sample, group in chosen:
            changed = _other(source, contents[source.path], sample, group)
            answer = values({source.path: changed})
            if answer.value is None:
                planes.reasons.setdefault("witness", answer.failure)
                continue
            asked = asking.elements(sample, group) if by_pairs else None
            at = differs(base, answer.value, asked) if asked is not None or not by_pairs else None
            if at is not None:
                found.append((sample, group, changed, at, answer.value))
                if not everything:
                    break
        if everything and len(found) == len(chosen):
            planes.waived = f"every group of {source.path} is seen and scored: an autoencoder, which hides nothing"
            if not bool(leak.all()):
                planes.waived = (
                    f"the loss asks for all of {source.path}, and the model takes others in the place of some: an "
                    "autoencoder that undoes noise, or a loss that forgot its mask"
                )
            continue
        if everything or not found:
            planes.reasons.setdefault(
                "leak",
                f"no prediction was found that reads what it is itself asked for in {source.path}, as in an "
                "autoregressive model, or beside a target that what is seen normalises; this proves nothing; "
                'allow={"C1": "..."} if meant',
            )
            continue
        sample, group, changed, (index, at), other = found[0]
        _set_witness(plain, source, contents, planes, sample, group, changed, index, at, base, other)
        return


def _asked(
    runner: Runner, plain: Plain, contents: dict[str, Tensor], planes: Planes, source: Source, leaves: list[Tensor]
) -> Source:
    """The source, without asking for groups that the loss's gradient over the predictions does not depend on.

    A loss over all places, of predictions that are constants at visible ones, holds the visible content as a constant.
    Elements of a prediction that no parameter reaches count as constants: their gradient goes nowhere.
    """
    leak = source.leak
    if not bool(leak.any()) or bool(leak.all()) or planes.positions or not bool((source.scored & ~leak).any()):
        return source
    learnt = runner(
        lambda stop: LearntRun(leaves, plain.plan, False, stop), lambda run: (run.values, run.learnt, run.missed())
    )
    if learnt.value is None or learnt.value[2]:
        return source
    base, where, _ = learnt.value
    marked = {path: torch.zeros(t.shape, dtype=torch.bool) for path, t in contents.items()}
    marked[source.path] = leak[:, source.group] & (source.group >= 0)
    for finite in (False, True):
        answer = runner(
            lambda stop, finite=finite: TrackedAskingRun(plain.plan, stop, base, contents, marked, finite),  # type: ignore[misc]
            lambda run: run.depends(where) or run.missed(),
        )
        if answer.value == "":
            kept = "" if not finite else ", for values that keep what is computed finite"
            planes.constant = (
                f"{int(leak.sum())} groups of {source.path} stand in the loss, and not in its gradient{kept}"
            )
            return replace(source, scored=source.scored & ~leak)
    return source


class LearntRun(PlannedRun):
    """The predictions, and which of their elements may depend on what is learnt: all leaves that take gradients."""

    def __init__(self, leaves: list[Tensor], *args: Any) -> None:
        super().__init__(*args)
        self.leaves, self.tracked = leaves, Dependence(finite=True, visible=False)
        self.values: list[Tensor] = []
        self.learnt: list[Tensor] = []

    def batch(self, batch: Any) -> Any:
        """As it is."""
        return batch

    def begin(self) -> None:
        """Tag what is learnt, then turn on."""
        for p in self.leaves:
            if p.requires_grad and p.layout == torch.strided and not has_no_values(p):
                self.tracked.tag(p.detach(), torch.ones(p.shape, dtype=torch.bool, device=p.device))
        self._contexts.enter_context(self.tracked)
        super().begin()

    def prediction(self, out: Any) -> Any:
        """Keep them."""
        with DisableTorchFunction():
            for tensor in tensors_of_call(out):
                self.values.append(tensor.detach().clone().cpu())
                self.learnt.append(self.tracked.of(tensor).cpu())
        return out

    def on_backward(self, losses: list[Tensor], run: Callable[[], Any]) -> Any:
        """After the last, stop."""
        if self.backwards >= self.plan.backwards:
            self.stop()
        return run()


class TrackedAskingRun(AskingRun):
    """Whether marked content may reach the gradient of the losses over the predictions: dependence is tracked."""

    def __init__(
        self,
        plan: Plan,
        stop: Callable[[], Any],
        base: list[Tensor],
        sources: dict[str, Tensor],
        marked: dict[str, Tensor],
        finite: bool,
    ) -> None:
        super().__init__(plan, stop, base, sources, {})
        self.marked, self.tracked = marked, Dependence(finite, visible=False)
        self._copies = {path: t.detach().clone() for path, t in sources.items()}

    def batch(self, batch: Any) -> Any:
        """The batch with copies whose marked coordinates are tagged."""
        for path, marked in self.marked.items():
            self.tracked.tag(self._copies[path], marked.to(self._copies[path].device))
        return with_tensors(batch, {id(self.sources[path]): copy for path, copy in self._copies.items()})

    def begin(self) -> None:
        """Turn on."""
        self._contexts.enter_context(self.tracked)
        super().begin()

    def depends(self, where: list[Tensor]) -> str:
        """What may depend among the elements given for each prediction, or ""."""
        found = not self.gradients or len(self.gradients) != len(where)
        pairs = zip(self.gradients, where, strict=False)
        found = found or any(bool((self.tracked.of(g) & m.to(g.device)).any()) for g, m in pairs)
        return self.tracked.escaped or ("the gradient" if found else "")


def _set_witness(
    plain: Plain,
    source: Source,
    contents: dict[str, Tensor],
    planes: Planes,
    sample: int,
    group: int,
    changed: Tensor,
    index: int,
    at: tuple[int, ...],
    base: list[Tensor],
    other: list[Tensor],
) -> None:
    seen, scored = source.seen, source.scored
    kind = "C4" if bool(scored[seen].all()) and not bool(seen.all()) else "C1"
    what = (
        f"group {group} of sample {sample} of {source.path} is asked for by the loss at "
        f"{plain.record.losses[0].place}, and changing it changes prediction {index} at {list(at)} from "
        f"{float(base[index][at]):.6g} to {float(other[index][at]):.6g}; {int(source.leak.sum())} of "
        f"{int(scored.sum())} scored groups are seen"
    )
    what += ": the loss asks for what is visible" if kind == "C4" else ""
    maps = {"seen": seen.float().mean(0).reshape(source.grid), "scored": scored.float().mean(0).reshape(source.grid)}
    inputs = {"one": contents[source.path].detach().cpu(), "other": changed.cpu()}
    planes.witness = what, inputs, {"hidden": (sample, group), "output": at}, maps


def _other(source: Source, tensor: Tensor, sample: int, group: int) -> Tensor:
    """The source with other content in one group of one sample."""
    changed = tensor.detach().clone()
    where = (source.group == group).to(tensor.device)
    content = changed[sample][where]
    changed[sample][where] = (
        content + content.float().std().nan_to_num().clamp_min(0.5).to(content)
        if content.is_floating_point() and content.numel() > 1
        else content + 1
    )
    return changed


def differs(base: list[Tensor], other: list[Tensor], asked: list[Tensor] | None) -> tuple[int, tuple[int, ...]] | None:
    """The first element of a prediction that differs, among those that are ``asked``."""
    for index, (one, two) in enumerate(zip(base, other, strict=False)):
        if one.shape != two.shape or one.dtype != two.dtype:
            continue
        apart = unlike(one, two)
        if asked is not None:
            apart = apart & asked[index] if index < len(asked) and asked[index].shape == apart.shape else apart & False
        if bool(apart.any()):
            return index, tuple(apart.nonzero()[0].tolist())
    return None


class Asking:
    """Which elements of the predictions are asked for a group: those whose gradient follows its content."""

    def __init__(
        self, runner: Runner, plain: Plain, contents: dict[str, Tensor], source: Source, base: list[Tensor]
    ) -> None:
        self.runner, self.plain, self.contents, self.source, self.base = runner, plain, contents, source, base
        self._unchanged: list[Tensor] | None = None

    def gradients(self, new: dict[str, Tensor]) -> list[Tensor] | None:
        """Of the loss over the predictions, which hold the same values whatever the batch holds."""
        plan, base, contents = self.plain.plan, self.base, self.contents
        answer = self.runner(
            lambda stop: AskingRun(plan, stop, base, contents, new), lambda run: [g.cpu() for g in run.gradients]
        )
        found: list[Tensor] | None = answer.value
        return found

    def elements(self, sample: int, group: int) -> list[Tensor] | None:
        """Bool, a tensor for each prediction; None if the group is asked for nowhere, or only beside others."""
        tensor = self.contents[self.source.path].detach()
        if not tensor.is_floating_point():
            return None
        if self._unchanged is None:
            self._unchanged = self.gradients({})
        # Wide and without a direction, so that signs flip and normalised content changes.
        generator = torch.Generator().manual_seed(group)
        scale = tensor.float().nan_to_num().std().nan_to_num().clamp_min(0.05)
        noise = (10 * scale.cpu() * torch.randn(tensor[sample].shape, generator=generator)).to(tensor)
        own = (self.source.group == group).to(tensor.device)
        moves: list[list[Tensor]] = []
        for where in (own, ~own):
            move: list[Tensor] = []
            # A loss that knows signs alone answers one of two opposite changes.
            for sign in (1, -1):
                new = tensor.clone()
                new[sample] += sign * noise * where
                gradients = self.gradients({self.source.path: new})
                if gradients is None or self._unchanged is None or len(gradients) != len(self._unchanged):
                    return None
                pairs = zip(gradients, self._unchanged, strict=True)
                apart = [(g - u).double().nan_to_num().abs() for g, u in pairs]
                move = [torch.maximum(m, d) for m, d in zip(move, apart, strict=True)] if move else apart
            moves.append(move)
        most = max((float(m.max()) for m in moves[0] if m.numel()), default=0.0)
        asked = [m > 0.3 * most for m in moves[0]] if most else []
        by_own, by_others = (sum(float(m[a].sum()) for m, a in zip(move, asked, strict=False)) for move in moves)
        return asked if most and by_own >= 3 * by_others else None
