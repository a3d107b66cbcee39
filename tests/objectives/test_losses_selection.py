from collections.abc import Callable

import plain
import pytest
import torch
from bits import same_bits
from torch import Tensor

from viewproof import (
    InvalidArgument,
    Mask,
    PatchMask,
    Sample,
    VectorMask,
    image_patch_mae_sample,
    masked_l1,
    masked_mse,
    masked_smooth_l1,
)

LOSSES = [masked_mse, masked_l1, masked_smooth_l1]
POISONS = [float("nan"), float("inf"), -float("inf"), 3e38]
REDUCTIONS = ["mean", "sum", "rows"]
Loss = Callable[..., Tensor]


def case(per_sample: bool = False) -> tuple[Tensor, Sample]:
    generator = torch.Generator().manual_seed(0)
    y, prediction = torch.randn(4, 9, generator=generator), torch.randn(4, 9, generator=generator)
    shape = (4, 9) if per_sample else (9,)
    return prediction, Sample(y, y, Mask(torch.rand(shape, generator=generator) < 0.4, per_sample=per_sample))


def gradients(loss: Loss, prediction: Tensor, sample: Sample, reduction: str) -> tuple[Tensor, Tensor, Tensor]:
    p, y = prediction.clone().requires_grad_(), sample.y.clone().requires_grad_()
    value = loss(p, Sample(sample.x, y, sample.mask), reduction=reduction)
    value.sum().backward()
    return value.detach(), p.grad, y.grad


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_training_loss_gradient_support(loss: Loss, per_sample: bool, reduction: str) -> None:
    prediction, sample = case(per_sample)
    _, of_prediction, of_target = gradients(loss, prediction, sample, reduction)
    hidden = sample.mask.hidden.expand(4, 9)
    assert torch.equal(of_prediction != 0, hidden)
    assert torch.equal(of_target != 0, hidden)
    assert torch.equal(of_prediction[hidden], -of_target[hidden])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("poison", POISONS)
@pytest.mark.parametrize("where", ["prediction", "target", "both"])
def test_poison_off_the_mask_changes_nothing(
    loss: Loss, per_sample: bool, reduction: str, poison: float, where: str
) -> None:
    prediction, sample = case(per_sample)
    clean = gradients(loss, prediction, sample, reduction)
    y = sample.y
    if where != "target":
        prediction = torch.where(sample.mask.hidden, prediction, poison)
    if where != "prediction":
        y = torch.where(sample.mask.hidden, y, poison)
    dirty = gradients(loss, prediction, Sample(sample.x, y, sample.mask), reduction)
    assert all(same_bits(a, b) for a, b in zip(clean, dirty, strict=True))


@pytest.mark.parametrize("loss", LOSSES)
def test_no_upstream_gradient_leaves_the_mask(loss: Loss) -> None:
    prediction, sample = case()
    prediction.requires_grad_()
    (loss(prediction, sample) * float("nan")).backward()
    off = ~sample.mask.hidden.expand(4, 9)
    assert torch.count_nonzero(prediction.grad[off]) == 0
    assert prediction.grad[~off].isnan().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nan_on_the_mask_is_not_hidden(loss: Loss) -> None:
    prediction, sample = case()
    prediction[2, sample.mask.selected_idxs[0]] = float("nan")
    assert loss(prediction, sample).isnan()
    assert loss(prediction, sample, reduction="rows").isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_rows_sum_to_sum_and_the_mean_divides_by_the_count(loss: Loss, per_sample: bool) -> None:
    prediction, sample = case(per_sample)
    # Integers of at most 2**10: every distance and sum is exact in float32, smooth_l1's halves included.
    prediction, y = (prediction * 16).round(), (sample.y * 16).round()
    sample = Sample(y, y, sample.mask)
    rows, total = loss(prediction, sample, reduction="rows"), loss(prediction, sample, reduction="sum")
    count = int(sample.mask.hidden.expand(4, 9).sum())
    assert rows.sum() == total
    assert loss(prediction, sample) == total / count
    for n in range(4):
        row = Sample(y[n : n + 1], y[n : n + 1], sample.mask.row(n))
        assert loss(prediction[n : n + 1], row, reduction="sum") == rows[n]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("per_sample", [False, True])
