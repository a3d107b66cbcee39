import pytest
import torch
from bits import FLOATS, INTEGERS, SMALL_FLOATS, arbitrary_bits, bits, is_masked_copy, same_bits, special_values
from torch import Tensor

from viewproof import (
    BlockMask,
    Mask,
    PatchMask,
    VectorMask,
    block_mae_sample,
    image_patch_mae_sample,
    image_patch_mask,
    tensor_prefix_mae_sample,
    vector_mae_mask,
    vector_mae_sample,
)

EVERY_DTYPE = [*FLOATS, *SMALL_FLOATS, *INTEGERS]


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("rule", [PatchMask(2, 3, 3, 1), BlockMask((2, None, 2), 2, 1), BlockMask((1, 1, 1), 1, 0)])
def test_every_dtype_keeps_its_bits(dtype: torch.dtype, rule: PatchMask | BlockMask) -> None:
    x = arbitrary_bits((3, 2, 5, 7), dtype)
    before = bits(x)
    mask = rule.mask((2, 5, 7))
    assert is_masked_copy(mask.apply(x), x, mask.hidden)
    assert is_masked_copy(mask.apply(x, out=torch.empty_like(x)), x, mask.hidden)
    assert torch.equal(bits(x), before)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("period", [0, 1, 2, 3])
def test_special_values_survive_where_visible_and_are_plus_zero_where_hidden(dtype: torch.dtype, period: int) -> None:
    x = special_values(dtype).expand(2, -1)
    assert bits(x).unique().numel() == x.shape[1], "every special value is a bit pattern of its own"
    hidden = VectorMask(period, 1).mask((x.shape[1],)).hidden
    assert is_masked_copy(vector_mae_mask(x, period, 1), x, hidden)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_all_65536_patterns_of_a_16_bit_float(dtype: torch.dtype, offset: int) -> None:
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).reshape(1, -1)
    hidden = VectorMask(2, offset).mask((2**16,)).hidden
    assert is_masked_copy(vector_mae_mask(x, 2, offset), x, hidden)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_multiplicative_mask_is_not_a_mask(dtype: torch.dtype) -> None:
    x = special_values(dtype)
    hidden = torch.ones(x.shape[0], dtype=torch.bool)
    product = x * (~hidden).to(dtype)
    assert not is_masked_copy(product, x, hidden)
    negative_zero, nan = bits(product[10:11]).item(), product[5].item()
    assert negative_zero != 0
    assert nan != nan


def views_of(x: Tensor) -> dict[str, Tensor]:
    wide = arbitrary_bits((4, 6, 10, 14), x.dtype)
    offset_storage = torch.cat([x.flatten(), x.flatten()])
    return {
        "contiguous": x,
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "transposed": x.transpose(2, 3).contiguous().transpose(2, 3),
        "batch_last": x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "strided": wide[::2, ::2, ::2, ::2],
        "reversed_storage": x.flip(3).flip(3),
        "expanded_batch": x[:1].expand(4, -1, -1, -1),
        "expanded_everywhere": x[:1, :1, :1, :1].expand(2, 3, 5, 7),
        "expanded_columns": x[..., :1].expand(-1, -1, -1, 7),
        "storage_offset": offset_storage[x.numel() :].view_as(x),
    }


@pytest.mark.parametrize("layout", list(views_of(torch.zeros(2, 3, 5, 7))))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_every_memory_layout(layout: str, dtype: torch.dtype) -> None:
    x = views_of(arbitrary_bits((2, 3, 5, 7), dtype))[layout]
    before = bits(x)
    hidden = PatchMask(2, 3, 3, 1).mask((3, 5, 7)).hidden
    sample = image_patch_mae_sample(x, 2, 3, 3, 1, recon_dim=50)
    assert is_masked_copy(image_patch_mask(x, 2, 3, 3, 1), x, hidden)
    assert is_masked_copy(sample.x, x, hidden)
    assert same_bits(sample.y, x.contiguous().reshape(x.shape[0], -1)[:, :50])
    assert torch.equal(bits(x), before)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "strided", "batch_last"])
def test_a_buffer_of_any_layout(layout: str) -> None:
    x = arbitrary_bits((2, 3, 5, 7), torch.float32)
    mask = PatchMask(2, 3, 3, 1).mask((3, 5, 7))
    buffer = views_of(torch.full((2, 3, 5, 7), float("nan")))[layout]
    address = buffer.data_ptr()
    result = mask.apply(x, out=buffer)
    assert result is buffer
    assert buffer.data_ptr() == address
    assert is_masked_copy(buffer, x, mask.hidden)


