"""The bits behind random masks: published vectors, and a function of (seed, epoch, sample id, index) alone."""

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewproof import InvalidArgument
from viewproof.masks import (
    MultiBlockMask,
    MultiRangeMask,
    PaddedMask,
    RandomBlockMask,
    RandomBlockwiseMask,
    RandomPatchMask,
    RandomRule,
    SharedRandomPatchMask,
    SpanMask,
    SpectrogramMask,
    TokenMask,
    TubeMask,
    ratio_to_count,
)
from viewproof.masks.random.draws import Draws, among_first, below, count_by_length, philox, ranked

IMAGE = (2, 8, 12)
RULES: list[tuple[RandomRule, tuple[int, ...]]] = [
    (RandomPatchMask(2, 2, count=7, seed=3), IMAGE),
    (RandomPatchMask(3, 5, count=4), (1, 7, 11)),
    (~RandomPatchMask(2, 2, count=7, seed=3), IMAGE),
    (TubeMask(2, 3, count=5, seed=3), (2, 3, 8, 12)),
    (RandomBlockMask((2, None, 3), count=5, seed=3), (5, 2, 7)),
    (RandomBlockMask((1,), count=5), (9,)),
    (RandomBlockwiseMask(2, 2, count=11, min_area=2, seed=3), IMAGE),
    (MultiBlockMask(2, 2, context=4, target_area=(2, 4), context_area=(16, 24), targets=3, seed=3), IMAGE),
    (SpanMask(2, 3, seed=3), (11, 2)),
    (SpanMask(2, 3, seed=3, equal=False), (11,)),
    (SpectrogramMask(1, 2, 2, 3, seed=3), (8, 12)),
    (TokenMask(3, 2, 1, mask_id=0, vocabulary=50, seed=3), (11,)),
    (PaddedMask(RandomPatchMask(2, 2, count=7, seed=3), axis=2), IMAGE),
    (
        MultiRangeMask(
            MultiBlockMask(2, 2, context=4, target_area=(2, 4), context_area=(16, 24), targets=3, seed=3),
            MultiBlockMask(2, 2, context=4, target_area=(12, 14), context_area=(24, 24), targets=2, seed=3),
        ),
        IMAGE,
    ),
]
NAMES = [repr(rule) for rule, _ in RULES]
every_rule = pytest.mark.parametrize(("rule", "shape"), RULES, ids=NAMES)


def hidden(rule: RandomRule, shape: tuple[int, ...], ids: Tensor, epoch: int = 0) -> Tensor:
    full: dict[str, Any] = {"lengths": torch.full_like(ids, shape[2])} if isinstance(rule, PaddedMask) else {}
    return rule.mask(shape, sample_ids=ids, epoch=epoch, **full).hidden


# Random123 1.14, kat_vectors: philox4x32 10.
VECTORS = [
    ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(counter: Any, key: Any, expected: tuple[int, ...]) -> None:
    assert philox(counter, key) == expected
    tensors: Any = tuple(torch.tensor([word]) for word in counter)
    arrays: Any = tuple(np.array([word]) for word in counter)
    tensors, arrays = philox(tensors, key), philox(arrays, key)
    assert tuple(int(word) for word in tensors) == tuple(word.item() for word in arrays) == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 15))
def test_a_word_is_philox_of_its_own_counter(seed: int, epoch: int, sample: int, stream: int) -> None:
    words = Draws(seed, epoch, torch.tensor([5, sample])).words(7, stream)
    for index in (0, 3, 4, 6):
        counter = (stream << 28) + index // 4, sample >> 32 & 0xFFFFFFFF, sample & 0xFFFFFFFF, epoch
        assert words[1, index] == philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[index % 4]


def test_both_ways_to_compute_the_words_agree() -> None:
    draws = Draws(2**40 + 1, 2**31, torch.tensor([0, -1, 2**62, 7]))
    with plain.installed():
        from viewproof.masks.random.draws import Draws as Plain

        compiled = torch.compile(lambda ids: Plain(2**40 + 1, 2**31, ids).words(13, 2), backend="aot_eager")
        assert torch.equal(compiled(draws.sample_ids), draws.words(13, 2))


