import numpy as np
import pytest
import torch
from bits import same_bits
from torch import Tensor

from viewproof import (
    Complement,
    InvalidArgument,
    Mask,
    PatchMask,
    PatchNormalization,
    Sample,
    image_patch_mae_sample,
    masked_mse,
)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 3 - 1


def by_numpy(x: Tensor, patch_h: int, patch_w: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    array = x.numpy()
    mean, std = np.empty_like(array), np.empty_like(array)
    for n in range(array.shape[0]):
        for top in range(0, array.shape[2], patch_h):
            for left in range(0, array.shape[3], patch_w):
                window = (n, slice(None), slice(top, top + patch_h), slice(left, left + patch_w))
                patch = array[window]
                mean[window] = patch.sum() / patch.size
                std[window] = np.sqrt(((patch - patch.mean()) ** 2).sum() / (patch.size - 1) + eps)
    return mean.reshape(len(array), -1), std.reshape(len(array), -1)


@pytest.mark.parametrize(("patch_h", "patch_w"), [(2, 3), (4, 1), (1, 9), (4, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_patch_is_normalised_by_its_own_statistics(channels: int, patch_h: int, patch_w: int) -> None:
    x = images(2, channels, 4, 9)
    sample = image_patch_mae_sample(x, patch_h, patch_w, 2, 0)
    mean, std = by_numpy(x, patch_h, patch_w, 1e-6)
    normalised = PatchNormalization(patch_h, patch_w)(sample)
    # A mean or a variance of at most 108 terms of size about 1: well below 1e-12 in float64.
    np.testing.assert_allclose(normalised.y.numpy(), (x.numpy().reshape(2, -1) - mean) / std, rtol=0, atol=1e-12)
    assert normalised.mask is sample.mask
    assert normalised.view is sample.view
    assert normalised.x is sample.x


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_inverse_restores_the_image_up_to_rounding(dtype: torch.dtype) -> None:
    sample = image_patch_mae_sample(images(3, 3, 8, 6, dtype=dtype), 4, 3, 2, 0)
    transform = PatchNormalization(4, 3)
    mean, std = transform.statistics(sample)
    restored = transform.inverse(transform(sample).y, mean, std)
    # y - mean, the quotient, the product and the sum round once each, on numbers of at most |y| + 2 |mean|.
    bound = 4 * torch.finfo(dtype).eps * (sample.y.abs() + 2 * mean.abs())
    assert bool(((restored - sample.y).abs() <= bound).all())


def test_a_constant_patch_becomes_zero_not_nan() -> None:
    sample = image_patch_mae_sample(torch.full((1, 1, 4, 4), 5.0), 2, 2, 2, 0)
    assert PatchNormalization(2, 2)(sample).y.tolist() == [[0.0] * 16]


def poisoned(x: Tensor, mask: Mask, value: float) -> Tensor:
    return torch.where(mask.hidden, value, x)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30, 0.0])
def test_visible_statistics_do_not_depend_on_hidden_pixels(poison: float) -> None:
    x, rule, transform = images(2, 3, 8, 12), PatchMask(2, 3, 3, 1), PatchNormalization(2, 3)
    sample = rule.sample(x)
    changed = rule.sample(poisoned(x, sample.view, poison))
    for clean, dirty in zip(transform.visible_statistics(sample), transform.visible_statistics(changed), strict=True):
        assert same_bits(clean, dirty)
    full = zip(transform.statistics(sample), transform.statistics(changed), strict=True)
    assert not any(same_bits(clean, dirty) for clean, dirty in full), "the test sees a leak where there is one"


def test_visible_statistics_are_the_means_over_visible_patches() -> None:
    x = images(2, 1, 4, 6)
    mean, std = PatchNormalization(2, 3).visible_statistics(image_patch_mae_sample(x, 2, 3, 4, 0))
    visible = [x[:, :, :2, 3:], x[:, :, 2:, :3], x[:, :, 2:, 3:]]
    expected = sum(patch.mean((1, 2, 3)) for patch in visible) / 3
    torch.testing.assert_close(mean, expected[:, None].expand(2, 24), rtol=0, atol=1e-14)
    expected = sum((patch.var((1, 2, 3)) + 1e-6).sqrt() for patch in visible) / 3
    torch.testing.assert_close(std, expected[:, None].expand(2, 24), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("patch_h", "patch_w"), [(4, 4), (2, 4), (4, 2)])
def test_a_patch_with_a_hidden_part_has_no_visible_statistics(patch_h: int, patch_w: int) -> None:
    sample = image_patch_mae_sample(images(2, 1, 8, 8), 2, 2, 3, 1)
    with pytest.raises(InvalidArgument, match=r"PatchMask\(.*\) hides only a part of patch 0"):
        PatchNormalization(patch_h, patch_w).visible_statistics(sample)


def test_the_loss_is_taken_in_normalised_units() -> None:
    sample = PatchNormalization(2, 2)(image_patch_mae_sample(images(2, 3, 4, 4), 2, 2, 2, 0))
    assert masked_mse(sample.y, sample).item() == 0.0
    hidden = sample.y[:, sample.mask.hidden]
    torch.testing.assert_close(masked_mse(torch.zeros_like(sample.y), sample), hidden.square().mean())


def per_sample(sample: Sample) -> Sample:
    mask = Mask(sample.mask.hidden.expand(sample.y.shape), per_sample=True, rule="mine")
    return Sample(sample.x, sample.y, mask)


X = torch.rand(2, 3, 4, 4)
SAMPLE = image_patch_mae_sample(X, 2, 2, 2, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: PatchNormalization(2, 2)(image_patch_mae_sample(X, 2, 2, 2, 0, recon_dim=40)),
            r"needs whole images as targets, x is \(2, 3, 4, 4\) and y is \(2, 40\); build the sample",
        ),
        (
            lambda: PatchNormalization(2, 2)(Sample(X, X, Mask.all((3, 4, 4)))),
            r"needs whole images as targets, x is \(2, 3, 4, 4\) and y is \(2, 3, 4, 4\)",
        ),
        (
            lambda: PatchNormalization(3, 2)(SAMPLE),
            "patch_h=3 must divide the image's 4; pass a divisor or pad the image",
        ),
        (lambda: PatchNormalization(2, 0)(SAMPLE), "patch_w=0 must divide the image's 4"),
        (
            lambda: PatchNormalization(1, 1)(image_patch_mae_sample(X[:, :1], 1, 1, 2, 0)),
            "patches of 1 values of torch.float32 have no variance; use a larger patch and a floating-point image",
        ),
        (
            lambda: PatchNormalization(2, 2)(image_patch_mae_sample((X * 255).byte(), 2, 2, 2, 0)),
            "patches of 12 values of torch.uint8 have no variance; use a larger patch and a floating-point image",
        ),
        (lambda: PatchNormalization(2, 2, eps=0.0), "eps=0.0 must be positive and finite"),
        (lambda: PatchNormalization(2, 2, eps=-1.0), "eps=-1.0 must be positive and finite"),
        (lambda: PatchNormalization(2, 2, eps=float("nan")), "eps=nan must be positive and finite"),
        (
            lambda: PatchNormalization(2, 2).visible_statistics(image_patch_mae_sample(X, 2, 2, 1, 0)),
            r"PatchMask\(.*\) must leave something visible, the same in every sample",
        ),
        (
            lambda: PatchNormalization(2, 2).visible_statistics(per_sample(SAMPLE)),
            "'mine' must leave something visible, the same in every sample",
        ),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        call()


def test_complementary_views_normalise_alike() -> None:
    x, rule, transform = images(2, 3, 4, 6), PatchMask(2, 3, 2, 0), PatchNormalization(2, 3)
    assert same_bits(transform(rule.sample(x)).y, transform(Complement(rule).sample(x)).y)
