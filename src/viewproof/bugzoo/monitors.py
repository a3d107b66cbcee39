"""Collapse that is not seen, or not guarded against (C7)."""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

from viewproof.bugzoo.specimen import Specimen
from viewproof.certify.monitor import certify_monitor
from viewproof.certify.objective import certify_objective
from viewproof.certify.ranks import certify_ranks
from viewproof.certify.report import Contract, Report, Witness
from viewproof.objectives import variance_term

Rows = list[list[Fraction]]
C7 = Contract.C7


def spread_over_views(z: Tensor) -> Tensor:
    """The deviation is taken over the views, not over the batch: high where views differ, whatever they show."""
    return z.std(0).mean()


def spread_over_batch(z: Tensor) -> Tensor:
    """The deviation over the batch, averaged over views and features."""
    return z.std(1).mean()


def floored_rank(z: Tensor) -> Tensor:
    """A constant is added to every share of the spectrum: nothing has rank 1 any more."""
    values = torch.linalg.svdvals(z)
    shares = values / values.sum().clamp(min=1e-12) + 0.05
    shares = shares / shares.sum()
    entropy: Tensor = -(shares * shares.log()).sum()
    return entropy.exp()


def effective_rank(z: Tensor) -> Tensor:
    """The exponential of the entropy of the spectrum's shares (Roy and Vetterli 2007)."""
    values = torch.linalg.svdvals(z)
    shares = values / values.sum().clamp(min=1e-12)
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum()
    return entropy.exp()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    covariance: Tensor = centred.T @ centred / (len(z) - 1)
    return covariance


def _guard(z: Tensor, covariance: Tensor, deviation: Tensor) -> Tensor:
    hinge: Tensor = torch.relu(1 - deviation).sum()
    return hinge + covariance.square().sum() / z.shape[1]


def guard(z: Tensor) -> Tensor:
    """A hinge on each feature's deviation, and the squared covariances of different features."""
    covariance = _covariance(z)
    off = covariance - covariance.diagonal().diag()
    return _guard(z, off, (covariance.diagonal() + 1e-4).sqrt())


def guard_with_diagonal(z: Tensor) -> Tensor:
    """The covariance term counts the variances too, and pulls down what the variance term pulls up."""
    covariance = _covariance(z)
    return _guard(z, covariance, (covariance.diagonal() + 1e-4).sqrt())


def guard_without_root(z: Tensor) -> Tensor:
    """The hinge is on the variance: its gradient vanishes where the features collapse."""
    covariance = _covariance(z)
    off = covariance - covariance.diagonal().diag()
    return _guard(z, off, covariance.diagonal() + 1e-4)


def exact_guard(rows: Rows) -> float:
    """The same from its definition, in exact numbers but for the root."""
    n, size = len(rows), len(rows[0])
    means = [sum(row[j] for row in rows) / n for j in range(size)]

    def covariance(i: int, j: int) -> Any:
        return sum((row[i] - means[i]) * (row[j] - means[j]) for row in rows) / (n - 1)

    deviations = [math.sqrt(covariance(j, j) + Fraction(1e-4)) for j in range(size)]
    off = sum(covariance(i, j) ** 2 for i in range(size) for j in range(size) if i != j)
    return float(variance_term(1, deviations)) + float(off / size)


def _redundancy(second_moment: Tensor) -> Tensor:
    return (second_moment - second_moment.diagonal().diag()).square().sum()


def reduced_raw(z: Tensor) -> Tensor:
    """A plain all-reduce, through which no gradient goes to the other ranks: right loss, gradient over the ranks."""
    total, count = z.T @ z, torch.tensor(float(len(z)))
    dist.all_reduce(total)
    dist.all_reduce(count)
    return _redundancy(total / count)


def reduced_with_gradient(z: Tensor) -> Tensor:
    """An all-reduce that is differentiated."""
    count = torch.tensor(float(len(z)))
    dist.all_reduce(count)
    total: Tensor = differentiable.all_reduce(z.T @ z)  # type: ignore[no-untyped-call]
    return _redundancy(total / count)


def plants_break(monitor: Callable[[Tensor], Tensor], witness: Witness) -> bool:
    """Whether the collapse of the witness scores no worse than its health."""
    return float(monitor(witness.inputs["healthy"])) <= float(monitor(witness.inputs["collapsed"]))


def rank_breaks(monitor: Callable[[Tensor], Tensor], witness: Witness) -> bool:
    """Whether the rank is off by more than two in a hundred."""
    rank: int = witness.inputs["rank"]
    return abs(float(monitor(witness.inputs["embeddings"])) - rank) > 0.02 * rank


def value_breaks(loss: Callable[[Tensor], Tensor], witness: Witness) -> bool:
    """Whether the loss of the witness is not its definition, written out in floats."""
    z = witness.inputs["tensors"][0]
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    off = covariance[~torch.eye(z.shape[1], dtype=torch.bool)]
    wanted = (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).sum() + off.square().sum() / z.shape[1]
    return abs(float(loss(z)) - float(wanted)) > 1e-6 * max(1.0, float(wanted))


def ranks_break(loss: Callable[[Tensor], Tensor], witness: Witness) -> bool:
    """On one rank's embeddings the gradient is known; what the ranks averaged must be that."""
    z = witness.inputs["embeddings"].clone().requires_grad_()
    whole = torch.autograd.grad(_redundancy(z.T @ z / len(z)), z)[0]
    ranks = certify_ranks(loss, witness.inputs["embeddings"], witness.inputs["splits"])
    seen = [f.witness.maps["ranks"] for f in ranks.refuted if f.witness is not None]
    return any(not torch.allclose(s, whole) for s in seen)


def _specimens() -> Iterator[Specimen]:
    gh = "https://github.com"
    embeddings = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def exactly(loss: Callable[[Tensor], Tensor]) -> Report:
        return certify_objective(loss, exact_guard, embeddings)

    yield Specimen(
        "spread over views", C7, f"{gh}/vturrisi/solo-learn/commit/786b943", "confirmed",
        (spread_over_views.__doc__ or "").strip(), "planted collapse and planted health", "the logging around it",
        lambda monitor: certify_monitor(monitor, views=2, dimensional=False), spread_over_batch, spread_over_views,
        plants_break,
    )  # fmt: skip
    yield Specimen(
        "a rank with a floor", C7, f"{gh}/Project-MONAI/MONAI/issues/8996", "reported",
        (floored_rank.__doc__ or "").strip(), "the rank of one point, which is 1", "how the score was normalised there",
        lambda monitor: certify_monitor(monitor, rank=True), effective_rank, floored_rank, rank_breaks,
    )  # fmt: skip
    yield Specimen(
        "gradient over the ranks", C7, f"{gh}/lightly-ai/lightly/issues/1977", "confirmed",
        (reduced_raw.__doc__ or "").strip(), "two unequal ranks against one", "the loss that it happened in",
        lambda loss: certify_ranks(loss, embeddings), reduced_with_gradient, reduced_raw, ranks_break,
    )  # fmt: skip
    for name, buggy in (("covariance with its diagonal", guard_with_diagonal), ("no root", guard_without_root)):
        yield Specimen(
            f"VICReg: {name}", C7, "synthetic", "synthetic", (buggy.__doc__ or "").strip(),
            "the value against the exact objective", "that training with it goes wrong", exactly, guard, buggy,
            value_breaks, decidable=False,
        )  # fmt: skip


SPECIMENS = tuple(_specimens())
