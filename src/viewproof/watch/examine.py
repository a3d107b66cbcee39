"""From a step that can be run again to a report: the plain run, the planes, the proof of what is not, the witness."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from viewproof.bits import unlike
from viewproof.watch.alive import Alive, Constants
from viewproof.watch.asked_tokens import WHOLE
from viewproof.watch.beside import shown_beside
from viewproof.watch.branches import Broken
from viewproof.watch.child import Runner
from viewproof.watch.facts import Source
from viewproof.watch.gradients import Noted, SeededRun
from viewproof.watch.leak import look_for_leak
from viewproof.watch.on_cpu import OnCPU
from viewproof.watch.on_disk import Copied, in_memory
from viewproof.watch.one_rank import ranks, stand_in
from viewproof.watch.padding_negatives import Found, padding_negatives, read_padding
from viewproof.watch.plain_run import Plain, PlainRun
from viewproof.watch.planes import ValueRun
from viewproof.watch.positives import of_other_samples
from viewproof.watch.seen_scored import Planes, gradients, planes_of
from viewproof.watch.sources import asked_tokens, carries_content, tensors_of
from viewproof.watch.term_runs import TermFacts, term_facts
from viewproof.watch.token_rows import TokenFacts, token_facts
from viewproof.watch.zero_gradients import only_zeros


@dataclass
class Examined:
    """All that was read off: what `conclusions` draws findings from.

    ``first`` names the class of the module whose arguments are the batch, in a program without a loader. ``copies``
    says which tensor of the batch shows what is scored of another, ``others`` names those that may hold any of it.
    ``local`` says what ``local_negatives=True`` declares, and ``gathered`` shows that the loss reads other ranks.
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
    local: bool = False
    gathered: tuple[str, Any] | None = None
    ranks: int = field(default_factory=ranks)
    terms: TermFacts = field(default_factory=TermFacts)
    padding: Found | None = None
    positives: str = ""
    unread: str = ""
    zeros: list[Broken] = field(default_factory=list)
    seconds: float = 0.0
    copied: str = "in forked copies of the process"

    @property
    def place(self) -> str:
        """Where the step was run."""
        alone = f" of one of {self.ranks} ranks, with its own gradients and buffers" if self.ranks > 1 else ""
        return f"{self.copied}{alone}"

    @property
    def what(self) -> str:
        """What the findings are about."""
        return f"this step, this batch{', on the CPU in place of the GPU' if OnCPU.used else ''}"


