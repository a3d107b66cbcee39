"""LeJEPA's loss, sketched isotropic Gaussian regularisation (Balestriero, LeCun 2025)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from viewproof.errors import InvalidArgument
from viewproof.losses.numbers import Rows, apply_function, constant, exact_rows, inner
from viewproof.losses.pair import PairLoss, check_constants, check_embeddings
from viewproof.masks.finite import check_count
from viewproof.masks.random.draws import Draws
from viewproof.objectives.contracts import PredictiveViewContract
from viewproof.shapes import Float

_STREAM = 14


def random_slices(dims: int, slices: int, seed: int = 0, step: int = 0) -> Float[Tensor, "dims slices"]:
    """Random unit vectors as columns, float64 on the CPU, a function of (seed, step) alone.

    Global random state is neither read nor changed, so every rank and a resumed run draw the same.

    >>> random_slices(3, 2).square().sum(0)
    tensor([1.0000, 1.0000], dtype=torch.float64)
    """
    words = Draws(seed, step, torch.arange(slices)).words(2 * dims, _STREAM)
    radius, angle = ((words.double() + 0.5) / 2**32).chunk(2, 1)
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    unit: Tensor = normal / normal.norm(dim=1, keepdim=True)
    return unit.T


@dataclass(frozen=True)
class SIGRegLoss(PairLoss):
    """LeJEPA's loss ``(1 - lambda) * prediction + lambda * (T(a) + T(b)) / 2`` (arXiv 2511.08544).

    The prediction term is the mean squared distance of each view to the mean of both. ``T`` is the Epps-Pulley
    statistic against the standard normal, averaged over random directions: ``N`` times the integral of ``|phi_N(t) -
    exp(-t**2 / 2)|**2 * exp(-t**2 / 2)``, where ``phi_N`` is the empirical characteristic function of the projected
    samples, by the trapezoid rule on ``points`` knots from ``-t_max`` to ``t_max`` (algorithms 1 and 2 of the paper;
    both halves of the integral are equal and one is summed). The directions are a function of (seed, step): see
    `random_slices`. Unequal shapes raise `InvalidArgument`.

    >>> import torch
    >>> z = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    >>> bool(SIGRegLoss()(z, z) < 0.1), bool(SIGRegLoss()(0 * z, 0 * z) > 10)
    (True, True)
    """

    lambda_: float = 0.05
    slices: int = 256
    points: int = 17
    t_max: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_constants(self, lambda_=0.0, t_max=1e-6)
        if self.lambda_ > 1:
            raise InvalidArgument(f"lambda_={self.lambda_!r} must be a number from 0 to 1, the share of the guard")
        if check_count("slices", self.slices) == 0:
            raise InvalidArgument("slices=0 looks in no direction; pass at least 1")
        if check_count("points", self.points) < 3 or self.points % 2 == 0:
            raise InvalidArgument(f"points={self.points} must be odd and at least 3: the knots lie evenly around 0")
        check_count("seed", self.seed)

    def quadrature(self) -> list[tuple[float, float, float]]:
        """The knots from 0 on, as ``(t, exp(-t**2 / 2), weight for both signs, window included)``."""
        half = self.points // 2
        spacing = self.t_max / half
        phi = [math.exp(-((spacing * k) ** 2) / 2) for k in range(half + 1)]
        # The knot at 0 stands for itself alone, and the outermost count half.
        shares = [1.0 if k in (0, half) else 2.0 for k in range(half + 1)]
        return [(spacing * k, phi[k], spacing * shares[k] * phi[k]) for k in range(half + 1)]

    def value(self, a: Float[Tensor, "rows dims"], b: Float[Tensor, "rows dims"], step: int = 0) -> Float[Tensor, ""]:
        """The formula, on the rows of all ranks."""
        centre = (a + b) / 2
        prediction = ((a - centre).square() + (b - centre).square()).mean() / 2
        loss: Tensor = (1 - self.lambda_) * prediction + self.lambda_ * self.guard(a, b, step=step)
        return loss

    def guard(self, *views: Float[Tensor, "rows dims"], step: int = 0) -> Float[Tensor, ""]:
        """The statistic alone, averaged over directions and views: a regularizer for any loss."""
        check_embeddings(*views)
        directions = random_slices(views[0].shape[1], self.slices, self.seed, step).to(views[0])
        t, phi, weight = torch.tensor(self.quadrature(), dtype=torch.float64).to(views[0]).T
        total: Any = 0
        for z in views:
            angles = (z @ directions)[:, :, None] * t
            gap = (angles.cos().mean(0) - phi).square() + angles.sin().mean(0).square()
            total = total + (gap @ weight).mean() * len(z)
        mean: Tensor = total / len(views)
        return mean

    def contract(self, a: Rows, b: Rows, step: int = 0) -> PredictiveViewContract:
        """Sample by sample the distance of ``a`` and ``b`` to their mean, the statistic as guard."""
        first, second = exact_rows(a), exact_rows(b)
        n, d = len(first), len(first[0])
        share, rest = (constant(c, first[0][0]) for c in (self.lambda_, 1 - self.lambda_))
        guard = self.exact_guard(first, second, step=step)

        def distance(target: list[Any], prediction: list[Any]) -> Any:
            pairs = list(zip(target, prediction, strict=True))
            centre = [(p + t) / 2 for t, p in pairs]
            squares = sum((p - c) * (p - c) + (t - c) * (t - c) for (t, p), c in zip(pairs, centre, strict=True))
            return rest * (squares / (n * d) / 2)

        return PredictiveViewContract(
            range(n), first, second.__getitem__, lambda _, t: t, lambda c, i: c[i], distance, share * guard
        )

    def exact_guard(self, *views: Rows, step: int = 0) -> Any:
        """`guard` over plain numbers, on one rank."""
        total: Any = 0
        for z in map(exact_rows, views):
            n, like = len(z), z[0][0]
            directions = random_slices(len(z[0]), self.slices, self.seed, step).T.tolist()
            directions = [[constant(x, like) for x in direction] for direction in directions]
            knots = [tuple(constant(x, like) for x in knot) for knot in self.quadrature()]
            statistics = []
            for direction in directions:
                projected, statistic = [inner(row, direction) for row in z], 0
                for t, phi, weight in knots:
                    real = sum(apply_function("cos", t * p) for p in projected) / n
                    imaginary = sum(apply_function("sin", t * p) for p in projected) / n
                    statistic += weight * ((real - phi) * (real - phi) + imaginary * imaginary)
                statistics.append(statistic)
            total += sum(statistics) / len(directions) * n
        return total / len(views)
