from collections.abc import Callable
from fractions import Fraction

import naive
import pytest
import torch
from bits import arbitrary_bits, same_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from viewproof import (
    BlockMask,
    PatchMask,
    Sample,
    VectorMask,
    block_mae_sample,
    flatten_batch_prefix,
    image_patch_mae_sample,
    image_patch_mask,
    patchify,
    tensor_prefix_mae_sample,
    unpatchify,
    vector_mae_mask,
    vector_mae_sample,
)

small = st.integers(0, 4)
parameters = st.integers(0, 7)


def values(*shape: int) -> Tensor:
    return arbitrary_bits(shape, torch.float32)


@given(batch=small, data_dim=st.integers(0, 9), period=parameters, offset=parameters)
def test_vector_mae_sample(batch: int, data_dim: int, period: int, offset: int) -> None:
    x = values(batch, data_dim)
    sample = vector_mae_sample(x, period, offset)
    assert same_bits(sample.x, vector_mae_mask(x, period, offset))
    assert same_bits(sample.y, x)
    assert sample.mask.hidden.tolist() == naive.vector_mask(data_dim, period, offset)


@given(source=st.lists(small, max_size=4), batch=small, period=parameters, offset=parameters, share=st.fractions(0, 1))
def test_tensor_prefix_mae_sample_eq_vector_sample_of_prefix(
    source: list[int], batch: int, period: int, offset: int, share: Fraction
) -> None:
    x = values(batch, *source)
    flat = x.reshape(batch, len(naive.coordinates(source)))
    data_dim = int(share * flat.shape[1])
    sample = tensor_prefix_mae_sample(x, data_dim, period, offset)
    vector = vector_mae_sample(flat[:, :data_dim], period, offset)
    assert same_bits(sample.x, vector.x)
    assert same_bits(sample.y, flat[:, :data_dim])
    assert sample.mask.hidden.tolist() == naive.vector_mask(data_dim, period, offset)


@given(
    batch=small,
    channels=st.integers(0, 3),
    height=st.integers(0, 6),
    width=st.integers(0, 6),
    patch_h=parameters,
    patch_w=parameters,
    period=parameters,
    offset=parameters,
    share=st.none() | st.fractions(0, 1),
)
def test_image_patch_mae_sample(
    batch: int,
    channels: int,
    height: int,
    width: int,
    patch_h: int,
    patch_w: int,
    period: int,
    offset: int,
    share: Fraction | None,
) -> None:
    x = values(batch, channels, height, width)
    size = channels * height * width
    recon_dim = None if share is None else int(share * size)
    sample = image_patch_mae_sample(x, patch_h, patch_w, period, offset, recon_dim)
    hidden = naive.image_mask(channels, height, width, patch_h, patch_w, period, offset)
    length = size if recon_dim is None else recon_dim
    assert same_bits(sample.x, image_patch_mask(x, patch_h, patch_w, period, offset))
    assert same_bits(sample.y, x.reshape(batch, size)[:, :length])
    assert sample.mask.hidden.tolist() == hidden[:length]
    assert sample.view.hidden.flatten().tolist() == hidden


@given(
    shape_and_blocks=st.lists(st.tuples(st.integers(0, 4), st.none() | parameters), min_size=1, max_size=5),
    batch=small,
    period=parameters,
    offset=parameters,
    share=st.none() | st.fractions(0, 1),
)
def test_block_mae_sample(
    shape_and_blocks: list[tuple[int, int | None]], batch: int, period: int, offset: int, share: Fraction | None
) -> None:
    shape, blocks = zip(*shape_and_blocks, strict=True)
    x = values(batch, *shape)
    hidden = naive.block_mask(shape, blocks, period, offset)
    length = len(hidden) if share is None else int(share * len(hidden))
    sample = block_mae_sample(x, blocks, period, offset, None if share is None else length)
    assert same_bits(sample.x, sample.view.apply(x))
    assert sample.x.shape == x.shape
    assert same_bits(sample.y, x.reshape(batch, len(hidden))[:, :length])
    assert sample.mask.hidden.tolist() == hidden[:length]
    assert sample.view.hidden.flatten().tolist() == hidden


