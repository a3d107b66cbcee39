"""Certifies that a random mask, or a whole view, is a function of seed, epoch and sample (C8)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from viewproof.bits import seeded
from viewproof.certify.check import subject_name
from viewproof.certify.draws import circumstances, differences
from viewproof.certify.draws.case import AXES, Draw, DrawCase, draw_of_rule
from viewproof.certify.flow.state import puts_back
from viewproof.certify.report import Report
from viewproof.errors import InvalidArgument
from viewproof.masks import Rule


@puts_back
def certify_reproducible(
    draw: Draw | Rule,
    sample_ids: Sequence[int] = range(8),
    *,
    epochs: Sequence[int] = (0, 1, 2, 3),
    seeds: Sequence[int] = (0, 1, 2),
    varies: Sequence[str] | None = None,
    data_shape: Sequence[int] | None = None,
    count: int | None = None,
    resumed: Callable[[int], Draw] | None = None,
    workers: int = 2,
    name: str | None = None,
) -> Report:
    """Whether ``draw`` is a function of seed, epoch and sample id, on these ids, epochs and seeds.

    ``draw(ids, epoch=..., seed=...)`` gets int64 ids ``[N]`` and returns a `Mask` or a tensor (a mask, a whole view)
    with row ``n`` for ``ids[n]``; a mask over the data shape counts for every row. Instead of a function a rule may be
    given, with its ``data_shape``: the epoch is the step of ``rule.at``, unless it is ``per_sample``.
    ``varies`` names what the draw must depend on, of "sample", "epoch" and "seed": all unless given, for a rule what it
    knows.
    ``count`` is how many coordinates every row must select (C4). ``resumed(epoch)`` makes the draw function as a run
    resumed at that epoch has it. Random state, environment and clock are as before afterwards. With ``workers=0`` no
    other process is started: neither those of a loader, nor fresh ones on another host and day.

    >>> import numpy as np, torch
    >>> one = lambda *numbers: torch.from_numpy(np.random.default_rng(numbers).random(9) < 0.3)
    >>> draw = lambda ids, epoch, seed: torch.stack([one(seed, epoch, int(i)) for i in ids])
    >>> certify_reproducible(draw, workers=0).verdict()
    <Verdict.PROVED: 'PROVED'>
    >>> shared = lambda ids, epoch, seed: torch.rand(len(ids), 9) < 0.3
    >>> print(certify_reproducible(shared, workers=0).refuted[0].witness.what)
    the same call twice: epoch 0, seed 0, sample 0 differs
    """
    ids = [int(i) for i in sample_ids]
    if isinstance(draw, Rule):
        subject = name or repr(draw)
        draw, known = draw_of_rule(draw, data_shape)
    else:
        subject, known = subject_name(draw, name), AXES
    varies = known if varies is None else varies
    _check_arguments(ids, epochs, seeds, varies, workers)
    seeds = list(seeds if "seed" in varies else seeds[:1])
    case = DrawCase(draw, ids, list(epochs), seeds, varies, count, resumed, workers)
    if workers:
        # Before the first call: afterwards a cache would take its masks along.
        case = replace(case, sent=circumstances.sent(case))
    # Once, not for each claim: a draw from a global generator would be the same whenever that starts anew.
    with seeded(0):
        return Report(subject, _CLAIMS.run(subject, case))


def _check_arguments(
    ids: Sequence[int], epochs: Sequence[int], seeds: Sequence[int], varies: Any, workers: int
) -> None:
    for key, values in (("sample_ids", ids), ("epochs", epochs), ("seeds", seeds)):
        if len(set(values)) < max(2, len(values)):
            raise InvalidArgument(f"{key}={list(values)} must be at least two different numbers")
    if isinstance(varies, str) or not set(varies) <= set(AXES):
        raise InvalidArgument(f"varies={varies!r} must be among {AXES}")
    if workers < 0:
        raise InvalidArgument(f"workers={workers} must be at least 0; pass 0 to start no process")


# In this order: what has not been drawn yet is in no cache that a worker would find filled.
_CLAIMS = circumstances.claims + differences.claims + circumstances.resumed + differences.counted
