"""How often places are hidden. Every test has a fixed seed and so always ends alike; its error rate is that of a
fresh seed: the chance that a rule with exactly the stated distribution would be called wrong.

A count of hits of one place in n samples is binomial, and P(|hits - n p| > n t) <= 2 exp(-2 n t^2) (Hoeffding 1963).
`check_rates` splits an error rate of 1e-6 over all places. The mutants at the end are refused by the same check.
"""

import itertools
import math

import pytest
import torch
from torch import Tensor

from viewproof.masks import (
    MultiBlockMask,
    RandomBlockwiseMask,
    RandomPatchMask,
    SpanMask,
    SpectrogramMask,
    TokenMask,
    TubeMask,
)
from viewproof.masks.random.blockwise import rectangle
from viewproof.masks.random.draws import Draws, below

N = 20_000
IDS = torch.arange(N)


def within(n: int, places: int, error_rate: float = 1e-6) -> float:
    return math.sqrt(math.log(2 * places / error_rate) / (2 * n))


def check_rates(hidden: Tensor, expected: Tensor | float) -> bool:
    """Whether each place's share of ``hidden: [N, *places]`` is as expected, at an error rate of 1e-6 in all."""
    rates = hidden.double().mean(0)
    expected = torch.as_tensor(expected, dtype=torch.float64).expand_as(rates)
    return bool(((rates - expected).abs() <= within(len(hidden), rates.numel())).all())


def test_every_patch_is_hidden_equally_often() -> None:
    hidden = RandomPatchMask(1, 1, count=9).mask((1, 4, 5), sample_ids=IDS).hidden[:, 0]
    assert check_rates(hidden, 9 / 20)
    flat = hidden.flatten(1)
    for a, b in itertools.combinations(range(20), 2):
        assert check_rates((flat[:, a] & flat[:, b])[:, None], 9 * 8 / (20 * 19))


def test_every_set_of_patches_is_equally_likely() -> None:
    flat = RandomPatchMask(1, 1, count=3).mask((1, 2, 3), sample_ids=IDS).hidden.flatten(1)
    codes = (flat * 2 ** torch.arange(6)).sum(1)
    counts = torch.bincount(codes, minlength=64)[[sum(2**i for i in c) for c in itertools.combinations(range(6), 3)]]
    assert counts.sum() == N
    statistic = float(((counts - N / 20) ** 2 / (N / 20)).sum())
    assert statistic < 71.2  # chi-square of 19 degrees of freedom: exceeded with probability 6e-8


def test_neighbouring_ids_epochs_and_seeds_are_independent() -> None:
    def flat(ids: Tensor, epoch: int = 0, seed: int = 0) -> Tensor:
        return RandomPatchMask(1, 1, count=8, seed=seed).mask((1, 4, 4), sample_ids=ids, epoch=epoch).hidden.flatten(1)

    base = flat(IDS)
    for other in (flat(IDS + 1), flat(IDS, epoch=1), flat(IDS, seed=1), flat(IDS + 2**32)):
        assert check_rates(base & other, 1 / 4)


def test_every_tube_is_hidden_equally_often() -> None:
    assert check_rates(TubeMask(1, 1, count=4).mask((1, 2, 3, 4), sample_ids=IDS).hidden, 4 / 12)


def test_every_word_bit_is_fair() -> None:
    words = Draws(0, 0, IDS).words(6)
    bits = (words[:, :, None] >> torch.arange(32)) & 1
    assert check_rates(bits, 0.5)


@pytest.mark.parametrize("equal", [True, False])
def test_every_placement_of_spans_is_equally_likely(equal: bool) -> None:
    number, width, extent = 2, 2, 7
    widths = [(2, 2)] if equal else [(1, 3), (2, 2), (3, 1)]
    every = []
    for (first, second), visible in itertools.product(widths, itertools.combinations(range(extent - 4 + 1), number)):
        row = torch.zeros(extent)
        row[visible[0] : visible[0] + first] = 1
        row[visible[1] + first : visible[1] + first + second] = 1
        every.append(row)
    hidden = SpanMask(number, width, equal=equal).mask((extent,), sample_ids=IDS).hidden
    possible = torch.stack(every)
    assert check_rates((hidden[:, None] == possible.bool()).all(2), 1 / len(every))
    assert check_rates(hidden, possible.double().mean(0))
    assert (possible.mean(0) > 0).all()


