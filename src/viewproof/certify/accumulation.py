"""Certifies that a step over several micro-batches trains as a step over the whole batch does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, is_dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from viewproof.certify.check import Check, Claims, failure, subject_name
from viewproof.certify.report import Contract, Finding, Report
from viewproof.certify.state import ReachedState
from viewproof.certify.surroundings import draws_numbers
from viewproof.errors import InvalidArgument

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-3}
"""What may be rounding, as a share of the largest difference that the step makes: float32 may hide inside float64."""


def certify_accumulation(
    step: Callable[[list[Any]], Any], batch: Any, *, parts: int = 3, name: str | None = None
) -> Report:
    """Whether one optimizer step over ``parts`` unequal micro-batches is the step over the whole batch (C4).

    ``step([batch])`` trains one step on the whole batch, ``step([part, part, ...])`` one step over micro-batches, in
    one process: it clears gradients, accumulates and steps. ``batch`` is a tensor, or tensors in tuples, mappings and
    dataclasses, each with the samples along its first axis; they are cut into parts of 2, 3, 4, ... samples, and into
    the same in reverse. Two claims: the optimizer is given the same gradients, once; the parameters move alike. Both
    run in float64, or in the model's own dtype if the step raises there, and hold up to a share of the largest
    gradient or move (see `TOLERANCES`) and to 16 times what the order of the samples changes.

    What the step reaches, modules, optimizers, counters and generators, is put back after each run. A step that draws
    random numbers is UNKNOWN unless it agrees all the same. Losses that compare samples with each other, batch norm in
    training and negatives from the batch are not sums over samples, and are REFUTED.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
    >>> def step(micro_batches):
    ...     optimizer.zero_grad()
    ...     for x in micro_batches:
    ...         (model(x).square().mean() / len(micro_batches)).backward()
    ...     optimizer.step()
    >>> report = certify_accumulation(step, torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    >>> [finding.verdict.value for finding in report.findings]
    ['REFUTED', 'REFUTED']

    Raises `InvalidArgument` for fewer than two parts, or fewer samples than unequal parts need.
    """
    samples = _samples(batch)
    if parts < 2 or parts > samples or (samples == parts and parts > 1):
        raise InvalidArgument(
            f"parts={parts} must be at least 2 and less than the batch's {samples} samples, for parts of unequal size"
        )
    subject = subject_name(step, name)
    case = AccumulationCase(step, batch, samples, parts)
    return Report(subject, claims.run(subject, case))


def _samples(batch: Any) -> int:
    sizes = {len(t) if t.dim() else 0 for t in _tensors(batch)}
    if len(sizes) != 1 or 0 in sizes:
        raise InvalidArgument(
            f"batch with first axes {sorted(sizes)} must have the samples along the first of each tensor"
        )
    return sizes.pop()


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for part in batch.values():
            yield from _tensors(part)
    elif isinstance(batch, list | tuple):
        for part in batch:
            yield from _tensors(part)
    elif is_dataclass(batch) and not isinstance(batch, type):
        yield from _tensors(vars(batch))


def _mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with every tensor changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: _mapped(part, change) for key, part in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_mapped(part, change) for part in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_mapped(part, change) for part in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{key: _mapped(part, change) for key, part in vars(batch).items()})
    return batch


@dataclass
class Ran:
    """What one step did: the gradients at each optimizer step, and the moves of the parameters."""

    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    moves: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class AccumulationCase:
    """A step and a batch; every run starts from the same state and leaves it."""

    step: Callable[[list[Any]], Any]
    batch: Any
    samples: int
    parts: int

    @property
    def sizes(self) -> list[int]:
        """The micro-batches' sizes: 2, 3, 4, ..., the rest in the last, or as unequal as the batch allows."""
        # A batch norm raises on one sample.
        sizes = [2 if self.samples > 2 * self.parts else 1] * self.parts
        rest = self.samples - sum(sizes)
        for i in range(1, self.parts):
            more = min(i, rest)
            sizes[i] += more
            rest -= more
        sizes[-1] += rest
        return sizes

    def cut(self, sizes: Sequence[int], dtype: torch.dtype) -> list[Any]:
        """The batch in parts of these sizes, floating-point tensors in the dtype."""
        ends = torch.tensor([0, *sizes]).cumsum(0).tolist()

        def part(start: int, end: int) -> Any:
            return _mapped(self.batch, lambda t: _as(t[start:end].clone(), dtype))

        return [part(start, end) for start, end in pairwise(ends)]

    def run(self, micro_batches: list[Any], dtype: torch.dtype) -> Ran:
        """One step, in the dtype, from the state as it is."""
        state, ran = ReachedState(self.step), Ran()
        trained = {path: t for path, t in state.tensors.items() if t.requires_grad and t.is_leaf}

        def note(optimizer: Any, args: Any, kwargs: Any) -> None:
            ran.gradients.append(
                {k: t.grad.detach().double().clone() for k, t in trained.items() if t.grad is not None}
            )

        handle = register_optimizer_step_pre_hook(note)
        try:
            with _in(state, dtype), torch.enable_grad():
                before = {path: t.detach().clone() for path, t in trained.items()}
                self.step(micro_batches)
                ran.moves = {path: (t.detach() - before[path]).double() for path, t in trained.items()}
        finally:
            handle.remove()
            state.restore()
        return ran

    @cached_property
    def runs(self) -> tuple[torch.dtype, Ran, Ran, list[tuple[list[int], Ran]]]:
        """The dtype, the whole batch, the whole in reverse order, and each cut."""
        backwards = torch.arange(self.samples).flip(0)
        for dtype in TOLERANCES:
            try:
                whole = self.run(self.cut([self.samples], dtype), dtype)
            except Exception:
                if dtype is torch.float32:
                    raise
                continue
            turned = [_mapped(part, lambda t: t[backwards.to(t.device)]) for part in self.cut([self.samples], dtype)]
            cuts = [(s, self.run(self.cut(s, dtype), dtype)) for s in (self.sizes, self.sizes[::-1])]
            return dtype, whole, self.run(turned, dtype), cuts
        raise AssertionError("float32 is the last dtype")

    @cached_property
    def draws(self) -> bool:
        """Whether the step draws random numbers."""
        state = ReachedState(self.step)
        try:
            drew = draws_numbers(lambda: self.step(self.cut([self.samples], torch.float32)))
            return drew or any(kind == "generator" and "global" not in path for path, kind in state.changes())
        finally:
            state.restore()

    @property
    def note(self) -> str:
        """What in the modules is known to look at the batch as a whole."""
        norms = [
            path
            for path, m in ReachedState(self.step).modules.items()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training
        ]
        return f"{norms[0]} is a batch norm in training: each micro-batch has statistics of its own" if norms else ""


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and dtype is torch.float64 else tensor


@contextmanager
def _in(state: ReachedState, dtype: torch.dtype) -> Iterator[None]:
    """The state's floating-point tensors in float64, if that is the dtype; `ReachedState.restore` puts them back."""
    if dtype is torch.float64:
        with torch.no_grad():
            for tensor in state.tensors.values():
                if tensor.is_floating_point() and not tensor.is_inference():
                    gradient, tensor.grad = (tensor.grad, None) if tensor.is_leaf else (None, None)
                    tensor.data = tensor.data.double()
                    if gradient is not None:
                        tensor.grad = gradient.double()
    yield


claims = Claims[AccumulationCase](method="run from one state")


def _compared(case: AccumulationCase, check: Check, word: str, pick: Callable[[Ran], dict[str, Tensor]]) -> Finding:
    """The difference between the whole batch and each cut, against rounding."""
    dtype, whole, turned, cuts = case.runs
    reference, order = pick(whole), pick(turned)
    scale = max((float(t.abs().max()) for t in reference.values() if t.numel()), default=0.0)
    if not scale > 0 or scale == float("inf"):
        return check.vacuous(f"no {word} is other than 0" if scale == 0 else f"the {word}s are not finite")
    noise = max(
        (float((t - order[k]).abs().max()) for k, t in reference.items() if t.numel() and k in order), default=0.0
    )
    bound = max(TOLERANCES[dtype] * scale, 16 * noise)
    name = str(dtype).removeprefix("torch.")
    scope = f"{case.parts} micro-batches of {case.sizes} samples and the reverse, {name}, to {bound / scale:.1g} of "
    scope += f"the largest {word}"
    if 16 * noise > 0.01 * scale:
        drew = "the step draws random numbers" if case.draws else f"the order of the samples changes the {word}"
        return check.unknown(f"{drew}: what is due to the parts cannot be told", scope=scope)
    for sizes, ran in cuts:
        parts = pick(ran)
        for key in [*reference, *(k for k in parts if k not in reference)]:
            a, b = (d.get(key, torch.zeros(())) for d in (reference, parts))
            error = (b - a).abs()
            at = int(error.argmax()) if error.numel() else 0
            if not error.numel() or float(error.max()) <= bound:
                continue
            if case.draws:
                return check.unknown("the step draws random numbers, and other ones for other parts", scope=scope)
            values = [float(t.expand(error.shape).reshape(-1)[at]) for t in (a, b)]
            what = (
                f"{key}: the {word} is {values[1]:.6g} over micro-batches of {sizes} samples, {values[0]:.6g} over all"
            )
            inputs = {"batch": case.batch, "sizes": sizes, "whole": reference, "parts": parts}
            return check.refuted(what, inputs, scope=scope, detail=case.note)
    return check.proved(scope=scope)


@claims(Contract.C4, "the optimizer is given the whole batch's gradient, once")
def same_gradient(case: AccumulationCase, check: Check) -> Finding | None:
    """At each optimizer's step the gradients of all parameters."""
    try:
        _, whole, _, cuts = case.runs
    except Exception as error:
        return check.unknown(failure("the step", error))
    if not whole.gradients:
        return None
    for sizes, ran in cuts:
        if len(ran.gradients) != len(whole.gradients):
            counts = f"{len(ran.gradients)} optimizer steps over micro-batches of {sizes} samples"
            return check.refuted(f"{counts}, {len(whole.gradients)} over all", {"batch": case.batch, "sizes": sizes})
    return _compared(case, check, "gradient", lambda ran: {f"{k}": g for d in ran.gradients for k, g in d.items()})


@claims(Contract.C4, "the parameters move as the whole batch moves them")
def same_moves(case: AccumulationCase, check: Check) -> Finding:
    """The parameters after the step less those before."""
    try:
        return _compared(case, check, "move", lambda ran: ran.moves)
    except Exception as error:
        return check.unknown(failure("the step", error))