def test_a_strided_buffer_leaves_the_memory_between_alone() -> None:
    storage = torch.full((2, 10), 7.0)
    VectorMask(2, 0).mask((5,)).apply(torch.ones(2, 5), out=storage[:, ::2])
    assert storage.tolist() == [[0, 7, 1, 7, 0, 7, 1, 7, 0, 7]] * 2


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_zero_sized_vectors(shape: tuple[int, int]) -> None:
    sample = vector_mae_sample(torch.ones(shape), 2, 0)
    assert sample.x.shape == sample.y.shape == shape
    assert sample.mask.data_shape == shape[1:]


@pytest.mark.parametrize("shape", [(0, 3, 4, 6), (2, 0, 4, 6), (2, 3, 0, 6), (2, 3, 4, 0)])
@pytest.mark.parametrize("out", [False, True])
def test_zero_sized_images(shape: tuple[int, ...], out: bool) -> None:
    x = torch.ones(shape)
    mask = PatchMask(2, 3, 2, 0).mask(shape[1:])
    assert mask.apply(x, out=torch.empty_like(x) if out else None).shape == shape
    sample = image_patch_mae_sample(x, 2, 3, 2, 0)
    assert sample.y.shape == (shape[0], shape[1] * shape[2] * shape[3])


@pytest.mark.parametrize("mask", [Mask.all((5,)), Mask.empty((5,)), VectorMask(2, 0).mask((5,))])
def test_the_view_has_its_own_memory(mask: Mask) -> None:
    x = torch.ones(2, 5)
    view = mask.apply(x)
    view.fill_(7.0)
    assert x.tolist() == [[1.0] * 5] * 2


@pytest.mark.parametrize(
    "build",
    [
        lambda x: vector_mae_sample(x.flatten(1), 2, 0),
        lambda x: tensor_prefix_mae_sample(x, 20, 2, 0),
        lambda x: image_patch_mae_sample(x, 2, 2, 0, 0),
        lambda x: block_mae_sample(x, (None, 2, None), 2, 0, 20),
    ],
)
def test_writing_to_the_view_changes_neither_target_nor_source(build: object) -> None:
    x = torch.arange(2.0 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    source = x.clone()
    sample = build(x)
    target = sample.y.clone()
    sample.x.fill_(-1.0)
    assert torch.equal(sample.y, target)
    assert torch.equal(x, source)


def test_one_mask_a_sample() -> None:
    x = arbitrary_bits((4, 3, 5), torch.float16)
    hidden = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    mask = Mask(hidden, per_sample=True)
    assert is_masked_copy(mask.apply(x), x, hidden)
    for n in range(4):
        assert same_bits(mask.apply(x)[n : n + 1], mask.row(n).apply(x[n : n + 1]))


def test_masking_commutes_with_batch_selection() -> None:
    x = arbitrary_bits((5, 3, 5, 7), torch.float32)
    together = image_patch_mask(x, 2, 3, 3, 1)
    for n in range(5):
        assert same_bits(together[n : n + 1], image_patch_mask(x[n : n + 1], 2, 3, 3, 1))


@pytest.mark.parametrize("mutant", ["negative zero", "visible changed", "hidden kept"])
def test_the_bit_comparison_can_fail(mutant: str) -> None:
    x, hidden = torch.tensor([[1.0, 2.0]]), torch.tensor([True, False])
    wrong = {"negative zero": [[-0.0, 2.0]], "visible changed": [[0.0, 2.0000002]], "hidden kept": [[1.0, 2.0]]}
    assert not is_masked_copy(torch.tensor(wrong[mutant]), x, hidden)


def test_a_ready_buffer_holds_what_a_fresh_tensor_does_for_elements_wider_than_a_word() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.complex128)
    mask = VectorMask(period=2, offset=0).mask((5,))
    out = torch.full_like(x[0], torch.nan)
    assert mask.apply(x[0], out=out) is out
    assert torch.equal(torch.view_as_real(out), torch.view_as_real(mask.apply(x[0])))


def test_what_a_mask_keeps_from_inference_mode_serves_outside_it() -> None:
    x, mask = torch.randn(2, 6), VectorMask(period=2, offset=0).mask((6,))
    with torch.inference_mode():
        mask.apply(x, out=torch.empty_like(x))
    assert same_bits(mask.apply(x, out=torch.empty_like(x)), mask.apply(x))