def test_every_frequency_and_time_is_hidden_as_often_as_bands_allow() -> None:
    hidden = SpectrogramMask(1, 2, 1, 3).mask((5, 8), sample_ids=IDS).hidden
    rows = torch.tensor([min(f, 3) - max(f - 1, 0) + 1 for f in range(5)]) / 4
    columns = torch.tensor([min(t, 5) - max(t - 2, 0) + 1 for t in range(8)]) / 6
    assert check_rates(hidden, 1 - (1 - rows)[:, None] * (1 - columns))


def test_every_token_takes_every_role_equally_often() -> None:
    ids = torch.arange(100, 110).repeat(N, 1)
    sample = TokenMask(3, 2, 1, mask_id=0, vocabulary=50).sample(ids, sample_ids=IDS)
    replaced = (sample.x != ids) & (sample.x != 0)
    kept = sample.mask.hidden & (sample.x == ids)
    # Of the 50 ids that replace, 0 is the mask id.
    assert check_rates(replaced, 2 / 10 * 49 / 50) and check_rates(kept, 1 / 10)
    assert check_rates(sample.x == 0, 3 / 10 + 2 / 10 / 50)
    assert check_rates(torch.stack([(sample.x == v).any(1) for v in range(1, 50)], 1), 1 - (49 / 50) ** 2)


def test_every_place_of_a_block_is_equally_likely_last_row_and_column_included() -> None:
    rule = MultiBlockMask(
        1, 1, context=4, target_area=(6, 6), context_area=(36, 36), targets=2, target_aspect=(1.5, 1.5)
    )
    (_, _), (height, width) = rule.sizes(6, 6)
    hidden, targets = rule.blocks((1, 6, 6), sample_ids=IDS)
    for target in targets:
        place = target.hidden[:, 0].flatten(1).int().argmax(1)
        places = torch.tensor([r * 6 + c for r in range(6 - height + 1) for c in range(6 - width + 1)])
        assert check_rates(place[:, None] == places, 1 / len(places))
        assert target.hidden[:, 0, 5].any() and target.hidden[:, 0, :, 5].any()
    # Which corner is symmetric: what the context sees must be, too.
    seen = (~hidden.hidden[:, 0]).double().mean(0)
    assert bool(((seen - seen.flip(0)).abs() <= 2 * within(N, 36)).all())
    assert bool(((seen - seen.flip(1)).abs() <= 2 * within(N, 36)).all())


def test_rectangles_reach_every_patch_alike_on_both_sides() -> None:
    hidden = RandomBlockwiseMask(1, 1, count=8, min_area=4).mask((1, 6, 7), sample_ids=IDS).hidden[:, 0]
    rates = hidden.double().mean(0)
    assert rates.min() > 0.01
    # Left and right are drawn alike. Rows are not: the last rectangle keeps its first rows.
    assert bool(((rates - rates.flip(1)).abs() <= 2 * within(N, 42) + 0.02).all())


def test_a_generator_that_misses_the_last_place_is_caught() -> None:
    word = Draws(0, 0, IDS).words(1)[:, 0]
    places = torch.arange(4)
    assert check_rates(below(word, 4)[:, None] == places, 1 / 4)
    assert not check_rates(below(word, 3)[:, None] == places, 1 / 4)
    start = below(word, 3)
    assert not rectangle(start, start, (3, 3), (6, 6))[:, 5].any()


def test_ties_in_few_bits_are_caught() -> None:
    words = Draws(0, 0, IDS).words(20) % 4
    chosen = words.argsort(dim=1, stable=True)[:, :9]
    hidden = torch.zeros(N, 20).scatter(1, chosen, 1.0)
    assert not check_rates(hidden, 9 / 20)
