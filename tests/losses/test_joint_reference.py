"""Each formula against one written straight from its paper, in loops."""

import cmath
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from viewproof.losses import BarlowTwinsLoss, InfoNCELoss, JEPALoss, SIGRegLoss, VICRegLoss
from viewproof.losses.sigreg import random_slices


def pair(n: int = 9, d: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    drawn = torch.randn(2, n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn[0], 0.8 * drawn[0] + 0.6 * drawn[1]


def vicreg(a: Tensor, b: Tensor, lambda_: float, mu: float, nu: float, gamma: float, eps: float) -> float:
    """Bardes et al. 2022: equations 1 to 4 for v and c; algorithm 1's mse_loss for s."""
    n, d = a.shape

    def variance(z: Tensor) -> float:
        total = 0.0
        for j in range(d):
            column = [float(v) for v in z[:, j]]
            mean = sum(column) / n
            var = sum((v - mean) ** 2 for v in column) / (n - 1)
            total += max(0.0, gamma - math.sqrt(var + eps))
        return total / d

    def covariance(z: Tensor) -> float:
        mean = [sum(float(v) for v in z[:, j]) / n for j in range(d)]
        total = 0.0
        for i in range(d):
            for j in range(d):
                if i != j:
                    c = sum((float(row[i]) - mean[i]) * (float(row[j]) - mean[j]) for row in z) / (n - 1)
                    total += c * c
        return total / d

    invariance = sum((float(a[i, j]) - float(b[i, j])) ** 2 for i in range(n) for j in range(d)) / (n * d)
    return lambda_ * invariance + mu * (variance(a) + variance(b)) + nu * (covariance(a) + covariance(b))


@pytest.mark.parametrize("constants", [(25.0, 25.0, 1.0, 1.0, 1e-4), (1.0, 2.0, 3.0, 0.5, 1e-2)])
def test_vicreg_is_the_papers(constants: tuple[float, float, float, float, float]) -> None:
    a, b = pair()
    assert VICRegLoss(*constants)(a, b).item() == pytest.approx(vicreg(a, b, *constants), rel=1e-12)


def test_vicregs_constants_are_the_papers() -> None:
    assert VICRegLoss() == VICRegLoss(lambda_=25.0, mu=25.0, nu=1.0, gamma=1.0, epsilon=1e-4)
    assert BarlowTwinsLoss().lambda_ == 5e-3 and SIGRegLoss().lambda_ == 0.05


def barlow(a: Tensor, b: Tensor, lambda_: float) -> float:
    """Zbontar et al. 2021, equations 1 and 2."""
    n, d = a.shape
    a, b = a - a.mean(0), b - b.mean(0)
    total = 0.0
    for i in range(d):
        for j in range(d):
            above = sum(float(a[k, i]) * float(b[k, j]) for k in range(n))
            below = math.sqrt(sum(float(v) ** 2 for v in a[:, i])) * math.sqrt(sum(float(v) ** 2 for v in b[:, j]))
            total += (1 - above / below) ** 2 if i == j else lambda_ * (above / below) ** 2
    return total


@pytest.mark.parametrize("lambda_", [5e-3, 1.0])
def test_barlow_is_the_papers(lambda_: float) -> None:
    a, b = pair()
    assert BarlowTwinsLoss(lambda_, epsilon=0.0)(a, b).item() == pytest.approx(barlow(a, b, lambda_), rel=1e-12)


def test_barlow_is_the_authors_batch_norm() -> None:
    a, b = (3 * z + 1 for z in pair())
    normal = [F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (a, b)]
    c = normal[0].T @ normal[1] / len(a)
    off = c.flatten()[:-1].view(4, 6)[:, 1:].flatten()
    expected = (torch.diagonal(c) - 1).pow(2).sum() + 5e-3 * off.pow(2).sum()
    torch.testing.assert_close(BarlowTwinsLoss()(a, b), expected)


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> float:
    """Chen et al. 2020, equation 1, and its mean over all positive pairs, both ways round."""
    views = [row.tolist() for row in torch.cat([a, b])]
    n, total = len(a), 0.0

    def similar(u: list[float], v: list[float]) -> float:
        return sum(x * y for x, y in zip(u, v, strict=True)) / math.hypot(*u) / math.hypot(*v)

    for i in range(2 * n):
        others = [math.exp(similar(views[i], views[k]) / temperature) for k in range(2 * n) if k != i]
        total -= math.log(math.exp(similar(views[i], views[(i + n) % (2 * n)]) / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_infonce_is_the_papers(temperature: float) -> None:
    a, b = pair()
    assert InfoNCELoss(temperature)(a, b).item() == pytest.approx(nt_xent(a, b, temperature), rel=1e-10)
    assert InfoNCELoss().temperature == 0.5


def epps_pulley(samples: list[float], points: int, t_max: float) -> float:
    """N times the trapezoid rule over [-t_max, t_max] of the weighted squared distance, in complex numbers."""
    n, step = len(samples), 2 * t_max / (points - 1)
    total = 0.0
    for k in range(points):
        t = -t_max + k * step
        phi = math.exp(-t * t / 2)
        gap = abs(sum(cmath.exp(1j * t * x) for x in samples) / n - phi) ** 2 * phi
        total += step * gap * (0.5 if k in (0, points - 1) else 1.0)
    return n * total


@pytest.mark.parametrize("points, t_max", [(17, 5.0), (9, 3.0), (3, 1.0)])
def test_sigreg_is_the_papers(points: int, t_max: float) -> None:
    a, b = pair(n=12)
    loss = SIGRegLoss(lambda_=0.3, slices=7, points=points, t_max=t_max, seed=5)
    slices = random_slices(5, 7, seed=5, step=11)
    statistics = [sum(epps_pulley((z @ slices[:, s]).tolist(), points, t_max) for s in range(7)) / 7 for z in (a, b)]
    centre = (a + b) / 2
    prediction = sum(float((z - centre).square().mean()) for z in (a, b)) / 2
    expected = 0.7 * prediction + 0.3 * sum(statistics) / 2
    assert loss(a, b, 11).item() == pytest.approx(expected, rel=1e-11)


def test_the_statistic_of_a_normal_sample_is_small_and_of_any_other_large() -> None:
    z = torch.randn(2000, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = SIGRegLoss(slices=64)
    normal = loss.guard(z).item()
    for other in (2 * z, z + 1, torch.zeros_like(z), z[:, :1].expand_as(z), z.sign()):
        assert loss.guard(other.contiguous()).item() > 5 * normal


def test_jepa_is_smooth_l1_and_stops_the_targets_gradient() -> None:
    prediction, target = pair()
    prediction.requires_grad_(), target.requires_grad_()
    loss = JEPALoss()(prediction, target)
    d = (prediction - target).abs().flatten().tolist()
    assert loss.item() == pytest.approx(sum(v * v / 2 if v < 1 else v - 0.5 for v in d) / len(d), rel=1e-12)
    loss.backward()
    assert target.grad is None and prediction.grad is not None and prediction.grad.any()


@pytest.mark.parametrize("loss", [VICRegLoss(), BarlowTwinsLoss(), SIGRegLoss(slices=4), InfoNCELoss()], ids=repr)
def test_both_views_have_the_right_gradient(loss: VICRegLoss) -> None:
    a, b = (z.requires_grad_() for z in pair(n=5, d=3))
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y), (a, b))
