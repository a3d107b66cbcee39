"""Does a collapse monitor see collapse (C7)? Planted collapse and planted health, with known answers."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from viewproof.certify.report import Contract, Finding, Report, Witness, attempt
from viewproof.certify.search import drawn
from viewproof.errors import InvalidArgument
from viewproof.masks.finite import check_count
from viewproof.verdict import Verdict

C7 = Contract.C7


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
    """Whether a monitor tells planted collapse from planted health (C7).

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
    subject = name or str(getattr(monitor, "__name__", type(monitor).__name__))
    good, bad = _plants(samples, features, views, dimensional)
    scope = f"{len(good)} healthy and {len(bad)} collapsed plants of {samples} x {features}"

    def score(plant: Tensor) -> float:
        with drawn(0), torch.no_grad():
            return float(monitor(plant.clone()))

    def separation() -> Iterable[Finding]:
        plants = {**good, **bad}
        scores = {what: score(plant) for what, plant in plants.items()}
        again = {what: score(plant) for what, plant in reversed(plants.items())}
        changed = [what for what in plants if scores[what] != again[what] and not math.isnan(again[what])]
        if changed:
            reason = f"it remembers: {changed[0]} scores {scores[changed[0]]:.6g}, then {again[changed[0]]:.6g}"
            return [Finding(C7, "collapse scores worse than health", Verdict.UNKNOWN, scope, "run twice", reason)]
        return [_separated(scores, good, bad, healthy == "high", threshold, scope)]

    findings = attempt(subject, C7, "collapse scores worse than health", separation)
    if rank:
        findings += attempt(subject, C7, "the rank", lambda: [_rank(score, samples, features, views)])
    return Report(subject, findings)


def _isotropic(samples: int, features: int, seed: int, dimensions: int | None = None) -> Tensor:
    """Centred, uncorrelated features of equal variance, of length 1 on average; in some of the dimensions only."""
    generator = torch.Generator().manual_seed(seed)
    k = features if dimensions is None else dimensions
    drawn = torch.randn(samples, k + 1, generator=generator, dtype=torch.float64)
    drawn[:, 0] = 1
    # The first column takes the mean out of the others.
    columns = torch.linalg.qr(drawn).Q[:, 1:] * math.sqrt(samples / k)
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
    drawn = _isotropic(samples, features, 1)
    pairs = _isotropic(max(samples // 2, features + 2), features, 2).repeat_interleave(2, 0)
    batches = {"isotropic": drawn, "isotropic, every sample twice": pairs}
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


def _separated(
    scores: dict[str, float],
    good: dict[str, Tensor],
    bad: dict[str, Tensor],
    high: bool,
    threshold: float | None,
    scope: str,
) -> Finding:
    claim = "collapse scores worse than health" + ("" if threshold is None else f", on either side of {threshold}")
    plants = {**good, **bad}
    sign = 1 if high else -1
    broken = [what for what, value in scores.items() if math.isnan(value)]
    if broken:
        what = f"{broken[0]}: NaN"
        witness = Witness(what, {"embeddings": plants[broken[0]]})
        return Finding(C7, claim, Verdict.REFUTED, scope, "planted", "", witness)
    worst = min(good, key=lambda what: sign * scores[what])
    best = max(bad, key=lambda what: sign * scores[what])
    apart = sign * scores[worst] > sign * scores[best]
    sides = threshold is None or sign * scores[worst] > sign * threshold > sign * scores[best]
    if apart and sides:
        said = f"health {scores[worst]:.6g} at worst, collapse {scores[best]:.6g} at best"
        return Finding(C7, claim, Verdict.PROVED, scope, "planted", said)
    what = f"{worst}: {scores[worst]:.6g}; {best}: {scores[best]:.6g}"
    witness = Witness(what, {"healthy": plants[worst], "collapsed": plants[best]})
    return Finding(C7, claim, Verdict.REFUTED, scope, "planted", "", witness)


def _rank(score: Callable[[Tensor], float], samples: int, features: int, views: int | None) -> Finding:
    """1 on one point and on one line, ``k`` where ``k`` dimensions are isotropic; within 2 %."""
    claim = "the rank is the number of isotropic dimensions, and 1 on one point"
    point = torch.full((samples, features), 0.5)
    expected = {f"isotropic in {k}": (_isotropic(samples, features, 3, k), k) for k in sorted({1, 2, features})}
    for what, (plant, k) in {"one point": (point, 1), **expected}.items():
        given = plant if views is None else plant.expand(views, -1, -1)
        value = score(given)
        if not abs(value - k) <= 0.02 * k:
            witness = Witness(f"{what}: {value:.6g}, not {k}", {"embeddings": given, "rank": k})
            return Finding(C7, claim, Verdict.REFUTED, f"{samples} x {features}", "planted", "", witness)
    return Finding(C7, claim, Verdict.PROVED, f"{len(expected) + 1} plants of {samples} x {features}", "planted")
