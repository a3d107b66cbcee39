import pytest
import torch
from bits import FLOATS, bits, is_masked_copy, special_values

from viewproof import BlockMask, Mask, PatchMask, VectorMask, image_patch_mae_sample, image_patch_mask, vector_mae_mask


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_the_gradient_is_masked_as_the_input_is(dtype: torch.dtype, offset: int) -> None:
    upstream = special_values(dtype).reshape(1, -1)
    x = torch.full_like(upstream, float("nan")).requires_grad_()
    vector_mae_mask(x, 2, offset).backward(upstream)
    hidden = VectorMask(2, offset).mask((upstream.shape[1],)).hidden
    assert torch.equal(bits(x.grad)[:, hidden], torch.zeros_like(bits(x.grad)[:, hidden]))
    # -0.0 may arrive as +0.0 only where it is hidden: visible coordinates pass the gradient's bits.
    assert is_masked_copy(x.grad, upstream, hidden)


@pytest.mark.parametrize("upstream", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_no_upstream_gradient_reaches_a_hidden_pixel(upstream: float) -> None:
    x = torch.randn(2, 3, 5, 7, requires_grad=True)
    (image_patch_mask(x, 2, 3, 3, 1) * upstream).sum().backward()
    hidden = PatchMask(2, 3, 3, 1).mask((3, 5, 7)).hidden.expand(2, -1, -1, -1)
    assert torch.count_nonzero(x.grad[hidden]) == 0
    assert torch.equal(x.grad[~hidden], torch.full_like(x.grad[~hidden], upstream)) or upstream != upstream


def test_gradient_of_an_expanded_input_is_summed_over_visible_places_only() -> None:
    row = torch.ones(1, 4, requires_grad=True)
    vector_mae_mask(row.expand(3, 4), 2, 0).sum().backward()
    assert row.grad.tolist() == [[0.0, 3.0, 0.0, 3.0]]


@pytest.mark.parametrize(
    "rule", [PatchMask(2, 3, 2, 1), BlockMask((1, None, 2), 3, 0), BlockMask((2, 2, 2), 0, 0)], ids=repr
)
def test_gradcheck(rule: PatchMask | BlockMask) -> None:
    x = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = rule.mask((2, 3, 4))
    assert torch.autograd.gradcheck(mask.apply, x)
    assert torch.autograd.gradgradcheck(lambda v: mask.apply(v) ** 3, x)


def test_double_backward_through_a_hidden_coordinate_is_zero() -> None:
    x = torch.tensor([[2.0, 3.0]], requires_grad=True)
    (first,) = torch.autograd.grad(vector_mae_mask(x, 2, 0).pow(3).sum(), x, create_graph=True)
    assert first.tolist() == [[0.0, 27.0]]
    first.sum().backward()
    assert x.grad.tolist() == [[0.0, 18.0]]


def test_gradient_with_one_mask_a_sample() -> None:
    hidden = torch.tensor([[True, False], [False, True]])
    x = torch.ones(2, 2, requires_grad=True)
    Mask(hidden, per_sample=True).apply(x).sum().backward()
    assert torch.equal(x.grad, (~hidden).float())


def test_the_target_carries_the_source_gradient_and_the_view_only_the_visible_part() -> None:
    x = torch.randn(2, 1, 4, 4, requires_grad=True)
    sample = image_patch_mae_sample(x, 2, 2, 4, 1, recon_dim=8)
    sample.y.sum().backward()
    assert x.grad.flatten(1).tolist() == [[1.0] * 8 + [0.0] * 8] * 2
