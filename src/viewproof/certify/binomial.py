"""Exact bounds for counts: Clopper and Pearson's interval, Fisher's exact test."""

import math
from typing import Any

import torch


def clopper_pearson(count: int, n: int, error: float) -> tuple[float, float]:
    """The exact two-sided interval of a chance, of which ``count`` in ``n`` were seen; Clopper and Pearson 1934.

    >>> low, high = clopper_pearson(0, 10, 0.05)
    >>> low, round(high, 4)
    (0.0, 0.3085)
    """
    k = torch.arange(n + 1, dtype=torch.float64)
    ways = math.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    def tail(p: float, terms: slice) -> float:
        return float((ways + k * math.log(p) + (n - k) * math.log1p(-p))[terms].exp().sum())

    def solve(terms: slice, rising: bool) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if (tail(middle, terms) < error / 2) is rising:
                low = middle
            else:
                high = middle
        return low if rising else high

    lower = 0.0 if count == 0 else solve(slice(count, None), rising=True)
    upper = 1.0 if count == n else solve(slice(0, count + 1), rising=False)
    return lower, upper


def fisher(both: int, ones: int, others: int, n: int) -> float:
    """The two-sided p-value of Fisher's exact test: twice the smaller tail.

    ``both`` is how often two events met that were seen ``ones`` and ``others`` times in ``n``.

    >>> fisher(5, 5, 5, 10) < 0.01, round(fisher(2, 5, 5, 10), 3)
    (True, 1.0)
    """
    low, high = max(0, ones + others - n), min(ones, others)
    k = torch.arange(low, high + 1, dtype=torch.float64)

    def ways(m: Any, r: Any) -> Any:
        m, r = torch.as_tensor(m, dtype=torch.float64), torch.as_tensor(r, dtype=torch.float64)
        return torch.lgamma(m + 1) - torch.lgamma(r + 1) - torch.lgamma(m - r + 1)

    chances = (ways(ones, k) + ways(n - ones, others - k) - ways(n, others)).exp()
    at = both - low
    return min(1.0, 2 * float(min(chances[: at + 1].sum(), chances[at:].sum())))
