"""Masks that do not follow from seed, epoch and sample (C8), or hide a wrong number (C4)."""

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viewproof.bugzoo.specimen import Twin, specimen
from viewproof.certify import Contract, Report, Witness, certify_reproducible

PATCHES, HIDDEN = 24, 9
EPOCHS = (0, 1, 2, 3)


def hide(rows: Iterable[Any]) -> Tensor:
    """A mask ``[rows, patches]`` from the indices that each row hides."""
    masks = []
    for indices in rows:
        hidden = torch.zeros(PATCHES, dtype=torch.bool)
        hidden[torch.as_tensor(indices)] = True
        masks.append(hidden)
    return torch.stack(masks)


def generator(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator of one (seed, epoch, sample)."""
    return np.random.default_rng((seed, epoch, sample))


def draw_breaks(draw: Twin, witness: Witness) -> bool:
    """Whether the witness's masks change under other global generators and at another hour."""
    ids, epoch, seed = torch.tensor(witness.inputs["ids"]), witness.inputs["epoch"], witness.inputs["seed"]
    state, clock = np.random.get_state(), time.time
    first = draw(ids, epoch=epoch, seed=seed)
    np.random.seed(12)
    time.time = lambda: 1e6
    try:
        return not torch.equal(first, draw(ids, epoch=epoch, seed=seed))
    finally:
        time.time = clock
        np.random.set_state(state)


draw_bug = partial(specimen, contract=Contract.C8, certify=certify_reproducible, breaks=draw_breaks)


@draw_bug("the same masks in every worker", "confirmed", "pengzhiliang/MAE-pytorch/issues/28")
def from_the_global_generator(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """Every loader worker starts from a copy of NumPy's global generator, and so draws alike.

    Shown: The masks follow a global generator.
    Not shown: That forked workers share its state.
    """
    orders = [(np.random if bug else generator(seed, epoch, i)).permutation(PATCHES) for i in ids.tolist()]
    return hide(order[:HIDDEN] for order in orders)


@draw_bug("seeded by the clock", "confirmed", "ecmwf/WeatherGenerator/issues/267")
def seeded_by_the_clock(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """The seed is the time at which the process started to draw, in hours.

    Shown: Another hour, other masks.
    Not shown: The first fix, which divides by zero.
    """
    hours = int(time.time()) // 3600 if bug else 0
    return hide(generator(hours + seed, epoch, i).permutation(PATCHES)[:HIDDEN] for i in ids.tolist())


def certify_resumed(start: Twin) -> Report:
    """A run from the start against runs that are resumed at each later epoch."""
    return certify_reproducible(start(0), epochs=EPOCHS, resumed=start, workers=0)


def resume_breaks(start: Twin, witness: Witness) -> bool:
    """Whether a run resumed at its last epoch draws what the straight run draws there."""
    ids = torch.tensor(witness.inputs["ids"])
    straight, resumed = start(0), start(EPOCHS[-1])
    return not torch.equal(straight(ids, epoch=EPOCHS[-1], seed=0), resumed(ids, epoch=EPOCHS[-1], seed=0))


@draw_bug("the rate starts anew", "reported", "CUMLSec/trex/issues/31", certify=certify_resumed, breaks=resume_breaks)
def rate_starts_anew(start: int, bug: bool) -> Twin:
    """The share grows with the epochs since the start or the resume: a resumed run begins anew.

    Shown: A straight run against resumed ones.
    Not shown: The rate's own schedule.
    """

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        count = 3 + (epoch - start if bug else epoch)
        return hide(generator(seed, epoch, i).permutation(PATCHES)[:count] for i in ids.tolist())

    return draw


@draw_bug("state lost on resume", "synthetic", certify=certify_resumed, breaks=resume_breaks)
def state_lost_on_resume(start: int, bug: bool) -> Twin:
    """The checkpoint holds the weights only: after a resume the generator starts from its seed again.

    Shown: A straight run against resumed ones.
    Not shown: The checkpoint's format.
    """

    def draw(ids: Tensor, *, epoch: int, seed: int) -> Tensor:
        # The generator moves by a hundred orders an epoch.
        first = 100 * (epoch - start if bug else epoch)
        stream = np.random.default_rng(seed)
        orders = [stream.permutation(PATCHES) for _ in range(first + 100)][first:]
        return hide(orders[i % 100][:HIDDEN] for i in ids.tolist())

    return draw


def count_breaks(draw: Twin, witness: Witness) -> bool:
    """Whether some row of the witness's draw hides another number."""
    rows = draw(torch.tensor(witness.inputs["ids"]), epoch=witness.inputs["epoch"], seed=witness.inputs["seed"])
    return bool((rows.sum(1) != witness.inputs["count"]).any())


@draw_bug(
    "drawn with replacement",
    "confirmed",
    "facebookresearch/fairseq/pull/752",
    contract=Contract.C4,
    certify=lambda draw: certify_reproducible(draw, count=HIDDEN, workers=0),
    breaks=count_breaks,
)
def drawn_with_replacement(ids: Tensor, *, epoch: int, seed: int, bug: bool) -> Tensor:
    """Patches are drawn with replacement: some twice, so that fewer are hidden than was asked for.

    Shown: The number that is hidden.
    Not shown: Spans, which overlap as well.
    """
    generators = [generator(seed, epoch, i) for i in ids.tolist()]
    return hide(g.integers(PATCHES, size=HIDDEN) if bug else g.permutation(PATCHES)[:HIDDEN] for g in generators)