SOURCES = {
    "table": ((5, 12), VectorMask(3, 1)),
    "images": ((5, 3, 4, 6), PatchMask(2, 3, 3, 1)),
    "spectrograms": ((5, 8, 9), BlockMask((2, 3), 3, 1)),
    "tokens": ((5, 7, 4), BlockMask((2, None), 3, 1)),
    "volumes": ((5, 2, 3, 4, 6), BlockMask((None, 2, 2, 3), 3, 1)),
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_loss_asks_for_what_the_view_hides(source: str) -> None:
    shape, rule = SOURCES[source]
    x = torch.arange(1.0, torch.Size(shape).numel() + 1).reshape(shape)
    sample = rule.sample(x)
    seen = sample.x.flatten(1)
    assert torch.equal(seen == 0, sample.mask.hidden.expand_as(seen)), "no value is 0 but the hidden ones"
    assert torch.equal(sample.mask.hidden, sample.view.hidden.flatten())
    assert 0 < sample.mask.count < sample.mask.hidden.numel()
    for n in range(5):
        alone = rule.sample(x[n : n + 1])
        assert torch.equal(alone.x, sample.x[n : n + 1])
        assert torch.equal(alone.y, sample.y[n : n + 1])
        assert alone.mask is sample.mask


@given(source=st.lists(small, max_size=4), batch=small, share=st.fractions(0, 1))
def test_flatten_batch_prefix(source: list[int], batch: int, share: Fraction) -> None:
    places = naive.coordinates(source)
    x = torch.arange(batch * len(places)).reshape(batch, *source)
    length = int(share * len(places))
    expected = [[x[(n, *place)].item() for place in places[:length]] for n in range(batch)]
    assert flatten_batch_prefix(x, length).tolist() == expected
    assert flatten_batch_prefix(x).shape == (batch, len(places))


@given(
    batch=small,
    channels=st.integers(0, 3),
    grid_h=small,
    grid_w=small,
    patch_h=st.integers(1, 3),
    patch_w=st.integers(1, 3),
)
def test_patchify(batch: int, channels: int, grid_h: int, grid_w: int, patch_h: int, patch_w: int) -> None:
    height, width = grid_h * patch_h, grid_w * patch_w
    x = torch.arange(batch * channels * height * width).reshape(batch, channels, height, width)
    tokens = patchify(x, patch_h, patch_w)
    assert tokens.shape == (batch, grid_h * grid_w, patch_h * patch_w * channels)
    for n, row, col, ch in naive.coordinates((batch, height, width, channels)):
        patch = row // patch_h * grid_w + col // patch_w
        value = (row % patch_h * patch_w + col % patch_w) * channels + ch
        assert tokens[n, patch, value] == x[n, ch, row, col]
    assert torch.equal(unpatchify(tokens, channels, height, width, patch_h, patch_w), x)


def test_patch_order_agrees_with_the_mask() -> None:
    sample = image_patch_mae_sample(torch.ones(1, 3, 4, 9), 2, 3, period=6, offset=5)
    tokens = patchify(sample.x, 2, 3)
    assert [patch for patch in range(6) if not tokens[0, patch].any()] == [5]


@pytest.mark.parametrize(
    "build",
    [
        lambda x: vector_mae_sample(x.flatten(1), 2, 0),
        lambda x: image_patch_mae_sample(x, 2, 2, 2, 0),
        lambda x: block_mae_sample(x, (1, 2, None), 2, 0),
    ],
)
def test_a_whole_target_needs_no_copy(build: Callable[[Tensor], Sample]) -> None:
    x = torch.ones(2, 3, 4, 4)
    assert build(x).y.data_ptr() == x.data_ptr()
