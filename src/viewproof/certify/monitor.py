"""Does a collapse monitor see collapse (C7)? Planted collapse and planted health, with known answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count


def certify_monitor(
    monitor: Callable[[Tensor], Any],
    *,
    healthy: Literal["high", "low"] = "high",
    samples: int = 256,
    features: int = 16,
    views: int | None = None,
    dimensional: bool = True,
    rank: bool = False,
    threshold: float | None = None,
    name: str | None = None,
) -> Report:
    """Whether a monitor scores planted collapse worse than planted health (C7).

    ``monitor(embeddings)`` gets float32 ``[samples, features]``, or ``[views, samples, features]`` with ``views``, and
    returns a number that is ``healthy`` high or low. Every collapse must score worse than every health: all samples on
    one point, with and without noise that is a millionth of it, at 0, and (if ``dimensional``, for monitors that are
    meant to see it) all samples on one line. With ``threshold``, collapse and health lie on its two sides. A ``rank``
    is 1 when constant, ``features`` when isotropic, and ``k`` when isotropic in ``k`` dimensions.

    >>> spread = lambda z: z.std(0).mean()
    >>> certify_monitor(spread, dimensional=False).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> over_views = lambda z: z.std(0).mean()
    >>> print(certify_monitor(over_views, views=2, dimensional=False).refuted[0].witness.what)
    healthy views that agree: 0; one point, views apart by noise: 0.0563991
    """
    if healthy not in ("high", "low"):
        raise InvalidArgument(f"healthy={healthy!r} must be 'high' or 'low'")
    for key, value, least in (("samples", samples, 4), ("features", features, 2), ("views", views, 2)):
        if value is not None and check_count(key, value) < least:
            raise InvalidArgument(f"{key}={value} is too few to plant collapse and health; pass at least {least}")
    if samples <= features:
        raise InvalidArgument(f"samples={samples} must exceed features={features}, or nothing is isotropic")
    plants = _plants(samples, features, views, dimensional)
    case = MonitorCase(monitor, healthy == "high", *plants, samples, features, views, rank, threshold)
    subject = subject_name(monitor, name)
    return Report(subject, claims.run(subject, case))


@dataclass(frozen=True, eq=False)
class MonitorCase:
    """A monitor and the embeddings that it is shown, health and collapse by what makes them."""

    monitor: Callable[[Tensor], Any]
    healthy_is_high: bool
    healthy: dict[str, Tensor]
    collapsed: dict[str, Tensor]
    samples: int
    features: int
    views: int | None
    rank: bool
    threshold: float | None

    @property
    def plants(self) -> str:
        """How many there are, as text."""
        sizes = f"{len(self.healthy)} healthy and {len(self.collapsed)} collapsed plants"
        return f"{sizes} of {self.samples} x {self.features}"

    @property
    def sides(self) -> str:
        """The end of the first claim."""
        return "" if self.threshold is None else f", on either side of {self.threshold}"

    def score(self, plant: Tensor) -> float:
        """What the monitor returns for a plant, its random numbers the same each time."""
        with seeded(0), torch.no_grad():
            return float(self.monitor(plant.clone()))


claims = Claims[MonitorCase](scope="{case.plants}", method="planted")


@claims(Contract.C7, "collapse scores worse than health{case.sides}")
def separates(case: MonitorCase, check: Check) -> Finding:
    """Every healthy plant scores better than every collapsed one, and the threshold, if any, lies between."""
    plants = {**case.healthy, **case.collapsed}
    scores = {what: case.score(plant) for what, plant in plants.items()}
    again = {what: case.score(plant) for what, plant in reversed(plants.items())}
    for what, score in scores.items():
        if score != again[what] and not math.isnan(again[what]):
            reason = f"it remembers: {what} scores {score:.6g}, then {again[what]:.6g}"
            return check.unknown(reason, scope=check.scope, method="run twice")
    for what, score in scores.items():
        if math.isnan(score):
            return check.refuted(f"{what}: NaN", {"embeddings": plants[what]})
    sign = 1 if case.healthy_is_high else -1
    worst = min(case.healthy, key=lambda what: sign * scores[what])
    best = max(case.collapsed, key=lambda what: sign * scores[what])
    apart = sign * scores[worst] > sign * scores[best]
    if case.threshold is not None:
        apart = sign * scores[worst] > sign * case.threshold > sign * scores[best]
    if apart:
        return check.proved(f"health {scores[worst]:.6g} at worst, collapse {scores[best]:.6g} at best")
    what = f"{worst}: {scores[worst]:.6g}; {best}: {scores[best]:.6g}"
    return check.refuted(what, {"healthy": plants[worst], "collapsed": plants[best]})


@claims(
    Contract.C7,
    "the rank is the number of isotropic dimensions, and 1 on one point",
    scope="{case.samples} x {case.features}",
)
def counts_dimensions(case: MonitorCase, check: Check) -> Finding | None:
    """1 on one point and on one line, ``k`` where ``k`` dimensions are isotropic; within 2 %."""
    if not case.rank:
        return None
    dimensions = sorted({1, 2, case.features})
    planted = [("one point", torch.full((case.samples, case.features), 0.5), 1)]
    planted += [(f"isotropic in {k}", _isotropic(case.samples, case.features, 3, k), k) for k in dimensions]
    for what, plant, k in planted:
        embeddings = plant if case.views is None else plant.expand(case.views, -1, -1)
        value = case.score(embeddings)
        if not abs(value - k) <= 0.02 * k:
            return check.refuted(f"{what}: {value:.6g}, not {k}", {"embeddings": embeddings, "rank": k})
    return check.proved(scope=f"{len(planted)} plants of {check.scope}")


def _isotropic(samples: int, features: int, seed: int, dimensions: int | None = None) -> Tensor:
    """Centred, uncorrelated features of equal variance, of length 1 on average; in some of the dimensions only."""
    generator = torch.Generator().manual_seed(seed)
    k = features if dimensions is None else dimensions
    noise = torch.randn(samples, k + 1, generator=generator, dtype=torch.float64)
    noise[:, 0] = 1
    # The first column takes the mean out of the others.
    columns = torch.linalg.qr(noise).Q[:, 1:] * math.sqrt(samples / k)
    turn = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=torch.float64)).Q[:k]
    embeddings: Tensor = columns @ turn
    return embeddings.float()


def _plants(
    samples: int, features: int, views: int | None, dimensional: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    point = torch.nn.functional.normalize(torch.randn(features, generator=generator), dim=0).expand(samples, features)
    axis = torch.zeros(features)
    axis[0] = 1.0
    noise = torch.randn(views or 1, samples + 2 * features, features, generator=generator)
    once = _isotropic(samples, features, 1)
    pairs = _isotropic(max(samples // 2, features + 2), features, 2).repeat_interleave(2, 0)
    batches = {"isotropic": once, "isotropic, every sample twice": pairs}
    points = {
        "one point": point,
        "one point, an axis": axis.expand(samples, features),
        "one point, far from 0": 10 * point,
        "zero": torch.zeros_like(point),
    }
    lines = {}
    if dimensional:
        along = torch.linspace(-1.5, 1.5, samples)[:, None]
        lines = {"one line": along * point, "one line, an axis": along * axis}
    if views is None:
        almost = {"one point, a millionth of noise": point + 1e-6 * noise[0, :samples]}
        return batches, {**points, **almost, **lines}
    same = {f"healthy views that agree: {k}": b.expand(views, -1, -1) for k, b in batches.items()}
    near = {f"healthy views, noisy: {k}": b + 0.05 * noise[:, : len(b)] for k, b in batches.items()}
    good = {"healthy views that agree": next(iter(same.values())), **near}
    bad = {k: b.expand(views, -1, -1) for k, b in {**points, **lines}.items()}
    # All samples of a view at one point, and each view at another one.
    shifts = 0.1 * torch.randn(views, 1, features, generator=generator)
    bad["one point, views apart by noise"] = point + shifts.expand(views, samples, features)
    return good, bad
