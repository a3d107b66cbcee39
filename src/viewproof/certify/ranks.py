"""Is a loss on W ranks the loss on one, in value and in gradient (C7)? For losses with statistics across ranks."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.certify.check import Check, Claims, failure, subject_name
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument

_SECONDS = 120


def certify_ranks(
    loss: Callable[[Tensor], Tensor], embeddings: Tensor, splits: Sequence[int] = (3, 5), *, name: str | None = None
) -> Report:
    """Whether W ranks that hold the rows of ``splits`` agree with one rank that holds all of them.

    ``loss(rows)`` returns a scalar and may use ``torch.distributed`` (gloo, a process a rank, so it must be defined at
    the top of an importable module). As `DistributedDataParallel` does, values and gradients are averaged over the
    ranks: the gradient with respect to the embeddings must be one rank's, row for row. ``embeddings: [N, ...]`` with
    ``N = sum(splits)``; unequal splits tell means of means from means. Takes some seconds: processes are started.

    >>> certify_ranks(lambda rows: rows.sum(), torch.rand(8, 2)).verdict()
    <Verdict.UNKNOWN: 'UNKNOWN'>
    """
    if sum(splits) != len(embeddings) or len(splits) < 2 or min(splits) < 1:
        raise InvalidArgument(
            f"splits={tuple(splits)} must be at least two positive numbers that add up to the {len(embeddings)} rows"
        )
    subject = subject_name(loss, name)
    return Report(subject, claims.run(subject, RanksCase(loss, embeddings.detach().double().cpu(), tuple(splits))))


@dataclass(frozen=True, eq=False)
class RanksCase:
    """A loss, the rows of all ranks, and how many of them each rank has."""

    loss: Callable[[Tensor], Tensor]
    embeddings: Tensor
    splits: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The embeddings' shape."""
        return tuple(self.embeddings.shape)

    @property
    def path(self) -> str:
        """Where another process finds the loss: ``module:name``."""
        return f"{getattr(self.loss, '__module__', None)}:{getattr(self.loss, '__qualname__', None)}"

    @cached_property
    def results(self) -> dict[str, tuple[Tensor, Tensor]] | str:
        """Value and gradient on one rank, and averaged over several; the reason, if there are none."""
        if self.path.startswith("__main__") or _find(self.path) is not self.loss:
            return f"no process can find {self.path}; define it at the top of an importable module"
        try:
            with tempfile.TemporaryDirectory() as folder:
                np.save(Path(folder, "embeddings.npy"), self.embeddings.numpy())
                _start(self.path, self.splits, folder)
                value, gradient = _read(folder, "alone")
                values, gradients = zip(*(_read(folder, f"rank{r}") for r in range(len(self.splits))), strict=True)
        except Exception as error:
            return failure(self.path, error)
        averaged = torch.cat(gradients) / len(self.splits)
        return {"value": (value, torch.stack(values).mean()), "gradient": (gradient, averaged)}


claims = Claims[RanksCase](
    scope="ranks with {case.splits} rows, these embeddings {case.shape} in float64", method="gloo processes"
)


@claims(Contract.C7, "the value on W ranks is the value on one")
def same_value(case: RanksCase, check: Check) -> Finding:
    """The mean of the ranks' values is one rank's value."""
    return _agree(case, check, "value")


@claims(Contract.C7, "the gradient on W ranks is the gradient on one")
def same_gradient(case: RanksCase, check: Check) -> Finding:
    """The ranks' gradients, divided by their number as `DistributedDataParallel` does, are one rank's."""
    return _agree(case, check, "gradient")


def _agree(case: RanksCase, check: Check, what: str) -> Finding:
    if isinstance(case.results, str):
        return check.unknown(case.results)
    one, many = case.results[what]
    # A loss that goes on in float32 is as exact as float32 is.
    tolerance = max(1e-9, 128 * torch.finfo(case.results["value"][0].dtype).eps)
    gap, size = float((one - many).abs().max()), float(one.abs().max())
    if gap <= tolerance * max(size, 1e-3):
        return check.proved()
    ratio = float((one * many).sum() / (one * one).sum()) if size else float("inf")
    text = f"the {what} on {len(case.splits)} ranks is {ratio:.6g} times that on one, off by up to {gap:.6g}"
    inputs = {"embeddings": case.embeddings, "splits": case.splits}
    return check.refuted(text, inputs, maps={"one": one, "ranks": many})


def _read(folder: str, name: str) -> tuple[Tensor, Tensor]:
    value, gradient = (torch.from_numpy(np.load(Path(folder, f"{name}.{part}.npy"))) for part in ("value", "gradient"))
    return value, gradient


def _find(where: str) -> Any:
    """The object at ``module:name``, or None."""
    module, _, name = where.partition(":")
    try:
        return attrgetter(name)(import_module(module))
    except (ImportError, AttributeError):
        return None


def _start(where: str, splits: tuple[int, ...], folder: str) -> None:
    """A fresh interpreter a rank: forked ones would hold copied locks, spawned ones re-run the caller's script."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arguments = [where, folder, *map(str, splits)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "viewproof.certify.ranks", str(rank), *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(splits))
    ]
    try:
        errors = [rank.communicate(timeout=_SECONDS)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    # One rank prints what is wrong, the others that they lost the connection to it.
    failed = [
        (text.strip().splitlines() or ["no message"])[-1]
        for rank, text in zip(ranks, errors, strict=True)
        if rank.returncode
    ]
    if failed:
        raise RuntimeError("; ".join(failed))


def _rank(rank: int, loss: Callable[[Tensor], Tensor], splits: tuple[int, ...], folder: str) -> None:
    torch.set_num_threads(1)
    whole = torch.from_numpy(np.load(Path(folder, "embeddings.npy")))
    _run(rank, len(splits), loss, torch.split(whole, list(splits))[rank], folder, f"rank{rank}")
    if rank == 0:
        _run(0, 1, loss, whole, folder, "alone")


def _run(rank: int, world: int, loss: Callable[[Tensor], Tensor], rows: Tensor, folder: str, name: str) -> None:
    store = f"file://{folder}/store{world}"
    torch.distributed.init_process_group("gloo", store, timedelta(seconds=_SECONDS), world_size=world, rank=rank)
    try:
        leaf = rows.clone().requires_grad_()
        value = loss(leaf)
        gradient = torch.autograd.grad(value, leaf)[0]
        np.save(Path(folder, f"{name}.value.npy"), value.detach().numpy())
        np.save(Path(folder, f"{name}.gradient.npy"), gradient.numpy())
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _rank(int(sys.argv[1]), _find(sys.argv[2]), tuple(map(int, sys.argv[4:])), sys.argv[3])
