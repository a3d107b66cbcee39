"""What each random rule hides: exact counts, disjoint blocks, untouched padding, and the errors."""

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewproof import InvalidArgument, masked_mse, split_patches_by_sample
from viewproof.masks import (
    MaskOfSample,
    MultiBlockMask,
    PaddedMask,
    RandomBlockMask,
    RandomBlockwiseMask,
    RandomPatchMask,
    SharedRandomPatchMask,
    SpanMask,
    SpectrogramMask,
    TokenMask,
    TubeMask,
    VectorMask,
)
from viewproof.masks.random.draws import Draws

IDS = torch.arange(200)
sizes = st.integers(1, 9)


def patches(hidden: Tensor, patch_h: int, patch_w: int) -> Tensor:
    """[N, ..., H, W] to [N, patches]; a patch is hidden as a whole or not at all."""
    height, width = hidden.shape[-2:]
    flat = hidden.reshape(len(hidden), -1, height, width)
    assert torch.equal(flat, flat[:, :1].expand_as(flat))
    tiles = [
        flat[:, 0, top : top + patch_h, left : left + patch_w].flatten(1)
        for top in range(0, height, patch_h)
        for left in range(0, width, patch_w)
    ]
    assert all(torch.equal(tile.all(1), tile.any(1)) for tile in tiles)
    return torch.stack([tile[:, 0] for tile in tiles], 1)


def runs(row: Tensor) -> list[int]:
    """The lengths of the maximal runs of hidden places."""
    return [len(list(group)) for hidden, group in itertools.groupby(row.tolist()) if hidden]


@given(sizes, sizes, st.integers(1, 4), st.integers(1, 4), st.integers(0, 81))
def test_patches_and_tubes_have_exact_counts(height: int, width: int, ph: int, pw: int, count: int) -> None:
    count = min(count, -(-height // ph) * -(-width // pw))
    images = RandomPatchMask(ph, pw, count).mask((2, height, width), sample_ids=IDS[:9]).hidden
    clips = TubeMask(ph, pw, count).mask((2, 3, height, width), sample_ids=IDS[:9]).hidden
    blocks = RandomBlockMask((None, ph, pw), count).mask((2, height, width), sample_ids=IDS[:9]).hidden
    assert (patches(images, ph, pw).sum(1) == count).all()
    assert torch.equal(clips, images[:, :, None].expand_as(clips)) and torch.equal(images, blocks)


def test_the_complement_hides_the_rest() -> None:
    rule = RandomPatchMask(2, 2, count=5)
    shown, rest = (r.mask((1, 6, 8), sample_ids=IDS).hidden for r in (rule, ~rule))
    assert torch.equal(rest, ~shown) and ~~rule == rule and repr(~rule) == f"~{rule!r}"
    padded = PaddedMask(rule, axis=2)
    lengths = torch.full_like(IDS, 5)
    inside = (~padded).mask((1, 6, 8), sample_ids=IDS, lengths=lengths).hidden
    assert torch.equal(inside[..., :5], rest[..., :5]) and not inside[..., 5:].any()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 36), st.integers(1, 20))
def test_rectangles_hide_exactly_count(rows: int, cols: int, count: int, min_area: int) -> None:
    count = min(count, rows * cols)
    rule = RandomBlockwiseMask(1, 1, count, min_area=min_area, max_aspect=2.0)
    assert (rule.mask((1, rows, cols), sample_ids=IDS[:20]).hidden.flatten(1).sum(1) == count).all()


