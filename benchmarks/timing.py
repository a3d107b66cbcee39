"""Side-by-side timing in one process: rounds of every contestant in turn, medians, ratios."""

import statistics
import time
from collections.abc import Callable


def side_by_side(contestants: dict[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """The median seconds of each contestant; each round runs all of them, so that noise falls on all alike."""
    for call in contestants.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
