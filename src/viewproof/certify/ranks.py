"""Certifies that a loss on several ranks is the loss on one (C7).

A loss with statistics over the samples (VICReg's variance, a contrast with all negatives) must exchange them between
the ranks, forward and backward. A gather that carries no gradient, or a mean of means over unequal ranks, is invisible
on one rank.
"""

import hashlib
import pickle
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from viewproof.bits import GeneratorStates, seeded
from viewproof.certify.check import Check, Claims, failure, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.fresh_process import SECONDS, Surroundings, pickled, run_all
from viewproof.certify.report import Contract, Finding, Report, Severity
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

Loss = Callable[[Tensor], Tensor]


@puts_back
def certify_ranks(
    loss: Loss,
    embeddings: Tensor,
    splits: Sequence[int] | None = None,
    *,
    dtype: torch.dtype | None = None,
    local_negatives: bool = False,
    name: str | None = None,
) -> Report:
    """Whether W ranks that hold the rows of ``splits`` agree with one process that holds all of them.

    ``loss(rows)`` returns a scalar and may use ``torch.distributed`` (gloo, a process a rank). As
    `DistributedDataParallel` does, values and gradients are averaged over the ranks: the gradient with respect to the
    embeddings ``[N, ...]`` must be that of one process without a process group, row for row. By default there are two
    equal ranks, and unequal ones are a finding about robustness, because samplers make equal ones; with ``splits`` that
    add up to ``N`` there are only those. With ``local_negatives`` each rank must have the loss of its own rows alone;
    without it a loss that does so is REFUTED, and the finding says that this declares it.

    Random numbers start from one seed on every rank. ``dtype`` is that of the embeddings: float64, or float32 if the
    loss raises in float64. The loss is sent by cloudpickle if that is installed, else it must stand at the top of an
    importable module. Takes some seconds: processes are started.

    >>> certify_ranks(torch.sum, torch.rand(8, 2), splits=(3, 4))
    Traceback (most recent call last):
    viewproof.errors.InvalidArgument: splits=(3, 4) must be at least two positive numbers that add up to the 8 rows
    """
    rows = len(embeddings)
    if splits is None and (rows % 2 or rows < 4):
        raise InvalidArgument(f"embeddings with {rows} rows must be an even number, at least 4; or pass splits")
    chosen = (rows // 2, rows // 2) if splits is None else tuple(splits)
    if sum(chosen) != rows or len(chosen) < 2 or min(chosen) < 1:
        raise InvalidArgument(f"splits={chosen} must be at least two positive numbers that add up to the {rows} rows")
    if dtype is not None and not dtype.is_floating_point:
        raise InvalidArgument(f"dtype={dtype} must be a floating dtype; pass torch.float64 or torch.float32")
    unequal = (rows // 2 - 1, rows // 2 + 1) if splits is None and not local_negatives else None
    case = RanksCase(pickled(loss), embeddings.detach().cpu(), chosen, unequal, dtype, local_negatives)
    subject = subject_name(loss, name)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True)
class RankOutcome:
    """A value and its gradient, and a digest of moved random state; or an error's message."""

    value: Tensor = field(default_factory=lambda: torch.zeros(()))
    gradient: Tensor = field(default_factory=lambda: torch.zeros(()))
    state: str = ""
    error: str = ""


@dataclass(frozen=True, eq=False)
class RanksCase:
    """A loss, the rows of all ranks, and how many of them each rank has."""

    loss: bytes
    embeddings: Tensor
    splits: tuple[int, ...]
    unequal: tuple[int, int] | None
    declared_dtype: torch.dtype | None
    local_negatives: bool

    @property
    def one(self) -> str:
        """What the ranks are compared with."""
        return "each rank alone" if self.local_negatives else "one"

    @property
    def scope(self) -> str:
        """What was run."""
        fallback = "" if self.declared_dtype or self.dtype is torch.float64 else " (the loss raises in float64)"
        dtype = str(self.dtype).removeprefix("torch.") + fallback
        return f"ranks with {self.splits} rows, these embeddings {tuple(self.embeddings.shape)} in {dtype}"

    @property
    def dtype(self) -> torch.dtype:
        """The declared dtype, or the one in which the loss runs."""
        return self.declared_dtype or self.alone["dtype"]

    @cached_property
    def alone(self) -> dict[str, Any]:
        """The loss in one process: without a group, in a group of one, and by difference quotients."""
        parts = self.splits if self.local_negatives else (len(self.embeddings),)
        with tempfile.TemporaryDirectory() as folder:
            store = f"file://{folder}/store"
            call = partial(_alone, self.loss, self.embeddings, parts, self.splits, self.declared_dtype, store)
            try:
                return dict(run_all([pickled(call)], [Surroundings(_ONE_RANK)], folder)[0])
            except RuntimeError as error:
                failed = RankOutcome(error=str(error))
                return {"none": failed, "group": failed, "apart": failed, "dtype": torch.float64, "slopes": None}

    @property
    def reference(self) -> RankOutcome:
        """One process without a group; in a group of one, if the loss cannot do without."""
        outcome: RankOutcome = self.alone["none"]
        return self.alone["group"] if outcome.error else outcome

    def on_ranks(self, splits: tuple[int, ...]) -> list[RankOutcome]:
        """The loss on each of the ranks."""
        with tempfile.TemporaryDirectory() as folder:
            store, rows = f"file://{folder}/store", torch.split(self.embeddings.to(self.dtype), list(splits))
            calls = [pickled(partial(_in_group, self.loss, r, n, len(splits), store)) for n, r in enumerate(rows)]
            torchrun = [
                Surroundings({"RANK": str(n), "LOCAL_RANK": str(n), "WORLD_SIZE": str(len(splits))})
                for n in range(len(splits))
            ]
            return run_all(calls, torchrun, folder)

    @cached_property
    def together(self) -> list[RankOutcome] | str:
        """The loss on the ranks of ``splits``; the reason, if it fails."""
        try:
            return self.on_ranks(self.splits)
        except RuntimeError as error:
            if len(set(self.splits)) > 1 and len(self.embeddings) % len(self.splits) == 0:
                equal = (len(self.embeddings) // len(self.splits),) * len(self.splits)
                try:
                    self.on_ranks(equal)
                except RuntimeError:
                    return str(error)
                return f"the loss needs equal splits: it runs with {equal}, and fails with {self.splits}"
            return str(error)


claims = Claims[RanksCase](scope="{case.scope}", method="gloo processes")


@claims(Contract.C7, "the value on W ranks is the value on {case.one}")
def same_value(case: RanksCase, check: Check) -> Finding:
    """The mean of the ranks' values is one process's value."""
    return _agree(case, check, case.together, "value", case.splits)


@claims(Contract.C7, "the gradient on W ranks is the gradient on {case.one}")
def same_gradient(case: RanksCase, check: Check) -> Finding:
    """The ranks' mean gradient, as `DistributedDataParallel` takes it, is one process's."""
    finding = _agree(case, check, case.together, "gradient", case.splits)
    none, slopes = case.alone["none"], case.alone["slopes"]
    if finding.verdict is Verdict.PROVED and none.error:
        # In a group of one a gather without gradient is as wrong as in a group of two: what is right must be had
        # from the values.
        if slopes is None:
            return check.undecided(f"without a process group the loss fails ({none.error}), and no slope was measured")
        by_values, by_gradient = slopes
        coarse = case.reference.value.dtype is not torch.float64 or case.dtype is not torch.float64
        allowed = (2e-2 if coarse else 1e-5) * max(float(by_values.abs().max()), 1e-3)
        if not bool(((by_values - by_gradient).abs() <= allowed).all()):
            return check.undecided(
                f"without a process group the loss fails ({none.error}), and in a group of one its gradient is not the "
                f"derivative of its value: {float(by_gradient[0]):.6g} against {float(by_values[0]):.6g} along one "
                "direction; ask torch.distributed.is_initialized() before a gather, so that the two can be compared"
            )
        return check.proved("the loss needs a process group; in a group of one its gradient is its value's derivative")
    return finding


@claims(Contract.C7, "a process group of one changes neither value nor gradient", scope="one process; {case.scope}")
def same_in_group_of_one(case: RanksCase, check: Check) -> Finding:
    """With and without a process group one process has the same."""
    none, group = case.alone["none"], case.alone["group"]
    if none.error:
        return check.vacuous(f"the loss needs a process group: {none.error}")
    if group.error:
        return check.unknown(group.error)
    wrong = _difference(none.value, group.value, case) or _difference(none.gradient, group.gradient, case)
    if wrong is None:
        return check.proved()
    what = f"in a process group of one value or gradient is {wrong} those without a group"
    return check.refuted(what, {"embeddings": case.embeddings}, maps={"one": none.gradient, "group": group.gradient})


@claims(
    Contract.C7,
    "unequal ranks have the value and gradient of one",
    scope="ranks with {case.unequal} rows; {case.scope}",
    severity=Severity.ROBUSTNESS,
)
def same_on_unequal_ranks(case: RanksCase, check: Check) -> Finding | None:
    """Means of means are other means there; samplers with ``drop_last`` make no such batches."""
    if case.unequal is None or isinstance(case.together, str):
        return None
    try:
        outcomes: list[RankOutcome] | str = case.on_ranks(case.unequal)
    except RuntimeError:
        outcomes = f"the loss needs equal splits: it fails with {case.unequal}"
    value = _agree(case, check, outcomes, "value", case.unequal)
    return _agree(case, check, outcomes, "gradient", case.unequal) if value.verdict is Verdict.PROVED else value


def _agree(
    case: RanksCase, check: Check, outcomes: list[RankOutcome] | str, what: str, splits: tuple[int, ...]
) -> Finding:
    if case.reference.error:
        return check.unknown(case.reference.error)
    if isinstance(outcomes, str):
        return check.unknown(outcomes)
    one = case.reference.value if what == "value" else case.reference.gradient
    if not bool(one.isfinite().all()):
        return check.unknown(f"the {what} in one process is not finite", method=check.method)
    values = torch.stack([o.value for o in outcomes]).mean()
    many = values if what == "value" else torch.cat([o.gradient for o in outcomes]) / len(splits)
    wrong = _difference(one, many, case)
    if wrong is None:
        return check.proved()
    text = f"the {what} on {len(splits)} ranks is {wrong} that on {case.one}"
    if case.reference.state and any(o.state != case.reference.state for o in outcomes):
        reason = f"{text}; the loss draws random numbers for each row, others on ranks than in one process"
        return check.unknown(reason, method=check.method)
    apart, detail = case.alone["apart"], ""
    if not apart.error and not case.local_negatives and splits == case.splits:
        alone = apart.value if what == "value" else apart.gradient
        if _difference(alone, many, case) is None:
            detail = "each rank has the loss of its own rows alone; declare local_negatives=True if that is meant"
    inputs = {"embeddings": case.embeddings, "splits": splits}
    return check.refuted(text, inputs, maps={"one": one, "ranks": many}, detail=detail)


def _difference(one: Tensor, other: Tensor, case: RanksCase) -> str | None:
    """How two values or gradients differ, beyond what rounding explains."""
    # A loss that goes on in float32 is as exact as float32 is.
    dtype = case.reference.value.dtype
    coarse = min((dtype, case.dtype), key=lambda d: -torch.finfo(d).eps)
    tolerance = max(1e-9, 128 * torch.finfo(coarse).eps)
    one, other = one.double(), other.double()
    gap, size = float((one - other).abs().max()), float(one.abs().max())
    if gap <= tolerance * max(size, 1e-3):
        return None
    ratio = float((one * other).sum() / (one * one).sum()) if size else float("inf")
    return f"{ratio:.6g} times (off by up to {gap:.6g})"


_ONE_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}


def _measure(loss: Loss, rows: Tensor) -> RankOutcome:
    """Value and gradient, the random numbers from one seed."""
    with seeded(0):
        before, leaf = GeneratorStates.now(), rows.clone().requires_grad_()
        value = loss(leaf)
        after = GeneratorStates.now()
        gradient = torch.autograd.grad(value, leaf, allow_unused=True)[0]
    drew = (before.torch, before.numpy) != (after.torch, after.numpy)
    state = hashlib.sha256(after.torch + after.numpy).hexdigest() if drew else ""
    return RankOutcome(value.detach(), torch.zeros_like(leaf) if gradient is None else gradient, state)


def _in_group(function: bytes, rows: Tensor, rank: int, world: int, store: str) -> RankOutcome:
    loss = pickle.loads(function)
    with _group(rank, world, store):
        outcome = _measure(loss, rows)
        torch.distributed.barrier()
    return outcome


@contextmanager
def _group(rank: int, world: int, store: str) -> Iterator[None]:
    seconds = timedelta(seconds=SECONDS)
    torch.distributed.init_process_group("gloo", store, seconds, world_size=world, rank=rank)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _alone(
    function: bytes,
    embeddings: Tensor,
    parts: Sequence[int],
    splits: Sequence[int],
    declared: torch.dtype | None,
    store: str,
) -> dict[str, Any]:
    """The mean over the parts without a process group and in one of one rank; "apart", that over the splits."""
    loss, results = pickle.loads(function), dict[str, Any]()
    for dtype in (declared,) if declared else (torch.float64, torch.float32):
        rows = embeddings.to(dtype)
        none, apart = _mean_of(loss, rows, parts), _mean_of(loss, rows, splits)
        with _group(0, 1, f"{store}-{dtype}"):
            group = _mean_of(loss, rows, parts)
            needs_group = none.error and not group.error
            slopes = _slopes(loss, rows, group) if needs_group and len(parts) == 1 else None
        if not results or not group.error:
            results = {"none": none, "group": group, "apart": apart, "dtype": dtype, "slopes": slopes}
        if not (none.error and group.error):
            break
    return results


def _mean_of(loss: Loss, rows: Tensor, parts: Sequence[int]) -> RankOutcome:
    try:
        outcomes = [_measure(loss, part) for part in torch.split(rows, list(parts))]
    except Exception as error:
        return RankOutcome(error=failure("the loss", error))
    value = torch.stack([o.value for o in outcomes]).mean()
    return RankOutcome(value, torch.cat([o.gradient for o in outcomes]) / len(parts), outcomes[0].state)


def _slopes(loss: Loss, rows: Tensor, outcome: RankOutcome) -> tuple[Tensor, Tensor]:
    """Slopes along three directions: by difference quotients of the value, and by the gradient."""
    eps = max(torch.finfo(d).eps for d in (outcome.value.dtype, rows.dtype))
    directions = torch.randn(3, *rows.shape, generator=torch.Generator().manual_seed(0)).to(rows.dtype)
    step, quotients = eps ** (1 / 3), []
    for direction in directions:
        with seeded(0):
            above = loss(rows + step * direction).double()
        with seeded(0):
            below = loss(rows - step * direction).double()
        quotients.append((above - below).detach() / (2 * step))
    return torch.stack(quotients), (directions * outcome.gradient).flatten(1).sum(1).double()