def test_one_rectangle_is_a_rectangle_until_its_last_row() -> None:
    hidden = RandomBlockwiseMask(1, 1, count=12, min_area=12).mask((1, 9, 9), sample_ids=IDS).hidden[:, 0]
    for grid in hidden:
        rows, cols = grid.any(1).nonzero()[:, 0], grid.any(0).nonzero()[:, 0]
        if len(cols) * len(rows) == 12:
            box = grid[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            assert bool(box.all())
    shapes = {(int(grid.any(1).sum()), int(grid.any(0).sum())) for grid in hidden}
    assert {(3, 4), (4, 3)} <= shapes


def test_the_context_block_reaches_every_patch() -> None:
    rule = MultiBlockMask(1, 1, context=4, target_area=(1, 1), context_area=(9, 9), targets=1)
    context, _ = rule.blocks((1, 6, 5), sample_ids=torch.arange(400))
    seen = ~context.hidden[:, 0]
    assert bool((seen.sum((1, 2)) == 4).all()) and bool(seen.any(0).all())


BLOCKS = MultiBlockMask(1, 1, context=20, target_area=(12, 20), context_area=(80, 100), targets=4)


@given(st.integers(0, 40), st.integers(0, 5), st.integers(1, 48))
def test_context_and_targets_are_disjoint_and_counted(epoch: int, seed: int, context: int) -> None:
    rule = replace(BLOCKS, seed=seed, context=context)
    (high, wide), (height, width) = rule.sizes(10, 10, epoch)
    hidden, targets = rule.blocks((1, 10, 10), sample_ids=IDS[:30], epoch=epoch)
    seen = ~hidden.hidden[:, 0]
    assert (seen.flatten(1).sum(1) == context).all()
    for target in targets:
        block = target.hidden[:, 0]
        assert (block.flatten(1).sum(1) == height * width).all()
        assert (block.any(2).sum(1) == height).all() and (block.any(1).sum(1) == width).all()
        assert not (block & seen).any()
    for grid in seen:
        rows, cols = grid.any(1).nonzero()[:, 0], grid.any(0).nonzero()[:, 0]
        assert rows[-1] - rows[0] < high and cols[-1] - cols[0] < wide


def test_area_and_aspect_of_targets_are_drawn_independently() -> None:
    rule = replace(BLOCKS, target_area=(100, 200), context_area=(900, 1600))
    drawn = [rule.sizes(40, 40, epoch)[1] for epoch in range(400)]
    for some in ([(h, w) for h, w in drawn if h * w <= 150], [(h, w) for h, w in drawn if h * w > 150]):
        aspects = [h / w for h, w in some]
        assert min(aspects) < 0.85 and max(aspects) > 1.35
    assert {h * w for _, (h, w) in (BLOCKS.sizes(10, 10, epoch) for epoch in range(99))} >= {12, 16, 20}


def test_a_multi_block_sample_scores_the_targets_and_hides_more() -> None:
    x = torch.randn(5, 3, 20, 20)
    rule = replace(BLOCKS, patch_h=2, patch_w=2)
    sample = rule.sample(x, sample_ids=IDS[:5], epoch=2)
    hidden, targets = rule.blocks((3, 20, 20), sample_ids=IDS[:5], epoch=2)
    assert sample.view is not None and torch.equal(sample.view.hidden, hidden.hidden)
    union = torch.stack([t.hidden for t in targets]).any(0)
    assert torch.equal(sample.mask.hidden, union.flatten(1)) and not (union & ~hidden.hidden).any()
    assert torch.equal(sample.x, torch.where(hidden.hidden, 0.0, x)) and torch.equal(sample.y, x.flatten(1))
    expected = ((sample.y - 1)[union.flatten(1)] ** 2).mean()
    assert torch.allclose(masked_mse(torch.ones(5, 1200), sample), expected)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9), st.booleans())
