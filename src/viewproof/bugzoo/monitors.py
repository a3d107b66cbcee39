"""Collapse that is not seen, or not guarded against (C7)."""

import math
from fractions import Fraction
from functools import partial

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Witness, certify_monitor, certify_objective, certify_ranks
from viewproof.objectives import variance_term

monitor_bug = partial(specimen, contract=Contract.C7)
EMBEDDINGS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))


def collapse_scores_no_worse(monitor: Twin, witness: Witness) -> bool:
    """Whether the monitor scores the planted collapse at least as high as the planted health."""
    return float(monitor(witness.inputs["healthy"])) <= float(monitor(witness.inputs["collapsed"]))


@monitor_bug(
    "spread over views",
    "confirmed",
    "vturrisi/solo-learn/commit/786b943",
    certify=lambda monitor: certify_monitor(monitor, views=2, dimensional=False),
    breaks=collapse_scores_no_worse,
)
def spread_over_views(z: Tensor, bug: bool) -> Tensor:
    """The deviation is taken over the views, not over the batch: high wherever views differ.

    Shown: Planted collapse and planted health.
    Not shown: The logging around it.
    """
    return z.std(0 if bug else 1).mean()


def rank_is_off(monitor: Twin, witness: Witness) -> bool:
    """Whether the rank is off by more than two in a hundred."""
    rank: int = witness.inputs["rank"]
    return abs(float(monitor(witness.inputs["embeddings"])) - rank) > 0.02 * rank


def effective_rank(z: Tensor, floor: float = 0.0) -> Tensor:
    """The effective rank of Roy and Vetterli (2007), with each share raised by ``floor``."""
    values = torch.linalg.svdvals(z)
    shares = values / values.sum().clamp(min=1e-12) + floor
    shares = shares / shares.sum() if floor else shares
    return torch.exp(-torch.special.xlogy(shares, shares).sum())


@monitor_bug(
    "a rank with a floor",
    "reported",
    "Project-MONAI/MONAI/issues/8996",
    certify=lambda monitor: certify_monitor(monitor, rank=True),
    breaks=rank_is_off,
)
def rank_with_a_floor(z: Tensor, bug: bool) -> Tensor:
    """A constant is added to every share of the spectrum: nothing has rank 1 any more.

    Shown: The rank of one point, which is 1.
    Not shown: How the score was normalised there.
    """
    return effective_rank(z, floor=0.05 if bug else 0.0)


def redundancy(second_moment: Tensor) -> Tensor:
    """The sum of the squared entries off the diagonal."""
    return (second_moment - second_moment.diagonal().diag()).square().sum()


def ranks_break(loss: Twin, witness: Witness) -> bool:
    """On one rank's embeddings the gradient is known; what the ranks averaged must be that."""
    z = witness.inputs["embeddings"].double().requires_grad_()
    expected = torch.autograd.grad(redundancy(z.T @ z / len(z)), z)[0]
    report = certify_ranks(loss, witness.inputs["embeddings"], witness.inputs["splits"])
    gradients = [f.witness.maps["ranks"] for f in report.refuted if f.witness is not None]
    return any(not torch.allclose(gradient.double(), expected) for gradient in gradients)


@monitor_bug(
    "gradient over the ranks",
    "confirmed",
    "lightly-ai/lightly/issues/1977",
    certify=lambda loss: certify_ranks(loss, EMBEDDINGS),
    breaks=ranks_break,
)
def gradient_over_the_ranks(z: Tensor, bug: bool) -> Tensor:
    """A plain all-reduce passes no gradient to other ranks: right loss, gradient over the ranks.

    Shown: Two unequal ranks against one.
    Not shown: The loss that it happened in.
    """
    total, count = z.T @ z, torch.tensor(float(len(z)))
    dist.all_reduce(count)
    if bug:
        dist.all_reduce(total)
    else:
        total = differentiable.all_reduce(total)  # type: ignore[no-untyped-call]
    return redundancy(total / count)


def vicreg_regularizer(z: Tensor, diagonal: bool = False, root: bool = True) -> Tensor:
    """VICReg's variance hinge and squared covariances, over the number of features.

    ``diagonal`` counts the variances among the covariances, ``root=False`` puts the hinge on the variance.
    """
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    variance = covariance.diagonal() + 1e-4
    if not diagonal:
        covariance = covariance - covariance.diagonal().diag()
    hinge: Tensor = torch.relu(1 - (variance.sqrt() if root else variance)).sum()
    return hinge + covariance.square().sum() / z.shape[1]


def exact_vicreg_regularizer(rows: list[list[Fraction]]) -> float:
    """The same from its definition, in exact numbers but for the root."""
    n, size = len(rows), len(rows[0])
    means = [sum(row[j] for row in rows) / n for j in range(size)]

    def covariance(i: int, j: int) -> Fraction | float:
        return sum((row[i] - means[i]) * (row[j] - means[j]) for row in rows) / (n - 1)

    deviations = [math.sqrt(covariance(j, j) + Fraction(1e-4)) for j in range(size)]
    off_diagonal = sum(covariance(i, j) ** 2 for i in range(size) for j in range(size) if i != j)
    return float(variance_term(1, deviations)) + float(off_diagonal / size)


def value_breaks(loss: Twin, witness: Witness) -> bool:
    """Whether the loss of the witness is not its definition, written out in floats."""
    z = witness.inputs["tensors"][0]
    covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
    off_diagonal = covariance[~torch.eye(z.shape[1], dtype=torch.bool)]
    hinge = (1 - (covariance.diagonal() + 1e-4).sqrt()).clamp(min=0).sum()
    expected = float(hinge + off_diagonal.square().sum() / z.shape[1])
    return abs(float(loss(z)) - expected) > 1e-6 * max(1.0, expected)


vicreg_bug = partial(
    monitor_bug,
    standing="synthetic",
    certify=lambda loss: certify_objective(loss, exact_vicreg_regularizer, EMBEDDINGS),
    breaks=value_breaks,
    shown="The value against the exact objective.",
    not_shown="That training with it goes wrong.",
    decidable=False,
)


@vicreg_bug("VICReg: covariance with its diagonal")
def covariance_with_its_diagonal(z: Tensor, bug: bool) -> Tensor:
    """The covariance term counts the variances too, and pulls down what the variance term pulls up."""
    return vicreg_regularizer(z, diagonal=bug)


@vicreg_bug("VICReg: no root")
def variance_without_its_root(z: Tensor, bug: bool) -> Tensor:
    """The hinge is on the variance: its gradient vanishes where the features collapse."""
    return vicreg_regularizer(z, root=not bug)