@every_rule
def test_a_mask_does_not_depend_on_batch_mates_or_order(rule: RandomRule, shape: tuple[int, ...]) -> None:
    ids = torch.tensor([11, 2**40, 0, 5, 11, -3])
    together = hidden(rule, shape, ids, 4)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    assert torch.equal(hidden(rule, shape, ids[order], 4), together[order])
    for n in range(len(ids)):
        assert torch.equal(hidden(rule, shape, ids[n : n + 1], 4)[0], together[n])
    assert torch.equal(together[0], together[4])
    assert hidden(rule, shape, ids[:0]).shape == (0, *shape)


@every_rule
def test_masks_differ_by_sample_and_epoch_and_seed(rule: RandomRule, shape: tuple[int, ...]) -> None:
    ids = torch.arange(40)
    masks = hidden(rule, shape, ids)
    assert len({tuple(row) for row in masks.flatten(1).tolist()}) > 8
    assert (masks != hidden(rule, shape, ids, epoch=1)).flatten(1).any(1).sum() > 8


@every_rule
def test_global_random_state_is_neither_read_nor_changed(rule: RandomRule, shape: tuple[int, ...]) -> None:
    def state() -> tuple[Any, ...]:
        # Python's own generator is read by the checks of the test run; the process below has none.
        return torch.get_rng_state().tolist(), str(np.random.get_state())

    ids = torch.arange(3)
    first_masks = hidden(rule, shape, ids)
    torch.manual_seed(99)
    np.random.seed(99)
    changed = state()
    assert torch.equal(hidden(rule, shape, ids), first_masks)
    assert state() == changed


ELSEWHERE = """
import random, sys, torch
import viewproof as vp
torch.set_num_threads(2)
torch.manual_seed(5)
before = random.getstate()
for rule, shape in [(vp.RandomPatchMask(2, 2, 7, 3), (2, 8, 12)), (vp.SpanMask(2, 3, 3), (11, 2))]:
    print(rule.mask(shape, sample_ids=torch.arange(20), epoch=2).hidden.int().flatten().tolist())
assert random.getstate() == before
"""


def test_another_process_with_other_threads_and_state_draws_the_same() -> None:
    printed = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True).stdout
    for line, (rule, shape) in zip(printed.splitlines(), (RULES[0], RULES[8]), strict=True):
        assert json.loads(line) == hidden(rule, shape, torch.arange(20), 2).int().flatten().tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_rule
def test_a_gpu_draws_the_same(rule: RandomRule, shape: tuple[int, ...]) -> None:
    ids = torch.arange(50)
    assert torch.equal(hidden(rule, shape, ids.cuda()).cpu(), hidden(rule, shape, ids))


@pytest.mark.usefixtures("fresh_compiler")
def test_the_patch_mask_compiles_as_one_graph() -> None:
    rule = plain.RandomPatchMask(2, 2, count=7, seed=3)
    x, ids = torch.randn(4, *IMAGE), torch.tensor([4, 0, 2**40, 9])
    step = torch.compile(lambda v, i: rule.sample(v, sample_ids=i, epoch=3).x, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(x, ids), rule.sample(x, sample_ids=ids, epoch=3).x)


@given(st.integers(1, 2**31 - 1), st.integers(0, 2**32 - 1))
def test_bounded_integers_are_below_their_bound_and_reach_it(bound: int, word: int) -> None:
    drawn = below(torch.tensor([0, word, 2**32 - 1]), bound)
    assert drawn[0] == 0 and 0 <= drawn[1] < bound and drawn[2] == bound - 1


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.integers(0, 9))
def test_equal_words_are_ranked_by_their_index(words: list[int], count: int) -> None:
    count = min(count, len(words))
    expected = sorted(range(len(words)), key=lambda i: (words[i], i))[:count]
    keys = ranked(torch.tensor([words]))
    for chosen in (among_first(keys, count), among_first(keys, torch.tensor([[count]]))):
        assert chosen[0].nonzero()[:, 0].tolist() == sorted(expected)


