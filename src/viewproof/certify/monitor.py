"""Whether a collapse monitor sees collapse (C7): planted collapse and planted health."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.bits import seeded
from viewproof.certify.check import Check, Claims, subject_name
from viewproof.certify.flow.state import puts_back
from viewproof.certify.report import Contract, Finding, Report
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count

_APART = 0.01
"""By how much of the larger score the two sides must differ: less is seen by nobody who reads a curve."""


@puts_back
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
    meant to see it) all samples on one line. With ``threshold``, collapse and health lie on its two sides. Scores
    that differ by less than 1 % are UNKNOWN. A ``rank`` is 1 when constant, ``features`` when isotropic, and ``k`` when
    isotropic in ``k`` dimensions.

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
    subject = subject_name(monitor, name)
    good, bad = _plants(samples, features, views, dimensional, rank)
    size = f"{samples} x {features}"
    claims = Claims[None](scope=f"{len(good)} healthy and {len(bad)} collapsed plants of {size}", method="planted")
    sign = 1 if healthy == "high" else -1
    sides = "" if threshold is None else f", on either side of {threshold}"

    def score(plant: Tensor) -> float:
        """The monitor's score of a plant; its random numbers are the same each time."""
        with seeded(0), torch.no_grad():
            return float(monitor(plant.clone()))

    @claims(Contract.C7, f"collapse scores worse than health{sides}")
    def separates(_: None, check: Check) -> Finding:
        plants = {**good, **bad}
        scores = {what: score(plant) for what, plant in plants.items()}
        again = {what: score(plant) for what, plant in reversed(plants.items())}
        for what, first in scores.items():
            if first != again[what] and not math.isnan(again[what]):
                reason = f"it remembers: {what} scores {first:.6g}, then {again[what]:.6g}"
                return check.unknown(reason, scope=check.scope, method="run twice")
        for what, first in scores.items():
            if math.isnan(first):
                return check.refuted(f"{what}: NaN", {"embeddings": plants[what]})
        worst, best = min(good, key=lambda what: sign * scores[what]), max(bad, key=lambda what: sign * scores[what])
        # From worse to better; without a threshold only the two scores.
        ordered = [scores[best], *([] if threshold is None else [threshold]), scores[worst]]
        what = f"{worst}: {scores[worst]:.6g}; {best}: {scores[best]:.6g}"
        if all(sign * a < sign * b for a, b in pairwise(ordered)):
            if abs(ordered[-1] - ordered[0]) <= _APART * max(abs(ordered[-1]), abs(ordered[0])):
                return check.undecided(f"the two differ by less than {100 * _APART:g} %: {what}")
            return check.proved(f"health {scores[worst]:.6g} at worst, collapse {scores[best]:.6g} at best")
        return check.refuted(what, {"healthy": plants[worst], "collapsed": plants[best]})

    @claims(Contract.C7, "the rank is the number of isotropic dimensions, and 1 on one point", scope=size)
    def counts_dimensions(_: None, check: Check) -> Finding | None:
        if not rank:
            return None
        planted = [("one point", torch.full((samples, features), 0.5), 1)]
        planted += [(f"isotropic in {k}", _isotropic(samples, features, 3, k), k) for k in sorted({1, 2, features})]
        for what, plant, k in planted:
            embeddings = plant if views is None else plant.expand(views, -1, -1)
            # Within 2 %: singular values are rounded.
            if not abs((value := score(embeddings)) - k) <= 0.02 * k:
                return check.refuted(f"{what}: {value:.6g}, not {k}", {"embeddings": embeddings, "rank": k})
        return check.proved(scope=f"{len(planted)} plants of {check.scope}")

    return Report(subject, claims.run(subject, None))


def _isotropic(samples: int, features: int, seed: int, k: int) -> Tensor:
    """Centred, uncorrelated features of equal variance in ``k`` dimensions, of length 1 on average."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(samples, k + 1, generator=generator, dtype=torch.float64)
    noise[:, 0] = 1
    # The first column takes the mean out of the others.
    columns = torch.linalg.qr(noise).Q[:, 1:] * math.sqrt(samples / k)
    turn = torch.linalg.qr(torch.randn(features, features, generator=generator, dtype=torch.float64)).Q[:k]
    return torch.mm(columns, turn).float()


def _plants(
    samples: int, features: int, views: int | None, dimensional: bool, rank: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    point = torch.nn.functional.normalize(torch.randn(features, generator=generator), dim=0).expand(samples, features)
    axis = torch.eye(features)[0]
    noise = torch.randn(views or 1, samples + 2 * features, features, generator=generator)
    once = _isotropic(samples, features, 1, features)
    pairs = _isotropic(max(samples // 2, features + 2), features, 2, features).repeat_interleave(2, 0)
    batches = {"isotropic": once, "isotropic, every sample twice": pairs}
    if not rank:
        # Whose rank is a little lower.
        batches["isotropic, all of one length"] = features**0.5 * torch.nn.functional.normalize(once, dim=1)
    points = {
        "one point": point,
        "one point, an axis": axis.expand(samples, features),
        "one point, far from 0": 10 * point,
        "zero": torch.zeros_like(point),
    }
    along = torch.linspace(-1.5, 1.5, samples)[:, None]
    lines = {"one line": along * point, "one line, an axis": along * axis} if dimensional else {}
    if views is None:
        almost = {"one point, a millionth of noise": point + 1e-6 * noise[0, :samples]}
        return batches, {**points, **almost, **lines}
    near = {f"healthy views, noisy: {k}": b + 0.05 * noise[:, : len(b)] for k, b in batches.items()}
    good = {"healthy views that agree": once.expand(views, -1, -1), **near}
    bad = {k: b.expand(views, -1, -1) for k, b in {**points, **lines}.items()}
    # All samples of a view at one point, and each view at another one.
    shifts = 0.1 * torch.randn(views, 1, features, generator=generator)
    bad["one point, views apart by noise"] = point + shifts.expand(views, samples, features)
    return good, bad
