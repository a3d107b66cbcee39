import naive
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from viewproof import (
    BlockMask,
    PatchMask,
    VectorMask,
    image_patch_hidden,
    image_patch_mask,
    image_pixel,
    vector_mae_hidden_mask,
    vector_mae_mask,
    vector_mae_selected_idxs,
)

extents = st.integers(0, 7)
parameters = st.integers(0, 9) | st.sampled_from([63, 2**31, 2**32 + 1, 2**63 - 1])
batches = st.integers(0, 3)


def random_values(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@given(data_dim=st.integers(0, 40), period=parameters, offset=parameters)
@example(data_dim=0, period=1, offset=0)
@example(data_dim=5, period=1, offset=7)
@example(data_dim=5, period=9, offset=14)
@example(data_dim=2**20 // 2**17, period=2**63 - 1, offset=2**63 - 1)
def test_vector_mask(data_dim: int, period: int, offset: int) -> None:
    expected = naive.vector_mask(data_dim, period, offset)
    mask = vector_mae_hidden_mask(data_dim, period, offset)
    assert mask.hidden.tolist() == expected
    assert [mask.selected(j) for j in range(data_dim)] == expected
    assert vector_mae_selected_idxs(data_dim, period, offset) == [j for j, hidden in enumerate(expected) if hidden]
    assert mask.count == sum(expected)


@given(batch=batches, data_dim=st.integers(0, 12), period=parameters, offset=parameters)
def test_vector_masking(batch: int, data_dim: int, period: int, offset: int) -> None:
    x = random_values((batch, data_dim))
    hidden = naive.vector_mask(data_dim, period, offset)
    expected = [naive.apply(row, hidden) for row in x.tolist()]
    assert vector_mae_mask(x, period, offset).tolist() == expected


@given(
    batch=batches,
    channels=st.integers(0, 3),
    height=extents,
    width=extents,
    patch_h=parameters,
    patch_w=parameters,
    period=parameters,
    offset=parameters,
)
@example(batch=1, channels=2, height=5, width=7, patch_h=2, patch_w=3, period=4, offset=5)
@example(batch=1, channels=1, height=7, width=5, patch_h=3, patch_w=2, period=2, offset=1)
@example(batch=1, channels=1, height=4, width=6, patch_h=0, patch_w=2, period=2, offset=1)
@example(batch=1, channels=1, height=4, width=6, patch_h=9, patch_w=9, period=1, offset=3)
def test_image_masking(
    batch: int, channels: int, height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int
) -> None:
    x = random_values((batch, channels, height, width))
    hidden = naive.image_mask(channels, height, width, patch_h, patch_w, period, offset)
    mask = PatchMask(patch_h, patch_w, period, offset).mask((channels, height, width))
    assert mask.hidden.flatten().tolist() == hidden
    assert mask.selected_idxs == [i for i, h in enumerate(hidden) if h]
    masked = image_patch_mask(x, patch_h, patch_w, period, offset)
    assert [row.flatten().tolist() for row in masked] == [naive.apply(row.flatten().tolist(), hidden) for row in x]


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    patch_h=parameters,
    patch_w=parameters,
    period=parameters,
    offset=parameters,
)
def test_image_patch_hidden(height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int) -> None:
    arguments = (height, width, patch_h, patch_w, period, offset)
    for row, col in naive.coordinates((height, width)):
        hidden = image_patch_hidden(*arguments, row, col)
        assert type(hidden) is bool
        assert hidden == naive.image_is_hidden(*arguments, row, col)


@st.composite
def blocks_and_shape(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    rank = draw(st.integers(1, 5))
    shape = draw(st.lists(st.integers(0, 5 if rank < 4 else 3), min_size=rank, max_size=rank))
    blocks = draw(st.lists(st.none() | parameters, min_size=rank, max_size=rank))
    return tuple(shape), tuple(blocks)


@given(geometry=blocks_and_shape(), batch=batches, period=parameters, offset=parameters)
@example(geometry=((3, 4, 5, 2, 3), (2, None, 3, 1, 2)), batch=2, period=3, offset=4)
@example(geometry=((4, 5), (None, None)), batch=1, period=1, offset=0)
@example(geometry=((4, 5), (0, None)), batch=1, period=1, offset=0)
@example(geometry=((4, 0, 5), (2, 1, 2)), batch=1, period=2, offset=0)
def test_block_masking(
    geometry: tuple[tuple[int, ...], tuple[int | None, ...]], batch: int, period: int, offset: int
) -> None:
    shape, blocks = geometry
    hidden = naive.block_mask(shape, blocks, period, offset)
    mask = BlockMask(blocks, period, offset).mask(shape)
    assert mask.hidden.shape == shape
    assert mask.hidden.flatten().tolist() == hidden
    x = random_values((batch, *shape))
    masked = mask.apply(x)
    assert [row.flatten().tolist() for row in masked] == [naive.apply(row.flatten().tolist(), hidden) for row in x]


def test_a_block_mask_over_no_axis_hides_nothing() -> None:
    assert not BlockMask((), period=1, offset=0).mask(()).hidden
    assert BlockMask((), period=1, offset=0).sample(torch.ones(3)).x.tolist() == [1.0, 1.0, 1.0]


@given(data_dim=st.integers(0, 30), period=parameters, offset=parameters)
def test_vector_mask_eq_block_mask(data_dim: int, period: int, offset: int) -> None:
    vector, block = VectorMask(period, offset), BlockMask((1,), period, offset)
    assert torch.equal(vector.mask((data_dim,)).hidden, block.mask((data_dim,)).hidden)


@given(height=extents, width=extents, patch_h=parameters, patch_w=parameters, period=parameters, offset=parameters)
def test_image_mask_eq_block_mask(
    height: int, width: int, patch_h: int, patch_w: int, period: int, offset: int
) -> None:
    image = PatchMask(patch_h, patch_w, period, offset).mask((2, height, width))
    block = BlockMask((None, patch_h, patch_w), period, offset).mask((2, height, width))
    assert torch.equal(image.hidden, block.hidden)


def test_block_index_is_exact_where_floats_are_not() -> None:
    # 2**24 + 1 and 2**53 + 1 are the first integers that float32 and float64 cannot hold.
    assert vector_mae_selected_idxs(2**24 + 2, period=2**24 + 1, offset=0) == [0, 2**24 + 1]
    arguments = {"height": 1, "patch_h": 1, "patch_w": 1, "period": 2**53 + 1, "offset": 0, "row": 0}
    assert image_patch_hidden(width=2**53 + 2, col=2**53 + 1, **arguments)
    assert not image_patch_hidden(width=2**53 + 2, col=2**53, **arguments)


def test_image_pixel_is_the_scalar_at_the_place() -> None:
    x = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for b, ch, row, col in naive.coordinates((2, 3, 4, 5)):
        assert image_pixel(x, b, ch, row, col).item() == ((b * 3 + ch) * 4 + row) * 5 + col


@pytest.mark.parametrize("swap", ["axes", "patches"])
def test_the_reference_tells_rows_from_columns(swap: str) -> None:
    straight = naive.image_mask(1, 4, 6, 2, 3, 3, 1)
    swapped = naive.image_mask(1, 6, 4, 2, 3, 3, 1) if swap == "axes" else naive.image_mask(1, 4, 6, 3, 2, 3, 1)
    assert straight != swapped