def test_shares_fit_and_ratios_round_to_the_nearest_count() -> None:
    assert count_by_length(3, torch.tensor([0, 6, 7, 10]), 10).tolist() == [0, 1, 2, 3]
    assert [ratio_to_count(0.75, n) for n in (196, 49, 2, 6)] == [147, 37, 2, 4]
    assert ratio_to_count(0.1 + 0.2, 10) == 3 and ratio_to_count(0.0, 5) == 0 and ratio_to_count(1.0, 5) == 5
    for bad in (-0.1, 1.5, float("nan"), "half", True):
        with pytest.raises(plain.InvalidArgument, match="must be a number from 0 to 1"):
            plain.ratio_to_count(bad, 5)


@pytest.mark.parametrize("draw", [0, 3, 63, 64, 200])
def test_the_shared_mask_is_that_of_the_sample_with_the_number_of_the_draw(draw: int) -> None:
    shared = SharedRandomPatchMask(2, 2, count=7, seed=3)
    own = RandomPatchMask(2, 2, count=7, seed=3).mask(IMAGE, sample_ids=torch.tensor([draw])).hidden[0]
    assert torch.equal(shared.at(draw).mask(IMAGE).hidden, own)
    assert torch.equal((~shared).at(draw).mask(IMAGE).hidden, ~own)
    assert shared.at(draw).sample(torch.randn(2, *IMAGE), 50).mask.count == int(own.flatten()[:50].sum())


BAD_IDS = [
    (None, "sample_ids=None: RandomPatchMask(patch_h=2, patch_w=2, count=7, seed=0) draws one mask a sample; pass"),
    (torch.arange(4.0), "sample_ids of torch.float32 (4,) must be an integer tensor [N]"),
    (torch.zeros(2, 2, dtype=torch.int64), "sample_ids of torch.int64 (2, 2) must be"),
    (torch.ones(2, dtype=torch.bool), "sample_ids of torch.bool (2,) must be"),
    ([1, 2], "sample_ids of list must be an integer tensor"),
    (torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]), "sample_ids of Tensor must be an integer tensor"),
]


@pytest.mark.parametrize(("ids", "message"), BAD_IDS)
def test_bad_sample_ids_are_refused(ids: Any, message: str) -> None:
    rule = plain.RandomPatchMask(2, 2, count=7)
    with pytest.raises(plain.InvalidArgument, match=re.escape(message)):
        rule.mask(IMAGE, sample_ids=ids)
    with pytest.raises(plain.InvalidArgument, match=re.escape(message)):
        rule.sample(torch.zeros(4, *IMAGE), sample_ids=ids)


def test_bad_epochs_and_a_wrong_number_of_ids_are_refused() -> None:
    rule = RandomPatchMask(2, 2, count=7)
    with pytest.raises(InvalidArgument, match=re.escape("epoch=-1 must be a non-negative integer")):
        rule.mask(IMAGE, sample_ids=torch.arange(2), epoch=-1)
    with pytest.raises(InvalidArgument, match=re.escape("epoch=4294967296 must be below 2**32")):
        rule.mask(IMAGE, sample_ids=torch.arange(2), epoch=2**32)
    with pytest.raises(plain.InvalidArgument, match="does not fit a mask"):
        plain.RandomPatchMask(2, 2, 7).sample(torch.zeros(3, *IMAGE), sample_ids=torch.arange(2))
    with pytest.raises(InvalidArgument, match="draws one mask a sample"):
        rule.hidden(torch.arange(2))
    with pytest.raises(InvalidArgument, match=re.escape("has no padded axis; wrap it: PaddedMask(rule, axis)")):
        rule.mask(IMAGE, sample_ids=torch.arange(2), lengths=torch.tensor([1, 1]))
