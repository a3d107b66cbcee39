import math

import naive
import numpy as np
import plain
import pytest
import torch
from bits import same_bits
from hypothesis import given
from hypothesis import strategies as st

from viewproof import Mask, PatchMask, Sample, VectorMask, image_patch_mask, vector_mae_mask

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def random_mask(shape: tuple[int, ...], seed: int = 0) -> Mask:
    return Mask(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5)


@given(shape=shapes)
def test_all_mask_selected(shape: tuple[int, ...]) -> None:
    mask = Mask.all(shape)
    assert all(mask.selected(place) for place in naive.coordinates(shape))
    assert mask.data_shape == shape
    assert mask.count == math.prod(shape) == len(mask.selected_idxs)


@given(shape=shapes)
def test_empty_mask_not_selected(shape: tuple[int, ...]) -> None:
    mask = Mask.empty(shape)
    assert not any(mask.selected(place) for place in naive.coordinates(shape))
    assert mask.data_shape == shape
    assert mask.count == 0
    assert mask.selected_idxs == []


@given(shape=shapes, seed=st.integers(0, 99))
def test_complement_selected_iff(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    for place in naive.coordinates(shape):
        assert (~mask).selected(place) == (not mask.selected(place))
    assert (~mask).count == math.prod(shape) - mask.count


@given(shape=shapes, seed=st.integers(0, 99))
def test_the_index_list_is_row_major_and_ascending(shape: tuple[int, ...], seed: int) -> None:
    mask = random_mask(shape, seed)
    expected = [i for i, place in enumerate(naive.coordinates(shape)) if mask.selected(place)]
    assert mask.selected_idxs == expected
    assert mask.count == len(expected)


@given(shape=shapes, seed=st.integers(0, 99), length=st.integers(0, 300))
def test_a_prefix_is_the_start_of_the_flattened_mask(shape: tuple[int, ...], seed: int, length: int) -> None:
    mask = random_mask(shape, seed)
    length = min(length, math.prod(shape))
    assert mask.prefix(length).data_shape == (length,)
    assert mask.prefix(length).selected_idxs == [i for i in mask.selected_idxs if i < length]


def test_mask_idempotent() -> None:
    x = torch.randn(2, 3, 5, 7)
    mask = PatchMask(2, 3, 3, 1).mask((3, 5, 7))
    assert same_bits(mask.apply(mask.apply(x)), mask.apply(x))
    assert same_bits(image_patch_mask(image_patch_mask(x, 2, 3, 3, 1), 2, 3, 3, 1), image_patch_mask(x, 2, 3, 3, 1))


@given(data_dim=st.integers(0, 50), period=st.integers(1, 12), offset=st.integers(0, 30))
def test_hidden_count_eq_closed_form(data_dim: int, period: int, offset: int) -> None:
    first = offset % period
    closed_form = max(0, -((first - data_dim) // period)) if first < data_dim else 0
    assert VectorMask(period, offset).mask((data_dim,)).count == closed_form


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    patch_h=st.integers(1, 5),
    patch_w=st.integers(1, 5),
    period=st.integers(1, 6),
    offset=st.integers(0, 12),
)
def test_pixels_of_one_patch_share_status(
    height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int
) -> None:
    hidden = PatchMask(patch_h, patch_w, period, offset).mask((2, height, width)).hidden
    for row in range(0, height, patch_h):
        for col in range(0, width, patch_w):
            assert hidden[:, row : row + patch_h, col : col + patch_w].unique().numel() == 1


def test_the_index_list_is_the_caller_s_own() -> None:
    mask = VectorMask(2, 0).mask((6,))
    mask.selected_idxs.clear()
    assert VectorMask(2, 0).mask((6,)).selected_idxs == [0, 2, 4]


def test_numpy_integers_are_integers() -> None:
    two, one = np.int64(2), np.uint8(1)
    x = torch.arange(12.0).reshape(2, 6)
    assert same_bits(plain.vector_mae_mask(x, two, one), vector_mae_mask(x, 2, 1))
    mask = plain.VectorMask(two, one).mask((np.int32(6),))
    assert mask is plain.VectorMask(2, 1).mask((6,))
    assert mask.selected(np.int64(3))
    assert not mask.selected([np.int64(2)])
    assert plain.BlockMask((two, None), two, one).mask((4, 1)).selected_idxs == [2, 3]


def test_the_row_of_a_shared_mask_is_the_mask() -> None:
    mask = VectorMask(2, 0).mask((6,))
    assert mask.row(3) is mask


def test_a_per_sample_mask_has_rows_a_prefix_and_a_complement() -> None:
    hidden = torch.tensor([[True, False, True], [False, False, True]])
    mask = Mask(hidden, per_sample=True, rule="mine")
    assert mask.data_shape == (3,)
    assert mask.count == 3
    assert [mask.row(n).selected_idxs for n in range(2)] == [[0, 2], [2]]
    assert mask.row(1).rule == "mine"
    assert [(~mask).row(n).selected_idxs for n in range(2)] == [[1], [0, 1]]
    assert mask.prefix(2).hidden.tolist() == [[True, False], [False, False]]
    assert mask.prefix(2).per_sample
    assert mask.selected((0, 2))
    assert not mask.selected((1, 0))


def test_over_names_the_mask_or_every_coordinate() -> None:
    sample = VectorMask(2, 0).sample(torch.ones(2, 5))
    assert sample.selection() is sample.mask
    assert sample.selection("all").selected_idxs == [0, 1, 2, 3, 4]
    per_sample = Sample(torch.ones(2, 3), torch.ones(2, 3), Mask(torch.zeros(2, 3, dtype=torch.bool), per_sample=True))
    assert per_sample.selection("all").selected_idxs == [0, 1, 2]


@pytest.mark.parametrize("make", [Mask.all, Mask.empty])
def test_constant_masks_follow_the_device(make: object) -> None:
    assert make((2,), device="meta").hidden.device.type == "meta"
    with torch.device("meta"):
        assert VectorMask(2, 0).mask((3,)).hidden.device.type == "meta"
    assert VectorMask(2, 0).mask((3,)).hidden.device.type == "cpu"
