"""Is a loss on W ranks the loss on one, in value and in gradient (C7)? For losses with statistics across ranks."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.errors import InvalidArgument
from viewproof.verdict import Verdict

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
    subject = name or str(getattr(loss, "__name__", type(loss).__name__))
    claim = "the gradient on W ranks is the gradient on one"
    return Report(subject, attempt(subject, Contract.C7, claim, lambda: _compare(loss, embeddings, tuple(splits))))


def _compare(loss: Callable[[Tensor], Tensor], embeddings: Tensor, splits: tuple[int, ...]) -> Iterable[Finding]:
    scope = f"ranks with {splits} rows, these embeddings {tuple(embeddings.shape)} in float64"
    where = f"{getattr(loss, '__module__', None)}:{getattr(loss, '__qualname__', None)}"
    if where.startswith("__main__") or _find(where) is not loss:
        claim, reason = "the gradient on W ranks is the gradient on one", "define it at the top of an importable module"
        yield Finding(
            Contract.C7, claim, Verdict.UNKNOWN, "nothing", "not run", f"no process can find {where}; {reason}"
        )
        return
    whole = embeddings.detach().double().cpu()
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder, "embeddings.npy"), whole.numpy())
        _start(where, splits, folder)
        ranks = [_read(folder, f"rank{r}") for r in range(len(splits))]
        value, gradient = _read(folder, "alone")
    mean = torch.stack([v for v, _ in ranks]).mean()
    slopes = torch.cat([g for _, g in ranks]) / len(splits)
    # A loss that goes on in float32 is as exact as float32 is.
    tolerance = max(1e-9, 128 * torch.finfo(value.dtype).eps)
    for what, one, many in (("value", value, mean), ("gradient", gradient, slopes)):
        claim = f"the {what} on W ranks is the {what} on one"
        gap, size = float((one - many).abs().max()), float(one.abs().max())
        if gap <= tolerance * max(size, 1e-3):
            yield Finding(Contract.C7, claim, Verdict.PROVED, scope, "gloo processes")
            continue
        ratio = float((one * many).sum() / (one * one).sum()) if size else float("inf")
        said = f"the {what} on {len(splits)} ranks is {ratio:.6g} times that on one, off by up to {gap:.6g}"
        witness = Witness(said, {"embeddings": whole, "splits": splits}, {}, {"one": one, "ranks": many})
        yield Finding(Contract.C7, claim, Verdict.REFUTED, scope, "gloo processes", "", witness)


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
    given = [where, folder, *map(str, splits)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "viewproof.certify.ranks", str(rank), *given],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(len(splits))
    ]
    try:
        said = [rank.communicate(timeout=_SECONDS)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    # One rank says what is wrong, the others that they lost it.
    failed = [text.strip().splitlines()[-1] for rank, text in zip(ranks, said, strict=True) if rank.returncode]
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
