"""Masks that are no function of seed, epoch and sample (C8), or not of the size that was asked for (C4)."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.bugzoo.specimen import Specimen, Standing
from viewproof.certify.draws import certify_reproducible
from viewproof.certify.report import Contract, Report, Witness

Draw = Callable[..., Tensor]
PATCHES, HIDDEN = 24, 9
EPOCHS = (0, 1, 2, 3)


def _hide(patches: Any) -> Tensor:
    hidden = torch.zeros(PATCHES, dtype=torch.bool)
    hidden[torch.as_tensor(patches)] = True
    return hidden


def _generator(seed: int, epoch: int, sample: int) -> np.random.Generator:
    return np.random.default_rng((seed, epoch, sample))


def by_sample(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    """A generator of its own for every (seed, epoch, sample)."""
    return torch.stack([_hide(_generator(seed, epoch, int(i)).permutation(PATCHES)[:HIDDEN]) for i in ids])


def from_the_global_generator(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    """NumPy's global generator, a copy of which every loader worker starts from: workers and epochs draw alike."""
    return torch.stack([_hide(np.random.permutation(PATCHES)[:HIDDEN]) for _ in ids])


def from_the_clock(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    """The seed is the time at which the process started to draw, in hours."""
    hours = int(time.time()) // 3600
    return torch.stack([_hide(_generator(hours + seed, epoch, int(i)).permutation(PATCHES)[:HIDDEN]) for i in ids])


def with_replacement(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
    """Patches are drawn with replacement: some twice, so that fewer are hidden than was asked for."""
    return torch.stack([_hide(_generator(seed, epoch, int(i)).integers(PATCHES, size=HIDDEN)) for i in ids])


class Run:
    """A run that starts at an epoch: the share that is hidden grows with its epochs."""

    def __init__(self, start: int, remembers: bool) -> None:
        self.start, self.remembers = start, remembers

    def __call__(self, ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        """A row for each id."""
        age = epoch if self.remembers else epoch - self.start
        rows = [_generator(seed, epoch, int(i)).permutation(PATCHES)[: 3 + age] for i in ids]
        return torch.stack([_hide(row) for row in rows])


def rate_by_epoch(start: int) -> Draw:
    """The share grows with the epoch."""
    return Run(start, remembers=True)


def rate_by_age(start: int) -> Draw:
    """The share grows with the epochs since the start or the resume: a resumed run begins anew."""
    return Run(start, remembers=False)


class Stream:
    """A generator that belongs to a run and moves with every epoch; each epoch's state may be kept in checkpoints."""

    def __init__(self, start: int, kept: bool) -> None:
        self.start = start if kept else 0

    def __call__(self, ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        """A row for each id."""
        rng = np.random.default_rng(seed)
        offset = epoch if self.start else epoch - getattr(self, "resumed_at", 0)
        orders = [rng.permutation(PATCHES) for _ in range(100 * (offset + 1))][100 * offset :]
        return torch.stack([_hide(orders[int(i) % 100][:HIDDEN]) for i in ids])


def state_saved(start: int) -> Draw:
    """The checkpoint holds how far the generator has come."""
    return Stream(start, kept=True)


def state_lost(start: int) -> Draw:
    """The checkpoint holds the weights only: after a resume the generator starts from its seed again."""
    stream = Stream(start, kept=False)
    stream.resumed_at = start  # type: ignore[attr-defined]
    return stream


def _drawn(draw: Draw, witness: Witness) -> tuple[Tensor, Tensor]:
    """The witness's draw, twice: as it is, and under other global generators or at another hour."""
    given = witness.inputs
    ids, where = torch.tensor(given["ids"]), {"epoch": given["epoch"], "seed": given["seed"]}
    state = np.random.get_state()
    first = draw(ids, **where)
    np.random.seed(12)
    real, time.time = time.time, lambda: 1e6
    try:
        return first, draw(ids, **where)
    finally:
        time.time = real
        np.random.set_state(state)


def draw_breaks(draw: Draw, witness: Witness) -> bool:
    """Whether the masks follow the global generator or the clock."""
    first, second = _drawn(draw, witness)
    return not torch.equal(first, second)


def resume_breaks(start: Callable[[int], Draw], witness: Witness) -> bool:
    """Whether a run resumed at its last epoch draws what the straight run draws there."""
    ids = torch.tensor(witness.inputs["ids"])
    straight, resumed = start(0), start(EPOCHS[-1])
    return not torch.equal(straight(ids, epoch=EPOCHS[-1], seed=0), resumed(ids, epoch=EPOCHS[-1], seed=0))


def count_breaks(draw: Draw, witness: Witness) -> bool:
    """Whether some row of the witness's draw hides another number."""
    given = witness.inputs
    rows = draw(torch.tensor(given["ids"]), epoch=given["epoch"], seed=given["seed"])
    return bool((rows.sum(1) != given["count"]).any())


def _specimens() -> Iterator[Specimen]:
    gh = "https://github.com"

    def resumed(start: Callable[[int], Draw]) -> Report:
        return certify_reproducible(start(0), epochs=EPOCHS, resumed=start, workers=0)

    def specimen(
        name: str, contract: Contract, source: str, standing: Standing, certify: Any, fixed: Any, buggy: Any,
        breaks: Callable[[Any, Witness], bool], shown: str, not_shown: str,
    ) -> Specimen:  # fmt: skip
        mechanism = (buggy.__doc__ or "").strip()
        return Specimen(name, contract, source, standing, mechanism, shown, not_shown, certify, fixed, buggy, breaks)

    C4, C8 = Contract.C4, Contract.C8
    yield specimen(
        "the same masks in every worker", C8, f"{gh}/pengzhiliang/MAE-pytorch/issues/28", "confirmed",
        certify_reproducible, by_sample, from_the_global_generator, draw_breaks,
        "the masks follow a global generator", "that forked workers share its state",
    )  # fmt: skip
    yield specimen(
        "seeded by the clock", C8, f"{gh}/ecmwf/WeatherGenerator/issues/267", "confirmed", certify_reproducible,
        by_sample, from_the_clock, draw_breaks, "another hour, other masks", "the first fix, which divides by zero",
    )  # fmt: skip
    yield specimen(
        "the rate starts anew", C8, f"{gh}/CUMLSec/trex/issues/31", "reported", resumed, rate_by_epoch, rate_by_age,
        resume_breaks, "a straight run against resumed ones", "the rate's own schedule",
    )  # fmt: skip
    yield specimen(
        "state lost on resume", C8, "synthetic", "synthetic", resumed, state_saved, state_lost, resume_breaks,
        "a straight run against resumed ones", "the checkpoint's format",
    )  # fmt: skip
    yield specimen(
        "drawn with replacement", C4, f"{gh}/facebookresearch/fairseq/pull/752", "confirmed",
        lambda draw: certify_reproducible(draw, count=HIDDEN, workers=0), by_sample, with_replacement, count_breaks,
        "the number that is hidden", "spans, which overlap as well",
    )  # fmt: skip


SPECIMENS = tuple(_specimens())