def examine(
    runner: Runner,
    batch: Any,
    variables: dict[str, Any],
    alive: Alive,
    kept: str = "",
    local: bool = False,
    constants: Constants | None = None,
    noted: Noted | None = None,
    copied: Copied = in_memory,
) -> Examined:
    """Run the step as often as it takes, and return what was read off; ``constants`` hold nothing of the batch.

    ``noted`` are the gradients that optimizers have stepped with, where the loop around the step is known. ``copied``
    keeps parameters as they were.
    """
    start, out = time.perf_counter(), Examined(kept=kept, local=local)
    tensors = dict(tensors_of(batch))
    contents = {path: t for path, t in tensors.items() if carries_content(path, t)}
    out.tokens = asked_tokens(tensors)

    rest = {path: t for path, t in tensors.items() if path not in contents}

    def plain_run(stop: Callable[[], Any]) -> PlainRun:
        return PlainRun(alive, variables, contents, constants, noted, rest, copied)

    answer = runner(plain_run, lambda run: run.sent())
    out.failure = answer.failure
    if answer.value is None:
        return out
    plain: Plain = answer.value
    # Whole numbers without a name that only pick among the patches are drawn masks, and no content.
    contents = {path: t for path, t in contents.items() if path not in plain.record.indices}
    if plain.record.collectives:
        # Values of other ranks went into the loss: nothing is said of a step with stand-ins for them.
        at = " and ".join(plain.record.collectives[:3])
        out.failure = f"{at} asks the other ranks for what the loss may read, which a copy of one rank cannot"
        if local and plain.record.terms.compared:
            out.gathered = _gathered(runner, plain, contents)
        return out
    out.plain = plain
    if not plain.record.losses:
        out.seconds = time.perf_counter() - start
        return out
    plan, parameters, left = plain.plan, alive.parameters, plain.record.gradients
    if left.staying:
        # Whether a next step would add to them: in a loop that is known, the plain run was a second step already.
        seeded = None
        if noted is None:
            seeded = runner(lambda stop: SeededRun(parameters, left.staying), lambda run: run.kept)
        left.staying = (seeded.value if seeded is not None else None) or frozenset()

    def same(losses: list[Tensor]) -> bool:
        bits = [t.double().reshape(-1).numpy().tobytes() for t in losses]
        return bits[-len(plain.record.losses) :] == [loss.bits for loss in plain.record.losses]

    # A run for gradients computes the same losses if its operators are the same: then it is the repetition.
    seen = None
    if any(t.is_floating_point() for t in contents.values()):
        seen = gradients(runner, plan, False, contents, parameters)
    tokens = any(t.dtype in WHOLE and t.dim() == 2 for t in tensors.values())
    if seen is not None and seen.value is not None and same(seen.value[2]) and not tokens:
        base = seen.value[3]
    else:
        again = runner(lambda stop: ValueRun(plan, stop, contents, {}), lambda run: (run.values, run.losses))
        base, losses = again.value or ([], [])
        out.repeatable = again.value is not None and same(losses)
        out.unrepeatable = again.failure or "a second run from the same state gives another loss"
    if out.repeatable:
        out.unrepeatable = ""
        out.unread = read_padding(runner, plain, tensors)
        out.rows = token_facts(runner, plan, base, tensors, plain.record.tested)
        if out.rows is not None:
            # Tokens are followed row by row; what else there is keeps its planes.
            contents = {p: t for p, t in contents.items() if t.is_floating_point() or t.dtype == torch.uint8}
    if contents and out.repeatable:
        out.planes = planes_of(runner, plain, contents, parameters, seen)
        labels = any(t.dtype in WHOLE and t.dim() > 1 for p, t in tensors.items() if "label" in p or "target" in p)
        if not labels and "scored" in out.planes.proved and "scored" not in out.planes.reasons:
            out.tokens = ""  # With predictions held, the loss depends on none of them.
        learnt = [t for t in alive.tensors if isinstance(t, nn.Parameter) or (t.is_leaf and t.requires_grad)]
        look_for_leak(runner, plain, contents, out.planes, learnt)
        out.copies = shown_beside(runner, plain, contents, out.planes, tensors)
        numbers = [p for p, t in tensors.items() if t.is_floating_point() and not bool(((t == 0) | (t == 1)).all())]
        others = [*(numbers if len(numbers) > 1 else ()), *sorted(plain.record.indices), *plain.record.outside]
        out.others = tuple(dict.fromkeys(others))
    if out.repeatable or plain.record.terms.empty:
        swapped = {s.path: t for s in out.planes.sources if (t := exchanged(s, contents[s.path])) is not None}
        support = list(plain.record.support.values()) if swapped else []
        out.terms = term_facts(runner, plan, plain.record.terms, support, swapped, contents, base, parameters)
        out.padding = padding_negatives(runner, plan, plain.record.terms, tensors, parameters)
        out.positives = of_other_samples(runner, plan, plain.record.terms, contents, parameters)
    out.zeros = only_zeros(runner, plain, contents, parameters)
    if out.rows is not None:
        out.planes.sources.insert(0, token_source(out.rows, tensors))
    out.seconds = time.perf_counter() - start
    return out


class _OthersRun(ValueRun):
    """The losses with stand-ins for what the other ranks have."""

    def __init__(self, number: int, *args: Any) -> None:
        super().__init__(*args)
        stand_in(number)


def _gathered(runner: Runner, plain: Plain, contents: dict[str, Tensor]) -> tuple[str, Any] | None:
    """Whether a loss that compares samples gathers those of other ranks: two runs with other stand-ins show it.

    The predictions must be the same in both: of other ranks' statistics they depend on in another way.
    """
    runs: list[tuple[list[float], list[Tensor]]] = []
    if not all("gather" in collective for collective in plain.record.collectives):
        return None
    for number in (1, 2):

        def others(stop: Callable[[], Any], number: int = number) -> _OthersRun:
            return _OthersRun(number, plain.plan, stop, contents, {})

        answer = runner(others, lambda run: ([float(t.double().sum()) for t in run.losses], run.values))
        runs.append(answer.value or ([], []))
    (one, predicted), (other, again) = runs
    if (
        not predicted
        or len(predicted) != len(again)
        or any(bool(unlike(p, q).any()) for p, q in zip(predicted, again, strict=True))
    ):
        return None
    index = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if index is None:
        return None
    what = (
        f"the loss with the cross-entropy at {plain.record.terms.compared[0]} reads samples of other ranks, through "
        f"{plain.record.collectives[0]}: with other values there it goes from {one[index]:.6g} to {other[index]:.6g}"
    )
    return what, {"one": one, "other": other}


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
