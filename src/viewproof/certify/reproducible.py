"""Is a random mask, or a whole view, a function of seed, epoch and sample (C8)?"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from torch import Tensor

from viewproof.certify.report import Finding, Report, attempt
from viewproof.certify.reproducible_runs import AXES, C8, Draw, Runs
from viewproof.certify.search import drawn
from viewproof.errors import InvalidArgument
from viewproof.masks import Mask, Rule
from viewproof.masks.rule import _build


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
    resumed at that epoch has it. Random state, environment and clock are as before afterwards.

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
    known: Sequence[str] = AXES
    rule = draw if isinstance(draw, Rule) else None
    if isinstance(draw, Rule):
        draw, known = _of_rule(draw, data_shape)
    varies = known if varies is None else varies
    _check(ids, epochs, seeds, varies, workers)
    subject = name or (repr(rule) if rule else str(getattr(draw, "__name__", type(draw).__name__)))
    run = Runs(draw, ids, epochs, seeds if "seed" in varies else seeds[:1])
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        # First of all: what has not been drawn yet is in no cache that a worker would find filled.
        ("loader workers", lambda: run.loader(workers)),
        ("the same call twice", run.twice),
        ("global generators", run.generators),
        ("alone and in any order", run.mates),
        ("rank and clock", run.surroundings),
        ("distinct masks", lambda: run.distinct(varies)),
        ("straight and resumed", lambda: run.resumed(resumed)),
        ("count", lambda: run.count(count)),
    ]
    findings: tuple[Finding, ...] = ()
    for claim, check in checks:
        with drawn(0):
            findings += attempt(subject, C8, claim, lambda check=check: list(check()))  # type: ignore[misc]
    return Report(subject, findings)


def _check(ids: Sequence[int], epochs: Sequence[int], seeds: Sequence[int], varies: Any, workers: int) -> None:
    for key, values in (("sample_ids", ids), ("epochs", epochs), ("seeds", seeds)):
        if len(set(values)) < max(2, len(values)):
            raise InvalidArgument(f"{key}={list(values)} must be at least two different numbers")
    if isinstance(varies, str) or not set(varies) <= set(AXES):
        raise InvalidArgument(f"varies={varies!r} must be among {AXES}")
    if workers < 0:
        raise InvalidArgument(f"workers={workers} must be at least 0; pass 0 to start no process")


def _of_rule(rule: Rule, data_shape: Sequence[int] | None) -> tuple[Draw, Sequence[str]]:
    """A rule as a draw function, and what it declares to depend on."""
    if data_shape is None:
        raise InvalidArgument(f"data_shape is needed with {rule!r}; pass one sample's shape, such as (3, 32, 32)")
    shape = tuple(data_shape)
    own = {f.name for f in fields(rule)} if hasattr(rule, "__dataclass_fields__") else set()  # type: ignore[arg-type]
    by_sample = rule.per_sample

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Mask:
        seeded: Any = replace(rule, seed=seed) if "seed" in own else rule  # type: ignore[type-var]
        if by_sample:
            mask: Mask = seeded.mask(shape, sample_ids=ids, epoch=epoch)
            return mask
        # Built anew, not taken from the masks that rules keep: a rule that is no function of its fields must show.
        return _build(seeded.at(epoch), shape, None, None)[0]

    moves = by_sample or type(rule).at is not Rule.at
    return draw, [a for a, does in zip(AXES, (by_sample, moves, "seed" in own), strict=True) if does]