def test_the_mean_does_not_grow_with_the_batch(loss: Loss, per_sample: bool) -> None:
    prediction, sample = case(per_sample)
    prediction, y = (prediction * 16).round(), (sample.y * 16).round()
    hidden = torch.cat([sample.mask.hidden] * 2) if per_sample else sample.mask.hidden
    single = loss(prediction, Sample(y, y, sample.mask))
    twice = torch.cat([y, y])
    assert loss(torch.cat([prediction] * 2), Sample(twice, twice, Mask(hidden, per_sample))) == single


def test_the_mean_does_not_grow_with_the_channels() -> None:
    losses = []
    for channels in (1, 2, 4):
        sample = image_patch_mae_sample(torch.full((2, channels, 4, 6), 3.0), 2, 3, 2, 1)
        losses.append(masked_mse(torch.zeros(2, channels * 24), sample).item())
    assert losses == [9.0, 9.0, 9.0]


@pytest.mark.parametrize("loss", LOSSES)
def test_over_all_is_the_loss_over_every_coordinate(loss: Loss) -> None:
    prediction, sample = case()
    everything = Sample(sample.x, sample.y, Mask.all((9,)))
    for reduction in REDUCTIONS:
        assert same_bits(
            loss(prediction, sample, reduction=reduction, over="all"), loss(prediction, everything, reduction=reduction)
        )
    prediction.requires_grad_()
    loss(prediction, sample, over="all").backward()
    assert bool((prediction.grad != 0).all())


def test_each_loss_is_its_torch_twin_on_the_hidden_coordinates() -> None:
    prediction, sample = case()
    hidden = sample.mask.hidden
    p, y = prediction[:, hidden], sample.y[:, hidden]
    for ours, theirs in [
        (masked_mse(prediction, sample), torch.nn.functional.mse_loss(p, y)),
        (masked_l1(prediction, sample), torch.nn.functional.l1_loss(p, y)),
        (masked_smooth_l1(prediction, sample, beta=0.3), torch.nn.functional.smooth_l1_loss(p, y, beta=0.3)),
    ]:
        # Two orders of summing at most 36 terms.
        torch.testing.assert_close(ours, theirs, rtol=72 * 2.0**-24, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_half_precision_errors_do_not_overflow(dtype: torch.dtype) -> None:
    # Powers of two, so that even the sum is exact.
    y = torch.full((8, 512), -(2.0**15), dtype=dtype)
    sample = Sample(y, y, Mask.all((512,)))
    prediction = (-y).requires_grad_()
    loss = masked_mse(prediction, sample)
    assert loss.dtype == torch.float32
    assert loss == 2.0**32
    loss.backward()
    assert prediction.grad.dtype == dtype
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss: Loss) -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    prediction = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    sample = VectorMask(2, 1).sample(y)
    for reduction in REDUCTIONS:
        assert torch.autograd.gradcheck(lambda p, r=reduction: loss(p, sample, reduction=r), prediction)


def test_predictions_of_any_rank_and_layout() -> None:
    y = torch.arange(48.0).reshape(2, 3, 4, 2)
    hidden = PatchMask(2, 1, 2, 1).mask((3, 4, 2))
    flat = masked_mse(torch.zeros(2, 24), Sample(y, y.flatten(1), hidden.prefix(24)), reduction="rows")
    image = masked_mse(
        torch.zeros(2, 3, 4, 2).permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1), Sample(y, y, hidden), "rows"
    )
    assert torch.equal(flat, image)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_of_a_mask_first_made_in_inference_mode(loss: Loss) -> None:
    x = torch.randn(2, 37)
    with torch.inference_mode():
        loss(x, VectorMask(36, 3).sample(x))
    prediction = torch.randn(2, 37, requires_grad=True)
    loss(prediction, VectorMask(36, 3).sample(x)).backward()
    assert torch.count_nonzero(prediction.grad) == 2


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["sum", "rows"])
def test_the_sum_over_an_empty_mask_is_zero(loss: Loss, reduction: str) -> None:
    prediction = torch.full((2, 4), float("nan"), requires_grad=True)
    value = loss(prediction, VectorMask(0, 0).sample(torch.ones(2, 4)), reduction=reduction)
    assert value.sum() == 0
    value.sum().backward()
    assert torch.count_nonzero(prediction.grad) == 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("sample", "names"),
    [
        (
            VectorMask(0, 3).sample(torch.ones(2, 4)),
            r"VectorMask\(period=0, offset=3\) selects nothing in a batch of 2",
        ),
        (VectorMask(9, 8).sample(torch.ones(2, 4)), r"VectorMask\(period=9, offset=8\) selects nothing"),
        (
            VectorMask(2, 0).sample(torch.ones(0, 4)),
            r"VectorMask\(period=2, offset=0\) selects nothing in a batch of 0",
        ),
        (PatchMask(2, 2, 2, 1).sample(torch.ones(2, 1, 4, 4), 2), r"PatchMask\(.*\) selects nothing"),
        ((~VectorMask(1, 0)).sample(torch.ones(2, 4)), r"~VectorMask\(period=1, offset=0\) selects nothing"),
        (
            Sample(torch.ones(2, 4), torch.ones(2, 4), Mask(torch.zeros(2, 4, dtype=torch.bool), True, "my draw")),
            "'my draw' selects nothing",
        ),
    ],
)
def test_the_mean_over_nothing_names_the_rule(loss: Loss, sample: Sample, names: str) -> None:
    with pytest.raises(InvalidArgument, match=names + ".*check period and offset, or use reduction='sum'"):
        loss(torch.zeros_like(sample.y), sample)