def test_spans_are_apart_and_inside_and_counted(number: int, width: int, room: int, equal: bool) -> None:
    need = number * (width + 1) - 1
    lengths = torch.tensor([need + room, need, need + room // 2])
    hidden = SpanMask(number, width, equal=equal).mask((need + room,), sample_ids=IDS[:3], lengths=lengths).hidden
    for row, length in zip(hidden, lengths, strict=True):
        assert not row[length:].any()
        assert len(runs(row)) == number and sum(runs(row)) == number * width
        assert not equal or set(runs(row)) == {width}


@pytest.mark.parametrize("rule", [SpanMask(2, 3, per=10), SpanMask(2, 3, equal=False, per=10), SpanMask(1, 3)])
def test_spans_do_not_depend_on_how_far_a_row_is_padded(rule: SpanMask) -> None:
    lengths = 3 + IDS[:50] % 23
    short, long = (rule.mask((t, 2), sample_ids=IDS[:50], lengths=lengths).hidden for t in (25, 60))
    assert torch.equal(short, long[:, :25]) and not long[:, 25:].any()
    alone = rule.mask((int(lengths[7]), 2), sample_ids=IDS[7:8]).hidden
    assert torch.equal(alone[0], short[7, : int(lengths[7])])
    if rule.per is not None:
        assert short[:, :, 0].sum(1).tolist() == [3 * (2 * int(length) // 10) for length in lengths]


def test_spectrogram_bands_have_the_closed_form_count() -> None:
    hidden = SpectrogramMask(2, 2, 1, 4).mask((3, 9, 12), sample_ids=IDS).hidden
    f, t = 2 * 2, 4
    assert (hidden.flatten(2).sum(2) == f * 12 + t * 9 - f * t).all()
    for plane in hidden[:, 1]:
        assert runs(plane.all(1)) == [2, 2] and runs(plane.all(0)) == [4]
    lengths = 4 + IDS % 9
    cut = SpectrogramMask(0, 1, 1, 4).mask((9, 12), sample_ids=IDS, lengths=lengths).hidden
    assert (cut.any(1).sum(1) == 4).all()
    assert not (cut & (torch.arange(12) >= lengths[:, None, None])).any()


def token_roles(rule: TokenMask, ids: Tensor, **given: Any) -> tuple[Tensor, Tensor]:
    sample = rule.sample(ids, sample_ids=IDS[: len(ids)], **given)
    assert torch.equal(sample.y, ids)
    assert torch.equal(sample.x[~sample.mask.hidden], ids[~sample.mask.hidden])
    return sample.x, sample.mask.hidden


def test_tokens_have_their_counts() -> None:
    ids = torch.arange(100, 140).repeat(30, 1)
    x, chosen = token_roles(TokenMask(5, 3, 2, mask_id=7, vocabulary=10**6), ids)
    assert (chosen.sum(1) == 10).all() and ((x == 7).sum(1) == 5).all()
    assert ((x != ids) & (x != 7)).sum(1).eq(3).all() and (chosen & (x == ids)).sum(1).eq(2).all()
    assert x.max() < 10**6 and len(set(x.flatten().tolist())) > 100


def test_padding_and_special_tokens_are_never_selected() -> None:
    lengths = 20 + IDS[:60] % 21
    ids = torch.randint(0, 9, (60, 40), generator=torch.Generator().manual_seed(0))
    rule = TokenMask(24, 3, 3, mask_id=50, vocabulary=9, per=200, special=(0, 1))
    _, chosen = token_roles(rule, ids, lengths=lengths)
    allowed = (ids > 1) & (torch.arange(40) < lengths[:, None])
    assert not (chosen & ~allowed).any()
    assert chosen.sum(1).tolist() == [30 * n // 200 for n in allowed.sum(1).tolist()]
    wider = torch.cat([ids, torch.full((60, 25), 5)], 1)
    assert torch.equal(token_roles(rule, wider, lengths=lengths)[1][:, :40], chosen)


def test_the_largest_vocabulary_that_the_ids_hold() -> None:
    tokens = torch.zeros(50, 40, dtype=torch.uint8)
    x, _ = token_roles(TokenMask(2, 30, 2, mask_id=255, vocabulary=256, special=(300,)), tokens)
    assert x.dtype == torch.uint8 and len(set(x.flatten().tolist())) > 200
    wide, _ = token_roles(TokenMask(2, 30, 2, mask_id=0, vocabulary=2**31), tokens.long())
    assert wide.min() >= 0 and 2**30 < wide.max() < 2**31


def test_token_masks_without_ids_are_those_of_samples() -> None:
    rule = TokenMask(5, 3, 2, mask_id=7, vocabulary=99)
    ids = torch.arange(40).repeat(3, 1)
    assert torch.equal(rule.mask((40,), sample_ids=IDS[:3]).hidden, token_roles(rule, ids)[1])
    assert rule.sample(ids, 13, sample_ids=IDS[:3]).y.shape == (3, 13)


@pytest.mark.parametrize("special", [(), (0, 1)])
def test_tokens_are_chosen_where_the_ids_are(special: tuple[int, ...]) -> None:
    """Without a GPU: on the meta device, where a tensor made on the CPU by mistake shows."""
    devices = []

    class Recording(TokenMask):
        def _roles(self, draws: Draws, allowed: Tensor, lengths: Tensor | None) -> Tensor:
            devices.extend([draws.sample_ids.device.type, allowed.device.type])
            return torch.zeros_like(allowed, dtype=torch.int64)

    rule = Recording(5, 3, 2, mask_id=7, vocabulary=99, special=special)
    ids, tokens = IDS[:3].to("meta"), torch.zeros(3, 40, dtype=torch.int64, device="meta")
    if not special:
        assert rule.mask((40,), sample_ids=ids).hidden.device.type == "meta"
        assert rule.mask((40,), sample_ids=IDS[:3], device="meta").hidden.device.type == "meta"
    assert rule.sample(tokens, sample_ids=IDS[:3]).x.device.type == "meta"
    assert set(devices) == {"meta"}


def test_padding_along_another_axis_than_the_rules_own_leaves_its_count() -> None:
    rule, lengths = PaddedMask(SpanMask(2, 3), axis=1), torch.tensor([1, 4])
    hidden = rule.mask((11, 4), sample_ids=IDS[:2], lengths=lengths).hidden
    whole = SpanMask(2, 3).mask((11, 4), sample_ids=IDS[:2]).hidden
    assert torch.equal(hidden, whole & (torch.arange(4) < lengths[:, None, None]))


def test_the_mask_of_one_sample_is_its_row_and_a_fixed_rules_own() -> None:
    random, fixed = RandomPatchMask(2, 2, 5), SharedRandomPatchMask(2, 2, 5).at(3)
    row = random.mask((1, 6, 8), sample_ids=torch.tensor([7]), epoch=4).row(0)
    assert random.per_sample and torch.equal(MaskOfSample(random, 7, 4).mask((1, 6, 8)).hidden, row.hidden)
    assert not fixed.per_sample
    assert torch.equal(MaskOfSample(fixed, 7).mask((1, 6, 8)).hidden, fixed.mask((1, 6, 8)).hidden)
    assert not MaskOfSample(SpanMask(2, 3)).per_sample


@pytest.mark.parametrize("inner", [VectorMask(2, 0), RandomBlockMask((1,), 4), ~VectorMask(3, 1)])
def test_padding_is_never_hidden_nor_scored(inner: Any) -> None:
    lengths = torch.tensor([8, 0, 3, 7])
    x, far = torch.randn(4, 8), torch.randn(4, 8)
    padding = torch.arange(8) >= lengths[:, None]
    rule = PaddedMask(inner)
    sample = rule.sample(x, sample_ids=IDS[:4], lengths=lengths)
    whole = rule.mask((8,), sample_ids=IDS[:4], lengths=torch.full((4,), 8)).hidden
    assert torch.equal(sample.mask.hidden, whole & ~padding)
    assert torch.equal(sample.x[padding], x[padding])
    elsewhere = replace(sample, y=torch.where(padding, far, sample.y))
    prediction = torch.randn(4, 8)
    assert torch.equal(masked_mse(prediction, sample), masked_mse(prediction, elsewhere))


def test_patch_indices_partition_every_sample() -> None:
    mask = RandomPatchMask(2, 3, count=5).mask((2, 6, 12), sample_ids=IDS)
    visible, hidden = split_patches_by_sample(mask, 2, 3)
    expected = patches(mask.hidden, 2, 3)
    assert visible.shape == (200, 7) and hidden.shape == (200, 5)
    assert expected.gather(1, hidden).all() and not expected.gather(1, visible).any()
    assert (hidden.diff() > 0).all() and (visible.diff() > 0).all()


DEFAULTS = [
    RandomPatchMask(2, 2, 1), RandomBlockMask((1,), 1), RandomBlockwiseMask(2, 2, 1), TubeMask(2, 2, 1), SpanMask(1, 1),
    SharedRandomPatchMask(2, 2, 1), SpectrogramMask(1, 1, 1, 1), TokenMask(1, 1, 1, 0, 9), BLOCKS,
]  # fmt: skip


@pytest.mark.parametrize("rule", DEFAULTS, ids=lambda rule: type(rule).__name__)
def test_the_default_seed_is_0(rule: Any) -> None:
    assert rule == replace(rule, seed=0) != replace(rule, seed=1)


def mask(rule: Any, shape: tuple[int, ...], **given: Any) -> Callable[[], Any]:
    return lambda: rule.mask(shape, sample_ids=torch.arange(3), **given)


P: Any = plain


def short(patch_h: int) -> Any:
    return P.MultiBlockMask(patch_h, 1, 1, (1, 1), (9, 9))


BAD: list[tuple[Callable[[], Any], str]] = [
    (mask(P.RandomPatchMask(2, 2, 7), (1, 4, 6)), "count=7 is more than the 6 patches of data (1, 4, 6)"),
    (mask(P.RandomPatchMask(2, 2, 1), (4, 6)), "masks data of 3 axes besides the batch, got 2"),
    (mask(P.RandomBlockMask((1,), 4), (3,)), "count=4 is more than the 3 patches"),
    (mask(P.RandomBlockwiseMask(2, 2, 7), (1, 4, 6)), "count=7 is more than the 6 patches"),
    (mask(P.TubeMask(2, 2, 7), (1, 5, 4, 6)), "count=7 is more than the 6 patches"),
    (lambda: P.RandomPatchMask(0, 2, 1), "patch_h=0 must be at least 1"),
    (lambda: P.RandomPatchMask(2, 2, -1), "count=-1 must be a non-negative integer"),
    (lambda: P.RandomPatchMask(2, 2, 0.75), "count=0.75 must be a non-negative integer"),
    (lambda: P.SharedRandomPatchMask(2, 0, 1), "patch_w=0 must be at least 1"),
    (lambda: P.RandomBlockMask((None,), 1), "blocks=(None,) must have a positive width on some axis"),
    (lambda: P.RandomBlockMask("ab", 1), "blocks='ab' must be a tuple"),
    (lambda: P.RandomBlockwiseMask(2, 2, 7, max_aspect=0.5), "max_aspect=0.5 must be at least 1"),
    (lambda: P.MultiRangeMask(P.TubeMask(1, 1, 3), short(1)), "short=TubeMask(patch_h=1"),
    (lambda: P.MultiRangeMask(short(1), P.RandomPatchMask(1, 1, 3)), "long=RandomPatchMask(patch_h=1"),
    (lambda: P.MultiRangeMask(short(1), short(2)), "short has patches of (1, 1) and long of (2, 1); pass one size"),
    (mask(P.MultiRangeMask(short(1), P.MultiBlockMask(1, 1, 3, (8, 8), (9, 9))), (1, 2, 3, 3), epoch=1), "of a 3 x 3"),
    (lambda: P.MultiBlockMask(1, 1, 0, (1, 2), (3, 4)), "context=0 must be at least 1"),
    (lambda: P.MultiBlockMask(1, 1, 1, (4, 2), (3, 4)), "target_area=(4, 2) must be two positive numbers"),
    (lambda: P.MultiBlockMask(1, 1, 1, (0, 2), (3, 4)), "target_area=(0, 2) must be two positive numbers"),
    (lambda: P.MultiBlockMask(1, 1, 1, (1, 2, 3), (3, 4)), "target_area=(1, 2, 3) must be two positive numbers"),
    (
        lambda: P.MultiBlockMask(1, 1, 1, (1, 2), (3, 4), target_aspect=(1, float("inf"))),
        "target_aspect=(1, inf) must be two positive numbers",
    ),
    (lambda: P.MultiBlockMask(1, 1, 1, (1.5, 2), (3, 4)), "target_area from=1.5 must be a non-negative integer"),
    (
        mask(P.MultiBlockMask(1, 1, 60, (30, 39), (80, 100)), (1, 10, 10)),
        "of a 10 x 10 grid a context block may have 81 patches and a target 42; pass context=39 or less",
    ),
    (
        mask(P.MultiBlockMask(1, 1, 2, (2, 3), (8, 10)), (1, 3, 3)),
        "context_area=(8, 10): a block of 10 patches does not",
    ),
    (
        mask(P.MultiBlockMask(1, 1, 2, (2, 10), (8, 9)), (1, 3, 3)),
        "target_area=(2, 10): a block of 10 patches does not",
    ),
    (mask(P.MultiBlockMask(1, 1, 10, (2, 3), (8, 9)), (1, 3, 3)), "context=10 is more than the 9 patches"),
    (mask(P.SpanMask(2, 3), (6,)), "length 6 of sample 0: SpanMask(spans=2, width=3"),
    (mask(P.SpanMask(2, 3), (9,), lengths=torch.tensor([9, 6, 9])), "length 6 of sample 1"),
    (mask(P.SpanMask(1, 1), (0,)), "got data of shape (0,): nothing to draw from"),
    (lambda: P.SpanMask(2, 3, per=7), "per=7 must be at least 8"),
    (lambda: P.SpanMask(0, 3), "spans=0 must be at least 1"),
    (mask(P.SpanMask(1, 1), (5,), lengths=torch.tensor([1, 2, 6])), "lengths[2]=6 must be from 0 to 5"),
    (mask(P.SpanMask(1, 1), (5,), lengths=torch.tensor([1, 2])), "lengths must be an integer tensor of shape (3,)"),
    (mask(P.SpectrogramMask(3, 4, 1, 1), (12, 9)), "length 12 of sample 0"),
    (mask(P.SpectrogramMask(1, 1, 1, 1), (12,)), "masks spectrograms [N, ..., F, T], got data of shape (12,)"),
    (mask(P.TokenMask(3, 1, 1, 0, 9), (4,)), "sample 0 has 4 tokens to select from"),
    (mask(P.TokenMask(3, 1, 1, 0, 9, special=(0,)), (9,)), "which tokens are special is known from the ids"),
    (mask(P.TokenMask(3, 1, 1, 0, 9), (9, 2)), "masks token ids [N, T], got data of shape (9, 2)"),
    (lambda: P.TokenMask(3, 1, 1, 0, 9).sample(torch.zeros(2, 9), sample_ids=torch.arange(2)), "must be token ids"),
    (lambda: P.TokenMask(3, 1, 1, 0, 9, per=4), "per=4 must be at least 5"),
    (lambda: P.TokenMask(0, 0, 0, 0, 9, per=0), "per=0 must be at least 1"),
    (lambda: P.TokenMask(3, 1, 1, 0, 0), "vocabulary=0 must be at least 1"),
    (lambda: P.TokenMask(3, 1, 1, 0, 2**32), "vocabulary=4294967296 must be at most 2**31"),
    (
        lambda: P.TokenMask(3, 1, 1, 0, 50257).sample(torch.zeros(2, 9, dtype=torch.int16), sample_ids=IDS[:2]),
        "vocabulary=50257 must be at most 32768 for token ids of torch.int16; pass ids of torch.int64",
    ),
    (
        lambda: P.TokenMask(3, 1, 1, 1000, 9).sample(torch.zeros(2, 9, dtype=torch.uint8), sample_ids=IDS[:2]),
        "mask_id=1000 must be at most 255 for token ids of torch.uint8",
    ),
    (mask(P.PaddedMask(P.VectorMask(2, 0)), (5,)), "needs lengths="),
    (mask(P.PaddedMask(P.VectorMask(2, 0), axis=1), (5,), lengths=torch.ones(3).long()), "axis=1 of PaddedMask"),
    (lambda: P.PaddedMask(3), "rule=3 must be a rule"),
    (lambda: P.split_patches_by_sample(P.VectorMask(2, 0).mask((4,)), 2, 2), "must be one a sample over [C, H, W]"),
    (
        lambda: P.split_patches_by_sample(mask(P.RandomPatchMask(2, 2, 1), (1, 4, 4))(), 4, 4),
        "hides only a part of a patch",
    ),
    (
        lambda: P.split_patches_by_sample(mask(P.RandomPatchMask(2, 2, 1), (1, 4, 6))(), 2, 4),
        "patch_w=4 must divide the image's 6",
    ),
    (
        lambda: P.split_patches_by_sample(P.Mask(torch.arange(8).reshape(2, 1, 2, 2) < 3, True), 1, 1),
        "hide [0, 3] patches; a batch that is gathered needs equal counts",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(P.InvalidArgument, match=re.escape(message)):
        call()
    assert issubclass(InvalidArgument, ValueError)