def test_the_mean_over_all_of_an_empty_target_names_it_too() -> None:
    sample = VectorMask(2, 0).sample(torch.ones(2, 0))
    with pytest.raises(InvalidArgument, match=r"'Mask.all' selects nothing in a batch of 2"):
        masked_mse(sample.y, sample, over="all")


PLAIN_LOSSES = [plain.masked_mse, plain.masked_l1, plain.masked_smooth_l1]
SAMPLE = plain.VectorMask(2, 0).sample(torch.ones(4, 6))


@pytest.mark.parametrize("loss", PLAIN_LOSSES)
@pytest.mark.parametrize(
    "shape", [(4, 1), (1, 6), (6,), (), (1,), (1, 1), (4, 6, 1), (1, 4, 6), (6, 4), (4, 5), (0, 6)]
)
def test_a_prediction_never_broadcasts(loss: Loss, shape: tuple[int, ...]) -> None:
    with pytest.raises(plain.InvalidArgument) as raised:
        loss(torch.ones(shape), SAMPLE)
    assert str(raised.value) == (
        f"prediction of shape {shape} must have the target's shape (4, 6); "
        "shapes never broadcast here, reshape the prediction"
    )


@pytest.mark.parametrize("loss", PLAIN_LOSSES)
@pytest.mark.parametrize("reduction", ["none", "average", None, True, ""])
def test_reduction_has_three_values(loss: Loss, reduction: object) -> None:
    with pytest.raises(plain.InvalidArgument, match=r"reduction=.* must be 'mean', 'sum' or 'rows'"):
        loss(torch.ones(4, 6), SAMPLE, reduction=reduction)


@pytest.mark.parametrize("loss", PLAIN_LOSSES)
def test_over_has_two_values(loss: Loss) -> None:
    with pytest.raises(plain.InvalidArgument, match=r"over='visible' must be 'hidden' \(the mask\) or 'all'"):
        loss(torch.ones(4, 6), SAMPLE, over="visible")


@pytest.mark.parametrize("loss", PLAIN_LOSSES)
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_a_prediction_is_real_floating_point(loss: Loss, dtype: torch.dtype) -> None:
    with pytest.raises(plain.InvalidArgument, match=f"prediction of {dtype} and target of torch.float32"):
        loss(torch.ones(4, 6).to(dtype), SAMPLE)
    complex_sample = plain.VectorMask(2, 0).sample(torch.ones(4, 6, dtype=torch.complex64))
    with pytest.raises(plain.InvalidArgument, match=r"target of torch\.complex64"):
        loss(torch.ones(4, 6), complex_sample)


@pytest.mark.parametrize("beta", [0, 0.0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_beta_is_a_positive_number(beta: object) -> None:
    with pytest.raises(plain.InvalidArgument, match=r"beta=.* must be a positive number; use masked_l1 for its limit"):
        plain.masked_smooth_l1(torch.ones(4, 6), SAMPLE, beta=beta)
